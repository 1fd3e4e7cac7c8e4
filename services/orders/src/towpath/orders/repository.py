"""Where orders are kept: the tables, and the unit of work that handlers see.

Guarantee: the number of statements does not depend on the number of requests.
"""

import json
from collections.abc import Sequence
from decimal import Decimal
from typing import Any, Final

import sqlalchemy as sa
from pydantic import TypeAdapter
from sqlalchemy.ext.asyncio import AsyncConnection

from towpath.orders.domain import NotYourOrder, Order, OrderIdTaken, OrderNotFound
from towpath.protocol.envelope import Envelope
from towpath.protocol.orders import (
    Item,
    ListOrders,
    OrderEvent,
    OrderState,
    Status,
    stream_of,
)
from towpath.servicekit import bulk
from towpath.servicekit.inbox import inbox_table
from towpath.servicekit.requests import Request
from towpath.servicekit.streams import Streams, StreamTables, batched

METADATA: Final = sa.MetaData()
INBOX: Final = inbox_table(METADATA, "orders")
STREAMS: Final = StreamTables.define(METADATA, "orders")
ORDERS: Final = sa.Table(
    "orders",
    METADATA,
    sa.Column("order_id", sa.String(64), primary_key=True),
    sa.Column("user_id", sa.String(256), nullable=False),
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("revision", sa.BigInteger, nullable=False),
    sa.Column("seen_revision", sa.BigInteger, nullable=False),
    sa.Column("cents", sa.BigInteger, nullable=False),
    sa.Column("currency", sa.String(3), nullable=False),
    sa.Column("items", sa.Text),
    sa.Column("detail", sa.Text),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("updated_at", sa.BigInteger, nullable=False),
    sa.Index("ix_orders_user", "user_id", "created_at", "order_id"),
)

_ITEMS: Final = TypeAdapter(list[Item])
#: SQLite takes 500 at most: https://www.sqlite.org/limits.html#max_compound_select
_PAGES_A_STATEMENT: Final = 200


class OrderBook:
    """Unit of work of the orders service; see :class:`towpath.servicekit.working.UnitOfWork`."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection
        self._orders: dict[str, Order] = {}
        self._pages: dict[tuple[str, ListOrders], tuple[list[Order], str | None]] = {}
        self._streams = Streams(connection, STREAMS)

    async def load(self, requests: Sequence[Request]) -> None:
        changing = any(request.handler.changes for request in requests)
        ids = {order_id for r in requests if (order_id := getattr(r.payload, "order_id", None))}
        if ids:
            found = sa.select(ORDERS).where(ORDERS.c.order_id.in_(sorted(ids))).order_by(ORDERS.c.order_id)
            rows = await self._connection.execute(found.with_for_update() if changing else found)
            self._orders = {row.order_id: _order(row) for row in rows}
        if changing:
            await self._streams.load(stream_of(user) for r in requests for user in self._owners(r))
        await self._load_pages(
            [
                (r.session.user_id, r.payload)
                for r in requests
                if r.session and isinstance(r.payload, ListOrders)
            ]
        )

    def _owners(self, request: Request) -> list[str]:
        if request.session is not None:
            return [request.session.user_id]
        assert isinstance(request.payload, OrderEvent)
        order = self._orders.get(request.payload.order_id)
        return [order.user_id] if order else [request.payload.user_id] if request.payload.user_id else []

    def get(self, order_id: str) -> Order | None:
        """The order, if there is one."""
        return self._orders.get(order_id)

    def owned_by(self, user_id: str, order_id: str) -> Order:
        """The order of ``user_id``.

        Raises:
            OrderNotFound, NotYourOrder
        """
        order = self._orders.get(order_id)
        if order is None:
            raise OrderNotFound(f"There is no order {order_id!r}.")
        if order.user_id != user_id:
            raise NotYourOrder(f"Order {order_id!r} is not yours.")
        return order

    def add(self, order: Order) -> None:
        """Take in a new order.

        Raises:
            OrderIdTaken
        """
        if order.order_id in self._orders:
            raise OrderIdTaken(
                f"There is an order {order.order_id!r} already; choose another id or leave it out."
            )
        self._orders[order.order_id] = order

    def page(self, user_id: str, request: ListOrders) -> tuple[list[Order], str | None]:
        """One page of a user's orders, newest first, and the cursor of the next."""
        return self._pages[user_id, request]

    def updated(self, order: Order) -> Envelope:
        """The durable push that tells of an order's state."""
        return self._streams.append(
            stream_of(order.user_id),
            "order.updated",
            lambda _: state(order).model_dump(mode="json", exclude_none=True),
        )

    async def save(self) -> None:
        orders = self._orders.values()
        new = [_row(order) for order in orders if order.is_new]
        await bulk.insert(self._connection, ORDERS, new)
        changed = [_row(order) for order in orders if order.is_changed and not order.is_new]
        rows = [{name: row[name] for name in ("order_id", *_CHANGING)} for row in changed]
        await bulk.update(self._connection, ORDERS, rows, key=["order_id"])
        await self._streams.save()

    async def _load_pages(self, wanted: Sequence[tuple[str, ListOrders]]) -> None:
        if not wanted:
            return
        for pages in batched(list(dict.fromkeys(wanted)), _PAGES_A_STATEMENT):
            selects = [_page_select(number, user_id, asked) for number, (user_id, asked) in enumerate(pages)]
            page = sa.union_all(*(sa.select(select.subquery()) for select in selects)).subquery()
            # Sorted by the database, so that the cursor and the pages agree on one collation.
            newest_first = (page.c.created_at.desc(), page.c.order_id.desc())
            rows = await self._connection.execute(sa.select(page).order_by(page.c.page, *newest_first))
            found: dict[int, list[Order]] = {number: [] for number in range(len(pages))}
            for row in rows:
                found[row.page].append(_order(row))
            for number, key in enumerate(pages):
                orders, limit = found[number], key[1].limit
                more = len(orders) > limit
                orders = orders[:limit]
                cursor = f"{orders[-1].created_at}~{orders[-1].order_id}" if more else None
                self._pages[key] = (orders, cursor)


_CHANGING: Final = ("status", "revision", "seen_revision", "cents", "currency", "detail", "updated_at")


def state(order: Order) -> OrderState:
    """An order as ``order.updated`` tells it."""
    return OrderState(
        order_id=order.order_id,
        status=order.status,
        revision=order.revision,
        amount=order.amount,
        currency=order.currency,
        updated_at=order.updated_at,
        detail=order.detail,
    )


def _page_select(number: int, user_id: str, request: ListOrders) -> sa.Select[Any]:
    select = sa.select(sa.literal(number).label("page"), ORDERS).where(ORDERS.c.user_id == user_id)
    if request.cursor is not None:
        created_at, _, order_id = request.cursor.partition("~")
        place = sa.tuple_(ORDERS.c.created_at, ORDERS.c.order_id)
        select = select.where(place < (int(created_at), order_id))
    return select.order_by(ORDERS.c.created_at.desc(), ORDERS.c.order_id.desc()).limit(request.limit + 1)


def _order(row: Any) -> Order:
    return Order(
        order_id=row.order_id,
        user_id=row.user_id,
        status=Status(row.status),
        revision=row.revision,
        seen_revision=row.seen_revision,
        amount=Decimal(row.cents).scaleb(-2),
        currency=row.currency,
        items=_ITEMS.validate_python(json.loads(row.items)) if row.items else None,
        detail=json.loads(row.detail) if row.detail else None,
        created_at=row.created_at,
        updated_at=row.updated_at,
    )


def _row(order: Order) -> dict[str, Any]:
    return {
        "order_id": order.order_id,
        "user_id": order.user_id,
        "status": order.status.value,
        "revision": order.revision,
        "seen_revision": order.seen_revision,
        "cents": int(order.amount.scaleb(2)),
        "currency": order.currency,
        "items": _ITEMS.dump_json(order.items).decode() if order.items else None,
        "detail": json.dumps(order.detail) if order.detail is not None else None,
        "created_at": order.created_at,
        "updated_at": order.updated_at,
    }
