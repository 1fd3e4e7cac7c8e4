"""Declared: checks published messages against the models that a service declares.

A service declares the ``answer`` of each handler, its ``pushes`` and its ``events_out``
(:class:`~towpath.servicekit.Service`). Guarantees: an answer, push or event that is not declared, that its model
refuses, or that has a field its model does not have, is reported with its action and field. A service that declares
nothing is not checked.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from pydantic import BaseModel, ValidationError

from towpath.protocol import gateway
from towpath.protocol.envelope import ACCEPTED, ERROR
from towpath.protocol.fields import Empty
from towpath.servicekit import Service
from towpath.servicekit.installed import installed_services

Models = Mapping[str, type[BaseModel]]


class Misfit(AssertionError):
    """A service published something else than it declares."""


@dataclass(frozen=True)
class Declared:
    """The declarations of some services.

    Attributes:
        domains: The domains whose services declare anything; actions of others are not checked.
        answers: Action of an answer → its model.
    """

    domains: frozenset[str] = frozenset()
    answers: Models = field(default_factory=dict)
    pushes: Models = field(default_factory=dict)
    events: Models = field(default_factory=dict)

    @classmethod
    def of(cls, services: Iterable[Service[Any]]) -> "Declared":
        """The declarations of ``services``."""
        known = [service for service in services if service.declares]
        return cls(
            frozenset(service.domain for service in known),
            {
                f"{action}.ok": handler.answer
                for service in known
                for action, handler in service.commands.items()
                if handler.answer is not None
            },
            {action: model for service in known for action, model in service.pushes.items()},
            {action: model for service in known for action, model in service.events_out.items()},
        )

    def answer(self, action: str, data: Mapping[str, Any]) -> str:
        """The problem of an answer; empty if there is none."""
        if action == ERROR:
            return misfit(action, gateway.ErrorData, data)
        return self._problem(action, data, self.answers, "add answer=Model to its handler")

    def push(self, action: str, data: Mapping[str, Any]) -> str:
        """The problem of a push; empty if there is none."""
        return self._problem(action, data, self.pushes, "add it to pushes= of its Service")

    def event(self, action: str, data: Mapping[str, Any]) -> str:
        """The problem of an event; empty if there is none. Unlike pushes, it may be of another service's domain."""
        if not self.domains or action.startswith("service."):
            return ""
        if (model := self.events.get(action)) is None:
            return f"{action} is published and not declared: add it to events_out= of its Service"
        return misfit(action, model, data)

    def frame(self, frame: Mapping[str, Any]) -> str:
        """The problem of a frame from a gateway; empty if there is none."""
        action, data = frame["action"], frame["data"]
        if (model := _OF_GATEWAYS.get(action)) is not None:
            return misfit(action, model, data)
        return self.answer(action, data) if "correlation_id" in frame else self.push(action, data)

    def _problem(self, action: str, data: Mapping[str, Any], models: Models, remedy: str) -> str:
        if action.partition(".")[0] not in self.domains:
            return ""
        if (model := models.get(action)) is None:
            return f"{action} is published and not declared: {remedy}"
        return misfit(action, model, data)


@cache
def installed() -> Declared:
    """The declarations of all installed services."""
    return Declared.of(one.definition() for one in installed_services())


def misfit(action: str, model: type[BaseModel], data: Mapping[str, Any]) -> str:
    """The difference between ``data`` and its model; empty if there is none."""
    try:
        read = model.model_validate_json(json.dumps(data))
    except ValidationError as error:
        wrong = "; ".join(
            f"{'.'.join(map(str, one['loc'])) or 'data'}: {one['msg']}" for one in error.errors()[:5]
        )
        return f"{action} does not fit {model.__name__}: {wrong}"
    unknown = sorted(_unknown(data, read.model_dump(mode="json", exclude_unset=True)))
    if unknown:
        return f"{action} has {', '.join(unknown)}, which {model.__name__} does not declare"
    return ""


def _unknown(data: Any, shown: Any, path: str = "") -> Iterator[str]:
    """The paths of fields in ``data`` that are not in ``shown``."""
    if isinstance(data, Mapping) and isinstance(shown, Mapping):
        for name, part in data.items():
            if name in shown:
                yield from _unknown(part, shown[name], f"{path}{name}.")
            else:
                yield f"{path}{name}"
    elif isinstance(data, list) and isinstance(shown, list):
        for part, other in zip(data, shown, strict=False):
            yield from _unknown(part, other, path)


_OF_GATEWAYS: Models = {
    **gateway.PUSHES,
    **{one.answer: one.model for one in gateway.REQUESTS.values()},
    ACCEPTED: Empty,
    ERROR: gateway.ErrorData,
}
