"""Streams: durable pushes with a position, stored in the service's database.

Guarantees: ``seq`` starts at 1 and grows by exactly 1 per stream, whoever appends (the head's row is locked until
commit, and ``(stream, seq)`` is unique beneath); an entry is replayed byte for byte as it was first pushed.
"""

import bisect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from towpath.protocol.envelope import Envelope, make
from towpath.servicekit import bulk

T = TypeVar("T")

#: PostgreSQL and SQLite take some 32,000 parameters.
_NAMES_A_STATEMENT: Final = 10_000
#: SQLite nests expressions 1,000 deep at most: https://www.sqlite.org/limits.html
_RANGES_A_STATEMENT: Final = 200


@dataclass(frozen=True, slots=True)
class StreamTables:
    """A service's two stream tables."""

    heads: sa.Table
    entries: sa.Table

    @classmethod
    def define(cls, metadata: sa.MetaData, prefix: str) -> "StreamTables":
        """Declare ``<prefix>_streams`` and ``<prefix>_stream_entries``."""
        return cls(
            sa.Table(
                f"{prefix}_streams",
                metadata,
                sa.Column("stream", sa.String(512), primary_key=True),
                sa.Column("head", sa.BigInteger, nullable=False),
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
    """The streams that one unit of work appends to: load, append, save."""

    def __init__(self, connection: AsyncConnection, tables: StreamTables) -> None:
        self._connection = connection
        self._tables = tables
        self._heads: dict[str, int] = {}
        self._entries: list[dict[str, Any]] = []
        self._touched: set[str] = set()
        self._made: set[str] = set()

    async def load(self, names: Iterable[str], *, if_there: Iterable[str] = ()) -> None:
        """Lock the heads of ``names`` for appending, in one fixed order; new streams start at 0.

        Args:
            if_there: Further streams that are only wanted if they exist.
        """
        needed = set(names)
        wanted = sorted((needed | set(if_there)) - self._heads.keys())
        if not wanted:
            return
        # Streams are made before any is locked, or two units of work could wait for each other.
        there = await read_heads(self._connection, self._tables, wanted)
        if missing := [name for name in wanted if name in needed and name not in there]:
            dialect = postgresql if self._connection.dialect.name == "postgresql" else sqlite
            await self._connection.execute(
                dialect.insert(self._tables.heads).on_conflict_do_nothing(),
                [{"stream": name, "head": 0} for name in missing],
            )
            self._made.update(missing)
        if self._connection.dialect.name == "sqlite":  # one writer at a time: nobody else can change them
            self._heads |= dict.fromkeys(needed - there.keys(), 0) | there
        else:
            self._heads |= await self._lock(wanted)

    def head(self, stream: str) -> int:
        """The last ``seq`` of a loaded stream, what this unit of work appended included."""
        return self._heads[stream]

    def append(self, stream: str, action: str, data: Callable[[int], Mapping[str, Any]]) -> Envelope:
        """Add one entry to a loaded stream; ``data`` makes the payload from the ``seq`` it gets."""
        seq = self._heads[stream] + 1
        envelope = make(action, data(seq), stream=stream, seq=seq)
        self._heads[stream] = seq
        self._touched.add(stream)
        self._entries.append(
            {
                "stream": stream,
                "seq": seq,
                "envelope": envelope.to_json().decode(),
                "created_at": envelope.timestamp,
            }
        )
        return envelope

    async def save(self) -> None:
        """Write what was appended: two statements, whatever the number of entries.

        A stream that was made and stayed empty is deleted, so that refused requests leave no rows. Its row is locked
        by this transaction: whoever waits for it makes it again.
        """
        if unused := sorted(self._made - self._touched):
            columns = self._tables.heads.c
            await self._connection.execute(
                self._tables.heads.delete().where(columns.stream.in_(unused), columns.head == 0)
            )
        self._made = set()
        if not self._entries:
            return
        await bulk.insert(self._connection, self._tables.entries, self._entries)
        heads = [{"stream": name, "head": self._heads[name]} for name in sorted(self._touched)]
        await bulk.update(self._connection, self._tables.heads, heads, key=["stream"])
        self._entries, self._touched = [], set()

    async def _lock(self, names: Sequence[str]) -> dict[str, int]:
        heads = self._tables.heads
        rows = await self._connection.execute(
            sa.select(heads.c.stream, heads.c.head)
            .where(heads.c.stream.in_(names))
            .order_by(heads.c.stream)
            .with_for_update()
        )
        return {row.stream: row.head for row in rows}


@dataclass(frozen=True, slots=True)
class Replay:
    """What one stream holds after a position.

    Attributes:
        entries: The stored pushes, oldest first, as they were.
        seq: The position after them.
        complete: False when some that were asked for are not kept any more (or there never was such a position).
    """

    entries: list[bytes]
    seq: int
    complete: bool


def batched(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """``items`` in parts of at most ``size``."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


async def read_heads(
    connection: AsyncConnection, tables: StreamTables, names: Iterable[str]
) -> dict[str, int]:
    """The last ``seq`` of each of ``names`` that exists, without locking."""
    heads = tables.heads
    found: dict[str, int] = {}
    for part in batched(sorted(set(names)), _NAMES_A_STATEMENT):
        rows = await connection.execute(
            sa.select(heads.c.stream, heads.c.head).where(heads.c.stream.in_(part))
        )
        found |= {row.stream: row.head for row in rows}
    return found


async def replay(
    connection: AsyncConnection, tables: StreamTables, asked: Sequence[Mapping[str, int]], *, limit: int
) -> list[dict[str, Replay]]:
    """For each of ``asked``, all that came after its positions: at most ``limit`` entries for each.

    A stream for which that is not enough is not complete: who is that far behind is better served by the history
    than by a flood. What several ask for is read once.
    """
    heads = await read_heads(connection, tables, {name for positions in asked for name in positions})
    lowest: dict[str, int] = {}
    served = [_within(positions, heads, limit) for positions in asked]
    for within in served:
        for name, seq in within.items():
            lowest[name] = min(seq, lowest.get(name, seq))
    entries = await _read_entries(connection, tables, lowest, heads)
    answers: list[dict[str, Replay]] = []
    for positions, within in zip(asked, served, strict=True):
        answer: dict[str, Replay] = {}
        for name, seq in positions.items():
            head = heads.get(name, 0)
            seqs, envelopes = entries[name] if name in within else ([], [])
            kept = envelopes[bisect.bisect_right(seqs, seq) :]
            whole = len(kept) == head - seq
            answer[name] = Replay(kept if whole else [], head, whole)
        answers.append(answer)
    return answers


def _within(positions: Mapping[str, int], heads: Mapping[str, int], limit: int) -> dict[str, int]:
    """Those positions that something came after, as far as ``limit`` entries reach."""
    within: dict[str, int] = {}
    for name, seq in positions.items():
        behind = heads.get(name, 0) - seq
        if 0 < behind <= limit:
            within[name] = seq
            limit -= behind
    return within


async def _read_entries(
    connection: AsyncConnection, tables: StreamTables, after: Mapping[str, int], heads: Mapping[str, int]
) -> dict[str, tuple[list[int], list[bytes]]]:
    entries = tables.entries
    found: dict[str, tuple[list[int], list[bytes]]] = {name: ([], []) for name in after}
    for names in batched(sorted(after), _RANGES_A_STATEMENT):
        ranges = [
            sa.and_(entries.c.stream == name, entries.c.seq > after[name], entries.c.seq <= heads[name])
            for name in names
        ]
        rows = await connection.execute(
            sa.select(entries.c.stream, entries.c.seq, entries.c.envelope)
            .where(sa.or_(*ranges))
            .order_by(entries.c.stream, entries.c.seq)
        )
        for row in rows:
            seqs, envelopes = found[row.stream]
            seqs.append(row.seq)
            envelopes.append(row.envelope.encode())
    return found
