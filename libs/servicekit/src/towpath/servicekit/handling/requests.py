"""Requests: the items of a delivery, decoded and checked against a service's tables. Pure functions.

A delivery is a batch, and no item affects the handling of the others. Each item becomes

* a :class:`Request` to run;
* a :class:`Request` with a ``refusal``: a command that is answered with that error and never run (an unknown action,
  a scope that does not name the domain, data that fails its model);
* :class:`Unreadable`: the :mod:`~towpath.servicekit.handling.reader` parks it;
* nothing: an event that the service has no handler for.
"""

import hashlib
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Final

import msgspec
from pydantic import BaseModel, ValidationError

from towpath.protocol import envelope as envelopes
from towpath.protocol.envelope import Envelope, field_problems
from towpath.protocol.errors import BadEnvelope, Forbidden, InvalidData, TowpathError, UnknownAction
from towpath.protocol.messages import Session, read_command, read_object
from towpath.protocol.services import MAX_COST, MIN_COST
from towpath.servicekit.broker.interface import Delivery
from towpath.servicekit.handling.crash_probe import End
from towpath.servicekit.handling.outcome import Outcome
from towpath.servicekit.handling.watchdog import Overdue
from towpath.servicekit.messaging import senders
from towpath.servicekit.messaging.dead_letters import ATTEMPT, REPLAYED
from towpath.servicekit.runtime.telemetry import Telemetry

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


def _never(*_: Any) -> Outcome:
    raise AssertionError("a refused request is not run")


#: The table row of a refused request: it costs as little as any request, and changes nothing.
_NOT_RUN: Final = Handler(BaseModel, _never, changes=False)


@dataclass(frozen=True, slots=True)
class HandlerTables:
    """What a service handles.

    Attributes:
        service: The service's name: it acks its own events without handling them.
    """

    service: str
    commands: Handlers
    events: Handlers


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """One item to handle: a client's command, or an event if there is no ``session``.

    Two requests are never equal (``eq=False``): the same item may be delivered twice, and both are settled.

    Attributes:
        sender: The sender's identity; see :mod:`towpath.servicekit.messaging.senders`.
        refusal: The error that answers a command instead of its handler.
        is_isolated: It runs on the main path even if it is a heavy read, because it may crash the program.
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
    number: int = field(default_factory=_ARRIVED.__next__)

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
        return self.delivery.redelivered or comes_again(self.delivery)


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


def comes_again(delivery: Delivery) -> bool:
    """Whether it was deferred before: it comes from a retry queue, or was parked and is replayed.

    Both publish it by the name of its queue; a sender that forges the headers uses another exchange.
    """
    return (
        not delivery.exchange
        and delivery.routing_key == delivery.queue
        and (ATTEMPT in delivery.headers or REPLAYED in delivery.headers)
    )


def read_item(
    delivery: Delivery,
    item: bytes,
    tables: HandlerTables,
    telemetry: Telemetry,
    watchdog: AbstractContextManager[None],
) -> Request | Unreadable | None:
    """One item of a delivery; ``None`` for an event without a handler.

    Args:
        watchdog: Entered around the reading: validators are the service's own code, and may hang.
    """
    try:
        with watchdog:
            if is_command(delivery):
                return _command(delivery, item, tables.commands, telemetry)
            return _event(delivery, item, tables.events, telemetry)
    except (TowpathError, Overdue) as error:
        return Unreadable(item, error, _reason(error))


def is_command(delivery: Delivery) -> bool:
    """Whether its items are commands, by its queue: everything else is an event."""
    return ".commands." in delivery.queue


def unread_command(delivery: Delivery, item: bytes, telemetry: Telemetry) -> Request | None:
    """The answer ``internal`` to a command that is not handled; ``None`` for events and unknown senders.

    It reads the envelope only: the model of ``data`` may be what crashes the program.
    """
    if not is_command(delivery):
        return None
    try:
        command = read_command(item)
        envelope = envelopes.read(command.envelope)
    except TowpathError:
        return None
    trace = telemetry.trace(envelope.traceparent)
    return _refused(delivery, item, envelope, command.session, trace, internal_error())


def internal_error() -> TowpathError:
    """The error that clients get for an internal failure."""
    return TowpathError("Something went wrong here and is recorded. Try again later.")


def _reason(error: BaseException) -> str:
    return End.HUNG if isinstance(error, Overdue) else UNREADABLE


def _command(
    delivery: Delivery, item: bytes, handlers: Handlers, telemetry: Telemetry
) -> Request | Unreadable:
    command = read_command(item)
    session = command.session
    envelope = envelopes.read(command.envelope)
    trace = telemetry.trace(envelope.traceparent)
    try:
        handler = handlers.get(envelope.action)
        if handler is None:
            raise UnknownAction(f"There is no action {envelope.action!r}.")
        if not session.may_address(envelope.domain):
            raise Forbidden(f"The token's scope does not name {envelope.domain!r}.")
        payload = validated(handler.model, envelope.data)
    except TowpathError as error:
        return _refused(delivery, item, envelope, session, trace, error)
    except (Exception, Overdue) as error:  # of a validator in the model
        answer = _refused(delivery, item, envelope, session, trace, internal_error())
        return Unreadable(item, error, _reason(error), answer)
    return Request(delivery, item, envelope, payload, handler, session, trace, senders.user(session.user_id))


def _refused(
    delivery: Delivery, item: bytes, envelope: Envelope, session: Session, trace: str, error: TowpathError
) -> Request:
    sender = senders.user(session.user_id)
    return Request(delivery, item, envelope, None, _NOT_RUN, session, trace, sender, refusal=error)


def _event(
    delivery: Delivery, item: bytes, handlers: Handlers, telemetry: Telemetry
) -> Request | Unreadable | None:
    envelope = envelopes.read(read_object(item))
    # A deferred item comes back with the queue's name as its routing key.
    if not comes_again(delivery) and envelope.action != delivery.routing_key:
        raise BadEnvelope(f"Action {envelope.action!r} came under the routing key {delivery.routing_key!r}.")
    handler = handlers.get(envelope.action)
    if handler is None:
        return None
    try:
        payload = validated(handler.model, envelope.data)
    except TowpathError:
        raise
    except Exception as error:  # of a validator in the model
        return Unreadable(item, error)
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
