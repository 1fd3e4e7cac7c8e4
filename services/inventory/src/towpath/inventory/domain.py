"""Inventory: the stock of items, and the reservations of orders. No I/O.

Guarantees:

* Stock is never below zero: ``0 <= reserved <= on_hand``.
* An order reserves all its tracked items or none, and once. Its reservation ends once: it is released, or the goods
  leave.
* The order in which the events of an order arrive makes no difference to the stock in the end, as far as the goods
  suffice.
* A refused change has no effect.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, Literal

from towpath.protocol.errors import Conflict, Forbidden, NotFound
from towpath.protocol.inventory import WRITE_SCOPE, OrderedItem, Reason, Rejection

#: The highest limit of watches per user.
MOST_WATCHED: Final = 1000
_NAMED_IN_TEXT: Final = 5

Untracked = Literal["ignore", "reject"]


class ItemNotFound(NotFound):
    """``inventory.set`` never named the item."""


class NotAllowedToSet(Forbidden):
    """The token's scope does not have the word :data:`~towpath.protocol.inventory.WRITE_SCOPE`."""


class FewerThanReserved(Conflict):
    """Orders have reserved more than there would be."""


class TooManyWatches(Conflict):
    """The user watches as many items as the limit allows."""


@dataclass(frozen=True)
class Rules:
    """Choices of operators; see :class:`towpath.inventory.settings.InventorySettings`."""

    untracked: Untracked = "ignore"
    watches_per_user: int = 200


class State(StrEnum):
    """States of a reservation."""

    NEW = "new"  #: no event of the order has come
    RESERVED = "reserved"
    UNTRACKED = "untracked"  #: the order has no tracked item
    REJECTED = "rejected"  #: here, for lack of goods
    RELEASED = "released"  #: the order was cancelled or rejected, perhaps before it was created
    SHIPPED = "shipped"  #: the goods have left
    SHIPPED_FIRST = "shipped_first"  #: the order was shipped, and its creation is not known yet


@dataclass(slots=True)
class Stock:
    """The stock of one tracked item.

    Attributes:
        revision: The ``seq`` of the last push about it; 0 for one that is tracked from this moment on.
    """

    sku: str
    on_hand: int = 0
    reserved: int = 0
    revision: int = 0
    is_stored: bool = field(default=False, compare=False)
    is_changed: bool = field(default=False, compare=False)

    @property
    def available(self) -> int:
        """How many an order may still reserve."""
        return self.on_hand - self.reserved

    def set(self, on_hand: int) -> bool:
        """Set how many there are; returns whether that is a change.

        Raises:
            FewerThanReserved
        """
        if on_hand < self.reserved:
            raise FewerThanReserved(
                f"{self.sku!r}: {self.reserved:,} are reserved for orders, so there must be at least as many on "
                f"hand, not {on_hand:,}; cancel orders first."
            )
        # A new item has no revision yet, and is tracked from now on, also without any on hand.
        if self.revision and on_hand == self.on_hand:
            return False
        self._change(on_hand, self.reserved)
        return True

    def reserve(self, quantity: int) -> None:
        """Reserve what is available; the caller has checked that it is."""
        self._change(self.on_hand, self.reserved + quantity)

    def release(self, quantity: int) -> None:
        """Make reserved goods available again."""
        self._change(self.on_hand, self.reserved - quantity)

    def ship(self, quantity: int) -> None:
        """Take reserved goods out for good."""
        self._change(self.on_hand - quantity, self.reserved - quantity)

    def _change(self, on_hand: int, reserved: int) -> None:
        # A defect must fail here, and not reach the database.
        if not 0 <= reserved <= on_hand:
            raise AssertionError(f"{self.sku!r} would have {on_hand} on hand and {reserved} reserved")
        self.on_hand, self.reserved = on_hand, reserved
        self.is_changed = True


@dataclass(frozen=True, slots=True)
class Decided:
    """The consequences of an event of an order.

    Attributes:
        changed: The items whose stock has changed, sorted by name.
        is_confirmed: Whether the order is to be confirmed.
        rejection: Why it is to be rejected.
    """

    changed: Sequence[Stock] = ()
    is_confirmed: bool = False
    rejection: Rejection | None = None


NOTHING: Final = Decided()


@dataclass(slots=True)
class Reservation:
    """The reservation of one order, which is identified by its owner and its id.

    Attributes:
        quantities: The reserved quantity of each item; of a rejected order the wanted one of each item to blame.
    """

    user_id: str
    order_id: str
    state: State = State.NEW
    quantities: Mapping[str, int] = field(default_factory=dict)
    is_changed: bool = field(default=False, compare=False)

    def reserve(
        self, wanted: Mapping[str, int], stocks: Mapping[str, Stock], untracked: Untracked
    ) -> Decided:
        """The order was created. A repetition does nothing, nor does a creation after the end.

        Args:
            wanted: The quantity of each of its items.
            stocks: At least those of ``wanted`` that are tracked.
        """
        if self.state not in (State.NEW, State.SHIPPED_FIRST):
            return NOTHING
        tracked = {sku: quantity for sku, quantity in sorted(wanted.items()) if sku in stocks}
        if self.state is State.SHIPPED_FIRST:
            return self._ship_late(tracked, stocks)
        unknown = sorted(wanted.keys() - tracked.keys())
        if unknown and untracked == "reject":
            return self._reject("unknown_item", unknown, wanted)
        if not tracked:
            self._enter(State.UNTRACKED)
            return NOTHING
        if short := _short(tracked, stocks):
            return self._reject("out_of_stock", short, wanted)
        self._enter(State.RESERVED, tracked)
        return Decided(self._with_each(stocks, Stock.reserve), is_confirmed=True)

    def decide_again(
        self, wanted: Mapping[str, int], stocks: Mapping[str, Stock], untracked: Untracked
    ) -> Decided:
        """The orders service has heard no decision: repeat it, or make it if the creation was not heard here.

        Args:
            wanted, stocks: As for :meth:`reserve`.
        """
        if self.state is State.RESERVED:
            return Decided(is_confirmed=True)
        if self.state is State.REJECTED:
            # Without quantities: it was rejected by an earlier version.
            skus = sorted(self.quantities or wanted)
            return Decided(
                rejection=rejection("out_of_stock" if stocks.keys() >= set(skus) else "unknown_item", skus)
            )
        return self.reserve(wanted, stocks, untracked)

    def release(self, stocks: Mapping[str, Stock]) -> Decided:
        """The order was cancelled, or rejected by another backend."""
        if self.state is State.NEW:
            # It may come before the creation, which then reserves nothing.
            self._enter(State.RELEASED)
        if self.state is not State.RESERVED:
            return NOTHING
        self._enter(State.RELEASED, self.quantities)
        return Decided(self._with_each(stocks, Stock.release))

    def ship(self, stocks: Mapping[str, Stock]) -> Decided:
        """The goods have left."""
        if self.state is State.NEW:
            self._enter(State.SHIPPED_FIRST)
        if self.state is not State.RESERVED:
            return NOTHING
        self._enter(State.SHIPPED, self.quantities)
        return Decided(self._with_each(stocks, Stock.ship))

    def _ship_late(self, tracked: Mapping[str, int], stocks: Mapping[str, Stock]) -> Decided:
        """Take out the goods of an order that was shipped before its creation was known."""
        if not tracked or _short(tracked, stocks):
            # They left all the same: what is on hand was counted wrong, and `inventory.set` corrects it.
            self._enter(State.SHIPPED)
            return NOTHING
        self._enter(State.SHIPPED, tracked)
        self._with_each(stocks, Stock.reserve)
        return Decided(self._with_each(stocks, Stock.ship))

    def _reject(self, reason: Reason, skus: Sequence[str], wanted: Mapping[str, int]) -> Decided:
        self._enter(State.REJECTED, {sku: wanted[sku] for sku in skus})
        return Decided(rejection=rejection(reason, skus))

    def _with_each(
        self, stocks: Mapping[str, Stock], change: Callable[[Stock, int], None]
    ) -> Sequence[Stock]:
        for sku, quantity in self.quantities.items():
            change(stocks[sku], quantity)
        return [stocks[sku] for sku in sorted(self.quantities)]

    def _enter(self, state: State, quantities: Mapping[str, int] | None = None) -> None:
        self.state, self.quantities = state, quantities or {}
        self.is_changed = True


def quantities_of(items: Iterable[OrderedItem]) -> dict[str, int]:
    """The quantity of each item of an order, which may have several lines of one item."""
    quantities: Counter[str] = Counter()
    for item in items:
        quantities[item.sku] += item.quantity
    return dict(quantities)


def rejection(reason: Reason, skus: Sequence[str]) -> Rejection:
    """Why an order is rejected, for programs and for people."""
    named = ", ".join(skus[:_NAMED_IN_TEXT])
    more = f" and {len(skus) - _NAMED_IN_TEXT} more" if len(skus) > _NAMED_IN_TEXT else ""
    title = {"out_of_stock": "Out of stock", "unknown_item": "Not in the inventory"}[reason]
    return Rejection(reason=reason, skus=list(skus), text=f"{title}: {named}{more}")


def may_set(scope: str | None) -> bool:
    """Whether a token with this scope may set stock. One without a scope may not: that right is named or absent."""
    return scope is not None and WRITE_SCOPE in scope.split()


def _short(wanted: Mapping[str, int], stocks: Mapping[str, Stock]) -> list[str]:
    return [sku for sku, quantity in wanted.items() if stocks[sku].available < quantity]
