"""Events of a backend's own transactions, from SQL through the relay and RabbitMQ to the orders service."""

import asyncio
import contextlib
import json
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

from .oracle import Verdict
from .postgres_server import PostgresServer
from .resources import peak_mib
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
_QUORUM: Final[dict[str, Any]] = {"x-queue-type": "quorum"}
#: A queue that keeps its order over a kill: the deliveries of a dead consumer are delivered first, and then the rest.
_IN_ORDER: Final[dict[str, Any]] = {**_QUORUM, "x-single-active-consumer": True}
_PUBLISH: Final = sa.text("SELECT towpath_publish(:action, CAST(:data AS jsonb), :aggregate)")


@dataclass
class Listener:
    """All events that arrived, in the order in which they did.

    Attributes:
        steps: The steps of each order.
        repeated: The number of repetitions; services do not apply a repeated ``msg_id`` again.
        late: The steps that came after a later one of their order, and whether RabbitMQ delivered them again.
    """

    steps: dict[str, list[int]] = field(default_factory=dict)
    seen: set[str] = field(default_factory=set)
    repeated: int = 0
    late: list[tuple[str, int, bool]] = field(default_factory=list)

    def take(self, envelope: dict[str, Any], *, redelivered: bool) -> None:
        """Note one event."""
        if envelope["msg_id"] in self.seen:
            self.repeated += 1
            return
        self.seen.add(envelope["msg_id"])
        order, step = envelope["data"]["order_id"], envelope["data"]["revision"]
        steps = self.steps.setdefault(order, [])
        if max(steps, default=0) > step:
            self.late.append((order, step, redelivered))
        steps.append(step)

    @classmethod
    @contextlib.asynccontextmanager
    async def on(cls, url: str, name: str, arguments: dict[str, Any]) -> AsyncIterator["Listener"]:
        """A consumer of a queue that connects again after each loss."""
        listener, ready = cls(), asyncio.Event()

        async def take(message: aio_pika.abc.AbstractIncomingMessage) -> None:
            listener.take(json.loads(message.body), redelivered=bool(message.redelivered))
            await message.ack()

        async def subscribe(connection: aio_pika.abc.AbstractConnection) -> None:
            channel = await connection.channel()
            await channel.set_qos(prefetch_count=100)
            exchange = await channel.declare_exchange("towpath.events", "topic", durable=True)
            queue = await channel.declare_queue(name, durable=True, arguments=arguments)
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


@pytest.mark.timeout(1200)
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
    with trial.line(f"{_EVENTS:,} events of SQL; RabbitMQ killed twice, the relay killed twice") as line:
        line.verdict = Verdict(operations=_EVENTS)
        url = own_node.url()
        async with (
            Listener.on(url, "listener", _IN_ORDER) as listener,
            Listener.on(url, "plain-listener", _QUORUM) as plain,
        ):
            await start_relay()
            idle = peak_mib(relays[0])
            writing = asyncio.gather(*(_write(shop, writer) for writer in range(_WRITERS)))
            for share, strike in ((1, kill_relay), (2, kill_broker), (3, kill_relay), (4, kill_broker)):
                await eventually(lambda share=share: len(listener.seen) >= _EVENTS * share // 6, timeout=480)  # type: ignore[misc]  # a default of a lambda
                peaks.append(peak_mib(relays[-1]))
                await strike()
            await writing
            await eventually(lambda: len(listener.seen) == _EVENTS, timeout=480, every=0.2)
            peaks.append(peak_mib(relays[-1]))

            async def is_empty() -> bool:
                async with shop.connect() as connection:
                    left = await connection.scalar(sa.text("SELECT count(*) FROM towpath_outbox"))
                    return bool(left == 0)

            await eventually(is_empty, every=0.2)
            in_order = list(range(1, len(_STEPS) + 1))
            assert {order: steps for order, steps in listener.steps.items() if steps != in_order} == {}
            assert len(listener.steps) == _ORDERS
            # Without a single active consumer the deliveries of a dead one may come after newer ones; no others do.
            await eventually(lambda: len(plain.seen) == _EVENTS, timeout=480, every=0.2)
            assert [late for late in plain.late if not late[2]] == []

            async def wrong() -> list[Any]:
                return [row for row in await _orders(database) if tuple(row[1:]) != ("refunded", 4, 4_00)]

            async def are_right() -> bool:
                return len(await _orders(database)) == _ORDERS and await wrong() == []

            with contextlib.suppress(AssertionError):
                await eventually(are_right, timeout=480, every=1)
            assert await wrong() == []
            assert len(await _orders(database)) == _ORDERS
            grown = max(peaks) - idle
            trial.note(
                f"{listener.repeated} repeated, {len(plain.late)} late redeliveries at a queue without a single "
                f"active consumer; the relay had {max(peaks):.0f} MiB at most, {idle:.0f} idle"
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
