"""Requests: the items of a delivery, decoded and checked against a service's tables. Pure functions.

A delivery is a batch. Each of its items becomes a :class:`Request` to run, a :class:`Refusal` to answer, or
:class:`Unreadable` to park; no item affects the handling of the others.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import msgspec
from pydantic import BaseModel, ValidationError

from towpath.protocol import envelope as envelopes
from towpath.protocol.envelope import Envelope, field_problems
from towpath.protocol.errors import BadEnvelope, Forbidden, InvalidData, TowpathError, UnknownAction
from towpath.protocol.messages import Session, read_command, read_object, split_batch
from towpath.protocol.services import MAX_COST, MIN_COST
from towpath.servicekit.broker.interface import Delivery
from towpath.servicekit.handling.crash_probe import End
from towpath.servicekit.handling.outcome import Outcome
from towpath.servicekit.handling.watchdog import Overdue
from towpath.servicekit.messaging import senders
from towpath.servicekit.messaging.failure_headers import ATTEMPT, REPLAYED
from towpath.servicekit.runtime.telemetry import Telemetry

#: ``x-reason`` of an item that cannot be decoded.
UNREADABLE: Final = "unreadable"
#: The cost from which a read is heavy.
HEAVY_COST: Final = 10.0
#: Total cost of a unit of work that senders share fairly while others wait.
FAIR_SHARE: Final = 100.0
#: Maximum number of senders that it is divided by: with more senders, units grow.
_SHARERS: Final = 20
#: Usual maximum cost of a request. Only used to skip the sums for small batches.
_USUAL_COST: Final = 4.0
#: Equal values have equal text, whatever the order of their keys.
_CANONICAL: Final = msgspec.json.Encoder(decimal_format="number", order="deterministic")
_UNWATCHED: Final[AbstractContextManager[None]] = nullcontext()


def _no_subject(_: Any) -> str:
    return ""


@dataclass(frozen=True, slots=True)
class Handler:
    """One row of a service's table: the model of an action's payload, and the function that handles it.

    ``run`` is a plain function without I/O: it reads and changes the loaded unit of work and returns an
    :class:`~towpath.servicekit.handling.outcome.Outcome`. It raises a
    :class:`~towpath.protocol.errors.TowpathError` to refuse the request, before it changes anything. It may run more
    than once for one request: when its transaction is tried again, and in the copy of the process in which
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

    Raises:
        ValueError: ``cost`` is out of range.

    Example:
        >>> class GetOrder(BaseModel):
        ...     order_id: str
        >>> def get(request: GetOrder, session: Session, book: dict[str, str]) -> Outcome:
        ...     return Outcome(answer={"status": book[request.order_id]})
        >>> handler = Handler(GetOrder, get, changes=False)
        >>> ana = Session(user_id="ana", connection_id="c-1", gateway_id="gw-1")
        >>> handler.run(GetOrder(order_id="o-1"), ana, {"o-1": "paid"}).answer
        {'status': 'paid'}
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

    def __post_init__(self) -> None:
        if not MIN_COST <= self.cost <= MAX_COST:
            raise ValueError(f"cost={self.cost} of {self.model.__name__}: must be {MIN_COST} to {MAX_COST}")

    @property
    def is_heavy_read(self) -> bool:
        """Whether it is so expensive that it must not delay other requests."""
        return self.cost >= HEAVY_COST and not self.changes and not self.idempotent


Handlers = Mapping[str, Handler]


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """One item to handle: a client's command, or an event if there is no ``session``.

    Attributes:
        sender: The sender's identity; see :mod:`towpath.servicekit.messaging.senders`.
    """

    delivery: Delivery
    item: bytes
    envelope: Envelope
    payload: Any
    handler: Handler
    session: Session | None
    traceparent: str
    sender: str

    @property
    def key(self) -> tuple[str, str]:
        """The idempotency key: sender and ``msg_id``."""
        return self.sender, self.envelope.msg_id

    @property
    def asked(self) -> str:
        """A fingerprint of action and data: the same id with another fingerprint is another request."""
        asked = _CANONICAL.encode([self.envelope.action, self.envelope.data])
        return hashlib.blake2b(asked, digest_size=12).hexdigest()

    @property
    def sequence_key(self) -> tuple[str, str]:
        """Sender and ordering key: requests with the same pair are handled in order."""
        sender = self.sender
        return sender, self.envelope.key or sender

    @property
    def cost(self) -> float:
        """See :class:`Handler`."""
        return self.handler.cost

    @property
    def is_redelivery(self) -> bool:
        """Whether the broker (not the client) repeats it, so that its pushes may not have been published."""
        return self.delivery.redelivered or comes_again(self.delivery)


@dataclass(frozen=True, slots=True, eq=False)
class Refusal:
    """A command that is answered with an ``error`` without being handled."""

    session: Session
    envelope: Envelope
    error: TowpathError
    traceparent: str
    cost: ClassVar[float] = MIN_COST

    @property
    def sender(self) -> str:
        return senders.user(self.session.user_id)

    @property
    def sequence_key(self) -> tuple[str, str]:
        """See :class:`Request`."""
        return self.sender, self.envelope.key or self.sender


@dataclass(frozen=True, slots=True)
class Unreadable:
    """An item that cannot be handled; it is parked with its reason.

    Attributes:
        refusal: The error answer to its sender, if enough of it could be decoded.
    """

    delivery: Delivery
    item: bytes
    error: BaseException
    reason: str = UNREADABLE
    refusal: Refusal | None = None


def comes_again(delivery: Delivery) -> bool:
    """Whether it was deferred before: it comes from a retry queue, or was parked and is replayed.

    Both publish it by the name of its queue; a sender that forges the headers uses another exchange.
    """
    return (
        not delivery.exchange
        and delivery.routing_key == delivery.queue
        and (ATTEMPT in delivery.headers or REPLAYED in delivery.headers)
    )


def read(
    delivery: Delivery,
    commands: Handlers,
    events: Handlers,
    telemetry: Telemetry,
    watched: AbstractContextManager[None] = _UNWATCHED,
) -> Iterator[Request | Refusal | Unreadable]:
    """The items of a delivery, in their order; events without a handler are left out.

    Args:
        watched: Entered for each item; it may raise :class:`~towpath.servicekit.handling.watchdog.Overdue` inside.
    """
    try:
        items = split_batch(delivery.body)
    except BadEnvelope as error:
        yield Unreadable(delivery, delivery.body, error)
        return
    for item in items:
        request = read_item(delivery, item, commands, events, telemetry, watched)
        if request is not None:
            yield request


def read_item(
    delivery: Delivery,
    item: bytes,
    commands: Handlers,
    events: Handlers,
    telemetry: Telemetry,
    watched: AbstractContextManager[None] = _UNWATCHED,
) -> Request | Refusal | Unreadable | None:
    """One item of a delivery; ``None`` for an event without a handler."""
    try:
        with watched:
            if ".commands." in delivery.queue:
                return _command(delivery, item, commands, telemetry)
            return _event(delivery, item, events, telemetry)
    except (TowpathError, Overdue) as error:
        return Unreadable(delivery, item, error, _reason(error))


def refusal(delivery: Delivery, item: bytes, telemetry: Telemetry) -> Refusal | None:
    """The error answer to a command that will not be handled; ``None`` for events and unknown senders."""
    if ".commands." not in delivery.queue:
        return None
    try:
        command = read_command(item)
        envelope = envelopes.read(command.envelope)
    except TowpathError:
        return None
    return Refusal(command.session, envelope, internal_error(), telemetry.trace(envelope.traceparent))


def internal_error() -> TowpathError:
    """The error that clients get for an internal failure."""
    return TowpathError("Something went wrong here and is recorded. Try again later.")


def _reason(error: BaseException) -> str:
    return End.HUNG if isinstance(error, Overdue) else UNREADABLE


def next_unit(
    waiting: Sequence[Request | Refusal], limit: int, share: float = FAIR_SHARE
) -> tuple[list[Request | Refusal], list[Request | Refusal]]:
    """Take the next unit of work of at most ``limit`` items; returns it, and the remaining items in order.

    In a unit of work all changes run before all reads. So a change starts a new unit if this one has an earlier read
    with its sequence (sender and ordering key): else that read's answer would include a change sent later.

    If the waiting cost exceeds ``share``, and one sender has more than its part of ``share``, its further requests
    are left to the next units, so that others wait for a small unit only. The order of arrival is kept per ordering
    key, across all senders.
    """
    if len(waiting) > share / _USUAL_COST and (part := _part_of_each(waiting, share)):
        return _fair_unit(waiting, limit, part, share)
    asked: set[tuple[str, str]] = set()
    for place, item in enumerate(waiting):
        if place == limit:
            return list(waiting[:place]), list(waiting[place:])
        if not isinstance(item, Request):
            continue
        if not item.handler.changes:
            asked.add(item.sequence_key)
        elif item.sequence_key in asked:
            return list(waiting[:place]), list(waiting[place:])
    return list(waiting), []


def _part_of_each(waiting: Sequence[Request | Refusal], share: float) -> float:
    """The cost that each user may have in the next unit; 0 if no limit is needed.

    A backend, which publishes for many users, may have all of ``share``.
    """
    users: dict[str, float] = {}
    backends: dict[str, float] = {}
    for item in waiting:
        weights = backends if item.session is None else users
        weights[item.sender] = weights.get(item.sender, 0.0) + item.cost
    if len(users) + len(backends) < 2 or sum(users.values()) + sum(backends.values()) <= share:
        return 0.0
    part = share / min(max(len(users), 1), _SHARERS)
    crowded_out = max(users.values(), default=0.0) > part or max(backends.values(), default=0.0) > share
    return part if crowded_out else 0.0


def _fair_unit(
    waiting: Sequence[Request | Refusal], limit: int, part: float, share: float
) -> tuple[list[Request | Refusal], list[Request | Refusal]]:
    """The next unit, in which no sender exceeds its part, and the remaining items, in order."""
    unit: list[Request | Refusal] = []
    left: list[Request | Refusal] = []
    weights: dict[str, float] = {}
    asked: set[tuple[str, str]] = set()
    held_back: set[str] = set()  # ordering keys
    for item in waiting:
        sender, key = item.sequence_key
        weight = weights.get(sender, 0.0)
        is_change = isinstance(item, Request) and item.handler.changes
        if (
            len(unit) >= limit
            or key in held_back
            or (weight and weight + item.cost > (share if item.session is None else part))
            or (is_change and item.sequence_key in asked)
        ):
            left.append(item)
            held_back.add(key)
            continue
        unit.append(item)
        weights[sender] = weight + item.cost
        if isinstance(item, Request) and not is_change:
            asked.add(item.sequence_key)
    return unit, left


def _command(
    delivery: Delivery, item: bytes, commands: Handlers, telemetry: Telemetry
) -> Request | Refusal | Unreadable:
    command = read_command(item)
    session = command.session
    envelope = envelopes.read(command.envelope)
    trace = telemetry.trace(envelope.traceparent)
    try:
        handler = commands.get(envelope.action)
        if handler is None:
            raise UnknownAction(f"There is no action {envelope.action!r}.")
        if not session.may_address(envelope.domain):
            raise Forbidden(f"The token's scope does not name {envelope.domain!r}.")
        payload = validated(handler.model, envelope.data)
    except TowpathError as error:
        return Refusal(session, envelope, error, trace)
    except (Exception, Overdue) as error:  # of a validator in the model
        return Unreadable(
            delivery, item, error, _reason(error), Refusal(session, envelope, internal_error(), trace)
        )
    return Request(delivery, item, envelope, payload, handler, session, trace, senders.user(session.user_id))


def _event(
    delivery: Delivery, item: bytes, events: Handlers, telemetry: Telemetry
) -> Request | Unreadable | None:
    envelope = envelopes.read(read_object(item))
    # A deferred item comes back with the queue's name as its routing key.
    if not comes_again(delivery) and envelope.action != delivery.routing_key:
        raise BadEnvelope(f"Action {envelope.action!r} came under the routing key {delivery.routing_key!r}.")
    handler = events.get(envelope.action)
    if handler is None:
        return None
    try:
        payload = validated(handler.model, envelope.data)
    except TowpathError:
        raise
    except Exception as error:  # of a validator in the model
        return Unreadable(delivery, item, error)
    header = delivery.headers.get("traceparent")
    trace = telemetry.trace(envelope.traceparent or (header if isinstance(header, str) else None))
    sender = senders.publisher(
        delivery, envelope.action, handler.subject(payload), comes_again=comes_again(delivery)
    )
    return Request(delivery, item, envelope, payload, handler, None, trace, sender)


def validated(model: type[BaseModel], data: Mapping[str, Any]) -> BaseModel:
    """``data`` as ``model``.

    Raises:
        InvalidData: With the fields and the problem of each.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        details = field_problems(error.errors(include_url=False, include_context=False, include_input=False))
        for field in details["fields"]:
            field["problem"] = field["problem"].removeprefix("Value error, ")
        problems = "; ".join(f"{field['field']}: {field['problem']}" for field in details["fields"][:5])
        raise InvalidData(f"data refused: {problems}.", details=details) from None
