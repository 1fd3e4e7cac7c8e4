"""Requests: what arrives. A request is one item of a delivery, decoded, with the row of the service's table for it.

Service writers meet two of these names: :class:`Handler`, a row of the table, and :class:`Request`, which a unit of
work gets to load what it names.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Final

import msgspec
from pydantic import BaseModel

from towpath.protocol.envelope import Envelope
from towpath.protocol.errors import TowpathError
from towpath.protocol.messages import Session
from towpath.protocol.services import MAX_COST, MIN_COST
from towpath.servicekit.broker.interface import Delivery
from towpath.servicekit.handling.outcome import Outcome
from towpath.servicekit.messaging.failure_headers import ATTEMPT, REPLAYED
from towpath.servicekit.messaging.sources import Sources, returns_to_queue

#: ``x-reason`` of an item that cannot be decoded.
UNREADABLE: Final = "unreadable"
#: The cost from which a read is heavy.
HEAVY_COST: Final = 10.0
#: Equal values have equal text, whatever the order of their keys.
_CANONICAL: Final = msgspec.json.Encoder(decimal_format="number", order="deterministic")
#: Requests in this process, in the order of arrival.
_ARRIVED: Final = count(1)


def _no_subject(_: Any) -> str:
    return ""


@dataclass(frozen=True, slots=True)
class Handler:
    """One row of a service's table: the model of an action's payload, and the function that handles it.

    ``run`` is a plain function without I/O: it reads and changes the loaded unit of work and returns an
    :class:`~towpath.servicekit.handling.outcome.Outcome`. It raises a
    :class:`~towpath.protocol.errors.TowpathError` to refuse the request, before it changes anything. It may run more
    than once for one request: when its transaction is retried, and in the copy of the process in which
    redelivered requests run first.

    Attributes:
        model: The pydantic model of ``data``.
        run: ``(payload, session, unit of work)`` for commands, ``(payload, unit of work)`` for events.
        changes: Whether it changes state and so needs an inbox row. Reads and transient signals do not.
        idempotent: Idempotent write: saved, but without an inbox row. It sees the changes of its batch.
        cost: Relative cost, where a message that stores one row costs 1; from 1 to 100. Gateways charge it to the
            sender's rate limit, and services run reads of cost :data:`HEAVY_COST` or more beside other requests.
        groups: Its outcome lists the groups of the connection (``Outcome.groups``); not allowed with ``changes``.
        subject: The subject of an event, taken from its payload, such as an order id: see
            :mod:`towpath.servicekit.messaging.senders`.
        answer: The pydantic model of the answer's ``data``: documentation, from which the contract is generated, and
            which tests check answers against. ``None`` leaves it undeclared;
            :class:`~towpath.protocol.fields.Empty` is the model of ``{}``. Events have no answer.

    Raises:
        ValueError: ``cost`` is out of range.

    Example:
        >>> class GetOrder(BaseModel):
        ...     order_id: str
        >>> class State(BaseModel):
        ...     status: str
        >>> def get(request: GetOrder, session: Session, book: dict[str, str]) -> Outcome:
        ...     return Outcome(answer=State(status=book[request.order_id]))
        >>> handler = Handler(GetOrder, get, answer=State, changes=False)
        >>> ana = Session(user_id="ana", connection_id="c-1", gateway_id="gw-1")
        >>> handler.run(GetOrder(order_id="o-1"), ana, {"o-1": "paid"}).answer
        State(status='paid')
        >>> Handler(GetOrder, get, changes=False, cost=20).is_heavy_read
        True
    """

    model: type[BaseModel]
    run: Callable[..., Outcome]
    changes: bool = True
    idempotent: bool = False
    cost: float = MIN_COST
    subject: Callable[[Any], str] = _no_subject
    groups: bool = False
    answer: type[BaseModel] | None = None

    def __post_init__(self) -> None:
        if not MIN_COST <= self.cost <= MAX_COST:
            raise ValueError(f"cost={self.cost} of {self.model.__name__}: must be {MIN_COST} to {MAX_COST}")

    @property
    def is_heavy_read(self) -> bool:
        """Whether it is so expensive that it must not delay other requests."""
        return self.cost >= HEAVY_COST and not self.changes and not self.idempotent


#: Action or event → its handler.
Handlers = Mapping[str, Handler]


@dataclass(frozen=True, slots=True)
class HandlerTables:
    """The requests of a service.

    Attributes:
        service: The service's name: it acks its own events without handling them.
        sources: The accounts that it believes.
    """

    service: str
    commands: Handlers
    events: Handlers
    sources: Sources = field(default_factory=Sources)


# A struct: one is made for every message, and a frozen dataclass takes ten times as long to make.
class Request(msgspec.Struct, frozen=True, eq=False):
    """One item to handle: a client's command, or an event if there is no ``session``.

    Two requests are never equal (``eq=False``): the same item may be delivered twice, and both are settled.

    Attributes:
        sender: The sender's identity; see :mod:`towpath.servicekit.messaging.senders`.
        traceparent: The trace that its handler, and what follows from it, belongs to.
        tracestate: Of the client, where gateways continue the traces of clients. A service that calls another one
            over HTTP passes on both.
        refusal: The error that answers a command instead of its handler.
        is_isolated: It may crash the program, so it runs alone, on the main path even if it is a heavy read.
        number: Grows in the order of arrival.
    """

    delivery: Delivery
    item: bytes
    envelope: Envelope
    payload: Any
    handler: Handler
    session: Session | None
    traceparent: str
    sender: str
    refusal: TowpathError | None = None
    is_isolated: bool = False
    tracestate: str | None = None
    number: int = msgspec.field(default_factory=_ARRIVED.__next__)

    @property
    def key(self) -> tuple[str, str]:
        """The idempotency key: sender and ``msg_id``."""
        return self.sender, self.envelope.msg_id

    @property
    def fingerprint(self) -> str:
        """A fingerprint of action and data: the same id with another fingerprint is another request."""
        content = _CANONICAL.encode([self.envelope.action, self.envelope.data])
        return hashlib.blake2b(content, digest_size=12).hexdigest()

    @property
    def sequence_key(self) -> tuple[str, str]:
        """Sender and ordering key: requests with the same pair are handled in order."""
        sender = self.sender
        return sender, self.envelope.key or sender

    @property
    def cost(self) -> float:
        """See :class:`Handler`; a refusal costs as little as any request."""
        return self.handler.cost if self.refusal is None else MIN_COST

    @property
    def is_heavy_read(self) -> bool:
        """Whether it runs beside the main path; see :mod:`towpath.servicekit.handling.reads`."""
        return (
            self.handler.is_heavy_read
            and self.session is not None
            and self.refusal is None
            and not self.is_isolated
        )

    @property
    def is_redelivery(self) -> bool:
        """Whether the broker (not the client) repeats it, so that its pushes may not have been published."""
        return self.delivery.redelivered or was_deferred(self.delivery)


@dataclass(frozen=True, slots=True)
class Unreadable:
    """An item that cannot be handled; it is parked with its reason.

    Attributes:
        answer: The same item as a refused command, if enough of it could be decoded to answer its sender.
    """

    item: bytes
    error: BaseException
    reason: str = UNREADABLE
    answer: Request | None = None


def was_deferred(delivery: Delivery) -> bool:
    """Whether it was deferred before: it comes from a retry queue, or was parked and is replayed.

    Both publish it by the name of its queue; a sender that forges the headers uses another exchange.
    """
    return (
        returns_to_queue(delivery)
        and delivery.routing_key == delivery.queue
        and (ATTEMPT in delivery.headers or REPLAYED in delivery.headers)
    )


def internal_error() -> TowpathError:
    """The error that clients get for an internal failure."""
    return TowpathError("Something went wrong here and is recorded. Try again later.")
