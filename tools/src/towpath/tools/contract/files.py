"""The contract's files and checks, for a selection of the installed services."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from towpath.servicekit.installed import InstalledService, installed_services
from towpath.tools.contract import asyncapi, compatibility, json_schema, page
from towpath.tools.contract.catalogue import Party, parties
from towpath.tools.contract.declarations import undeclared
from towpath.tools.trouble import Trouble


class NoSuchService(Trouble):
    """A service that is named is not installed."""

    status = 2


class Findings(Trouble):
    """The contract is incomplete, or breaks a release."""


class NoContract(Trouble):
    """A file is not a document of this package."""


def chosen(names: Sequence[str]) -> list[InstalledService]:
    """The installed services of these names, all of them if there are no names.

    Raises:
        NoSuchService
    """
    installed = {one.name: one for one in installed_services()}
    for name in names:
        if name not in installed:
            raise NoSuchService(
                f"there is no service {name!r}; installed are {', '.join(installed) or 'none'}"
            )
    return [installed[name] for name in names] if names else list(installed.values())


def catalogue(services: Sequence[InstalledService]) -> list[Party]:
    """The gateway and ``services``."""
    return parties(one.definition() for one in services)


def render(services: Sequence[InstalledService], version: str, head: str = page.HEAD) -> Mapping[str, str]:
    """Each file with its text: ``asyncapi.json``, ``actions.md``, ``schemas/<domain>.json``.

    Args:
        version: Of the software that has this contract.
        head: The beginning of the page.
    """
    known = catalogue(services)
    documents = {
        "asyncapi.json": asyncapi.document(known, version),
        **{f"schemas/{name}": schema for name, schema in json_schema.documents(known).items()},
    }
    texts = {name: json.dumps(document, indent=2) + "\n" for name, document in documents.items()}
    return {"actions.md": page.render(known, head), **texts}


def write(files: Mapping[str, str], folder: Path) -> None:
    """Write ``files``, and delete schemas of domains that are gone."""
    for stale in {*(folder / "schemas").glob("*.json")} - {folder / name for name in files}:
        stale.unlink()
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def not_declared(services: Sequence[InstalledService]) -> list[str]:
    """A line for each thing that one of ``services`` publishes without declaring it."""
    definitions = [one.definition() for one in services]
    return [line for one in services for line in undeclared(one, definitions)]


def incompatible(
    services: Sequence[InstalledService], version: str, released: Path, breaks: Path | None
) -> list[str]:
    """A line for each change since ``released`` that breaks it and is not intended.

    Args:
        released: The ``asyncapi.json`` of a release.
        breaks: The list of intended breaks.

    Raises:
        NoContract: A file cannot be used.
    """
    try:
        old = json.loads(released.read_text())
        found = compatibility.breaks(old, asyncapi.document(catalogue(services), version))
        listed = compatibility.intended(breaks) if breaks is not None else []
        return compatibility.problems(found, listed, old["info"]["version"], version)
    except (OSError, ValueError, KeyError) as error:
        raise NoContract(f"cannot compare with {released}: {type(error).__name__}: {error}") from error
