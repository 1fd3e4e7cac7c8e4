"""The relay as a program: between a real PostgreSQL and a real RabbitMQ, killed and stopped."""

import asyncio
import contextlib
import json
import os
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import aio_pika
import pytest

from towpath.publisher.outbox import outbox_sql
from towpath.publisher.relay.__main__ import main
from towpath.testkit.eventually import eventually
from towpath.testkit.processes import Process, Processes, free_port
from towpath.testkit.rabbitmq import Rabbit

from .conftest import Psql

StartRelay = Callable[..., Awaitable[Process]]


@dataclass
class Arrivals:
    """The events that arrived, as often as they did."""

    events: list[dict[str, Any]] = field(default_factory=list)
    senders: set[tuple[str | None, str | None]] = field(default_factory=set)

    @property
    def msg_ids(self) -> list[str]:
        return [event["msg_id"] for event in self.events]

    def first_of(self, aggregate: str) -> list[int]:
        """The numbers of an aggregate's events, each at its first arrival."""
        numbers = [event["data"]["n"] for event in self.events if event["data"]["of"] == aggregate]
        return list(dict.fromkeys(numbers))

    def have(self, numbers: dict[str, list[int]]) -> bool:
        """Whether all of them have arrived, in this order: RabbitMQ confirms an event before its delivery."""
        assert {of: self.first_of(of) for of in numbers} == numbers
        return True


@pytest.fixture
async def arrivals(rabbitmq: Rabbit) -> AsyncIterator[Arrivals]:
    """A consumer of ``order.*`` that outlives restarts of RabbitMQ."""
    arrived = Arrivals()

    async def take(message: aio_pika.abc.AbstractIncomingMessage) -> None:
        arrived.events.append(json.loads(message.body))
        arrived.senders.add((message.app_id, message.user_id))
        await message.ack()

    async def consume() -> None:
        # `connection.closed()` knows of a close by this program only, not of a loss.
        lost = asyncio.Event()
        async with await aio_pika.connect(rabbitmq.url) as connection:
            connection.close_callbacks.add(lambda *_: lost.set())
            channel = await connection.channel()
            exchange = await channel.declare_exchange("towpath.events", "topic", durable=True)
            queue = await channel.declare_queue("listener", durable=True)
            await queue.bind(exchange, "order.*")
            await queue.consume(take)
            ready.set()
            await lost.wait()

    async def keep_consuming() -> None:
        while True:
            with contextlib.suppress(*aio_pika.exceptions.CONNECTION_EXCEPTIONS):
                await consume()
            await asyncio.sleep(0.05)

    ready = asyncio.Event()
    consuming = asyncio.create_task(keep_consuming())
    await asyncio.wait_for(ready.wait(), 30)
    yield arrived
    consuming.cancel()
    await asyncio.wait([consuming])


@pytest.fixture
def start_relay(rabbitmq: Rabbit, psql: Psql, processes: Processes) -> StartRelay:
    """Starts a relay, with further settings."""

    async def start(**settings: Any) -> Process:
        chosen = {
            "amqp_url": rabbitmq.url,
            "database_url": psql.url,
            "relay_app_id": "shop",
            "reconnect_max": 0.5,
            **settings,
        }
        return await processes.start("towpath-relay", **chosen)

    return start


def publish(n: int, of: str, action: str = "order.paid", msg_id: str | None = None) -> str:
    """SQL that publishes one event of an aggregate."""
    data = json.dumps({"n": n, "of": of})
    own = f"'{msg_id}'" if msg_id else "NULL"
    return f"SELECT towpath_publish('{action}', '{data}', '{of}', {own});"


def left(psql: Psql) -> int:
    return int(psql.run("SELECT count(*) FROM towpath_outbox;"))


async def emptied(psql: Psql, *, timeout: float = 60.0) -> None:
    await eventually(lambda: left(psql) == 0, timeout=timeout, every=0.1)


async def metrics(relay: Process) -> dict[str, float]:
    def read() -> str:
        with urllib.request.urlopen(f"{relay.admin_url}/metrics", timeout=10) as answer:
            return str(answer.read().decode())

    lines = [line.split() for line in (await asyncio.to_thread(read)).splitlines() if line[0] != "#"]
    return {name: float(value) for name, value in lines}


async def test_a_commit_of_psql_arrives_and_a_rollback_does_not(
    shop: Psql, start_relay: StartRelay, arrivals: Arrivals
) -> None:
    # Faster than the poll, so it was the notification.
    relay = await start_relay(relay_poll=30)
    await eventually(lambda: "relay_active" in relay.output)
    msg_id = shop.run(
        """BEGIN; SELECT towpath_publish('order.paid', '{"price": 12345678901234567890.10}', 'order:o-1'); COMMIT;
        BEGIN; DO $$ BEGIN PERFORM towpath_publish('order.paid', '{}'); END $$; ROLLBACK;"""
    )
    await eventually(lambda: arrivals.events, timeout=20)
    await emptied(shop, timeout=10)
    assert arrivals.msg_ids == [msg_id]
    assert arrivals.senders == {("shop", "towpath")}
    event = arrivals.events[0]
    assert (event["action"], event["version"]) == ("order.paid", "1.0")
    assert (await metrics(relay))["towpath_relay_published_total"] == 1
    assert await relay.terminate() == 0


async def test_events_keep_their_order_though_the_broker_stops_and_the_relay_is_killed(
    shop: Psql, rabbitmq: Rabbit, start_relay: StartRelay, arrivals: Arrivals
) -> None:
    aggregates = [f"order:{number}" for number in range(20)]
    script = "".join(publish(n, of, msg_id=f"{of}.{n}") for n in range(20) for of in aggregates)
    first = await start_relay(relay_batch=50)
    shop.run(script)
    await eventually(lambda: len(arrivals.events) > 20)
    await first.kill()
    second = await start_relay(relay_batch=50)
    shop.run(publish(20, "order:0"))
    await rabbitmq.stop()
    await asyncio.sleep(0.2)  # the relay sees the loss, and tries in vain
    await rabbitmq.start()
    await emptied(shop)
    every = {of: list(range(21 if of == "order:0" else 20)) for of in aggregates}
    await eventually(lambda: arrivals.have(every))
    assert (await metrics(second))["towpath_relay_rows_held"] == 0


async def test_an_event_without_a_queue_is_parked_and_only_its_aggregate_waits(
    shop: Psql, start_relay: StartRelay, arrivals: Arrivals, processes: Processes
) -> None:
    await start_relay(relay_unroutable=0.5)
    shop.run(publish(1, "order:a") + publish(2, "order:a", "parcel.sent") + publish(3, "order:a"))
    shop.run("".join(publish(n, "order:b") for n in range(5)))
    await eventually(lambda: len(arrivals.events) == 6)
    await eventually(
        lambda: shop.run("SELECT count(*) FROM towpath_outbox WHERE parked_at IS NOT NULL;") == "1"
    )
    assert arrivals.first_of("order:a") == [1]
    assert left(shop) == 2

    async def command(*words: str) -> str:
        settings = {"database_url": shop.url}
        program = processes.launch("towpath-relay", *words, **settings)
        assert await program.ended() == 0, program.output
        return program.output

    row = json.loads(await command("parked"))
    assert row["action"] == "parcel.sent"
    assert "no queue is bound to 'parcel.sent'" in row["reason"]
    assert await command("drop", str(row["row"])) == f"1 dropped: {row['row']}\n"
    await eventually(lambda: arrivals.first_of("order:a") == [1, 3])
    await emptied(shop)
    assert await command("parked") == "No event is parked.\n"


async def test_a_parked_event_is_published_again_before_the_later_ones_of_its_aggregate(
    shop: Psql, rabbitmq: Rabbit, start_relay: StartRelay, arrivals: Arrivals, processes: Processes
) -> None:
    await start_relay(relay_unroutable=0.1)
    shop.run(publish(1, "order:a", "parcel.sent") + publish(2, "order:a"))
    await eventually(
        lambda: shop.run("SELECT count(*) FROM towpath_outbox WHERE parked_at IS NOT NULL;") == "1"
    )
    async with await aio_pika.connect(rabbitmq.url) as connection:
        channel = await connection.channel()
        queue = await channel.get_queue("listener", ensure=False)
        await queue.bind("towpath.events", "parcel.*")
    again = processes.launch("towpath-relay", "retry", "--all", database_url=shop.url)
    assert await again.ended() == 0
    await emptied(shop)
    await eventually(lambda: arrivals.have({"order:a": [1, 2]}))


async def test_a_row_that_no_function_made_is_parked_with_its_reason(
    shop: Psql, start_relay: StartRelay, arrivals: Arrivals
) -> None:
    await start_relay()
    shop.run(
        "INSERT INTO towpath_outbox (msg_id, action, data, bytes) VALUES ('a b', 'order.paid', '{}', 2);"
    )
    shop.run(publish(1, "order:a"))
    await eventually(lambda: arrivals.first_of("order:a") == [1])
    reason = "SELECT reason FROM towpath_outbox WHERE parked_at IS NOT NULL;"
    assert "not an event" in await eventually(lambda: shop.run(reason))


async def test_one_relay_is_active_and_another_takes_over(
    shop: Psql, start_relay: StartRelay, arrivals: Arrivals
) -> None:
    first = await start_relay(relay_poll=0.1)
    await eventually(lambda: "relay_active" in first.output)
    second = await start_relay(relay_poll=0.1)
    shop.run(publish(1, "order:a"))
    await eventually(lambda: arrivals.first_of("order:a") == [1])
    assert (await metrics(second))["towpath_relay_active"] == 0
    await first.kill()
    shop.run(publish(2, "order:a"))
    await eventually(lambda: arrivals.first_of("order:a") == [1, 2])
    await eventually(lambda: "relay_active" in second.output)


async def test_the_database_is_waited_for_when_its_connections_end(
    shop: Psql, start_relay: StartRelay, arrivals: Arrivals
) -> None:
    relay = await start_relay()
    shop.run(publish(1, "order:a"))
    await eventually(lambda: arrivals.first_of("order:a") == [1])
    shop.run(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
        "WHERE application_name = 'towpath-relay' AND datname = current_database();"
    )
    shop.run(publish(2, "order:a"))
    await eventually(lambda: arrivals.first_of("order:a") == [1, 2])
    assert relay.status is None


async def test_a_missing_outbox_ends_the_relay_with_the_command_that_makes_it(
    psql: Psql, rabbitmq: Rabbit, processes: Processes
) -> None:
    settings: dict[str, Any] = {
        "amqp_url": rabbitmq.url,
        "database_url": psql.url,
        "relay_app_id": "shop",
    }
    relay = processes.launch("towpath-relay", **settings)
    assert await relay.ended() == 78
    assert "the outbox is missing" in relay.output
    assert "`towpath-relay install`" in relay.output
    install = processes.launch("towpath-relay", "install", database_url=psql.url)
    assert await install.ended() == 0, install.output
    psql.run("SELECT towpath_publish('order.paid', '{}');")
    await processes.start("towpath-relay", **settings)


async def test_the_sql_is_printed_without_any_setting(processes: Processes) -> None:
    printed = processes.launch("towpath-relay", "sql", "--publisher", "shop")
    assert await printed.ended() == 0
    assert printed.output == outbox_sql(publishers=["shop"])


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({}, "TOWPATH_DATABASE_URL: is required"),
        ({"database_url": "postgresql:///x"}, "TOWPATH_RELAY_APP_ID: is required"),
        ({"database_url": "sqlite:///x.db"}, "TOWPATH_DATABASE_URL: must be postgresql://"),
        ({"database_url": "postgresql://h/d?sslmode=require"}, "use ssl=verify-full"),
        ({"database_url": "postgresql://h/d?ssl=require"}, "does not verify the server"),
        ({"database_url": "postgresql://h/d", "database_ca": "x"}, "add ?ssl=verify-full"),
        ({"amqp_url": "http://x"}, "TOWPATH_AMQP_URL: the broker's address is not amqp://"),
        ({"relay_batch": "no"}, "TOWPATH_RELAY_BATCH='no'"),
        ({"relay_poll": "nan"}, "TOWPATH_RELAY_POLL='nan'"),
        ({"amqp_ca": "/no/such.pem"}, "TOWPATH_AMQP_URL: certificates are named"),
    ],
)
def test_a_wrong_setting_ends_it_with_status_78_and_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], settings: dict[str, str], line: str
) -> None:
    is_missing = "required" in line
    chosen = (
        settings if is_missing else {"database_url": "postgresql:///x", "relay_app_id": "shop", **settings}
    )
    for name in list(os.environ):
        if name.startswith("TOWPATH_"):
            monkeypatch.delenv(name)
    for name, value in chosen.items():
        monkeypatch.setenv(f"TOWPATH_{name.upper()}", value)
    with pytest.raises(SystemExit) as ended:
        main([])
    printed = capsys.readouterr().err
    assert ended.value.code == 78
    assert line in printed
    assert printed.count("\n") == 1


async def test_a_broker_that_refuses_the_account_ends_it(
    shop: Psql, rabbitmq: Rabbit, processes: Processes
) -> None:
    url = rabbitmq.url.replace("://towpath:", "://towpath:x")
    relay = processes.launch("towpath-relay", amqp_url=url, database_url=shop.url, relay_app_id="shop")
    assert await relay.ended() == 77
    assert "TOWPATH_AMQP_URL: RabbitMQ does not accept this program" in relay.output


async def test_it_is_not_ready_without_its_broker(shop: Psql, processes: Processes) -> None:
    url = f"amqp://127.0.0.1:{free_port()}/"
    relay = processes.launch("towpath-relay", amqp_url=url, database_url=shop.url, relay_app_id="shop")

    async def failing() -> Any:
        def read() -> Any:
            try:
                urllib.request.urlopen(f"{relay.admin_url}/health/ready", timeout=10)
            except urllib.error.HTTPError as error:
                with error:
                    return json.load(error)
            except OSError:
                return None

        return await asyncio.to_thread(read)

    expected = {"status": "not ready", "failing": ["broker"]}

    async def is_waiting() -> bool:
        return bool(await failing() == expected)

    await eventually(is_waiting)
    assert await relay.terminate() == 0
