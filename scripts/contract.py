"""Writes the contract from the code: docs/reference/asyncapi.json, schemas/ and actions.md. ``make docs`` runs it.

A test fails when the files differ from the code. Two options:

* ``--check``, which ``make check`` runs, writes nothing. It prints a line for each thing that a service of this
  repository publishes without declaring it, and for each change that breaks the last release, which are in
  docs/reference/released. docs/reference/breaks.toml lists intended ones.
* ``--release`` keeps the document as that of this version, and empties the list of intended breaks.
"""

import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Final

from towpath.servicekit.installed import InstalledService, installed_services
from towpath.tools.contract import compatibility, files

ROOT: Final = Path(__file__).resolve().parents[1]
REFERENCE: Final = ROOT / "docs/reference"
RELEASED: Final = REFERENCE / "released"
BREAKS: Final = REFERENCE / "breaks.toml"

HEAD: Final = """\
# Actions, pushes and events

Every message of the gateway and of the services that come with Towpath, with the fields of its `data`. The rules
around them are in [the wire contract](protocol.md); [how versions change](versions.md).

For programs: [asyncapi.json](asyncapi.json) ([AsyncAPI](https://www.asyncapi.com) 3.0, all of it), and
[JSON Schemas](schemas) by domain. This page and those files are written by `make docs` from the services' tables of
handlers and their models; `make check` fails when a change breaks an earlier version.

A field with `?` may be left out. The number in the column *cost* is charged to the sender's
[rate limit](protocol.md#rate-limits).
"""


def own_services() -> list[InstalledService]:
    """The services of this repository; others may be installed as well."""
    return [one for one in installed_services() if (ROOT / "services" / one.name).is_dir()]


def render() -> Mapping[str, str]:
    """Each file below docs/reference with its text."""
    return files.render(own_services(), this_version(), HEAD)


def this_version() -> str:
    """The version of the software that has this contract."""
    return version("towpath-protocol")


def last_release() -> Path:
    """The newest document in docs/reference/released."""
    newest = max((path.name for path in RELEASED.iterdir()), key=compatibility.ordered)
    return RELEASED / newest / "asyncapi.json"


def problems() -> list[str]:
    """A line for each thing that is not declared, and for each change that breaks the last release."""
    return files.not_declared(own_services()) + incompatible()


def incompatible() -> list[str]:
    """A line for each change that breaks the last release and is not intended."""
    return files.incompatible(own_services(), this_version(), last_release(), BREAKS)


def release() -> None:
    """Keep the document as that of this version."""
    files.write({"asyncapi.json": render()["asyncapi.json"]}, RELEASED / this_version())
    BREAKS.write_text(
        "".join(f"{line}\n" for line in BREAKS.read_text().splitlines() if line.startswith("#"))
    )


def main() -> int:
    """Write the files, check, or keep a release."""
    if sys.argv[1:] == ["--check"]:
        found = problems()
        sys.stdout.writelines(f"{line}\n" for line in found)
        return 1 if found else 0
    if sys.argv[1:] == ["--release"]:
        release()
    else:
        files.write(render(), REFERENCE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
