"""Undocumented names of aiosqlite that are used here, one test each.

A test that fails after an upgrade says what else fails. ``test_driver`` checks the bounds of the version.
"""

import asyncio
import contextlib
import inspect
import sqlite3
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiosqlite
import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from towpath.servicekit.storage.sqlite import engine, in_thread


@pytest.fixture
async def connection(tmp_path: Path) -> AsyncIterator[AsyncConnection]:
    """A connection with the SQL function ``thread()``, the id of the thread that runs the statement."""
    made = engine(f"sqlite+aiosqlite:///{tmp_path}/towpath.db")
    async with made.connect() as connection:
        driver = (await connection.get_raw_connection()).driver_connection
        await driver.create_function("thread", 0, threading.get_ident)  # type: ignore[union-attr]  # aiosqlite's own
        yield connection
    await made.dispose()


async def _thread(connection: AsyncConnection) -> Any:
    return await connection.scalar(sa.text("SELECT thread()"))


async def test_aiosqlite_runs_every_call_through_execute_which_runs_it_in_the_calling_thread(
    connection: AsyncConnection,
) -> None:
    # Else each statement changes threads four times, and storing a message takes ten times as long (ADR 13).
    assert await _thread(connection) == threading.get_ident()


async def test_statements_run_in_the_connections_own_thread_if_the_caller_wants_that(
    connection: AsyncConnection,
) -> None:
    # Else a long statement, such as a migration, blocks the event loop.
    async with in_thread(connection):
        assert await _thread(connection) != threading.get_ident()
    assert await _thread(connection) == threading.get_ident()


async def test_a_transaction_begins_in_the_calling_thread_unless_another_one_writes(
    connection: AsyncConnection, tmp_path: Path
) -> None:
    # A change of threads takes a millisecond on a busy machine; a wait for another writer would block the event loop.
    driver: Any = (await connection.get_raw_connection()).driver_connection
    begun: list[int] = []

    def note(sql: str) -> None:
        if sql.startswith("BEGIN"):
            begun.append(threading.get_ident())

    await driver.set_trace_callback(note)
    await connection.execute(sa.text("CREATE TABLE counters (value INTEGER)"))
    await connection.commit()
    assert begun == [threading.get_ident()]
    with contextlib.closing(sqlite3.connect(tmp_path / "towpath.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        waiting = asyncio.create_task(connection.execute(sa.text("INSERT INTO counters VALUES (1)")))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        other.execute("COMMIT")
        await waiting
    await connection.commit()
    assert begun[-1] != threading.get_ident()
    assert await connection.scalar(sa.text("PRAGMA busy_timeout")) == 10_000


async def test_the_thread_of_a_connection_ends_with_the_program(connection: AsyncConnection) -> None:
    # `_thread` is made a daemon. Else a program that is stopped while SQLite waits for a lock does not end.
    driver: Any = (await connection.get_raw_connection()).driver_connection
    assert driver._thread.is_alive()
    assert driver._thread.daemon


async def test_a_closed_connection_is_known_by_its_missing_sqlite_connection(tmp_path: Path) -> None:
    # `_connection` is None then. Else a statement on a closed connection fails inside sqlite3, with another error.
    assert "iter_chunk_size" in inspect.signature(aiosqlite.Connection.__init__).parameters
    driver = aiosqlite.Connection(lambda: sqlite3.connect(tmp_path / "a.db"), iter_chunk_size=64)
    async with driver:
        assert isinstance(driver._connection, sqlite3.Connection)
    assert driver._connection is None


async def test_an_opening_that_is_cancelled_ends_when_its_thread_has_opened_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Else the thread reports it to an event loop that may be closed by then.
    opens, may_open = threading.Event(), threading.Event()
    connect = sqlite3.connect

    def slow(*arguments: Any, **options: Any) -> Any:
        opens.set()
        may_open.wait(30)
        return connect(*arguments, **options)

    monkeypatch.setattr(sqlite3, "connect", slow)
    made = engine(f"sqlite+aiosqlite:///{tmp_path}/towpath.db")

    async def use() -> None:
        async with made.connect():
            pass

    using = asyncio.create_task(use())
    assert await asyncio.to_thread(opens.wait, 30)
    using.cancel()
    await asyncio.wait([using], timeout=0.05)
    assert not using.done()
    may_open.set()
    with pytest.raises(asyncio.CancelledError):
        await using
    await made.dispose()
