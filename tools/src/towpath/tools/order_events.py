"""Order events as other backends publish them: checked, then confirmed by the broker."""

import difflib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from pydantic import ValidationError

from towpath.protocol.envelope import Envelope, make
from towpath.protocol.orders import OrderEvent, Status
from towpath.protocol.routes import EVENTS
from towpath.tools.trouble import Trouble

if TYPE_CHECKING:
    from towpath.servicekit.broker.interface import Broker, Topology

APP_ID: Final = "demo-backend"

#: Events that the orders service consumes. ``order.created`` creates an order of another backend.
KNOWN: Final = (
    "order.created",
    *(f"order.{status.value}" for status in Status if status is not Status.SUBMITTED),
)


class NotPublished(Trouble):
    """The broker did not take an event, or did not confirm it."""


class BadEvent(Trouble):
    """An event that no orders service would take."""

    status = 2


def exchanges() -> "Topology":
    """The exchange that must exist before anything can be published."""
    from towpath.servicekit.broker.interface import Exchange, Topology

    return Topology([Exchange(EVENTS)])


def order_event(action: str, data: Mapping[str, Any], msg_id: str | None = None) -> Envelope:
    """One event, of which an orders service can make something.

    Args:
        data: Of :class:`~towpath.protocol.orders.OrderEvent`; it goes out as it is.
        msg_id: By default a fresh one.

    Raises:
        BadEvent
    """
    if action not in KNOWN:
        near = difflib.get_close_matches(action, KNOWN, n=1, cutoff=0.75)
        guess = f", did you mean {near[0]}?" if near else ";"
        raise BadEvent(f"{action[:70]!a} is not an order event{guess} known are {', '.join(KNOWN)}")
    try:
        OrderEvent.model_validate(dict(data))
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        name = ".".join(str(part) for part in first["loc"]) or "data"
        shown = "" if first["type"] == "missing" else f" {str(first['input'])[:70]!a}"
        raise BadEvent(f"{name}{shown}: {first['msg'].removeprefix('Value error, ')}") from None
    try:
        return make(action, data, msg_id=msg_id)
    except ValidationError:
        raise BadEvent(f"msg_id {msg_id!a}: must be 1 to 64 of A-Z a-z 0-9 . _ : -") from None


async def publish(broker: "Broker", event: Envelope) -> None:
    """Publish one event; returns once the broker has it safely.

    Raises:
        NotPublished: The broker is disconnected, or no queue is bound to the event.
    """
    from towpath.servicekit.broker.interface import BrokerError, Message, Unroutable

    message = Message(body=event.to_json(), persistent=True, type=event.action, app_id=APP_ID)
    try:
        await broker.publish(EVENTS, event.action, message, mandatory=True)
    except Unroutable:
        raise NotPublished(f"no service consumes {event.action}: start the orders service once") from None
    except BrokerError as error:
        raise NotPublished(f"{event.action} was not published: {error}; try again") from None
