"""The alerts on databases fire when the fault happens to a real PostgreSQL."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine

from tests.faults.postgres_server import PostgresServer
from towpath.servicekit.runtime.database_url import with_driver
from towpath.testkit.network import Proxy
from towpath.testkit.processes import Processes
from towpath.testkit.rabbitmq import Rabbit
from towpath.testkit.system import System

from .causes import again_and_again, gateway_and_chat
from .conftest import READY, Watch

pytestmark = pytest.mark.timeout(900)


@contextlib.asynccontextmanager
async def all_tables_locked(url: str) -> AsyncIterator[None]:
    """From entry to exit a transaction of an operator has an exclusive lock on every table."""
    engine = create_async_engine(with_driver(url))
    try:
        async with engine.begin() as connection:
            names = sa.text(
                "SELECT string_agg(quote_ident(tablename), ', ') FROM pg_tables WHERE schemaname = 'public'"
            )
            tables = (await connection.execute(names)).scalar_one()
            await connection.execute(sa.text(f"LOCK TABLE {tables} IN ACCESS EXCLUSIVE MODE"))
            yield
    finally:
        await engine.dispose()


async def test_a_database_that_is_away(
    watch: Watch, processes: Processes, rabbitmq: Rabbit, server: PostgresServer
) -> None:
    orders = await processes.start(
        "towpath-orders", amqp_url=rabbitmq.url, database_url=server.create("orders"), timeout=READY
    )
    prometheus = await watch(orders=orders)
    assert await prometheus.ever_fired() == set()
    server.kill()
    await prometheus.fires("DatabaseNotWritable", "ProgramNotReady", timeout=90)
    server.start()
    await prometheus.ends("DatabaseNotWritable", timeout=90)


async def test_a_database_that_is_far(
    watch: Watch, processes: Processes, rabbitmq: Rabbit, server: PostgresServer
) -> None:
    url = server.create("orders")
    async with Proxy.before(url) as proxy:
        orders = await processes.start(
            "towpath-orders", amqp_url=rabbitmq.url, database_url=proxy.instead_of(url), timeout=READY
        )
        prometheus = await watch(orders=orders)
        proxy.to_client.delay = 0.05
        await prometheus.fires("DatabasePoolWaits", timeout=90)


async def test_tables_that_are_locked(watch: Watch, parts: System, server: PostgresServer) -> None:
    url = server.create("chat")
    # Its probes wait as long as the rest does: each takes a connection.
    chat = await gateway_and_chat(
        parts, database_url=url, database_probe_interval=0.1, database_probe_timeout=60
    )
    prometheus = await watch(chat=chat)
    async with parts.connect("ana") as ana, parts.connect("ben") as ben, parts.connect("cleo") as cleo:
        async with all_tables_locked(url):

            async def ask() -> None:
                await cleo.send("chat.join", {"room": "tea"})
                await ana.send("chat.rooms", {})
                await asyncio.sleep(0.5)  # the second read begins its own round
                await ben.send("chat.rooms", {})
                await asyncio.sleep(1)  # the load between two looks

            async with again_and_again(ask):
                await prometheus.fires("DatabasePoolExhausted", timeout=90)
        await prometheus.ends("DatabasePoolExhausted")
