"""Catalogue: the messages of all parties, from the definitions of services and the tables of the gateway. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, Literal

from pydantic import BaseModel

from towpath.protocol import gateway
from towpath.protocol.routes import SERVICE_ALIVE, SERVICE_REPLICA
from towpath.protocol.services import MIN_COST, ServiceAlive, ServiceReplica
from towpath.servicekit import Service

Mode = Literal["validation", "serialization"]


class Kind(StrEnum):
    """The part that a message plays for Towpath."""

    REQUEST = "request"
    ANSWER = "answer"
    PUSH = "push"
    HEARD = "heard"
    PUBLISHED = "published"


#: Kinds that Towpath receives; it sends the others.
RECEIVED: Final = frozenset({Kind.REQUEST, Kind.HEARD})


@dataclass(frozen=True, slots=True)
class Message:
    """One action in one part, with the model of its ``data``.

    Attributes:
        party: The program that receives or sends it.
    """

    kind: Kind
    action: str
    party: str
    model: type[BaseModel]

    @property
    def key(self) -> str:
        """Its name, unique in the whole contract. Several services may receive or publish the same event."""
        if self.kind in (Kind.HEARD, Kind.PUBLISHED):
            return f"{self.kind}.{self.party}.{self.action}"
        return f"{self.kind}.{self.action}"

    @property
    def mode(self) -> Mode:
        """The side of its model that is on the wire: a received one is validated, a sent one serialized."""
        return "validation" if self.kind in RECEIVED else "serialization"


@dataclass(frozen=True, slots=True)
class Command:
    """A request and its answer.

    Attributes:
        cost: In tokens of the sender's rate limit.
    """

    request: Message
    answer: Message
    cost: float = MIN_COST


@dataclass(frozen=True, slots=True)
class Party:
    """A program: the gateway, a service, or what every service does.

    Attributes:
        name: Such as ``orders``.
        domain: The first word of its actions; empty for what every service does.
    """

    name: str
    domain: str
    commands: Sequence[Command] = ()
    pushes: Sequence[Message] = ()
    heard: Sequence[Message] = ()
    published: Sequence[Message] = ()

    @property
    def messages(self) -> list[Message]:
        """All of them."""
        return [
            *(message for command in self.commands for message in (command.request, command.answer)),
            *self.pushes,
            *self.heard,
            *self.published,
        ]


def parties(services: Iterable[Service[Any]]) -> list[Party]:
    """The gateway, what every service does, and ``services``.

    An answer that is not declared is left out, with its request: see
    :func:`~towpath.tools.contract.declarations.undeclared`.
    """
    return [_gateway(), _every_service(), *(_party(service) for service in services)]


def _gateway() -> Party:
    name = "gateway"
    return Party(
        name,
        "session",
        [
            Command(
                Message(Kind.REQUEST, action, name, one.request),
                Message(Kind.ANSWER, one.answer, name, one.model),
                one.cost,
            )
            for action, one in gateway.REQUESTS.items()
        ],
        _all(Kind.PUSH, name, gateway.PUSHES),
        _all(Kind.HEARD, name, gateway.EVENTS),
        _all(Kind.PUBLISHED, name, gateway.EVENTS_OUT),
    )


def _every_service() -> Party:
    name = "service"
    return Party(
        name,
        "",
        heard=[Message(Kind.HEARD, SERVICE_REPLICA, name, ServiceReplica)],
        published=[
            Message(Kind.PUBLISHED, SERVICE_ALIVE, name, ServiceAlive),
            Message(Kind.PUBLISHED, SERVICE_REPLICA, name, ServiceReplica),
        ],
    )


def _party(service: Service[Any]) -> Party:
    name = service.name
    return Party(
        name,
        service.domain,
        [
            Command(
                Message(Kind.REQUEST, action, name, handler.model),
                Message(Kind.ANSWER, f"{action}.ok", name, handler.answer),
                handler.cost,
            )
            for action, handler in service.commands.items()
            if handler.answer is not None
        ],
        _all(Kind.PUSH, name, service.pushes),
        _all(Kind.HEARD, name, {action: handler.model for action, handler in service.events.items()}),
        _all(Kind.PUBLISHED, name, service.events_out),
    )


def _all(kind: Kind, party: str, models: Mapping[str, type[BaseModel]]) -> list[Message]:
    return [Message(kind, action, party, model) for action, model in models.items()]
