"""Payload models of the ``inventory`` domain: requests, answers, pushes, and events of orders."""

from collections.abc import Mapping
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field, StringConstraints

from towpath.protocol.envelope import Id
from towpath.protocol.fields import Payload, Text, UserId
from towpath.protocol.routes import encode_word

DOMAIN: Final = "inventory"
STREAM_PREFIX: Final = "inventory:"
#: The word that a token's scope must have, beside the domain, for ``inventory.set``. A token without a scope may
#: address every domain, and does not have this right.
WRITE_SCOPE: Final = "inventory:write"
MAX_ON_HAND: Final = 1_000_000_000


def stream_of(sku: str) -> str:
    """The stream of an item's stock, and the group of those who watch it."""
    return STREAM_PREFIX + sku


def _names_an_item(sku: str) -> str:
    if any(ord(letter) < 32 or ord(letter) == 127 for letter in sku):
        raise ValueError("must not contain control characters")
    encode_word(stream_of(sku))
    return sku


#: The name of an item, as people write it; short enough to be a word of a routing key.
Sku = Annotated[Text, StringConstraints(min_length=1, max_length=64), AfterValidator(_names_an_item)]


class GetStock(Payload):
    sku: Sku


class ListStock(Payload):
    """``data`` of ``inventory.list``.

    Attributes:
        cursor: As an earlier answer gave it: the last item there.
    """

    limit: Annotated[int, Field(ge=1, le=200)] = 50
    cursor: Sku | None = None


class SetStock(Payload):
    """``data`` of ``inventory.set``.

    Attributes:
        on_hand: How many there are, those that orders have reserved included.
    """

    sku: Sku
    on_hand: Annotated[int, Field(ge=0, le=MAX_ON_HAND)]


class WatchStock(Payload):
    sku: Sku


class UnwatchStock(Payload):
    sku: Sku


class StockState(Payload):
    """Push ``inventory.updated``.

    Attributes:
        on_hand: How many there are.
        reserved: How many of them are reserved for orders that have not been shipped.
        available: ``on_hand`` without ``reserved``.
        revision: Grows by 1 with every change.
    """

    sku: str
    on_hand: int
    reserved: int
    available: int
    revision: int


class StockView(StockState):
    """The stock of an item in an answer.

    Attributes:
        seq: The position of this state in the item's stream: the next push has the next ``seq``.
    """

    seq: int


class StockPage(Payload):
    """Answer to ``inventory.list``, by the names of the items; ``cursor`` asks for the next page."""

    items: list[StockView]
    cursor: str | None = None


class Unwatched(Payload):
    """Answer to ``inventory.unwatch``."""

    sku: str


class OrderedItem(Payload):
    """One line of an order. Its item need not be one of the inventory."""

    sku: Annotated[Text, StringConstraints(min_length=1, max_length=64)]
    quantity: Annotated[int, Field(ge=1, le=1_000_000)]


class OrderCreated(Payload):
    """``data`` of ``order.created`` and ``order.undecided``, as far as it concerns the inventory.

    Attributes:
        items: Left out by orders that consist of an amount only.
    """

    order_id: Id
    user_id: UserId
    items: Annotated[list[OrderedItem], Field(max_length=200)] | None = None


class OrderMoved(Payload):
    """``data`` of the other events of orders, as far as it concerns the inventory."""

    order_id: Id
    user_id: UserId


Reason = Literal["out_of_stock", "unknown_item"]


class Rejection(Payload):
    """``detail`` of ``order.rejected``: it reaches the owner of the order in ``order.updated``.

    Attributes:
        skus: The items that are to blame.
        text: The same for people, in English.
    """

    reason: Reason
    skus: list[str]
    text: str


class OrderConfirmed(Payload):
    """``data`` of ``order.confirmed``: all tracked items of the order are reserved."""

    order_id: str
    user_id: str


class OrderRejected(Payload):
    """``data`` of ``order.rejected``: nothing of the order is reserved."""

    order_id: str
    user_id: str
    reason: Reason
    detail: Rejection


#: Push → its ``data``.
PUSHES: Final[Mapping[str, type[Payload]]] = {"inventory.updated": StockState}

#: Event that the inventory publishes → its ``data``.
EVENTS_OUT: Final[Mapping[str, type[Payload]]] = {
    "order.confirmed": OrderConfirmed,
    "order.rejected": OrderRejected,
}
