"""Declarations: what a service publishes without declaring it. ``make check`` fails on each finding.

Two looks, without running the service:

* its definition: every handler of a command has an ``answer``;
* its source: a text that has the form of an action, such as ``"chat.message"``, and the domain of a service, is an
  action, push or event that the service declares. A name that is put together at run time is not found; tests see
  those (:mod:`towpath.testkit.declared`).
"""

import ast
from collections.abc import Collection, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from towpath.protocol import gateway
from towpath.protocol.routes import SERVICE_ALIVE, SERVICE_REPLICA
from towpath.servicekit import Service
from towpath.servicekit.installed import InstalledService

#: Folders with code for earlier versions of the service.
_PAST = frozenset({"migrations"})


def undeclared(installed: InstalledService, services: Sequence[Service[Any]]) -> list[str]:
    """A line for each thing that a service leaves undeclared, with the remedy.

    Args:
        services: All services; a name that another one declares is not this one's message.
    """
    service = installed.definition()
    elsewhere = {name for one in services for name in (*one.commands, *one.pushes)}
    domains = {one.domain for one in services}
    found = without_answer(service)
    spec = find_spec(installed.package)
    for folder in spec.submodule_search_locations or () if spec is not None else ():
        found += undeclared_names(service, Path(folder), domains, elsewhere)
    return found


def without_answer(service: Service[Any]) -> list[str]:
    """The handlers without a model for their answer."""
    return [
        f"{service.name}: {action} has no declared answer: write Handler({handler.model.__name__}, …, answer=Model); "
        "Empty of towpath.protocol.fields for {}"
        for action, handler in service.commands.items()
        if handler.answer is None
    ]


def undeclared_names(
    service: Service[Any], folder: Path, domains: Collection[str], elsewhere: Collection[str] = ()
) -> list[str]:
    """The names of actions in the source of a service that it does not declare."""
    declared = {
        *service.commands, *service.events, *service.pushes, *service.events_out,
        *elsewhere, *gateway.EVENTS_OUT, *gateway.PUSHES, *gateway.REQUESTS, SERVICE_ALIVE, SERVICE_REPLICA,
    }  # fmt: skip
    return [
        f"{service.name}: {path.name}:{line}: {name!r} is not declared: add it to pushes= or events_out= of its "
        "Service, with its model"
        for path in sorted(folder.rglob("*.py"))
        if not _PAST & set(path.relative_to(folder).parts)
        for line, name in _names(path.read_text(), domains)
        if name not in declared and name.removesuffix(".ok") not in service.commands
    ]


def _names(source: str, domains: Collection[str]) -> Iterator[tuple[int, str]]:
    """Texts of the form of an action of one of ``domains``, with their lines."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            domain, dot, verb = node.value.partition(".")
            if dot and domain in domains and verb.replace(".", "").replace("_", "").isalnum():
                yield node.lineno, node.value
