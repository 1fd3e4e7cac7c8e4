"""Replays: the stream entries after a client's positions, read from the database within bounds.

Guarantees:

* A request gets at most ``limit`` entries and ``max_bytes`` bytes. A stream for which that is not enough is reported
  as incomplete, and none of its entries are sent: a client that is that far behind is better served by the history.
* At most the bound plus one page is read, even if a replay turns out too large. A page aims at :data:`PAGE_BYTES`,
  and the event loop runs other tasks after each page.
* Entries that several requests need are read once, if they are small enough to be held in memory together. Each
  reader gets its own text of an entry that is hidden from one of them (:mod:`towpath.servicekit.storage.withheld`).
* A reader who is no longer in the group of a stream gets nothing of it: rights are read after the entries, so no
  entry that is committed after a leave is in a replay for the user who left.
"""

import asyncio
import bisect
from collections import deque
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from towpath.servicekit.storage import withheld
from towpath.servicekit.storage.database import Database
from towpath.servicekit.storage.group_numbers import MayReceive
from towpath.servicekit.storage.streams import Replay, StreamTables, read_heads
from towpath.servicekit.storage.withheld import Entry, EntryId

#: Bounds of one page, which is read or published at once.
PAGE_BYTES: Final = 128 * 1024
PAGE_ENTRIES: Final = 200
#: Bounds of a read shared by several requests; requests that need more get a read of their own.
_SHARED_ENTRIES: Final = 1_000
_SHARED_BYTES: Final = 1024 * 1024
_FIRST_PAGE: Final = 50
#: SQLite nests expressions 1,000 deep at most: https://www.sqlite.org/limits.html
_RANGES_A_STATEMENT: Final = 200

Positions = Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Asked:
    """The positions of one request.

    Attributes:
        reader: The asking user.
    """

    positions: Positions
    reader: str = ""


@dataclass(frozen=True, slots=True)
class Replays:
    """The stream entries of one service.

    Attributes:
        limit: Entries that one request gets at most.
        max_bytes: Bytes of entries that one request gets at most.
        may_receive: Of a service whose streams are read by groups; ``None`` if a right to a stream never ends.
    """

    database: Database
    tables: StreamTables
    limit: int
    max_bytes: int
    may_receive: MayReceive | None = None

    async def pushes(self, ids: Collection[EntryId]) -> dict[EntryId, Entry]:
        """The current publishable text of the entries with these ids; entries no longer stored are left out."""
        async with self.database.reading() as connection:
            return await withheld.read_by_now(connection, self.tables.entries, self.tables.fill, ids)

    async def small(self, asked: Sequence[Asked]) -> list[dict[str, Replay]]:
        """The replays of each of ``asked``, within one shared bound; those past the bound get nothing.

        For replays of changes: a client that misses more finds a gap in its stream, and resumes.
        """
        heads, found, _ = await self._read_together(asked)
        return [found[n] if n in found else _nothing(one.positions, heads) for n, one in enumerate(asked)]

    async def parts(self, asked: Sequence[Asked]) -> AsyncIterator[dict[int, dict[str, Replay]]]:
        """The replays of each of ``asked``, by its index: first those that share a small read, then each alone.

        No transaction is open, and no other part in memory, while a part is used.
        """
        heads, found, alone = await self._read_together(asked)
        if found:
            yield found
        del found  # Else its entries stay in memory until the last replay is sent.
        for n in alone:
            async with self.database.reading() as connection:
                [replays] = await replay(
                    connection,
                    self.tables,
                    [asked[n]],
                    limit=self.limit,
                    max_bytes=self.max_bytes,
                    heads=heads,
                )
                [replays] = await self._permitted(connection, [asked[n]], [replays])
            yield {n: replays}

    async def _read_together(
        self, asked: Sequence[Asked]
    ) -> tuple[Mapping[str, int], dict[int, dict[str, Replay]], list[int]]:
        """Read what fits one read within the shared bound.

        Returns the heads of all streams, the replays by index in ``asked``, and the indices that are read alone.
        """
        async with self.database.reading() as connection:
            # Heads first: they bound the read below. An entry that is committed after it is pushed to the
            # subscription, which exists by now (ADR 3).
            heads = await read_heads(
                connection, self.tables, {name for one in asked for name in one.positions}
            )
            shared, alone = _shared([one.positions for one in asked], heads, self.limit)
            found = await _replay(
                connection,
                self.tables,
                [asked[n] for n in shared],
                limit=self.limit,
                max_bytes=self.max_bytes,
                read_max_bytes=max(_SHARED_BYTES, self.max_bytes),
                heads=heads,
            )
            if found is not None:
                found = await self._permitted(connection, [asked[n] for n in shared], found)
        if found is None:  # More bytes than the bound.
            return heads, {}, sorted([*shared, *alone])
        return heads, dict(zip(shared, found, strict=True)), alone

    async def _permitted(
        self, connection: AsyncConnection, asked: Sequence[Asked], found: Sequence[dict[str, Replay]]
    ) -> list[dict[str, Replay]]:
        """The part of ``found`` that the readers may receive now; at most one statement."""
        news = {
            (one.reader, name)
            for one, replays in zip(asked, found, strict=True)
            for name, stream in replays.items()
            if stream.seq != one.positions[name]
        }
        if self.may_receive is None or not news:
            return list(found)
        # After the entries: a leave that was committed before one of them was read is seen here. The other order
        # would let a leave and a later entry pass between the two reads.
        refused = news - await self.may_receive(connection, news)
        return [
            {name: stream for name, stream in replays.items() if (one.reader, name) not in refused}
            for one, replays in zip(asked, found, strict=True)
        ]


async def replay(
    connection: AsyncConnection,
    tables: StreamTables,
    asked: Sequence[Asked],
    *,
    limit: int,
    max_bytes: int,
    heads: Mapping[str, int] | None = None,
) -> list[dict[str, Replay]]:
    """For each of ``asked``, the entries after its positions: at most ``limit`` entries and ``max_bytes`` each.

    Args:
        heads: The heads of the streams, if known; no entry after them is read.
    """
    if heads is None:
        heads = await read_heads(connection, tables, {name for one in asked for name in one.positions})
    answers: list[dict[str, Replay]] = []
    found = await _replay(
        connection, tables, asked, limit=limit, max_bytes=max_bytes, read_max_bytes=max_bytes, heads=heads
    )
    if found is not None:
        return found
    for one in asked:
        after = _within(one.positions, heads, limit)
        entries, _ = await _read_entries(connection, tables, after, heads, max_bytes)
        answers.append(_answer(one, after, entries, heads, max_bytes))
    return answers


async def _replay(
    connection: AsyncConnection,
    tables: StreamTables,
    asked: Sequence[Asked],
    *,
    limit: int,
    max_bytes: int,
    read_max_bytes: int,
    heads: Mapping[str, int],
) -> list[dict[str, Replay]] | None:
    """One read for all of ``asked``; ``None`` if that would be more than ``read_max_bytes``, for several of them."""
    served = [_within(one.positions, heads, limit) for one in asked]
    lowest = _lowest(served)
    entries, whole = await _read_entries(connection, tables, lowest, heads, read_max_bytes)
    # Several requests share this read: to know which of them is too large, each is read alone.
    if not whole and len(asked) > 1:
        return None
    return [
        _answer(one, within, entries, heads, max_bytes) for one, within in zip(asked, served, strict=True)
    ]


_Entries = dict[str, tuple[list[int], list[Entry]]]


def _answer(
    asked: Asked,
    within: Positions,
    entries: _Entries,
    heads: Mapping[str, int],
    max_bytes: int,
) -> dict[str, Replay]:
    answer: dict[str, Replay] = {}
    for name, seq in asked.positions.items():
        head = heads.get(name, 0)
        seqs, envelopes = entries[name] if name in within else ([], [])
        kept = withheld.read_by(asked.reader, envelopes[bisect.bisect_right(seqs, seq) :])
        size = sum(map(len, kept))
        # Numbers have no gaps, so a count shows whether an entry is missing (never stored, or deleted by retention).
        whole = len(kept) == head - seq and size <= max_bytes
        if whole:
            max_bytes -= size
        answer[name] = Replay(kept if whole else [], head, whole)
    return answer


def _nothing(positions: Positions, heads: Mapping[str, int]) -> dict[str, Replay]:
    return {name: Replay([], head := heads.get(name, 0), head == seq) for name, seq in positions.items()}


def _within(positions: Positions, heads: Mapping[str, int], limit: int) -> dict[str, int]:
    """The positions with later entries, as far as ``limit`` entries reach.

    Example: with heads ``{"a": 9, "b": 500}`` and a limit of 100, ``{"a": 4, "b": 7}`` gives ``{"a": 4}``: the 493
    entries of ``b`` do not fit, and ``b`` is reported as incomplete.
    """
    within: dict[str, int] = {}
    for name, seq in positions.items():
        behind = heads.get(name, 0) - seq
        # A position after the head (after a restored backup) is not served, and is reported as incomplete.
        if 0 < behind <= limit:
            within[name] = seq
            limit -= behind
    return within


def _lowest(served: Sequence[Positions]) -> dict[str, int]:
    lowest: dict[str, int] = {}
    for within in served:
        for name, seq in within.items():
            lowest[name] = min(seq, lowest.get(name, seq))
    return lowest


def _shared(asked: Sequence[Positions], heads: Mapping[str, int], limit: int) -> tuple[list[int], list[int]]:
    """Split ``asked`` into those read together and those read alone, as indices."""
    shared: list[int] = []
    alone: list[int] = []
    lowest: dict[str, int] = {}
    entries = 0
    for n, positions in enumerate(asked):
        within = _within(positions, heads, limit)
        more = sum(
            max(0, lowest.get(name, heads[name]) - seq) for name, seq in within.items()
        )  # Entries not needed by an earlier request.
        if entries + more > _SHARED_ENTRIES:
            alone.append(n)
            continue
        shared.append(n)
        entries += more
        for name, seq in within.items():
            lowest[name] = min(seq, lowest.get(name, seq))
    return shared, alone


async def _read_entries(
    connection: AsyncConnection,
    tables: StreamTables,
    after: Positions,
    heads: Mapping[str, int],
    max_bytes: int,
) -> tuple[_Entries, bool]:
    """The entries of each stream, short streams first, and whether all are within ``max_bytes``.

    A stream that was not read to its end has no entries in the result.
    """
    found: _Entries = {name: ([], []) for name in after}
    # Short streams are complete before the bound is reached: more of them are served than in any other order.
    shortest_first = sorted(after, key=lambda name: (heads[name] - after[name], name))
    waiting = deque((name, after[name], heads[name]) for name in shortest_first)
    read = size = 0
    page = _FIRST_PAGE
    while waiting and size <= max_bytes:
        for (stream, seq), envelope in await _read_page(connection, tables, _next_ranges(waiting, page)):
            seqs, envelopes = found[stream]
            seqs.append(seq)
            envelopes.append(envelope)
            read += 1
            size += len(envelope)
        if read:
            # The average so far gives the size of the next page, so large entries are not read 200 at a time.
            page = max(1, min(PAGE_ENTRIES, PAGE_BYTES * read // max(1, size)))
        # SQLite runs in this thread (ADR 13): without this, a long replay would hold the event loop.
        await asyncio.sleep(0)
    # Not read to its end: none of it is sent, as the client has to load the state in any case.
    for name, _, _ in waiting:
        found[name] = ([], [])
    return found, size <= max_bytes


def _next_ranges(waiting: deque[tuple[str, int, int]], entries: int) -> list[tuple[str, int, int]]:
    """Take ranges (after, up to) of at most ``entries`` together."""
    taken: list[tuple[str, int, int]] = []
    while waiting and entries and len(taken) < _RANGES_A_STATEMENT:
        name, after, head = waiting.popleft()
        last = min(head, after + entries)
        taken.append((name, after, last))
        entries -= last - after
        if last < head:
            waiting.appendleft((name, last, head))
    return taken


async def _read_page(
    connection: AsyncConnection, tables: StreamTables, ranges: Sequence[tuple[str, int, int]]
) -> list[tuple[EntryId, Entry]]:
    entries = tables.entries
    wanted = [
        sa.and_(entries.c.stream == name, entries.c.seq > after, entries.c.seq <= last)
        for name, after, last in ranges
    ]
    rows = await connection.execute(
        sa.select(entries.c.stream, entries.c.seq, entries.c.envelope)
        .where(sa.or_(*wanted))
        .order_by(entries.c.stream, entries.c.seq)
    )
    return await withheld.fill_page(connection, tables.fill, rows.all())
