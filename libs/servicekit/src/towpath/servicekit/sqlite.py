"""SQLite as Towpath uses it: durable, one writer at a time, and without a change of threads for each statement.

aiosqlite hands everything to a thread of its own: four times a statement, fifty times a unit of work. On a busy
machine each of them waits for its turn on a processor, and a message took 35 ms to be stored that is stored in 3.
A statement of ours takes microseconds (it finds its rows by an index, in pages that are in memory), so it runs where
it is called. Only what may wait goes to the thread: for another writer (``BEGIN IMMEDIATE``), and for the disk
(``COMMIT``).
"""

import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final

import aiosqlite
import sqlalchemy as sa
import tenacity
from sqlalchemy import Connection, event
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

_WAIT_SECONDS: Final = 10
_POOL_SIZE: Final = 4
_BEGIN_WRITING: Final = "BEGIN IMMEDIATE"
#: What ends with time, or when somebody makes room: https://www.sqlite.org/rescode.html
LACKS: Final = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_READONLY,
}


def engine(url: str) -> AsyncEngine:
    """An engine whose transactions write; with the execution option ``towpath_reads`` they only read.

    Raises:
        ArgumentError: The URL cannot be read.
    """
    path = sa.make_url(url).database or ":memory:"

    async def connect() -> aiosqlite.Connection:
        return await _Inline(partial(sqlite3.connect, path, timeout=_WAIT_SECONDS, check_same_thread=False))

    made = create_async_engine(
        url, async_creator=connect, pool_size=_POOL_SIZE, max_overflow=0, hide_parameters=True
    )
    event.listen(made.sync_engine, "connect", _configure)
    event.listen(made.sync_engine, "begin", _begin)
    return made


class _Inline(aiosqlite.Connection):
    """A connection that does in its thread only what may wait.

    What is called while the thread is at work (whoever waited for that was cancelled) waits for its turn there.

    Attributes:
        in_thread: While anything is in it, all is done in the thread.
    """

    def __init__(self, connector: Callable[[], sqlite3.Connection]) -> None:
        super().__init__(connector, iter_chunk_size=64)
        self._thread.daemon = True
        self.in_thread: set[object] = set()

    async def _execute(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if not self.in_thread and fn.__name__ != "commit" and args[:1] != (_BEGIN_WRITING,):
            if self._connection is None:
                raise ValueError("no active connection")
            return fn(*args, **kwargs)
        token = object()
        self.in_thread.add(token)

        def work() -> Any:
            try:
                return fn(*args, **kwargs)
            finally:
                self.in_thread.discard(token)

        return await super()._execute(work)  # type: ignore[no-untyped-call]  # aiosqlite's own


@asynccontextmanager
async def in_thread(connection: AsyncConnection) -> AsyncIterator[None]:
    """Run every statement of ``connection`` in its thread meanwhile, as one that takes long keeps the event loop.

    A connection of another database runs as ever.
    """
    driver = (await connection.get_raw_connection()).driver_connection
    if not isinstance(driver, _Inline):
        yield
        return
    token = object()
    driver.in_thread.add(token)
    try:
        yield
    finally:
        driver.in_thread.discard(token)


def _configure(dbapi_connection: Any, _: object) -> None:
    # SQLAlchemy emits BEGIN itself (below): the driver must not.
    dbapi_connection.isolation_level = None
    cursor = dbapi_connection.cursor()
    # The first to switch to WAL needs the file for itself, and for that SQLite does not wait as it does elsewhere:
    # https://www.sqlite.org/wal.html#sometimes_queries_return_sqlite_busy_in_wal_mode
    for attempt in tenacity.Retrying(
        stop=tenacity.stop_after_delay(_WAIT_SECONDS),
        wait=tenacity.wait_random(0.005, 0.05),
        retry=tenacity.retry_if_exception_type(sqlite3.OperationalError),
        reraise=True,
    ):
        with attempt:
            cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def _begin(connection: Connection) -> None:
    # https://www.sqlite.org/lang_transaction.html: a deferred writer could fail half-way with SQLITE_BUSY.
    reads = connection.get_execution_options().get("towpath_reads", False)
    connection.exec_driver_sql("BEGIN" if reads else _BEGIN_WRITING)
