"""Orders: the states of an order, and the allowed changes. No I/O.

Guarantees:

* An order only ever moves forward; a late or repeated event changes no state.
* Additions take effect at any time: the amount, the time of creation, and refunds.
* A refused change has no effect.
"""

import secrets
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Final

from pydantic import JsonValue

from towpath.orders.price import Price
from towpath.protocol.errors import Conflict, NotFound
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
    """The user has no such order; the error does not reveal whether another user has one."""


class OrderIdTaken(Conflict):
    """The user has an order of this id already."""


class NotCancellable(Conflict):
    """The order is past the point where it could be cancelled."""


def new_order_id(now_ms: int) -> str:
    """A readable id: the day, and 40 random bits."""
    day = datetime.fromtimestamp(now_ms / 1000, UTC).strftime("%Y%m%d")
    return f"O{day}-{secrets.token_hex(5).upper()}"


@dataclass(frozen=True, slots=True)
class Source:
    """The source of an event.

    Attributes:
        sender: Identifies the sender; opaque.
        made_at: When the sender made the event, by its own clock; Unix milliseconds.
    """

    sender: str
    made_at: int


@dataclass(frozen=True, slots=True)
class Refund:
    """One refund.

    Attributes:
        number: Counts the refunds of the order, from 1.
        amount: ``None`` for the rest of an amount that is not known yet.
        revision: The sender's, if it keeps one.
        refunded_at: Unix milliseconds.
    """

    number: int
    amount: Decimal | None
    sender: str
    revision: int | None
    refunded_at: int
    detail: JsonValue = None


@dataclass(slots=True)
class Order:
    """One order.

    Attributes:
        revision: Grows with every change.
        created_at: Unix milliseconds; until ``is_creation_known`` the time of the first event about it.
        listed_at: Its position in the list, Unix milliseconds; never changes, so that pages contain each order once.
        updated_at: Unix milliseconds.
        refund_count: Number of refunds.
        newest: The newest revision of each sender of events, as far as it is loaded.
        booked: Sender and revision of each refund that has one, as far as they are loaded.
        new_refunds: The refunds of this unit of work.
        resolved_rest: The amount of the last refund, which refunded the rest of an amount that became known only now.
        repeat_at: When something about it is published again (:mod:`towpath.orders.repeats`), Unix milliseconds.
    """

    order_id: str
    user_id: str
    price: Price
    created_at: int
    listed_at: int
    updated_at: int
    status: Status = Status.SUBMITTED
    revision: int = 1
    is_creation_known: bool = True
    items: list[Item] | None = None
    detail: JsonValue = None
    refund_count: int = 0
    newest: dict[str, int] = field(default_factory=dict)
    booked: set[tuple[str, int]] = field(default_factory=set)
    new_refunds: list[Refund] = field(default_factory=list)
    resolved_rest: Decimal | None = None
    repeat_at: int | None = None
    is_new: bool = field(default=False, compare=False)
    is_changed: bool = field(default=False, compare=False)

    @classmethod
    def submitted(cls, request: SubmitOrder, user_id: str, now_ms: int) -> "Order":
        """A new order as its owner submitted it."""
        return cls(
            order_id=request.order_id or new_order_id(now_ms),
            user_id=user_id,
            price=Price.of(request.total, request.currency),
            created_at=now_ms,
            listed_at=now_ms,
            updated_at=now_ms,
            items=request.priced_items,
            is_new=True,
        )

    @classmethod
    def born_elsewhere(cls, event: OrderEvent, status: Status, source: Source, now_ms: int) -> "Order":
        """An order created by another backend, from any first event.

        Raises:
            InvalidData, Conflict: The event's amount cannot be.
        """
        order = cls(
            order_id=event.order_id,
            user_id=event.user_id,
            price=Price(),
            created_at=now_ms,
            listed_at=now_ms,
            updated_at=now_ms,
            # `_apply` makes it 1.
            revision=0,
            is_creation_known=status is Status.SUBMITTED,
            is_new=True,
        )
        order._apply(event, status, source, now_ms, moves=True)
        return order

    def cancel(self, reason: str | None, now_ms: int) -> None:
        """Cancel on behalf of the owner.

        Raises:
            NotCancellable: It is shipped, or over.
        """
        if self.status not in _STOPPABLE:
            raise NotCancellable(f"Order {self.order_id!r} is {self.status.value} and cannot be cancelled.")
        self.status, self.detail = Status.CANCELLED, reason
        self._change(now_ms)

    def follow(self, event: OrderEvent, status: Status, source: Source, now_ms: int) -> bool:
        """Apply an event of another backend; false if nothing visible has changed.

        Raises:
            InvalidData, Conflict: The event's amount cannot be.
        """
        newest = self.newest.get(source.sender, 0)
        is_late = event.revision is not None and event.revision <= newest
        # The same status with a newer revision brings a newer `detail`.
        says_more = event.revision is not None and not is_late and status is self.status
        return self._apply(
            event, status, source, now_ms, moves=not is_late and (self._leads_to(status) or says_more)
        )

    def _apply(self, event: OrderEvent, status: Status, source: Source, now_ms: int, *, moves: bool) -> bool:
        price, refund, before = self.price, None, self.price
        if status is Status.REFUNDED:
            if (booked := self._refund(event, source, now_ms)) is not None:
                price, refund = booked
                # Any refund sets the status, also a late one: clients wait for it (docs/adr/0018).
                moves = True
        else:
            is_creation = status is Status.SUBMITTED
            price = price.learning(event.amount, event.currency, of_creation=is_creation)
        # From here on no change is refused.
        # Also if nothing changes: it decides which later events of this sender are late.
        if event.revision is not None:
            self.newest[source.sender] = max(event.revision, self.newest.get(source.sender, 0))
        learns_creation = status is Status.SUBMITTED and not self.is_creation_known
        if not (moves or learns_creation or price != before):
            return False
        if before.rest_is_refunded and price.amount is not None:
            self.resolved_rest = price.amount - (before.refunded or Decimal(0))
        self.price = price
        if refund is not None:
            self.refund_count = refund.number
            self.new_refunds.append(refund)
            if refund.revision is not None:
                self.booked.add((refund.sender, refund.revision))
        if learns_creation:
            # The sender's clock may be ahead, and no order is created after its first event.
            self.created_at = min(self.created_at, source.made_at)
            self.is_creation_known = True
        if moves:
            self.status, self.detail = status, event.detail
        if self.status is not Status.SUBMITTED:
            # Also of an order that stays cancelled: a repeated event must be the same one, and it has changed.
            self.repeat_at = None
        self._change(now_ms)
        # Clients that know a sender's count see it go on.
        self.revision = max(self.revision, event.revision or 0)
        return True

    def _refund(self, event: OrderEvent, source: Source, now_ms: int) -> tuple[Price, Refund] | None:
        """The price and refund after the event; ``None`` if it is booked already, or nothing is left.

        A late refund is still added, but never twice.
        """
        if event.revision is not None and (source.sender, event.revision) in self.booked:
            return None
        after = self.price.refunding(event.amount, event.currency, is_first=not self.refund_count)
        if after is None:
            return None
        price, amount = after
        return price, Refund(
            self.refund_count + 1, amount, source.sender, event.revision, now_ms, event.detail
        )

    def _leads_to(self, status: Status) -> bool:
        if self.status is Status.REFUNDED or self.status in _ENDED:
            return False
        # protocol.md, "Orders": rejected or cancelled before it is shipped.
        if status in _ENDED:
            return self.status in _STOPPABLE
        return _STEPS.get(status, -1) > _STEPS[self.status]

    def _change(self, now_ms: int) -> None:
        self.revision += 1
        self.updated_at = now_ms
        self.is_changed = True
