"""The outbox: messages to publish that no delivery causes, committed with the effect.

The messages of an unacknowledged delivery are published in the end, because it is redelivered
(:mod:`towpath.servicekit.storage.inbox`). A timer has no delivery: it writes its messages here, in its own
transaction, and the relay (:mod:`towpath.servicekit.storage.relay`) publishes them.

Guarantees: messages are stored if, and only if, the transaction commits. Messages put after another transaction's
commit come after its messages, so transactions that first lock the rows they report on publish in order; the order of
transactions that do not wait for each other is undefined. A number is never assigned twice. One relay at a time holds
the lease, by the database's clock. A push that a stream stores is kept here as a reference only, and is relayed with
the stream's content at that time (:mod:`towpath.servicekit.storage.withheld`).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from towpath.protocol.envelope import now_ms
from towpath.servicekit.messaging.publication import Publication
from towpath.servicekit.storage import clock
from towpath.servicekit.storage.streams import StreamTables, batched
from towpath.servicekit.storage.withheld import Entry, EntryId, published_with, read_by_now

#: Waiting rows are counted up to this number only: every poll counts them, and a count reads each row.
COUNTED_UP_TO: Final = 10_000

#: Rows of one executemany: their texts are in memory at once.
_ROWS_A_STATEMENT: Final = 1000
_THE_LEASE: Final = 1


@dataclass(frozen=True, slots=True)
class OutboxTables:
    """A service's two outbox tables: the waiting messages and the relay's lease; made with :meth:`define`.

    Attributes:
        items: One row per message; its number is its position.
        lease: One row: the replica that publishes, and until when.
        streams: Source of the pushes that are stored by reference; ``None`` to store every push here as a whole.

    Example:
        >>> tables = OutboxTables.define(sa.MetaData(), "chat")
        >>> tables.items.name, tables.lease.name
        ('chat_outbox', 'chat_outbox_lease')
    """

    items: sa.Table
    lease: sa.Table
    streams: StreamTables | None = None

    @classmethod
    def define(cls, metadata: sa.MetaData, prefix: str) -> "OutboxTables":
        """Declare ``<prefix>_outbox`` and ``<prefix>_outbox_lease``."""
        return cls(
            sa.Table(
                f"{prefix}_outbox",
                metadata,
                # SQLite numbers rows automatically only for INTEGER.
                sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
                sa.Column("exchange", sa.String(255), nullable=False),
                sa.Column("routing_key", sa.String(255), nullable=False),
                sa.Column("item", sa.Text, nullable=False),
                sa.Column("created_at", sa.BigInteger, nullable=False),
                # Else the numbers of deleted rows are assigned again, and a late delete removes unpublished rows:
                # https://www.sqlite.org/autoinc.html
                sqlite_autoincrement=True,
            ),
            sa.Table(
                f"{prefix}_outbox_lease",
                metadata,
                sa.Column("id", sa.SmallInteger, primary_key=True, autoincrement=False),
                sa.Column("holder", sa.String(64), nullable=False),
                sa.Column("held_until", sa.BigInteger, nullable=False),
            ),
        )


@dataclass(frozen=True, slots=True)
class Waiting:
    """One row: a message that waits to be published.

    Attributes:
        publication: ``None`` if its stream no longer has the entry: there is nothing to publish.
    """

    id: int
    publication: Publication | None


async def put(connection: AsyncConnection, tables: OutboxTables, publications: Sequence[Publication]) -> None:
    """Publish ``publications``, in this order, once the transaction is committed."""
    now = now_ms()
    # Sent together but executed row by row: one statement of many rows does not guarantee the order of its numbers.
    for part in batched(publications, _ROWS_A_STATEMENT):
        await connection.execute(
            tables.items.insert(),
            [
                {
                    "exchange": one.exchange,
                    "routing_key": one.routing_key,
                    "item": _stored(one, tables),
                    "created_at": now,
                }
                for one in part
            ],
        )


async def count(connection: AsyncConnection, tables: OutboxTables) -> int:
    """The number of waiting rows, up to :data:`COUNTED_UP_TO`."""
    return int((await connection.execute(_count(tables.items))).scalar_one())


async def oldest(connection: AsyncConnection, tables: OutboxTables) -> int | None:
    """When the first waiting row was put, in Unix milliseconds; ``None`` if none waits."""
    return (await connection.execute(_oldest(tables.items))).scalar_one_or_none()


async def first(
    connection: AsyncConnection, tables: OutboxTables, *, limit: int, max_bytes: int
) -> list[Waiting]:
    """The first rows: at most ``limit`` and ``max_bytes``, unless the first row alone is larger."""
    rows = await connection.execute(_first(tables.items), {"most": limit})
    waiting = [(row, _entry_id(row.item)) for row in rows]
    pushes: dict[EntryId, Entry] = {}
    if tables.streams is not None and (ids := {entry for _, entry in waiting if entry is not None}):
        pushes = await read_by_now(connection, tables.streams.entries, tables.streams.fill, ids)
    found: list[Waiting] = []
    size = 0
    for row, entry in waiting:
        item = row.item.encode() if entry is None else published_with(pushes.get(entry), row.routing_key)
        size += len(item or b"")
        # The first row always fits, or a row above the bound would stop the outbox for ever.
        if found and size > max_bytes:
            break
        publication = None if item is None else Publication(row.exchange, row.routing_key, msgspec.Raw(item))
        found.append(Waiting(row.id, publication))
    return found


async def remove(connection: AsyncConnection, tables: OutboxTables, ids: Iterable[int]) -> None:
    """Delete published rows."""
    # By number, and never "up to here": a transaction with lower numbers may commit later (ADR 12).
    if gone := sorted(ids):
        await connection.execute(tables.items.delete().where(tables.items.c.id.in_(gone)))


async def hold(connection: AsyncConnection, tables: OutboxTables, holder: str, seconds: float) -> bool:
    """Take or extend the lease for ``seconds`` from now; returns whether ``holder`` has it."""
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    lease, now = tables.lease.c, clock.now(connection)
    taking = dialect.insert(tables.lease).values(
        id=_THE_LEASE, holder=holder, held_until=now + int(seconds * 1000)
    )
    # One statement decides, also for two replicas at once: the second waits for the row, and `where` is checked
    # against what the first has committed.
    # https://www.postgresql.org/docs/current/transaction-iso.html#XACT-READ-COMMITTED
    taken = await connection.execute(
        taking.on_conflict_do_update(
            index_elements=["id"],
            set_={"holder": holder, "held_until": taking.excluded.held_until},
            # The holder extends it, or it has expired. Otherwise no row is returned: another replica publishes.
            where=sa.or_(lease.holder == holder, lease.held_until < now),
        ).returning(lease.id)
    )
    return taken.first() is not None


async def release(connection: AsyncConnection, tables: OutboxTables, holder: str) -> None:
    """Release the lease, if ``holder`` has it."""
    await connection.execute(tables.lease.delete().where(tables.lease.c.holder == holder))


def _stored(one: Publication, tables: OutboxTables) -> str:
    if tables.streams is not None and one.stream:
        return msgspec.json.encode([one.stream, one.seq]).decode()
    return bytes(one.item).decode()


def _entry_id(item: str) -> EntryId | None:
    # A published item is a JSON object, or in tests a number.
    return msgspec.json.decode(item, type=EntryId) if item.startswith('["') else None


@lru_cache(maxsize=256)
def _count(items: sa.Table) -> sa.Select[int]:
    some = sa.select(items.c.id).limit(COUNTED_UP_TO).subquery()
    return sa.select(sa.func.count()).select_from(some)


@lru_cache(maxsize=256)
def _oldest(items: sa.Table) -> sa.Select[int]:
    return sa.select(items.c.created_at).order_by(items.c.id).limit(1)


@lru_cache(maxsize=256)
def _first(items: sa.Table) -> sa.Select[Any]:
    columns = items.c.id, items.c.exchange, items.c.routing_key, items.c.item
    return sa.select(*columns).order_by(items.c.id).limit(sa.bindparam("most", type_=sa.Integer))
