"""The package as a backend gets it: the protocol and aio-pika, and nothing else unless it asks for an extra."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Final

FOLDER: Final = Path(__file__).parents[1]

#: Imports the package where neither the kit nor the extras are to be had.
PROGRAM: Final = """
import importlib.abc, json, sys

class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("asyncpg", "sqlalchemy", "alembic", "aiohttp", "structlog", "tenacity") or name in (
            "towpath.servicekit", "towpath.client", "towpath.tools"
        ):
            raise ModuleNotFoundError(name=name)

sys.meta_path.insert(0, Absent())
from towpath.publisher import Publisher, SyncPublisher, make
import towpath.publisher.sql
print(json.dumps(sorted({name.split(".")[1] for name in sys.modules if name.startswith("towpath.")})))
from towpath.publisher.relay.__main__ import main
main(["parked"])
"""


def test_it_needs_the_protocol_and_aio_pika_and_nothing_else() -> None:
    project = tomllib.loads((FOLDER / "pyproject.toml").read_text())["project"]
    assert [need.partition(">")[0] for need in project["dependencies"]] == ["aio-pika", "towpath-protocol"]
    assert sorted(project["optional-dependencies"]) == ["relay", "sqlalchemy"]
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert json.loads(ran.stdout) == ["protocol", "publisher"]
    assert ran.stderr == "towpath-relay needs asyncpg: pip install 'towpath-publisher[relay]'\n"
    assert ran.returncode == 2
