"""Builds a wheel of each distribution of this repository: ``make packages``. It needs no network.

    python scripts/packages.py [FOLDER]

Wheels of earlier runs are replaced. The folder is ``dist`` by default; it prints each wheel that it has built.
"""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from hatchling.build import build_wheel

ROOT: Final = Path(__file__).resolve().parent.parent


def projects() -> Iterator[Path]:
    """The folders of all distributions."""
    for pattern in ("libs/*", "clients/*", "services/*", "tools"):
        yield from sorted(path.parent for path in ROOT.glob(f"{pattern}/pyproject.toml"))


def build(folder: Path) -> Iterator[Path]:
    """Build all wheels into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("towpath_*.whl"):
        old.unlink()
    for project in projects():
        # The hook of PEP 517 builds what is in the working directory: https://peps.python.org/pep-0517/#build-wheel
        os.chdir(project)
        yield folder / build_wheel(str(folder))


if __name__ == "__main__":
    for wheel in build(Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "dist").absolute()):
        sys.stdout.write(f"{os.path.relpath(wheel, ROOT)}\n")
