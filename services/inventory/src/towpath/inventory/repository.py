"""The repository of the inventory: the unit of work of the handlers.

Guarantees: the number of statements does not depend on the number of requests, except one per 16 pages. Reservations
are locked first, by owner and order, then items by name, then the heads of their streams: all replicas lock in this
order, and no other transaction changes an item or a reservation before the commit.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from functools import cache, lru_cache
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from towpath.inventory.domain import ItemNotFound, Reservation, Rules, State, Stock, may_set
from towpath.inventory.tables import RESERVATIONS, STOCK, STREAMS
from towpath.inventory.watches import Watches
from towpath.protocol.envelope import Envelope, now_ms
from towpath.protocol.inventory import (
    GetStock,
    ListStock,
    OrderCreated,
    OrderMoved,
    SetStock,
    StockState,
    WatchStock,
    stream_of,
)
from towpath.servicekit import Request, Streams, batched, bulk

DEFAULT_RULES: Final = Rules()
#: A statement of each number of pages is built and kept.
_PAGES_A_STATEMENT: Final = 16
_KEY: Final = ("user_id", "order_id")
#: Owner and order id.
Key = tuple[str, str]


class Inventory:
    """Unit of work of the inventory service; see :class:`towpath.servicekit.UnitOfWork`.

    Attributes:
        rules: Choices of operators.
        stocks: The tracked items among those that the requests name.
        watches: The items that users watch.
    """

    def __init__(self, connection: AsyncConnection, rules: Rules = DEFAULT_RULES) -> None:
        self._connection = connection
        self._streams = Streams(connection, STREAMS)
        self.rules = rules
        self.stocks: dict[str, Stock] = {}
        self.watches = Watches(connection, rules.watches_per_user)
        self._reservations: dict[Key, Reservation] = {}
        self._pages: dict[ListStock, tuple[list[Stock], str | None]] = {}

    async def load(self, requests: Sequence[Request]) -> None:
        payloads = [request.payload for request in requests]
        await self._load_reservations({key for payload in payloads if (key := _key(payload)) is not None})
        ordered = {item.sku for p in payloads if isinstance(p, OrderCreated) for item in p.items or ()}
        reserved = {sku for one in self._reservations.values() for sku in one.quantities}
        # Without the right it changes nothing, and must not make others wait.
        set_here = {p.sku for r in requests if isinstance(p := r.payload, SetStock) and _may_set(r)}
        changing = ordered | reserved | set_here
        await self._load_stock(changing, lock=True)
        await self._streams.load(map(stream_of, set_here | self.stocks.keys()))
        shown = {p.sku for p in payloads if isinstance(p, GetStock | SetStock | WatchStock)}
        await self._load_stock(shown - changing)
        await self._load_pages([p for p in payloads if isinstance(p, ListStock)])
        await self.watches.load(requests)

    def item(self, sku: str) -> Stock:
        """The stock of a tracked item.

        Raises:
            ItemNotFound
        """
        if (stock := self.stocks.get(sku)) is None:
            raise ItemNotFound(f"There is no item {sku!r} in the inventory.")
        return stock

    def item_to_set(self, sku: str) -> Stock:
        """The stock of an item, which is tracked from now on."""
        return self.stocks.setdefault(sku, Stock(sku))

    def reservation(self, user_id: str, order_id: str) -> Reservation:
        """The reservation of an order that has items, or has ended."""
        return self._reservations[user_id, order_id]

    def page(self, request: ListStock) -> tuple[list[Stock], str | None]:
        """One page of the tracked items, and the cursor of the next."""
        return self._pages[request]

    def updated(self, stock: Stock) -> Envelope:
        """The durable push of an item's changed stock, which gives the stock its revision."""

        def state(seq: int) -> Mapping[str, Any]:
            stock.revision = seq
            return state_of(stock).model_dump()

        return self._streams.append(stream_of(stock.sku), "inventory.updated", state)

    async def save(self) -> None:
        changed = [stock for stock in self.stocks.values() if stock.is_changed]
        rows = [(stock.is_stored, _stock_row(stock)) for stock in changed]
        await bulk.insert(self._connection, STOCK, [row for is_stored, row in rows if not is_stored])
        await bulk.update(self._connection, STOCK, [row for is_stored, row in rows if is_stored], key=["sku"])
        now = now_ms()
        reservations = [_reservation_row(one, now) for one in self._reservations.values() if one.is_changed]
        await bulk.update(self._connection, RESERVATIONS, reservations, key=_KEY)
        await self.watches.save()
        await self._streams.save()

    # Inside

    async def _load_reservations(self, keys: Collection[Key]) -> None:
        if not keys:
            return
        dialect = self._connection.dialect.name
        asked = bulk.pair_values(self._connection, sorted(keys))
        # New rows are made before any is locked. Another replica may make the same row at this moment: this one then
        # waits for its commit. https://www.postgresql.org/docs/current/sql-insert.html#SQL-ON-CONFLICT
        await self._connection.execute(_make_reservations(dialect), {**asked, "now": now_ms()})
        for row in await self._connection.execute(_lock_reservations(dialect), asked):
            self._reservations[row.user_id, row.order_id] = Reservation(
                row.user_id, row.order_id, State(row.state), json.loads(row.quantities)
            )

    async def _load_stock(self, skus: Collection[str], *, lock: bool = False) -> None:
        if not skus:
            return
        names = bulk.name_values(self._connection, sorted(skus))
        for row in await self._connection.execute(_stock(self._connection.dialect.name, lock=lock), names):
            self.stocks[row.sku] = _stock_of(row)

    async def _load_pages(self, wanted: Sequence[ListStock]) -> None:
        for asked in batched(list(dict.fromkeys(wanted)), _PAGES_A_STATEMENT):
            values: dict[str, Any] = {}
            for number, request in enumerate(asked):
                values |= _page_values(number, request)
            rows = await self._connection.execute(_pages(len(asked)), values)
            found: dict[int, list[Stock]] = {number: [] for number in range(len(asked))}
            for row in rows:
                found[row.page].append(_stock_of(row))
            for number, request in enumerate(asked):
                stocks = found[number][: request.limit]
                more = len(found[number]) > request.limit
                self._pages[request] = stocks, stocks[-1].sku if more else None


def state_of(stock: Stock) -> StockState:
    """The stock of an item in the form of ``inventory.updated``."""
    return StockState(
        sku=stock.sku,
        on_hand=stock.on_hand,
        reserved=stock.reserved,
        available=stock.available,
        revision=stock.revision,
    )


def _may_set(request: Request) -> bool:
    return request.session is not None and may_set(request.session.scope)


def _key(payload: object) -> Key | None:
    """The order of an event, if it has a reservation. One without items has none, until it ends."""
    if isinstance(payload, OrderMoved) or (isinstance(payload, OrderCreated) and payload.items):
        return payload.user_id, payload.order_id
    return None


def _stock_of(row: Any) -> Stock:
    return Stock(row.sku, row.on_hand, row.reserved, row.revision, is_stored=True)


def _stock_row(stock: Stock) -> dict[str, Any]:
    return {
        "sku": stock.sku,
        "on_hand": stock.on_hand,
        "reserved": stock.reserved,
        "revision": stock.revision,
    }


def _reservation_row(one: Reservation, now: int) -> dict[str, Any]:
    return {
        "user_id": one.user_id,
        "order_id": one.order_id,
        "state": one.state.value,
        "quantities": json.dumps(one.quantities),
        "changed_at": now,
    }


@cache
def _make_reservations(dialect: str) -> sa.Insert:
    asked = bulk.pairs(dialect).subquery()
    now = sa.bindparam("now", type_=sa.BigInteger)
    new = [sa.literal_column(f"'{State.NEW.value}'"), sa.literal_column("'{}'"), now]
    # SQLite needs a WHERE here: https://www.sqlite.org/lang_upsert.html#parsing_ambiguity
    rows = sa.select(asked.c[0], asked.c[1], *new).where(sa.true())
    names = [column.name for column in RESERVATIONS.columns]
    insert = postgresql.insert(RESERVATIONS) if dialect == "postgresql" else sqlite.insert(RESERVATIONS)
    return insert.from_select(names, rows).on_conflict_do_nothing()


@cache
def _lock_reservations(dialect: str) -> sa.Select[Any]:
    one = sa.tuple_(RESERVATIONS.c.user_id, RESERVATIONS.c.order_id)
    # Rows are locked in the order in which they are sorted.
    # https://www.postgresql.org/docs/current/sql-select.html#SQL-FOR-UPDATE-SHARE
    return (
        sa.select(RESERVATIONS)
        .where(one.in_(bulk.pairs(dialect)))
        .order_by(*(RESERVATIONS.c[name] for name in _KEY))
        .with_for_update()
    )


@cache
def _stock(dialect: str, *, lock: bool) -> sa.Select[Any]:
    found = sa.select(STOCK).where(bulk.one_of(dialect, STOCK.c.sku)).order_by(STOCK.c.sku)
    return found.with_for_update() if lock else found


@lru_cache(maxsize=_PAGES_A_STATEMENT)
def _pages(count: int) -> sa.Select[Any]:
    """The rows of so many pages, with the parameters of :func:`_page_values`."""
    page = sa.union_all(*(sa.select(_page(number).subquery()) for number in range(count))).subquery()
    # Sorted by the database, so that the cursor and the pages agree on one collation.
    return sa.select(page).order_by(page.c.page, page.c.sku)


def _page(number: int) -> sa.Select[Any]:
    return (
        sa.select(sa.literal_column(str(number)).label("page"), STOCK)
        # After an item, not after a number of rows: items that are added meanwhile move no page.
        .where(STOCK.c.sku > sa.bindparam(f"after_{number}", type_=sa.Text))
        .order_by(STOCK.c.sku)
        .limit(sa.bindparam(f"most_{number}", type_=sa.Integer))
    )


def _page_values(number: int, request: ListStock) -> dict[str, Any]:
    # The first page follows "", which is before every name. One more than asked for: it shows whether there is a
    # next page.
    return {f"after_{number}": request.cursor or "", f"most_{number}": request.limit + 1}
