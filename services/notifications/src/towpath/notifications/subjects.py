"""Subjects: what a notification is about, taken from the event that causes it. No I/O."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final
from urllib.parse import quote

from towpath.protocol.chat import DirectSent, InvitationSent
from towpath.protocol.money import format_money
from towpath.protocol.notifications import Kind
from towpath.protocol.orders import OrderEvent


@dataclass(frozen=True, slots=True)
class Subject:
    """The subject of a notification.

    Attributes:
        topic: A user gets one notification about each topic.
        until_read: One for each time that the user has read the notifications, instead.
        link: See :class:`towpath.protocol.notifications.Notification`.
        values: For the templates.
        unless: Topics: once the user has a notification about one of them, this one comes too late.
    """

    user_id: str
    kind: Kind
    topic: str
    link: str
    values: Mapping[str, str] = field(default_factory=dict)
    until_read: bool = False
    unless: tuple[str, ...] = ()


def of_order(kind: Kind, event: OrderEvent) -> Subject:
    """Each step of an order once, from whichever sender; each refund, by its revision or its amount.

    A decision that arrives after the cancel is left out: the two have different senders, and may overtake each other.
    """
    amount = "" if event.amount is None else format_money(event.amount)
    topic = f"{kind}/{event.order_id}"
    if kind == "order.refunded":
        topic += f"/{amount if event.revision is None else event.revision}"
    return Subject(
        event.user_id,
        kind,
        topic,
        f"order/{event.order_id}",
        {
            "order_id": event.order_id,
            "amount": " ".join(filter(None, (amount, event.currency if amount else None))),
            "reason": _reason(event.detail),
        },
        unless=(f"order.cancelled/{event.order_id}",) if kind in _DECISIONS else (),
    )


def of_direct(event: DirectSent) -> Subject:
    """One for each room and until the user has read it: chat itself counts unread messages."""
    return Subject(
        event.user_id,
        "chat.direct",
        f"chat.direct/{event.room}",
        f"room/{quote(event.room, safe='')}",
        {"by": event.by},
        until_read=True,
    )


def of_invitation(event: InvitationSent) -> Subject:
    """One for each room and inviter, until the user has read it."""
    return Subject(
        event.user_id,
        "chat.invited",
        f"chat.invited/{event.by}/{event.room}",
        f"room/{quote(event.room, safe='')}",
        {"by": event.by, "room": event.title},
        until_read=True,
    )


def _reason(detail: Any) -> str:
    """The reason in ``detail``, which is free: a text, or the field ``reason`` of an object."""
    found = detail.get("reason") if isinstance(detail, dict) else detail
    return found if isinstance(found, str) else ""


_DECISIONS: Final = frozenset({"order.confirmed", "order.rejected"})
_ORDER_STEPS: Final[tuple[Kind, ...]] = (
    "order.created",
    "order.confirmed",
    "order.rejected",
    "order.paid",
    "order.packed",
    "order.shipped",
    "order.delivered",
    "order.cancelled",
    "order.refunded",
)
#: Event → its subject.
SUBJECTS: Final[Mapping[str, Callable[[Any], Subject]]] = {
    **{kind: partial(of_order, kind) for kind in _ORDER_STEPS},
    "chat.direct_sent": of_direct,
    "chat.invitation_sent": of_invitation,
}
