"""The ``postgres_url`` fixture, seen from SQLAlchemy."""

import os
import subprocess
import sys
import time
from pathlib import Path

from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from towpath.testkit.postgres import Postgres

OWNER = """
import time
from towpath.testkit.postgres import _on_this_machine

with _on_this_machine() as server:
    print(server.host, flush=True)
    time.sleep(600)
"""


async def run(url: str, *statements: str) -> list[object]:
    engine = create_async_engine(url)
    try:
        async with engine.begin() as connection:
            for statement in statements:
                result = await connection.execute(text(statement))
            return list(result.scalars()) if result.returns_rows else []
    finally:
        await engine.dispose()


async def test_a_test_gets_an_empty_database(postgres_url: str) -> None:
    assert postgres_url.startswith("postgresql+asyncpg://")
    assert await run(postgres_url, "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == [0]
    assert await run(
        postgres_url, "CREATE TABLE t (x int)", "INSERT INTO t VALUES (1)", "SELECT x FROM t"
    ) == [1]


async def test_two_databases_share_nothing_and_are_dropped(postgres: Postgres) -> None:
    names = "SELECT datname FROM pg_database WHERE datname LIKE 'test_%'"
    async with postgres.database() as one, postgres.database() as another:
        await run(one, "CREATE TABLE t (x int)")
        await run(another, "CREATE TABLE t (x int)")
        assert len(await run(one, names)) == 2
    assert await run(postgres.url("postgres"), names) == []


async def test_a_database_with_open_connections_is_dropped(postgres: Postgres) -> None:
    async with postgres.database() as url:
        engine = create_async_engine(url)
        connection = await engine.connect()
        await connection.execute(text("SELECT 1"))
    await connection.invalidate()
    await connection.close()
    await engine.dispose()


def test_a_server_ends_with_its_owner_even_if_that_is_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", OWNER], stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        folder = Path(owner.stdout.readline().strip())
        server = int((folder / "data" / "postmaster.pid").read_text().splitlines()[0])
        os.kill(server, 0)
        owner.kill()
    deadline = time.monotonic() + 30
    while folder.exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert not Path(f"/proc/{server}/cmdline").exists()
