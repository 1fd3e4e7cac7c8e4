"""Retention: old rows are deleted in small steps, whatever the database does meanwhile."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Final

import sqlalchemy as sa
from structlog.testing import capture_logs

from towpath.protocol.envelope import now_ms
from towpath.servicekit import KitTables
from towpath.servicekit.storage.database import Database
from towpath.servicekit.storage.retention import STEP, Retention, keep_sweeping, sweep
from towpath.testkit.eventually import eventually

KIT: Final = KitTables.define(sa.MetaData(), "test")
HOUR: Final = 3600.0
RETENTION: Final[Retention] = {KIT.inbox: HOUR, KIT.streams.entries: 2 * HOUR}


async def put(database: Database, *, count: int, age: float, prefix: str = "m") -> None:
    """Store ``count`` outcomes and as many stream entries that are ``age`` seconds old."""
    at = now_ms() - int(age * 1000)
    outcomes = [
        {"sender": "ana", "msg_id": f"{prefix}-{n}", "outcome": "{}", "created_at": at} for n in range(count)
    ]
    entries = [{"stream": prefix, "seq": n, "envelope": "{}", "created_at": at} for n in range(1, count + 1)]
    async with database.transaction() as connection:
        await connection.execute(KIT.inbox.insert(), outcomes)
        await connection.execute(KIT.streams.entries.insert(), entries)


async def counts(database: Database) -> tuple[int, int]:
    async with database.reading() as connection:
        tables = (KIT.inbox, KIT.streams.entries)
        found = [await connection.scalar(sa.select(sa.func.count()).select_from(table)) for table in tables]
    return found[0] or 0, found[1] or 0


@contextlib.asynccontextmanager
async def sweeping(database: Database) -> AsyncIterator[None]:
    task = asyncio.create_task(keep_sweeping(database, RETENTION, pause=0.01))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_each_table_keeps_its_rows_for_its_own_time(empty_database: Database) -> None:
    await put(empty_database, count=3, age=1.5 * HOUR)
    await put(empty_database, count=2, age=0.5 * HOUR, prefix="young")
    assert not await sweep(empty_database, RETENTION)
    assert await counts(empty_database) == (2, 5)


async def test_a_step_deletes_a_bounded_number_of_rows_and_says_that_there_may_be_more(
    empty_database: Database,
) -> None:
    await put(empty_database, count=STEP + 1, age=3 * HOUR)
    assert await sweep(empty_database, RETENTION)
    assert await counts(empty_database) == (1, 1)
    assert not await sweep(empty_database, RETENTION)
    assert await counts(empty_database) == (0, 0)


async def test_the_sweep_goes_on_until_nothing_is_too_old(empty_database: Database) -> None:
    await put(empty_database, count=2 * STEP + 1, age=3 * HOUR)
    await put(empty_database, count=1, age=0, prefix="young")
    async with sweeping(empty_database):

        async def is_swept() -> bool:
            return await counts(empty_database) == (1, 1)

        await eventually(is_swept)


async def test_a_failure_of_the_database_does_not_end_the_sweep(empty_database: Database) -> None:
    async def rename(old: str, new: str) -> None:
        async with empty_database.transaction() as connection:
            await connection.execute(sa.text(f"ALTER TABLE {old} RENAME TO {new}"))

    await put(empty_database, count=1, age=3 * HOUR)
    await rename("test_inbox", "elsewhere")
    with capture_logs() as lines:
        async with sweeping(empty_database):
            await eventually(lambda: any(line["event"] == "sweep_failed" for line in lines))
            await rename("elsewhere", "test_inbox")

            async def is_swept() -> bool:
                return await counts(empty_database) == (0, 0)

            await eventually(is_swept)
