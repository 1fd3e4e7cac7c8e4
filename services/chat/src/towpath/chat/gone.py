"""Gone rooms: private rooms without members, or deleted by their owner.

The name of such a room is free at once. Its messages, stream entries and invitations are deleted by a timer.

Guarantees:

* Nothing of a gone room is visible after the commit of its end. The stream of its name continues from its head; the
  entry of the end is never stored, so a resume from before it is incomplete.
* Rows are deleted in steps of :data:`STEP`, with a fixed number of statements each. Replicas skip a room that another
  one has locked.
* A gone room still counts as created by its creator, for the limit of rooms per day.
"""

from collections.abc import Collection
from functools import cache
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from towpath.chat.presence_events import Clock
from towpath.chat.tables import GONE, INVITATIONS, MESSAGES, STREAMS
from towpath.protocol.chat import stream_of
from towpath.protocol.envelope import now_ms
from towpath.servicekit import TimerRun, bulk

#: Rows of each kind that one run deletes.
STEP: Final = 500
#: How long a gone room counts as created.
_KEPT_MS: Final = 86_400_000
_IS_DUE: Final = GONE.c.uncleared_since.is_not(None)
_ANY_DUE: Final = sa.select(sa.exists().where(_IS_DUE))


def is_gone(room: sa.ColumnElement[Any], seq: sa.ColumnElement[Any]) -> sa.ColumnElement[bool]:
    """Whether the entry at ``seq`` of the stream of ``room`` belongs to a gone room."""
    return sa.exists().where(GONE.c.room == room, GONE.c.seq >= seq)


def is_withdrawn() -> sa.ColumnElement[bool]:
    """Whether an invitation was to a gone room."""
    return sa.exists().where(GONE.c.room == INVITATIONS.c.room, GONE.c.seq > INVITATIONS.c.seq)


async def read_gone(connection: AsyncConnection, rooms: Collection[str]) -> dict[str, int]:
    """For each of ``rooms`` that was gone once, the last ``seq`` of the gone room."""
    names = bulk.name_values(connection, sorted(rooms))
    rows = await connection.execute(_last(connection.dialect.name), names)
    return {row.room: row[1] for row in rows}


@cache
def _last(dialect: str) -> sa.Select[Any]:
    rooms = bulk.one_of(dialect, GONE.c.room)
    return sa.select(GONE.c.room, sa.func.max(GONE.c.seq)).where(rooms).group_by(GONE.c.room)


class GoneRoomSweeper:
    """Deletes the rows of gone rooms; timer work."""

    def __init__(self, clock: Clock = now_ms) -> None:
        self._clock = clock

    async def round(self, run: TimerRun) -> bool:
        """Delete some rows of one room; returns whether there may be more to do at once."""
        # Without a lock: a run without work must not block writers.
        async with run.database.reading() as connection:
            if not (await connection.execute(_ANY_DUE)).scalar_one():
                return False
        async with run.database.transaction() as connection:
            oldest = sa.select(GONE.c.room, GONE.c.seq).where(_IS_DUE).order_by(GONE.c.uncleared_since)
            found = await connection.execute(oldest.limit(1).with_for_update(skip_locked=True))
            if (gone := found.first()) is None:
                return False
            if await _delete_some(connection, gone.room, gone.seq):
                return True
            # A unit of work may have locked an invitation without deleting it.
            left = sa.exists().where(INVITATIONS.c.room == gone.room, INVITATIONS.c.seq < gone.seq)
            if (await connection.execute(sa.select(left))).scalar_one():
                return False
            this = sa.and_(GONE.c.room == gone.room, GONE.c.seq == gone.seq)
            await connection.execute(GONE.update().where(this).values(uncleared_since=None))
        return True

    async def forget(self, run: TimerRun) -> bool:
        """Delete gone rooms that no longer count as created; returns whether there may be more."""
        keys = (GONE.c.room, GONE.c.seq)
        is_old = sa.and_(GONE.c.uncleared_since.is_(None), GONE.c.created_at < self._clock() - _KEPT_MS)
        async with run.database.transaction() as connection:
            some = sa.select(*keys).where(is_old).limit(STEP)
            gone = await connection.execute(GONE.delete().where(sa.tuple_(*keys).in_(some)))
        return gone.rowcount >= STEP


async def _delete_some(connection: AsyncConnection, room: str, seq: int) -> bool:
    """Returns whether there may be more."""
    entries = STREAMS.entries
    more = False
    for table, theirs in (
        (MESSAGES, sa.and_(MESSAGES.c.room == room, MESSAGES.c.seq <= seq)),
        (entries, sa.and_(entries.c.stream == stream_of(room), entries.c.seq <= seq)),
        (INVITATIONS, sa.and_(INVITATIONS.c.room == room, INVITATIONS.c.seq < seq)),
    ):
        keys = list(table.primary_key.columns)
        some = sa.select(*keys).where(theirs).limit(STEP).with_for_update(skip_locked=True)
        deleted = await connection.execute(table.delete().where(sa.tuple_(*keys).in_(some)))
        more = more or deleted.rowcount >= STEP
    return more
