"""Porcupine over the histories of the fault suite: is there an order of all operations that explains what was seen?

The checker is a Go program, ``judges/porcupine``. ``make test`` and ``make faults`` leave the histories in
test-results/histories (tests/faults/history.py).
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path
from typing import Final

from judges.needs import ROOT

HISTORIES: Final = ROOT / "test-results/histories"


def missing_histories() -> str | None:
    """The names of missing parts, for the table of judges."""
    if any(HISTORIES.glob("*.jsonl")):
        return None
    return "there are no histories of the fault suite: run `make test` or `make faults` first"


def main() -> int:
    """Run the checker over all histories."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--output", type=Path, required=True)
    asked = parser.parse_args()
    found = sorted(map(str, HISTORIES.glob("*.jsonl")))
    command = ["go", "run", ".", "-output", str(asked.output.resolve()), *found]
    return subprocess.run(command, cwd=ROOT / "judges/porcupine", env=_environment(), check=False).returncode


def _environment() -> dict[str, str]:
    # Another toolchain than the machine's would be fetched; the versions of modules are those of go.sum.
    return {**os.environ, "GOTOOLCHAIN": "local", "GOFLAGS": "-mod=readonly"}


if __name__ == "__main__":
    sys.exit(main())
