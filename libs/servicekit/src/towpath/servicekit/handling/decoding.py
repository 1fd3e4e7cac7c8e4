"""Decoding: one item of a delivery, checked against a service's tables. Pure functions.

A delivery is a batch, and no item affects the handling of the others. Each item becomes

* a :class:`~towpath.servicekit.handling.requests.Request` to run;
* a ``Request`` with a ``refusal``: a command that is answered with that error and never run (an unknown action, a
  scope that does not name the domain, data that fails its model);
* :class:`~towpath.servicekit.handling.requests.Unreadable`: the :mod:`~towpath.servicekit.handling.reader` parks it;
* nothing: an event that the service has no handler for.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, Final

from pydantic import BaseModel, ValidationError

from towpath.protocol import envelope as envelopes
from towpath.protocol.envelope import Envelope, field_problems
from towpath.protocol.errors import BadEnvelope, Forbidden, InvalidData, TowpathError, UnknownAction
from towpath.protocol.messages import Session, read_command, read_object
from towpath.servicekit.broker.interface import Delivery
from towpath.servicekit.handling.crash_probe import End
from towpath.servicekit.handling.outcome import Outcome
from towpath.servicekit.handling.requests import (
    UNREADABLE,
    Handler,
    Handlers,
    HandlerTables,
    Request,
    Unreadable,
    internal_error,
    was_deferred,
)
from towpath.servicekit.handling.watchdog import Overdue
from towpath.servicekit.messaging import senders
from towpath.servicekit.runtime.error_text import without_frames
from towpath.servicekit.runtime.telemetry import Telemetry


def _never(*_: Any) -> Outcome:
    raise AssertionError("a refused request is not run")


#: The table row of a refused request: it costs as little as any request, and changes nothing.
_NOT_RUN: Final = Handler(BaseModel, _never, changes=False)


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
            return _event(delivery, item, tables, telemetry)
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
    trace = telemetry.trace(command.trace)
    return _refused(delivery, item, envelope, command.session, trace, internal_error())


def _reason(error: BaseException) -> str:
    return End.HUNG if isinstance(error, Overdue) else UNREADABLE


def _command(
    delivery: Delivery, item: bytes, handlers: Handlers, telemetry: Telemetry
) -> Request | Unreadable:
    command = read_command(item)
    session = command.session
    envelope = envelopes.read(command.envelope)
    trace = telemetry.trace(command.trace)
    # The envelope was read, so the sender is known: from here on every error can be answered.
    try:
        handler = handlers.get(envelope.action)
        if handler is None:
            raise UnknownAction(f"There is no action {envelope.action!r}.")
        if not session.may_address(envelope.domain):
            raise Forbidden(f"The token's scope does not name {envelope.domain!r}.")
        payload = validated(handler.model, envelope.data)
    except TowpathError as error:
        return _refused(delivery, item, envelope, session, trace, error)
    # A bug of the service, not of the client: answered `internal` without details, and parked with them.
    except (Exception, Overdue) as error:  # of a validator in the model
        answer = _refused(delivery, item, envelope, session, trace, internal_error())
        return Unreadable(item, error, _reason(error), answer)
    return Request(
        delivery, item, envelope, payload, handler, session, trace, senders.user(session.user_id),
        tracestate=command.tracestate,
    )  # fmt: skip


def _refused(
    delivery: Delivery, item: bytes, envelope: Envelope, session: Session, trace: str, error: TowpathError
) -> Request:
    without_frames(error)
    sender = senders.user(session.user_id)
    return Request(delivery, item, envelope, None, _NOT_RUN, session, trace, sender, refusal=error)


def _event(
    delivery: Delivery, item: bytes, tables: HandlerTables, telemetry: Telemetry
) -> Request | Unreadable | None:
    envelope = envelopes.read(read_object(item))
    # A deferred item is redelivered with the queue's name as its routing key.
    # RabbitMQ checks permissions by routing key, not by content: without this check a publisher of one event could
    # send any other. https://www.rabbitmq.com/docs/access-control#topic-authorisation
    if not was_deferred(delivery) and envelope.action != delivery.routing_key:
        raise BadEnvelope(f"Action {envelope.action!r} came under the routing key {delivery.routing_key!r}.")
    handler = tables.events.get(envelope.action)
    if handler is None:
        return None
    try:
        payload = validated(handler.model, envelope.data)
    except TowpathError:
        raise
    except Exception as error:  # of a validator in the model
        return Unreadable(item, error)
    header = delivery.headers.get("traceparent")
    trace = telemetry.event_trace(envelope.traceparent or (header if isinstance(header, str) else None))
    deferred, subject = was_deferred(delivery), handler.subject(payload)
    known = None if deferred else tables.sources.service_of(delivery)
    sender = senders.publisher(delivery, envelope.action, subject, service=known, was_deferred=deferred)
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
