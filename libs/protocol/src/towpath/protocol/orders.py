"""Payload models of the ``order`` domain: requests, answers, pushes and events.

Money is exact: decimal in, a string with as many decimals as the currency has out (ISO 4217).
"""

from collections.abc import Iterable, Mapping
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Final, Self

from pydantic import Field, StringConstraints, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from towpath.protocol.envelope import ID_LETTERS, Id
from towpath.protocol.fields import Json, Payload, Text, UserId
from towpath.protocol.money import (
    MAX_AMOUNT,
    Currency,
    Money,
    TooManyDecimals,
    decimals_of,
    format_money,
    written_with,
)

DOMAIN: Final = "order"
STREAM_PREFIX: Final = "order:"
DEFAULT_CURRENCY: Final = "USD"


def stream_of(user_id: str) -> str:
    """The stream of all orders of a user."""
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
        if self.items is None:
            _check_decimals(self, [(("amount",), self.amount)], self.currency)
            return self
        prices = [(("items", at, "unit_price"), item.unit_price) for at, item in enumerate(self.items)]
        _check_decimals(self, [*prices, (("amount",), self.amount)], self.currency)
        total = self._items_total()
        if total > MAX_AMOUNT:
            raise ValueError(f"the items come to {format_money(total)}, more than {MAX_AMOUNT}")
        if self.amount is not None and self.amount != total:
            amount, total = (written_with(one, decimals_of(self.currency)) for one in (self.amount, total))
            raise ValueError(f"amount is {format_money(amount)}, but the items come to {format_money(total)}")
        return self

    @property
    def total(self) -> Decimal:
        """The price of the order, with the decimals of its currency."""
        amount = self.amount if self.amount is not None else self._items_total()
        return written_with(amount, decimals_of(self.currency))

    @property
    def priced_items(self) -> list[Item] | None:
        """The items, their prices with the decimals of the currency."""
        if self.items is None:
            return None
        decimals = decimals_of(self.currency)
        return [
            item.model_copy(update={"unit_price": written_with(item.unit_price, decimals)})
            for item in self.items
        ]

    def _items_total(self) -> Decimal:
        return sum((item.total for item in self.items or ()), Decimal(0))


def _check_decimals(
    model: Payload, amounts: Iterable[tuple[tuple[str | int, ...], Decimal | None]], currency: str
) -> None:
    """Check that each amount has as many decimals as ``currency`` at most.

    Raises:
        ValidationError: It names each field that has more.
    """
    decimals = decimals_of(currency)
    wrong: list[InitErrorDetails] = []
    for place, amount in amounts:
        try:
            if amount is not None:
                written_with(amount, decimals)
        except TooManyDecimals as error:
            problem = PydanticCustomError(
                "too_many_decimals", "{problem}", {"problem": f"{error} {currency}"}
            )
            wrong.append(InitErrorDetails(type=problem, loc=place, input=amount))
    if wrong:
        raise ValidationError.from_exception_data(type(model).__name__, wrong)


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
    cursor: Annotated[str, StringConstraints(pattern=rf"^[0-9]{{1,18}}~{ID_LETTERS}$")] | None = None


class OrderEvent(Payload):
    """``data`` of an order event from another backend.

    Attributes:
        user_id: Whose order it is.
        revision: The sender's own count of changes, if it keeps one: what is older than its newest is late.
        amount: The price of the order, if it is not known yet; of ``order.refunded``: the amount paid back, by
            default the remaining one.
        currency: Of ``amount``.
    """

    order_id: Id
    user_id: UserId
    revision: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    amount: Money | None = None
    currency: Currency | None = None
    detail: Json = None

    @model_validator(mode="after")
    def _amount_fits_currency(self) -> Self:
        if self.currency is not None:
            _check_decimals(self, [(("amount",), self.amount)], self.currency)
        return self


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


class OrderState(Payload):
    """Push ``order.updated``. ``updated_at`` is Unix milliseconds.

    Attributes:
        amount, currency: Left out until they are known: the first event may have come from another backend.
        refunded: The sum of refunds so far; left out if there are none.
    """

    order_id: str
    status: Status
    revision: int
    amount: Money | None = None
    currency: str | None = None
    refunded: Money | None = None
    updated_at: int
    detail: Json = None


class OrderView(OrderState):
    """One entry of ``order.list``."""

    created_at: int
    items: list[Item] | None = None


class OrderFound(OrderView):
    """Answer to ``order.get``.

    Attributes:
        seq: The position of the user's stream that the order includes.
    """

    seq: int


class OrderPage(Payload):
    """Answer to ``order.list``, newest first.

    Attributes:
        seq: The position of the user's stream that the orders include.
        cursor: Asks for the next page.
    """

    orders: list[OrderView]
    seq: int
    cursor: str | None = None


class OrderAnnounced(OrderState):
    """``data`` of the events this service publishes: ``order.created``, ``order.undecided``, ``order.cancelled``.

    Attributes:
        items: Of the first two; left out by orders that consist of an amount only.
    """

    user_id: str
    items: list[Item] | None = None


#: Push → its ``data``.
PUSHES: Final[Mapping[str, type[Payload]]] = {"order.updated": OrderState}

#: Event that the service publishes → its ``data``.
EVENTS_OUT: Final[Mapping[str, type[Payload]]] = {
    "order.created": OrderAnnounced,
    "order.undecided": OrderAnnounced,
    "order.cancelled": OrderAnnounced,
}
