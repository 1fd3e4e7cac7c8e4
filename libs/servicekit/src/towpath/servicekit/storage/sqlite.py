"""SQLite as Towpath uses it: durable, one writer at a time, and without a change of threads for each statement.

aiosqlite runs everything in a separate thread: four switches per statement, fifty per unit of work. On a busy machine
each switch waits for a processor, and storing a message took 35 ms instead of 3. Towpath's statements take
microseconds (they find their rows by an index, in pages that are in memory), so they run in the calling thread.
Only calls that block use the thread: waiting for another writer (``BEGIN IMMEDIATE``, if there is one), and for the
disk (``COMMIT``).
"""

import asyncio
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
#: Connections that an engine opens at most.
CONNECTIONS_MAX: Final = 4
_BEGIN_WRITING: Final = "BEGIN IMMEDIATE"
#: Errors that may pass, or that more disk space resolves: https://www.sqlite.org/rescode.html
LACKS: Final = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_READONLY,
}


def engine(url: str) -> AsyncEngine:
    """An engine whose transactions are writing ones; with the execution option ``towpath_reads`` they only read.

    Raises:
        ArgumentError: The URL cannot be read.
    """
    path = sa.make_url(url).database or ":memory:"

    async def connect() -> aiosqlite.Connection:
        return await _opened(
            _Inline(partial(sqlite3.connect, path, timeout=_WAIT_SECONDS, check_same_thread=False))
        )

    made = create_async_engine(
        url, async_creator=connect, pool_size=CONNECTIONS_MAX, max_overflow=0, hide_parameters=True
    )
    event.listen(made.sync_engine, "connect", _configure)
    event.listen(made.sync_engine, "begin", _begin)
    return made


async def _opened(connection: aiosqlite.Connection) -> aiosqlite.Connection:
    opening = asyncio.ensure_future(connection)
    try:
        return await asyncio.shield(opening)
    except asyncio.CancelledError:
        # Its thread opens the file all the same, and would report that to an event loop that may be closed by then.
        await asyncio.wait([opening])
        if not opening.cancelled() and opening.exception() is None:
            await connection.close()
        raise


class _Inline(aiosqlite.Connection):
    """A connection that uses its thread only for calls that may block.

    A call made while the thread is busy (its caller was cancelled) is queued in the thread.

    Attributes:
        in_thread: While it is not empty, every call runs in the thread.
    """

    def __init__(self, connector: Callable[[], sqlite3.Connection]) -> None:
        super().__init__(connector, iter_chunk_size=64)
        # A thread that waits for the disk must not stop the program from ending.
        self._thread.daemon = True
        self.in_thread: set[object] = set()

    async def _execute(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        # Three kinds of calls may block: `commit` (the disk), BEGIN IMMEDIATE (another writer), and any call behind
        # one that runs in the thread already.
        if not self.in_thread and fn.__name__ != "commit":
            if self._connection is None:
                raise ValueError("no active connection")
            if args[:1] != (_BEGIN_WRITING,):
                return fn(*args, **kwargs)
            try:
                return _without_waiting(self._connection, partial(fn, *args, **kwargs))
            except sqlite3.OperationalError as error:
                # The last byte is the kind of error: https://www.sqlite.org/rescode.html#extrc
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                    raise
        token = object()
        self.in_thread.add(token)

        def work() -> Any:
            try:
                return fn(*args, **kwargs)
            finally:
                self.in_thread.discard(token)

        return await super()._execute(work)  # type: ignore[no-untyped-call]  # aiosqlite's own


def _without_waiting(connection: sqlite3.Connection, call: Callable[[], Any]) -> Any:
    """Make a call that fails with ``SQLITE_BUSY`` where it would wait for another writer.

    https://www.sqlite.org/pragma.html#pragma_busy_timeout
    """
    connection.execute("PRAGMA busy_timeout=0")
    try:
        return call()
    finally:
        connection.execute(f"PRAGMA busy_timeout={_WAIT_SECONDS * 1000}")


@asynccontextmanager
async def in_thread(connection: AsyncConnection) -> AsyncIterator[None]:
    """Run every statement of ``connection`` in its thread meanwhile: a long one would block the event loop.

    Has no effect on a connection of another database.
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
    # The first switch to WAL needs an exclusive lock, and SQLite does not wait for it as it does elsewhere:
    # https://www.sqlite.org/wal.html#sometimes_queries_return_sqlite_busy_in_wal_mode
    for attempt in tenacity.Retrying(
        stop=tenacity.stop_after_delay(_WAIT_SECONDS),
        wait=tenacity.wait_random(0.005, 0.05),
        retry=tenacity.retry_if_exception_type(sqlite3.OperationalError),
        reraise=True,
    ):
        with attempt:
            cursor.execute("PRAGMA journal_mode=WAL")
    # In WAL mode NORMAL may lose the last commits when the machine loses power:
    # https://www.sqlite.org/pragma.html#pragma_synchronous
    cursor.execute("PRAGMA synchronous=FULL")
    # Off by default, and set per connection: https://www.sqlite.org/foreignkeys.html#fk_enable
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def _begin(connection: Connection) -> None:
    # https://www.sqlite.org/lang_transaction.html: a deferred writer could fail half-way with SQLITE_BUSY.
    reads = connection.get_execution_options().get("towpath_reads", False)
    connection.exec_driver_sql("BEGIN" if reads else _BEGIN_WRITING)
