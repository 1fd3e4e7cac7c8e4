"""A service: the owner of one domain. Its ``app.py`` defines it, :mod:`towpath.servicekit.serving` runs it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic

from pydantic import BaseModel

from towpath.protocol.routes import (
    COMMANDS,
    EVENTS,
    EXCHANGES,
    PARTITIONS,
    command_queue,
    dead_queue,
    events_queue,
)
from towpath.servicekit.broker.interface import Binding, Exchange, Queue, Topology
from towpath.servicekit.handling.effects import EffectHandlers
from towpath.servicekit.handling.requests import Handlers, HandlerTables
from towpath.servicekit.handling.store import Storage, U
from towpath.servicekit.handling.timers import Timer
from towpath.servicekit.messaging import dead_letters
from towpath.servicekit.messaging.dead_letters import DELIVERY_LIMIT


@dataclass(frozen=True, slots=True)
class Service(Generic[U]):
    """The definition of a service: its tables of handlers, its storage and its timers.

    It is checked when the service starts (:mod:`towpath.servicekit.handling.checks`), not here.

    Attributes:
        name: Names its queues, its program and its messages' ``app_id``.
        domain: The first word of the actions it owns; one service owns a domain.
        commands: Action → handler, such as ``order.submit``; gateways learn these actions and their costs.
        events: Event on ``towpath.events`` → handler; the service's queue is bound to these events.
        storage: ``None`` for a service without a database.
        timers: Periodic work, on every replica; only with a storage.
        effects: Name → call to the outside that outcomes may declare; only with a storage that has ``effects`` and
            ``outbox``.
        pushes: Push that it publishes → the model of its ``data``.
        events_out: Event that it publishes → the model of its ``data``. Its account at RabbitMQ may publish these
            beside the events of its own domain.

    The ``answer`` of each handler, ``pushes`` and ``events_out`` declare what others receive. The contract is
    generated from them, and tests check what the service publishes against them; a running service does not.

    Example:
        >>> from pydantic import BaseModel
        >>> from towpath.servicekit import Handler, Outcome, Service
        >>> class Greet(BaseModel):
        ...     name: str
        >>> def greet(request: Greet, session, unit_of_work) -> Outcome:
        ...     return Outcome(answer={"text": f"Hello, {request.name}!"})
        >>> hello = Service(
        ...     name="hello", domain="hello", commands={"hello.greet": Handler(Greet, greet, changes=False)}
        ... )

        A handler is a plain function, so a test calls it without a broker:

        >>> hello.commands["hello.greet"].run(Greet(name="Ana"), None, None).answer
        {'text': 'Hello, Ana!'}
    """

    name: str
    domain: str
    commands: Handlers
    events: Handlers = field(default_factory=dict)
    storage: Storage[U] | None = None
    timers: Sequence[Timer] = ()
    effects: EffectHandlers = field(default_factory=dict)
    pushes: Mapping[str, type[BaseModel]] = field(default_factory=dict)
    events_out: Mapping[str, type[BaseModel]] = field(default_factory=dict)

    @property
    def publishes(self) -> Sequence[str]:
        """The events of other domains that it publishes, such as ``order.confirmed``."""
        return [event for event in self.events_out if event.partition(".")[0] != self.domain]

    @property
    def declares(self) -> bool:
        """Whether it declares anything that it publishes; then all of it should be declared."""
        answers = any(handler.answer is not None for handler in self.commands.values())
        return answers or bool(self.pushes) or bool(self.events_out)

    @property
    def tables(self) -> HandlerTables:
        """The dispatcher's view of it."""
        return HandlerTables(self.name, self.commands, self.events)


def topology(service: Service[Any], max_length: int) -> Topology:
    """The exchanges and queues of a service."""
    return Topology(
        [*(Exchange(name) for name in EXCHANGES), *dead_letters.exchanges(service.name)],
        [*work_queues(service, max_length), *dead_letters.queues(service.name, max_length)],
        writes=EXCHANGES,
    )


def work_queues(service: Service[Any], max_length: int) -> list[Queue]:
    """The queues that a service consumes: one per partition of its commands, and one for its events."""
    return command_queues(service, max_length) + event_queues(service, max_length)


def command_queues(service: Service[Any], max_length: int) -> list[Queue]:
    """One queue per partition of a service's commands."""
    queues = []
    for number in range(PARTITIONS):
        commands = Binding(COMMANDS, f"{service.domain}.{number}")
        queues.append(_queue(service, command_queue(service.name, number), max_length, [commands], commands))
    return queues


def event_queues(service: Service[Any], max_length: int) -> list[Queue]:
    """The queue of the events that a service handles, if there are any."""
    if not service.events:
        return []
    # Other queues are bound to the same events, so a key of its own is used to verify all bindings.
    own = Binding(EVENTS, f"proof.{service.name}")
    bindings = [*(Binding(EVENTS, name) for name in service.events), own]
    return [_queue(service, events_queue(service.name), max_length, bindings, own)]


def _queue(
    service: Service[Any], name: str, max_length: int, bindings: list[Binding], verified: Binding
) -> Queue:
    return Queue(
        name=name,
        bindings=[*bindings, dead_letters.way_back(service.name, name)],
        verified=[verified],
        single_active=True,
        delivery_limit=DELIVERY_LIMIT,
        max_length=max_length,
        dead_letter_exchange=dead_queue(service.name),
    )
