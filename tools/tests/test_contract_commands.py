"""``towpath contract``, as a team types it for a service of its own."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from towpath.tools.cli import app

SERVICE = '''
from pydantic import BaseModel
from towpath.servicekit import Handler, Outcome, Service, to_user
from towpath.protocol.envelope import make

class Estimate(BaseModel):
    """`data` of `parcel.estimate`.

    Attributes:
        postcode: Where it goes.
    """
    postcode: str

class Days(BaseModel):
    days: int

def estimate(request, session, _):
    return Outcome(answer=Days(days=1), pushes=[to_user("ana", make("parcel.expected", {"days": 1}))])

PARCELS = Service(
    name="parcels", domain="parcel",
    commands={"parcel.estimate": Handler(Estimate, estimate)},
)
'''


@pytest.fixture
def parcels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The module of a service that is installed beside those of this repository."""
    package, about = tmp_path / "site/parcels", tmp_path / "site/parcels-1.0.dist-info"
    package.mkdir(parents=True)
    about.mkdir()
    (package / "__init__.py").touch()
    (package / "app.py").write_text(SERVICE)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: parcels\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[towpath.services]\nparcels = parcels.app:PARCELS\n")
    monkeypatch.syspath_prepend(tmp_path / "site")
    yield package / "app.py"
    for name in [name for name in sys.modules if name.partition(".")[0] == "parcels"]:
        del sys.modules[name]


def declare(module: Path, *changes: tuple[str, str]) -> None:
    """Change the source of the service, and load it again."""
    text = module.read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    module.write_text(text)
    sys.modules.pop("parcels.app", None)


def towpath(*arguments: str) -> tuple[int, list[str]]:
    """Status and lines of a command, without the last one of its errors."""
    ran = CliRunner().invoke(app, ["contract", *arguments])
    return ran.exit_code, [line for line in ran.output.splitlines() if not line.startswith("towpath: ")]


def test_a_service_that_declares_nothing_gets_one_line_for_each_thing_that_is_missing(parcels: Path) -> None:
    status, lines = towpath("check", "--service", "parcels")
    assert status == 1
    assert [line.partition(": write")[0].partition(": add")[0] for line in lines] == [
        "parcels: parcel.estimate has no declared answer",
        "parcels: app.py:18: 'parcel.expected' is not declared",
    ]


def test_the_documents_of_a_service_are_written_and_a_break_of_its_release_is_named(
    parcels: Path, tmp_path: Path
) -> None:
    declared = (
        '"parcel.estimate": Handler(Estimate, estimate)',
        '"parcel.estimate": Handler(Estimate, estimate, answer=Days)',
    )
    declare(parcels, declared, ('domain="parcel",', 'domain="parcel", pushes={"parcel.expected": Days},'))
    assert towpath("check", "--service", "parcels") == (0, [])
    folder = tmp_path / "contract"
    status, lines = towpath("write", str(folder), "--service", "parcels", "--version", "1.2.0")
    assert (status, lines[0].split()[0]) == (0, "6")
    document: dict[str, Any] = json.loads((folder / "asyncapi.json").read_text())
    assert document["info"]["version"] == "1.2.0"
    assert "request.parcel.estimate" in document["operations"]
    assert not [name for name in document["operations"] if "chat" in name]
    assert "| `postcode` | string | Where it goes. |" in (folder / "actions.md").read_text()
    assert "push.parcel.expected" in json.loads((folder / "schemas/parcel.json").read_text())["$defs"]
    declare(parcels, ("    postcode: str\n", "    postcode: str\n    country: str\n"))
    released = ("--released", str(folder / "asyncapi.json"), "--service", "parcels", "--version", "1.3.0")
    named = ["breaks 1.2.0: request parcel.estimate: `country` is required now"]
    assert towpath("check", *released) == (1, named)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("write", "x", "--service", "odd one"), "there is no service 'odd one'; installed are chat, "),
        (("check", "--released", "no.json"), "cannot compare with no.json: FileNotFoundError"),
    ],
)
def test_a_name_or_file_that_cannot_be_used_is_named(arguments: tuple[str, ...], problem: str) -> None:
    ran = CliRunner().invoke(app, ["contract", *arguments])
    assert ran.exit_code != 0
    assert problem in ran.output
