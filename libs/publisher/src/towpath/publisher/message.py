"""Messages: an event or a push as RabbitMQ gets it, checked before it is sent.

Guarantees: a body is one envelope of the contract as JSON; its routing key is the action of an event, or the
percent-encoded user of a push; a message that no gateway or service would read is refused here, as
:class:`~towpath.publisher.errors.BadEvent`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from pydantic import ValidationError

from towpath.protocol import routes
from towpath.protocol.envelope import BARE_ACTIONS, Envelope, field_problems, make
from towpath.protocol.envelope import check as check_envelope
from towpath.protocol.errors import TowpathError
from towpath.publisher.errors import BadEvent

#: An event to publish: an envelope, or its action and its data.
Event = Envelope | tuple[str, Mapping[str, Any]]

_QUOTED: Final = 100


@dataclass(frozen=True, slots=True)
class Message:
    """One message for one exchange.

    Attributes:
        mandatory: Whether RabbitMQ returns it if no queue is bound to its key.
        persistent: Whether it outlives a restart of RabbitMQ.
    """

    exchange: str
    routing_key: str
    body: bytes
    msg_id: str
    traceparent: str | None = None
    mandatory: bool = True
    persistent: bool = True


def envelope_of(
    event: "Event | str", data: Mapping[str, Any] | None = None, msg_id: str | None = None
) -> Envelope:
    """``event`` as an envelope; a new one if it is an action with ``data``.

    Raises:
        BadEvent
    """
    if isinstance(event, Envelope):
        if data is not None or msg_id is not None:
            raise BadEvent(
                "data and msg_id belong to an action; an envelope has its own", msg_id=event.msg_id
            )
        return event
    if isinstance(event, tuple):
        event, data = event
    try:
        return make(event, data, msg_id=msg_id)
    except ValidationError as error:
        found = field_problems(error.errors(include_url=False, include_context=False, include_input=False))
        problems = "; ".join(f"{one['field']}: {one['problem']}" for one in found["fields"])
        raise BadEvent(f"{_shown(event)} is not an event: {problems}", msg_id=msg_id) from None
    except (TypeError, ValueError) as error:
        raise BadEvent(f"{_shown(event)} has data that is not an object: {error}", msg_id=msg_id) from None


def event_message(envelope: Envelope, max_bytes: int) -> Message:
    """The message of an event.

    Raises:
        BadEvent
    """
    if envelope.action in BARE_ACTIONS:
        raise BadEvent(
            f"{envelope.action!r} is not an event: an event is named domain.verb, such as 'order.paid'",
            msg_id=envelope.msg_id,
        )
    return Message(
        exchange=routes.EVENTS,
        routing_key=envelope.action,
        body=_body(envelope, max_bytes),
        msg_id=envelope.msg_id,
        traceparent=envelope.traceparent,
    )


def push_message(user_id: str, envelope: Envelope, max_bytes: int) -> Message:
    """The message of a push to all connections of a user.

    It is not mandatory: no queue may be bound to a user without a connection. A push is not stored, so it does not
    outlive a restart of RabbitMQ either.

    Raises:
        BadEvent
    """
    try:
        key = routes.user_key(routes.check_user_id(user_id))
    except ValueError as error:
        raise BadEvent(f"{_shown(user_id)} cannot be pushed to: {error}", msg_id=envelope.msg_id) from None
    return Message(
        exchange=routes.PUSH,
        routing_key=key,
        body=_body(envelope, max_bytes),
        msg_id=envelope.msg_id,
        traceparent=envelope.traceparent,
        mandatory=False,
        persistent=False,
    )


def _body(envelope: Envelope, max_bytes: int) -> bytes:
    try:
        body = envelope.to_json()
        check_envelope(body)
    except (TypeError, ValueError, RecursionError, TowpathError) as error:
        raise BadEvent(
            f"the data of {envelope.action!r} cannot be sent as JSON: {error}", msg_id=envelope.msg_id
        ) from None
    if len(body) > max_bytes:
        raise BadEvent(
            f"{envelope.action!r} has {len(body)} bytes; at most {max_bytes} are published. "
            "Store the content elsewhere and publish a link to it",
            msg_id=envelope.msg_id,
        )
    return body


def _shown(value: object) -> str:
    return repr(value if not isinstance(value, str) else value[:_QUOTED])[: 2 * _QUOTED]
