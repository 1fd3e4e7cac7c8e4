"""Events of a backend's own transactions, from SQL through the relay and RabbitMQ to the orders service."""

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import aio_pika
import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from towpath.orders.tables import ORDERS
from towpath.publisher.outbox import outbox_statements
from towpath.testkit.eventually import eventually
from towpath.testkit.processes import Process, Processes
from towpath.tools.rabbitmq_node import RabbitNode

from .postgres_server import PostgresServer
from .trial import Trial

#: The events of each order, in their order. Refunds add up, so one that is applied twice shows.
_STEPS: Final = ("created", "confirmed", "paid", "packed", "shipped", "delivered", *4 * ("refunded",))
_ORDERS: Final = 1_000
_EVENTS: Final = _ORDERS * len(_STEPS)
_WRITERS: Final = 4
#: MiB that the relay may need beyond what it has when it is idle.
_GROWTH: Final = 64
#: Of the listener: for a connect, and without an event until it connects again.
_LISTEN_SECONDS: Final = 5.0
#: A queue that keeps its order over a kill: the deliveries of a dead consumer are delivered first, and then the rest.
_IN_ORDER: Final[dict[str, Any]] = {"x-queue-type": "quorum", "x-single-active-consumer": True}
_PUBLISH: Final = sa.text("SELECT towpath_publish(:action, CAST(:data AS jsonb), :aggregate)")


@dataclass
class Listener:
    """All events that arrived, in the order in which they did: each order's steps, and the number of repetitions."""

    steps: dict[str, list[int]] = field(default_factory=dict)
    seen: set[str] = field(default_factory=set)
    repeated: int = 0

    def take(self, envelope: dict[str, Any]) -> None:
        """Note one event; a repeated ``msg_id`` is one that services do not apply again."""
        if envelope["msg_id"] in self.seen:
            self.repeated += 1
            return
        self.seen.add(envelope["msg_id"])
        data = envelope["data"]
        self.steps.setdefault(data["order_id"], []).append(data["revision"])

    @classmethod
    @contextlib.asynccontextmanager
    async def on(cls, url: str) -> AsyncIterator["Listener"]:
        """A consumer of a quorum queue that connects again after each loss."""
        listener, ready = cls(), asyncio.Event()

        async def take(message: aio_pika.abc.AbstractIncomingMessage) -> None:
            listener.take(json.loads(message.body))
            await message.ack()

        async def subscribe(connection: aio_pika.abc.AbstractConnection) -> None:
            channel = await connection.channel()
            await channel.set_qos(prefetch_count=100)
            exchange = await channel.declare_exchange("towpath.events", "topic", durable=True)
            queue = await channel.declare_queue("listener", durable=True, arguments=_IN_ORDER)
            await queue.bind(exchange, "order.#")
            await queue.consume(take)
            ready.set()

        async def consume() -> None:
            while True:
                with contextlib.suppress(aio_pika.exceptions.AMQPError, OSError, RuntimeError, TimeoutError):
                    async with await aio_pika.connect(url, timeout=_LISTEN_SECONDS) as connection:
                        async with asyncio.timeout(_LISTEN_SECONDS):
                            await subscribe(connection)
                        # A queue that is not there yet after a boot ends a consumer without a word.
                        heard, closed = -1, asyncio.ensure_future(connection.closed())
                        while not closed.done() and heard < len(listener.seen):
                            heard = len(listener.seen)
                            await asyncio.wait([closed], timeout=_LISTEN_SECONDS)
                await asyncio.sleep(0.1)  # before the next attempt to connect

        consuming = asyncio.create_task(consume())
        try:
            await asyncio.wait_for(ready.wait(), 120)
            yield listener
        finally:
            consuming.cancel()
            await asyncio.wait([consuming])


@pytest.fixture
async def shop(server: PostgresServer) -> AsyncIterator[AsyncEngine]:
    """The database of a backend, with an outbox."""
    engine = create_async_engine(server.create("shop").replace("postgresql://", "postgresql+asyncpg://"))
    try:
        async with engine.begin() as connection:
            for statement in outbox_statements():
                await connection.exec_driver_sql(statement)
        yield engine
    finally:
        await engine.dispose()


@pytest.mark.timeout(600)
async def test_events_of_transactions_are_applied_once_and_in_order(
    own_node: RabbitNode, shop: AsyncEngine, processes: Processes, tmp_path: Path, trial: Trial
) -> None:
    database = tmp_path / "orders.db"
    settings: dict[str, Any] = {"amqp_url": own_node.url(), "timeout": 120.0}
    await processes.start("towpath-orders", database_url=f"sqlite:///{database}", **settings)
    relays: list[Process] = []

    async def start_relay() -> None:
        url = shop.url.set(drivername="postgresql").render_as_string(hide_password=False)
        started = await processes.start(
            "towpath-relay", database_url=url, relay_app_id="shop", reconnect_max=1.0, **settings
        )
        relays.append(started)

    async def kill_relay() -> None:
        await relays[-1].kill()
        await start_relay()

    async def kill_broker() -> None:
        own_node.kill()
        await asyncio.sleep(1)  # an outage that the relay meets
        await asyncio.to_thread(own_node.boot)

    peaks: list[float] = []
    with trial.line(f"{_EVENTS:,} events of SQL; RabbitMQ killed twice, the relay killed twice"):
        async with Listener.on(own_node.url()) as listener:
            await start_relay()
            idle = _peak(relays[0])
            writing = asyncio.gather(*(_write(shop, writer) for writer in range(_WRITERS)))
            for share, strike in ((1, kill_relay), (2, kill_broker), (3, kill_relay), (4, kill_broker)):
                await eventually(lambda share=share: len(listener.seen) >= _EVENTS * share // 6, timeout=240)  # type: ignore[misc]  # a default of a lambda
                peaks.append(_peak(relays[-1]))
                await strike()
            await writing
            await eventually(lambda: len(listener.seen) == _EVENTS, timeout=240, every=0.2)
            peaks.append(_peak(relays[-1]))

            async def is_empty() -> bool:
                async with shop.connect() as connection:
                    left = await connection.scalar(sa.text("SELECT count(*) FROM towpath_outbox"))
                    return bool(left == 0)

            await eventually(is_empty, every=0.2)
            in_order = list(range(1, len(_STEPS) + 1))
            assert {order: steps for order, steps in listener.steps.items() if steps != in_order} == {}
            assert len(listener.steps) == _ORDERS

            async def wrong() -> list[Any]:
                return [row for row in await _orders(database) if tuple(row[1:]) != ("refunded", 4, 4_00)]

            async def are_right() -> bool:
                return len(await _orders(database)) == _ORDERS and await wrong() == []

            with contextlib.suppress(AssertionError):
                await eventually(are_right, timeout=240, every=1)
            assert await wrong() == []
            assert len(await _orders(database)) == _ORDERS
            grown = max(peaks) - idle
            trial.note(
                f"{listener.repeated} repeated; the relay had {max(peaks):.0f} MiB at most, {idle:.0f} idle"
            )
            assert grown < _GROWTH


async def _write(engine: AsyncEngine, writer: int) -> None:
    """One transaction for each step of ten orders."""
    for first in range(writer * 10, _ORDERS, _WRITERS * 10):
        for revision, step in enumerate(_STEPS, 1):
            async with engine.begin() as connection:
                for number in range(first, first + 10):
                    data = {"order_id": f"o-{number}", "user_id": f"user-{number % 50}", "revision": revision}
                    if step == "created":
                        data |= {"amount": "100.00", "currency": "EUR"}
                    if step == "refunded":
                        data |= {"amount": "1.00", "currency": "EUR"}
                    values = {
                        "action": f"order.{step}",
                        "data": json.dumps(data),
                        "aggregate": f"order:o-{number}",
                    }
                    await connection.execute(_PUBLISH, values)


async def _orders(database: Path) -> list[sa.Row[Any]]:
    engine = create_async_engine(f"sqlite+aiosqlite:///{database}")
    try:
        async with engine.connect() as connection:
            columns = ORDERS.c.order_id, ORDERS.c.status, ORDERS.c.refund_count, ORDERS.c.refunded
            return list(await connection.execute(sa.select(*columns)))
    finally:
        await engine.dispose()


def _peak(process: Process) -> float:
    """The most memory that a process has had, in MiB."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    found = re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
    assert found is not None
    return int(found[1]) / 1024
