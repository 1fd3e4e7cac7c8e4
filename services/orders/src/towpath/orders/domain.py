"""Orders: what states there are, and which change is allowed when. No I/O.

Guarantee: an order only ever moves forward. A late or repeated event changes nothing.
"""

import secrets
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Final

from pydantic import JsonValue

from towpath.protocol.errors import Conflict, Forbidden, InvalidData, NotFound
from towpath.protocol.orders import Item, OrderEvent, Status, SubmitOrder

#: How far along an order is; an event moves it only to a higher step.
_STEPS: Final = {
    Status.SUBMITTED: 0,
    Status.CONFIRMED: 1,
    Status.PAID: 2,
    Status.PACKED: 3,
    Status.SHIPPED: 4,
    Status.DELIVERED: 5,
}
#: States an order leaves only to be refunded.
_ENDED: Final = frozenset({Status.REJECTED, Status.CANCELLED})
_STOPPABLE: Final = frozenset(status for status, step in _STEPS.items() if step < _STEPS[Status.SHIPPED])


class OrderNotFound(NotFound):
    """There is no such order."""


class NotYourOrder(Forbidden):
    """The order is somebody else's."""


class OrderIdTaken(Conflict):
    """There is an order of this id already."""


class NotCancellable(Conflict):
    """The order is past the point where it could be cancelled."""


class OwnerUnknown(InvalidData):
    """An event tells of an order that is new here, and not whose it is."""


class OwnerDiffers(Conflict):
    """An event names another owner than the order has."""


def new_order_id(now_ms: int) -> str:
    """A readable id: the day, and 40 random bits."""
    day = datetime.fromtimestamp(now_ms / 1000, UTC).strftime("%Y%m%d")
    return f"O{day}-{secrets.token_hex(5).upper()}"


@dataclass(slots=True)
class Order:
    """One order.

    Attributes:
        revision: Grows with every change.
        seen_revision: The highest ``revision`` that an event of another backend carried.
        created_at, updated_at: Unix milliseconds.
    """

    order_id: str
    user_id: str
    amount: Decimal
    currency: str
    created_at: int
    updated_at: int
    status: Status = Status.SUBMITTED
    revision: int = 1
    seen_revision: int = 0
    items: list[Item] | None = None
    detail: JsonValue = None
    is_new: bool = field(default=False, compare=False)
    is_changed: bool = field(default=False, compare=False)

    @classmethod
    def submitted(cls, request: SubmitOrder, user_id: str, now_ms: int) -> "Order":
        """A new order as its owner asked for it."""
        return cls(
            order_id=request.order_id or new_order_id(now_ms),
            user_id=user_id,
            amount=request.total,
            currency=request.currency,
            created_at=now_ms,
            updated_at=now_ms,
            items=request.items,
            is_new=True,
        )

    @classmethod
    def born_elsewhere(cls, event: OrderEvent, status: Status, default_currency: str, now_ms: int) -> "Order":
        """An order that another backend told of first.

        Raises:
            OwnerUnknown: The event has no ``user_id``.
        """
        if event.user_id is None:
            raise OwnerUnknown(f"Order {event.order_id!r} is new here: the event must carry its user_id.")
        return cls(
            order_id=event.order_id,
            user_id=event.user_id,
            amount=event.amount if event.amount is not None else Decimal("0.00"),
            currency=event.currency or default_currency,
            created_at=now_ms,
            updated_at=now_ms,
            status=status,
            revision=event.revision or 1,
            seen_revision=event.revision or 0,
            detail=event.detail,
            is_new=True,
        )

    def cancel(self, reason: str | None, now_ms: int) -> None:
        """Cancel on behalf of the owner.

        Raises:
            NotCancellable: It is shipped, or over.
        """
        if self.status not in _STOPPABLE:
            raise NotCancellable(f"Order {self.order_id!r} is {self.status.value} and cannot be cancelled.")
        self._change(Status.CANCELLED, now_ms)
        self.detail = reason

    def follow(self, event: OrderEvent, status: Status, now_ms: int) -> bool:
        """Move as another backend says; false if the event is late or repeated, and nothing changed.

        Raises:
            OwnerDiffers: The event is about somebody else's order of the same id.
        """
        if event.user_id is not None and event.user_id != self.user_id:
            raise OwnerDiffers(f"Order {self.order_id!r} belongs to another user than the event says.")
        newer = event.revision is not None and event.revision > self.seen_revision
        if event.revision is not None and not newer:
            return False
        if not (self._leads_to(status) or (newer and status is self.status)):
            return False
        self._change(status, now_ms)
        if event.revision is not None:
            self.seen_revision = event.revision
            self.revision = max(self.revision, event.revision)
        if event.amount is not None:
            self.amount = event.amount
        if event.currency is not None:
            self.currency = event.currency
        self.detail = event.detail
        return True

    def _leads_to(self, status: Status) -> bool:
        if status is Status.REFUNDED:
            return self.status is not Status.REFUNDED
        if self.status is Status.REFUNDED or self.status in _ENDED:
            return False
        if status in _ENDED:
            return self.status in _STOPPABLE
        return _STEPS[status] > _STEPS[self.status]

    def _change(self, status: Status, now_ms: int) -> None:
        self.status = status
        self.revision += 1
        self.updated_at = now_ms
        self.is_changed = True
