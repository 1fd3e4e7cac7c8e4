"""Retention: rows that are older than their table keeps them are deleted, in small steps.

Guarantees: the tables of a service stay bounded in time. A step is one short transaction of at most :data:`STEP` rows
per table, so no other work waits long for it; after a full step the next one follows at once, otherwise after
a minute. A database that cannot be reached delays the sweep and does not end it.
"""

import asyncio
from collections.abc import Mapping
from typing import Final, NoReturn

import sqlalchemy as sa
import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from towpath.protocol.envelope import now_ms
from towpath.servicekit.runtime.error_text import describe_error
from towpath.servicekit.storage.database import Database

log = structlog.get_logger(__name__)

#: Rows of one table that one step deletes at most: some milliseconds of SQLite's only writer.
STEP: Final = 500
_PAUSE: Final = 60.0
#: Between two steps other transactions get their turn.
_STEP_PAUSE: Final = 0.1

#: Seconds that the rows of each table are kept, by its column ``created_at``.
Retention = Mapping[sa.Table, float]


async def keep_sweeping(database: Database, retention: Retention, *, pause: float = _PAUSE) -> NoReturn:
    """Delete rows past their retention, until cancelled.

    Args:
        pause: Seconds between two looks for old rows.
    """
    more = False
    while True:
        await asyncio.sleep(_STEP_PAUSE if more else pause)
        try:
            more = await sweep(database, retention)
        except (sa.exc.SQLAlchemyError, OSError) as error:
            more = False
            log.warning("sweep_failed", error=describe_error(error, 300))


async def sweep(database: Database, retention: Retention) -> bool:
    """One step; returns whether there may be more old rows."""
    async with database.transaction() as connection:
        deleted = [
            await delete_old(connection, table, older_than_ms=int(seconds * 1000), limit=STEP)
            for table, seconds in retention.items()
        ]
    return max(deleted, default=0) >= STEP


async def delete_old(connection: AsyncConnection, table: sa.Table, *, older_than_ms: int, limit: int) -> int:
    """Delete at most ``limit`` rows with an older ``created_at``; returns the number of deleted rows."""
    keys = list(table.primary_key.columns)
    old = sa.select(*keys).where(table.c.created_at < now_ms() - older_than_ms).limit(limit).subquery()
    result = await connection.execute(table.delete().where(sa.tuple_(*keys).in_(sa.select(old))))
    return int(result.rowcount)
