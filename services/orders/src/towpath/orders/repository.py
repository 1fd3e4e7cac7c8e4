"""The repository of orders: the unit of work of the handlers.

Guarantee: the number of statements does not depend on the number of requests, except one per 16 pages.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from towpath.orders.domain import Order, OrderIdTaken, OrderNotFound, Source
from towpath.orders.rows import order_of, refund_row, rest_row, row_of
from towpath.orders.tables import ORDERS, REFUNDS, REVISIONS, STREAMS
from towpath.protocol.envelope import Envelope
from towpath.protocol.orders import GetOrder, ListOrders, OrderEvent, OrderState, stream_of
from towpath.servicekit import Request, Streams, batched, bulk, read_heads

#: A statement of each number of pages is built and kept.
_PAGES_A_STATEMENT: Final = 16
#: After every time of an order.
_NEVER: Final = 2**63 - 1
_KEY: Final = ("user_id", "order_id")
#: Owner and order id.
Key = tuple[str, str]


class OrderBook:
    """Unit of work of the orders service; see :class:`towpath.servicekit.handling.store.UnitOfWork`.

    A change of a user's orders holds the lock on the head of the user's stream, which is the only lock.

    Attributes:
        repeat_ms: Milliseconds until something about an order is published again.
    """

    def __init__(self, connection: AsyncConnection, repeat_ms: int = 60_000) -> None:
        self.repeat_ms = repeat_ms
        self._connection = connection
        self._orders: dict[Key, Order] = {}
        self._sources: dict[int, Source] = {}
        self._newest: dict[tuple[str, str, str], int] = {}
        self._pages: dict[tuple[str, ListOrders], tuple[list[Order], str | None]] = {}
        self._streams = Streams(connection, STREAMS)
        self._positions: dict[str, int] = {}

    async def load(self, requests: Sequence[Request]) -> None:
        # Locks, then reads: no other transaction changes these orders before the commit (docs/adr/0018). A batch of
        # reads locks nothing.
        if any(request.handler.changes for request in requests):
            await self._streams.load(stream_of(_owner(request)) for request in requests)
        # Before the orders: another transaction may commit between two reads, and an order may be newer than the
        # position, but not older. https://www.postgresql.org/docs/current/transaction-iso.html#XACT-READ-COMMITTED
        shown = {
            stream_of(_owner(request))
            for request in requests
            if type(request.payload) in (GetOrder, ListOrders)
        }
        if shown:
            self._positions = await read_heads(self._connection, STREAMS, shown)
        keys = {
            (_owner(request), order_id)
            for request in requests
            if (order_id := getattr(request.payload, "order_id", None))
        }
        for row in await bulk.find(self._connection, ORDERS, _KEY, keys):
            self._orders[row.user_id, row.order_id] = order_of(row)
        await self._load_events([r for r in requests if isinstance(r.payload, OrderEvent)])
        await self._load_pages(
            [
                (r.session.user_id, r.payload)
                for r in requests
                if r.session and isinstance(r.payload, ListOrders)
            ]
        )

    async def _load_events(self, requests: Sequence[Request]) -> None:
        # By identity: two equal events of two senders have two sources.
        self._sources = {
            id(request.payload): Source(request.sender, request.envelope.timestamp) for request in requests
        }
        counted = [request for request in requests if request.payload.revision is not None]
        # A new order has no revisions and no refunds.
        known = {_key(request.payload) for request in counted} & self._orders.keys()
        for row in await bulk.find(self._connection, REVISIONS, _KEY, known):
            self._orders[row.user_id, row.order_id].newest[row.sender] = row.revision
            self._newest[row.user_id, row.order_id, row.sender] = row.revision
        refunded = {
            _key(request.payload) for request in counted if request.envelope.action == "order.refunded"
        }
        for row in await bulk.find(self._connection, REFUNDS, _KEY, refunded & known):
            # Without a revision a repeated refund cannot be recognised.
            if row.revision is not None:
                self._orders[row.user_id, row.order_id].booked.add((row.sender, row.revision))

    def source(self, event: OrderEvent) -> Source:
        """The source of an event of this unit of work."""
        return self._sources[id(event)]

    def get(self, user_id: str, order_id: str) -> Order | None:
        """The order of ``user_id``, or ``None``."""
        return self._orders.get((user_id, order_id))

    def owned_by(self, user_id: str, order_id: str) -> Order:
        """The order of ``user_id``.

        Raises:
            OrderNotFound
        """
        order = self.get(user_id, order_id)
        if order is None:
            raise OrderNotFound(f"There is no order {order_id!r}.")
        return order

    def add(self, order: Order) -> None:
        """Add a new order.

        Raises:
            OrderIdTaken
        """
        key = order.user_id, order.order_id
        if key in self._orders:
            raise OrderIdTaken(
                f"There is an order {order.order_id!r} already; choose another id or leave it out."
            )
        self._orders[key] = order

    def page(self, user_id: str, request: ListOrders) -> tuple[list[Order], str | None]:
        """One page of a user's orders, newest first, and the cursor of the next."""
        return self._pages[user_id, request]

    def position(self, user_id: str) -> int:
        """The position of a user's stream that the loaded orders include; 0 for a user without orders."""
        return self._positions.get(stream_of(user_id), 0)

    def updated(self, order: Order) -> Envelope:
        """The durable push of an order's state."""
        return self._streams.append(
            stream_of(order.user_id),
            "order.updated",
            lambda _: state(order).model_dump(mode="json", exclude_none=True),
        )

    async def save(self) -> None:
        orders = list(self._orders.values())
        await bulk.insert(self._connection, ORDERS, [row_of(order) for order in orders if order.is_new])
        changed = [row_of(order) for order in orders if order.is_changed and not order.is_new]
        rows = [{name: row[name] for name in (*_KEY, *_CHANGING)} for row in changed]
        await bulk.update(self._connection, ORDERS, rows, key=_KEY)
        await bulk.insert(
            self._connection,
            REFUNDS,
            [refund_row(order, refund) for order in orders for refund in order.new_refunds],
        )
        rests = [rest_row(order) for order in orders if order.resolved_rest is not None]
        await bulk.update(self._connection, REFUNDS, rests, key=(*_KEY, "number"))
        await self._save_revisions(orders)
        await self._streams.save()

    async def _save_revisions(self, orders: Sequence[Order]) -> None:
        new: list[dict[str, Any]] = []
        newer: list[dict[str, Any]] = []
        for order in orders:
            for sender, revision in order.newest.items():
                key = order.user_id, order.order_id, sender
                stored = self._newest.get(key)
                if stored != revision:
                    row = dict(zip(_REVISION_KEY, key, strict=True)) | {"revision": revision}
                    (new if stored is None else newer).append(row)
        await bulk.insert(self._connection, REVISIONS, new)
        await bulk.update(self._connection, REVISIONS, newer, key=_REVISION_KEY)

    async def _load_pages(self, wanted: Sequence[tuple[str, ListOrders]]) -> None:
        if not wanted:
            return
        for pages in batched(list(dict.fromkeys(wanted)), _PAGES_A_STATEMENT):
            values: dict[str, Any] = {}
            for number, (user_id, asked) in enumerate(pages):
                values |= _page_values(number, user_id, asked)
            rows = await self._connection.execute(_pages(len(pages)), values)
            found: dict[int, list[Order]] = {number: [] for number in range(len(pages))}
            for row in rows:
                found[row.page].append(order_of(row))
            for number, key in enumerate(pages):
                orders, limit = found[number], key[1].limit
                more = len(orders) > limit
                orders = orders[:limit]
                cursor = f"{orders[-1].listed_at}~{orders[-1].order_id}" if more else None
                self._pages[key] = (orders, cursor)


_CHANGING: Final = (
    *("status", "revision", "amount", "currency", "decimals", "refunded", "rest_is_refunded", "refund_count"),
    *("detail", "is_creation_known", "created_at", "updated_at", "repeat_at"),
)
_REVISION_KEY: Final = (*_KEY, "sender")


def state(order: Order) -> OrderState:
    """An order in the form of ``order.updated``."""
    return OrderState(
        order_id=order.order_id,
        status=order.status,
        revision=order.revision,
        amount=order.price.amount,
        currency=order.price.currency,
        refunded=order.price.refunded,
        updated_at=order.updated_at,
        detail=order.detail,
    )


def _owner(request: Request) -> str:
    if request.session is not None:
        return request.session.user_id
    assert isinstance(request.payload, OrderEvent), "every event is of an order"
    return request.payload.user_id


def _key(event: OrderEvent) -> Key:
    return event.user_id, event.order_id


@lru_cache(maxsize=_PAGES_A_STATEMENT)
def _pages(count: int) -> sa.Select[Any]:
    """The rows of so many pages, with the parameters of :func:`_page_values`."""
    page = sa.union_all(*(sa.select(_page(number).subquery()) for number in range(count))).subquery()
    # Sorted by the database, so that the cursor and the pages agree on one collation.
    return sa.select(page).order_by(page.c.page, page.c.listed_at.desc(), page.c.order_id.desc())


def _page(number: int) -> sa.Select[Any]:
    def given(name: str, kind: type[sa.types.TypeEngine[Any]]) -> sa.BindParameter[Any]:
        return sa.bindparam(f"{name}_{number}", type_=kind)

    # After a place, not after a number of rows: orders that arrive meanwhile move no page.
    place = sa.tuple_(given("listed_at", sa.BigInteger), given("order_id", sa.Text))
    return (
        sa.select(sa.literal_column(str(number)).label("page"), ORDERS)
        .where(
            ORDERS.c.user_id == given("user", sa.Text),
            sa.tuple_(ORDERS.c.listed_at, ORDERS.c.order_id) < place,
        )
        .order_by(ORDERS.c.listed_at.desc(), ORDERS.c.order_id.desc())
        .limit(given("most", sa.Integer))
    )


def _page_values(number: int, user_id: str, request: ListOrders) -> dict[str, Any]:
    # The first page follows a place that is newer than all orders.
    listed_at, _, order_id = (request.cursor or f"{_NEVER}~").partition("~")
    return {
        f"user_{number}": user_id,
        f"listed_at_{number}": int(listed_at),
        f"order_id_{number}": order_id,
        # One more than asked for: it shows whether there is a next page.
        f"most_{number}": request.limit + 1,
    }
