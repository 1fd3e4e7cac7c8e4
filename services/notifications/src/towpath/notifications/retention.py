"""Retention of notifications: old ones are deleted, and count as read."""

from typing import Final

import sqlalchemy as sa

from towpath.notifications.repository import read_people, save_people
from towpath.notifications.tables import ITEMS, STREAMS
from towpath.protocol.envelope import now_ms
from towpath.protocol.notifications import stream_of
from towpath.servicekit import Streams, TimerRun

_STEP: Final = 500


async def forget(run: TimerRun, *, seconds: float) -> bool:
    """Delete the oldest notifications past their retention: one bounded step of a timer."""
    old = (
        sa.select(ITEMS.c.user_id, ITEMS.c.seq)
        .where(ITEMS.c.created_at < now_ms() - int(seconds * 1000))
        .order_by(ITEMS.c.created_at)
        .limit(_STEP)
    )
    async with run.database.reading() as connection:
        rows = (await connection.execute(old)).all()
    if not rows:
        return False
    last: dict[str, int] = {}
    for row in rows:
        last[row.user_id] = max(row.seq, last.get(row.user_id, 0))
    async with run.transaction() as connection:
        await Streams(connection, STREAMS).load(map(stream_of, last))
        people = await read_people(connection, last)
        for user, seq in last.items():
            people[user].read(seq)
        await save_people(connection, people.values())
        for user, seq in sorted(last.items()):
            await connection.execute(ITEMS.delete().where(ITEMS.c.user_id == user, ITEMS.c.seq <= seq))
    return len(rows) == _STEP
