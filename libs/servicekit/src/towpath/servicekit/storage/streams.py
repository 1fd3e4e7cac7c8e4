"""Streams: durable pushes with a position, stored in the service's database.

Guarantees: ``seq`` starts at 1 and grows by exactly 1 per stream, for any number of writers (the head's row is locked
until commit, and ``(stream, seq)`` is unique in the database); an entry is replayed byte for byte as it was first
pushed, except for fields that were withheld since (:mod:`towpath.servicekit.storage.withheld`).
"""

import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from towpath.protocol.envelope import Envelope, make
from towpath.servicekit.storage import bulk, withheld
from towpath.servicekit.storage.leaves import Leave, confirmed_leaves, to_store
from towpath.servicekit.storage.withheld import EntryId, Fields, Fill

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class StreamTables:
    """A service's two stream tables; made with :meth:`define`.

    Attributes:
        heads: One row per stream: its last ``seq``, locked by a transaction that appends to it.
        entries: One row per stored push, by stream and ``seq``.
        fill: Returns the current values of withheld fields; ``None`` if no fields are withheld.

    Example:
        >>> tables = StreamTables.define(sa.MetaData(), "orders")
        >>> tables.heads.name, tables.entries.name
        ('orders_streams', 'orders_stream_entries')
    """

    heads: sa.Table
    entries: sa.Table
    fill: Fill | None = None

    @classmethod
    def define(cls, metadata: sa.MetaData, prefix: str) -> "StreamTables":
        """Declare ``<prefix>_streams`` and ``<prefix>_stream_entries``.

        Args:
            metadata: That of the service's own tables.
            prefix: The name of the service.
        """
        return cls(
            sa.Table(
                f"{prefix}_streams",
                metadata,
                sa.Column("stream", sa.String(512), primary_key=True),
                sa.Column("head", sa.BigInteger, nullable=False),
                # See :mod:`towpath.servicekit.storage.leaves`; empty for most streams.
                sa.Column("leaves", sa.Text),
            ),
            sa.Table(
                f"{prefix}_stream_entries",
                metadata,
                sa.Column("stream", sa.String(512), primary_key=True),
                sa.Column("seq", sa.BigInteger, primary_key=True),
                sa.Column("envelope", sa.Text, nullable=False),
                sa.Column("created_at", sa.BigInteger, nullable=False, index=True),
            ),
        )


class Streams:
    """The streams that one unit of work appends to: load, append, save.

    Example:
        >>> import asyncio
        >>> from sqlalchemy.ext.asyncio import create_async_engine
        >>> metadata = sa.MetaData()
        >>> tables = StreamTables.define(metadata, "orders")
        >>> async def append_two() -> list[int | None]:
        ...     engine = create_async_engine("sqlite+aiosqlite://")
        ...     async with engine.begin() as connection:
        ...         await connection.run_sync(metadata.create_all)
        ...         streams = Streams(connection, tables)
        ...         await streams.load(["orders:ana"])
        ...         first = streams.append("orders:ana", "order.updated", lambda seq: {"status": "submitted"})
        ...         second = streams.append("orders:ana", "order.updated", lambda seq: {"status": "paid"})
        ...         await streams.save()
        ...     await engine.dispose()
        ...     return [first.seq, second.seq]
        >>> asyncio.run(append_two())
        [1, 2]

        The envelopes are the durable pushes; hand them to ``to_user`` or ``to_group``.
    """

    def __init__(self, connection: AsyncConnection, tables: StreamTables) -> None:
        self._connection = connection
        self._tables = tables
        self._heads: dict[str, int] = {}
        self._entries: list[dict[str, Any]] = []
        self._touched: set[str] = set()
        self._made: set[str] = set()
        self._withheld: dict[EntryId, tuple[int, Fields]] = {}
        self._leaves: dict[str, list[Leave]] = {}
        self._changed_leaves: set[str] = set()

    async def load(self, names: Iterable[str], *, if_there: Iterable[str] = ()) -> None:
        """Lock the heads of ``names`` for appending, in one fixed order; new streams start at 0.

        Args:
            if_there: Further streams, loaded only if they exist.
        """
        needed = set(names)
        wanted = sorted((needed | set(if_there)) - self._heads.keys())
        if not wanted:
            return
        # Streams are created before any is locked; else two units of work could deadlock. So this read takes no lock.
        there = await self._read(wanted)
        if missing := [name for name in wanted if name in needed and name not in there]:
            await self._connection.execute(
                _make_heads(self._connection.dialect.name, self._tables.heads),
                [{"stream": name, "head": 0} for name in missing],
            )
            self._made.update(missing)
        # One writer at a time: no other transaction can change them.
        if self._connection.dialect.name == "sqlite":
            self._heads |= dict.fromkeys(needed - there.keys(), 0) | there
        else:
            # Read again under the lock: the heads of the first read may be old. In the order of names, as every unit
            # of work locks, so that two of them never wait for each other.
            # https://www.postgresql.org/docs/current/explicit-locking.html#LOCKING-DEADLOCKS
            self._heads |= await self._read(wanted, lock=True)

    def head(self, stream: str) -> int:
        """The last ``seq`` of a loaded stream, including this unit of work's entries."""
        return self._heads[stream]

    def append(
        self, stream: str, action: str, data: Callable[[int], Mapping[str, Any]], *, stored: bool = True
    ) -> Envelope:
        """Append one entry to a loaded stream, and return it as the envelope to push.

        Args:
            stream: The name of a stream that was loaded.
            action: That of the push, such as ``order.updated``.
            data: Builds the payload from the entry's ``seq``.
            stored: False for a push that is not stored and only uses a ``seq``: a resume from before it is
                incomplete.

        Raises:
            KeyError: The stream was not loaded.
        """
        seq = self._heads[stream] + 1
        envelope = make(action, data(seq), stream=stream, seq=seq)
        self._heads[stream] = seq
        self._touched.add(stream)
        if stored:
            self._entries.append(
                {
                    "stream": stream,
                    "seq": seq,
                    "envelope": envelope.to_json().decode(),
                    "created_at": envelope.timestamp,
                }
            )
        return envelope

    def remove_member(self, stream: str, group: str, user_id: str) -> None:
        """A user leaves the group of a loaded stream: see :mod:`towpath.servicekit.storage.leaves`."""
        # An earlier leave of the same user is replaced, so a user has one leave per stream at most.
        self.add_member(stream, user_id)
        # A token, because the user may return and leave again before the first leave is confirmed.
        self._leaves.setdefault(stream, []).append(Leave(user_id, group, secrets.token_hex(6)))
        self._changed_leaves.add(stream)

    def add_member(self, stream: str, user_id: str) -> None:
        """Add a user to the group of a loaded stream."""
        if any(leave.user_id == user_id for leave in self._leaves.get(stream, ())):
            self._leaves[stream] = [leave for leave in self._leaves[stream] if leave.user_id != user_id]
            self._changed_leaves.add(stream)

    def leaves(self, stream: str) -> Sequence[Leave]:
        """Leaves of the group of a loaded stream that the gateways may not know yet."""
        return tuple(self._leaves.get(stream, ()))

    def withhold(self, stream: str, seq: int, about: int, blank: Fields) -> None:
        """Store an entry with ``blank`` fields; see :func:`towpath.servicekit.storage.withheld.withhold`."""
        self._withheld[stream, seq] = about, blank

    async def save(self) -> None:
        """Write the appended entries: two statements for any number of entries; two more if any field is withheld.

        A stream that was created and stayed empty is deleted, so that refused requests leave no rows. Its row is
        locked by this transaction: a transaction that waits for it creates it again.
        """
        if unused := sorted(self._made - self._touched):
            await self._connection.execute(
                _delete_unused(self._connection.dialect.name, self._tables.heads),
                bulk.name_values(self._connection, unused),
            )
        self._made = set()
        await self._save_withheld()
        changed = sorted(self._touched | self._changed_leaves)
        if not changed:
            return
        # Entries before heads: `(stream, seq)` is unique, so an append without the lock would fail here.
        await bulk.insert(self._connection, self._tables.entries, self._entries)
        heads: list[dict[str, Any]] = [{"stream": name, "head": self._heads[name]} for name in changed]
        if self._changed_leaves:
            for head in heads:
                head["leaves"] = to_store(self._leaves.get(head["stream"], ()))
        await bulk.update(self._connection, self._tables.heads, heads, key=["stream"])
        self._entries, self._touched, self._changed_leaves = [], set(), set()

    async def _save_withheld(self) -> None:
        if not self._withheld:
            return
        stored = dict(self._withheld)
        for entry in self._entries:
            # Withheld in the unit that appended it: changed before it is written, so the text is never stored.
            if change := stored.pop((entry["stream"], entry["seq"]), None):
                entry["envelope"] = withheld.withhold(entry["envelope"], *change)
        self._withheld = {}
        entries = self._tables.entries
        found = await withheld.read(self._connection, entries, stored)
        rows = [
            {"stream": place[0], "seq": place[1], "envelope": withheld.withhold(entry, *stored[place])}
            for place, entry in found
        ]
        await bulk.update(self._connection, entries, rows, key=["stream", "seq"])

    async def _read(self, names: Sequence[str], *, lock: bool = False) -> dict[str, int]:
        statement = _heads(self._connection.dialect.name, self._tables.heads, lock=lock)
        found: dict[str, int] = {}
        for row in await self._connection.execute(statement, bulk.name_values(self._connection, names)):
            found[row.stream] = row.head
            self._load_leaves(row.stream, row.leaves)
        return found

    def _load_leaves(self, stream: str, stored: str | None) -> None:
        if stored is None:
            # An earlier read of the same head, without its lock, may have found some.
            self._leaves.pop(stream, None)
            return
        self._leaves[stream] = confirmed_leaves(self._connection).left_of(stored)
        # Some are confirmed by now: the shorter list is written with this unit.
        if stored != to_store(self._leaves[stream]):
            self._changed_leaves.add(stream)


@dataclass(frozen=True, slots=True)
class Replay:
    """The entries of one stream after a position.

    Attributes:
        entries: The stored pushes, unchanged, oldest first.
        seq: The position after them.
        complete: False if some requested entries are no longer stored (or the position never existed): the client
            has to load the state again.

    Example:
        >>> Replay(entries=[b'{"action":"order.updated"}'], seq=8, complete=True).seq
        8
    """

    entries: list[bytes]
    seq: int
    complete: bool


def batched(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """``items`` in chunks of at most ``size``, for statements whose number of parameters is limited.

    Example:
        >>> list(batched([1, 2, 3, 4, 5], 2))
        [[1, 2], [3, 4], [5]]
    """
    for start in range(0, len(items), size):
        yield items[start : start + size]


async def read_heads(
    connection: AsyncConnection, tables: StreamTables, names: Iterable[str]
) -> dict[str, int]:
    """The last ``seq`` of each of ``names`` that exists, without locking.

    For the position that an answer names: read it before what is answered. Another transaction may commit between two
    reads (PostgreSQL's READ COMMITTED), and a client applies a change once more without harm, but never learns of one
    that the position passes over.

    Example:
        >>> import asyncio
        >>> from sqlalchemy.ext.asyncio import create_async_engine
        >>> metadata = sa.MetaData()
        >>> tables = StreamTables.define(metadata, "orders")
        >>> async def position() -> dict[str, int]:
        ...     engine = create_async_engine("sqlite+aiosqlite://")
        ...     async with engine.begin() as connection:
        ...         await connection.run_sync(metadata.create_all)
        ...         streams = Streams(connection, tables)
        ...         await streams.load(["orders:ana"])
        ...         push = streams.append("orders:ana", "order.updated", lambda seq: {"status": "submitted"})
        ...         await streams.save()
        ...         heads = await read_heads(connection, tables, ["orders:ana", "orders:ben"])
        ...     await engine.dispose()
        ...     return heads
        >>> asyncio.run(position())
        {'orders:ana': 1}
    """
    statement = _heads(connection.dialect.name, tables.heads, lock=False)
    rows = await connection.execute(statement, bulk.name_values(connection, sorted(set(names))))
    return {row.stream: row.head for row in rows}


@lru_cache(maxsize=256)
def _heads(dialect: str, heads: sa.Table, *, lock: bool) -> sa.Select[Any]:
    # The order by name is the order of locks.
    # https://www.postgresql.org/docs/current/sql-select.html#SQL-FOR-UPDATE-SHARE
    select = sa.select(heads).where(bulk.one_of(dialect, heads.c.stream)).order_by(heads.c.stream)
    return select.with_for_update() if lock else select


@lru_cache(maxsize=256)
def _delete_unused(dialect: str, heads: sa.Table) -> sa.Delete:
    return heads.delete().where(bulk.one_of(dialect, heads.c.stream), heads.c.head == 0)


@lru_cache(maxsize=256)
def _make_heads(dialect: str, heads: sa.Table) -> sa.Insert:
    insert = postgresql.insert(heads) if dialect == "postgresql" else sqlite.insert(heads)
    # Another replica may create the same stream at this moment: the second one waits for its commit, and inserts
    # nothing. https://www.postgresql.org/docs/current/sql-insert.html#SQL-ON-CONFLICT
    return insert.on_conflict_do_nothing()
