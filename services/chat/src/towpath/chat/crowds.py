"""Crowds: rooms with more than ``crowd_members`` members. Changes in them are counted, not pushed one by one.

A push per join to every member costs the square of the number of members. Here a change marks its room, and a timer
pushes the counts of marked rooms.

Guarantees:

* ``chat.crowd`` is pushed to a room at most once a second, by the clocks of the replicas, and once more after the
  last change. A replica skips rooms that another one has locked, so that two do not push the same.
* A run is bounded: at most :data:`STEP` rooms, and a fixed number of statements.
* The mark of a join or leave is committed with it. The mark of a presence change follows in a separate transaction
  (see :meth:`towpath.chat.presence.Presence.round`).
"""

from collections.abc import Iterable, Sequence
from functools import cache
from typing import Final

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from towpath.chat.presence_events import Clock
from towpath.chat.tables import CROWDS, MEMBERS, PEOPLE, ROOMS, STREAMS
from towpath.protocol.chat import STREAM_PREFIX, CrowdCounted, stream_of
from towpath.protocol.envelope import make, now_ms
from towpath.servicekit import Push, TimerRun, to_group

#: Maximum number of rooms of one run.
STEP: Final = 50
#: Minimum milliseconds between two pushes to one room.
EVERY_MS: Final = 1000
#: How long a room is kept after its last push, in milliseconds; longer than :data:`EVERY_MS`.
_KEPT_MS: Final = 600_000
_IS_DUE: Final = sa.and_(CROWDS.c.changed_at.is_not(None), CROWDS.c.pushed_at <= sa.bindparam("until"))
_ANY_DUE: Final = sa.select(sa.exists().where(_IS_DUE))
_DUE: Final = (
    sa.select(CROWDS.c.room)
    .where(_IS_DUE)
    .order_by(CROWDS.c.changed_at)
    .limit(STEP)
    .with_for_update(skip_locked=True)
)


async def mark(connection: AsyncConnection, rooms: Iterable[str], at: int) -> None:
    """Mark ``rooms``, so that their counts are pushed soon; one statement. Rows are locked in the order of names."""
    rows = [{"room": room, "changed_at": at, "pushed_at": 0} for room in sorted(rooms)]
    if not rows:
        return
    await connection.execute(_mark(connection.dialect.name), rows)


@cache
def _mark(dialect: str) -> sa.Insert:
    marking = postgresql.insert(CROWDS) if dialect == "postgresql" else sqlite.insert(CROWDS)
    # `pushed_at` stays, which keeps the pushes a second apart.
    return marking.on_conflict_do_update(
        index_elements=["room"], set_={"changed_at": marking.excluded.changed_at}
    )


class Crowds:
    """The timer work on crowds."""

    def __init__(self, clock: Clock = now_ms) -> None:
        self._clock = clock

    async def round(self, run: TimerRun) -> bool:
        """Push the counts of some marked rooms; returns whether there may be more to do at once."""
        now = self._clock()
        until = {"until": now - EVERY_MS}
        # Without a lock: a run without work must not block writers.
        async with run.database.reading() as connection:
            if not (await connection.execute(_ANY_DUE, until)).scalar_one():
                return False
        async with run.transaction() as connection:
            due = await connection.execute(_DUE, until)
            rooms = list(due.scalars())
            if rooms:
                await run.publish(connection, await _read_crowds(connection, rooms))
                pushed = CROWDS.update().where(CROWDS.c.room.in_(rooms))
                await connection.execute(pushed.values(changed_at=None, pushed_at=now))
        return len(rooms) == STEP

    async def forget(self, run: TimerRun) -> bool:
        """Delete rows of rooms without recent changes; returns whether there may be more."""
        is_old = sa.and_(CROWDS.c.changed_at.is_(None), CROWDS.c.pushed_at < self._clock() - _KEPT_MS)
        old = sa.select(CROWDS.c.room).where(is_old).limit(STEP)
        async with run.database.transaction() as connection:
            # The condition is repeated, because a row may have been marked while this statement waited for its lock.
            gone = await connection.execute(CROWDS.delete().where(CROWDS.c.room.in_(old), is_old))
        return gone.rowcount >= STEP


async def _read_crowds(connection: AsyncConnection, rooms: Sequence[str]) -> list[Push]:
    """The pushes with the counts of ``rooms``; none for a gone room."""
    online = await connection.execute(
        sa.select(MEMBERS.c.room, sa.func.count().label("online"))
        .join(PEOPLE, PEOPLE.c.user_id == MEMBERS.c.user_id)
        .where(MEMBERS.c.room.in_(rooms), PEOPLE.c.is_online)
        .group_by(MEMBERS.c.room)
    )
    online_in = {row.room: row.online for row in online}
    stream = sa.literal(STREAM_PREFIX).concat(ROOMS.c.room)
    counted = await connection.execute(
        sa.select(ROOMS.c.room, ROOMS.c.members, STREAMS.heads.c.head)
        .join(STREAMS.heads, STREAMS.heads.c.stream == stream)
        .where(ROOMS.c.room.in_(rooms))
    )
    found = [
        # Two statements count, and a member may leave between them.
        CrowdCounted(room=room, members=members, online=min(online_in.get(room, 0), members), seq=head)
        for room, members, head in counted
    ]
    return [to_group(stream_of(crowd.room), make("chat.crowd", crowd.model_dump())) for crowd in found]
