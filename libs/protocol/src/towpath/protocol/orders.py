"""Payload models of the ``order`` domain: requests, answers, pushes and events.

Money is exact: decimal in, a string with two decimals out.
"""

from collections.abc import Mapping
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Final, Self

from pydantic import Field, StringConstraints, model_validator

from towpath.protocol.envelope import Id
from towpath.protocol.fields import MAX_AMOUNT, Currency, Json, Money, Name, Payload, Text
from towpath.protocol.streams import Resume, ResumeAnswer

DOMAIN: Final = "order"
STREAM_PREFIX: Final = "order:"
DEFAULT_CURRENCY: Final = "USD"


def stream_of(user_id: str) -> str:
    """The stream that tells a user of all of their orders."""
    return STREAM_PREFIX + user_id


class Status(StrEnum):
    """States of an order."""

    SUBMITTED = "submitted"
    CONFIRMED = "confirmed"
    REJECTED = "rejected"
    PAID = "paid"
    PACKED = "packed"
    SHIPPED = "shipped"
    DELIVERED = "delivered"
    CANCELLED = "cancelled"
    REFUNDED = "refunded"


class Item(Payload):
    sku: Annotated[Text, StringConstraints(min_length=1, max_length=64)]
    quantity: Annotated[int, Field(ge=1, le=1_000_000)]
    unit_price: Money

    @property
    def total(self) -> Decimal:
        return self.unit_price * self.quantity


class SubmitOrder(Payload):
    order_id: Id | None = None
    items: Annotated[list[Item], Field(min_length=1, max_length=200)] | None = None
    amount: Money | None = None
    currency: Currency = DEFAULT_CURRENCY

    @model_validator(mode="after")
    def _items_and_amount_agree(self) -> Self:
        if self.items is None and self.amount is None:
            raise ValueError("give items, amount, or both")
        if self._items_total() > MAX_AMOUNT:
            raise ValueError(f"the items come to {self._items_total()}, more than {MAX_AMOUNT}")
        if self.items is not None and self.amount is not None and self.amount != self._items_total():
            raise ValueError(f"amount is {self.amount}, but the items come to {self._items_total()}")
        return self

    @property
    def total(self) -> Decimal:
        """What the order costs."""
        return self.amount if self.amount is not None else self._items_total()

    def _items_total(self) -> Decimal:
        return sum((item.total for item in self.items or ()), Decimal("0.00"))


class CancelOrder(Payload):
    order_id: Id
    reason: Annotated[Text, StringConstraints(max_length=500)] | None = None


class GetOrder(Payload):
    order_id: Id


class ListOrders(Payload):
    """``data`` of ``order.list``.

    Attributes:
        cursor: As an earlier answer gave it: when the last order there was made, and its id.
    """

    limit: Annotated[int, Field(ge=1, le=200)] = 50
    cursor: Annotated[str, StringConstraints(pattern=r"^[0-9]{1,18}~[A-Za-z0-9._:-]{1,64}$")] | None = None


class OrderEvent(Payload):
    """``data`` of an order event from another backend.

    Attributes:
        user_id: Whose order it is; needed when the order is new here.
        revision: The sender's count of changes, if it keeps one; older ones are ignored.
    """

    order_id: Id
    user_id: Name | None = None
    revision: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    amount: Money | None = None
    currency: Currency | None = None
    detail: Json = None


class OrderAnswer(Payload):
    """Answer to ``order.submit``."""

    order_id: str
    status: Status
    revision: int
    amount: Money
    currency: str


class CancelAnswer(Payload):
    """Answer to ``order.cancel``."""

    order_id: str
    status: Status
    revision: int


class OrderState(OrderAnswer):
    """Push ``order.updated``. ``updated_at`` is Unix milliseconds."""

    updated_at: int
    detail: Json = None


class OrderView(OrderState):
    """Answer to ``order.get``, and one entry of ``order.list``."""

    created_at: int
    items: list[Item] | None = None


class OrderPage(Payload):
    """Answer to ``order.list``, newest first; ``cursor`` asks for the next page."""

    orders: list[OrderView]
    cursor: str | None = None


class OrderAnnounced(OrderState):
    """``data`` of the events this service publishes: ``order.created``, ``order.cancelled``."""

    user_id: str


#: Action → what ``data`` must be, and what answers it (``None``: an empty object).
ACTIONS: Final[Mapping[str, tuple[type[Payload], type[Payload] | None]]] = {
    "order.submit": (SubmitOrder, OrderAnswer),
    "order.cancel": (CancelOrder, CancelAnswer),
    "order.get": (GetOrder, OrderView),
    "order.list": (ListOrders, OrderPage),
    "order.resume": (Resume, ResumeAnswer),
}

#: Push → its ``data``.
PUSHES: Final[Mapping[str, type[Payload]]] = {"order.updated": OrderState}
