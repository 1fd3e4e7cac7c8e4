"""Timers: run after run, whatever fails, and none while the broker is disconnected."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Final

import pytest
import sqlalchemy as sa

from towpath.protocol.envelope import Envelope, make, parse
from towpath.protocol.messages import split_batch
from towpath.protocol.routes import EVENTS, EXCHANGES, PUSH
from towpath.servicekit.broker.interface import (
    Binding,
    Broker,
    BrokerUnavailable,
    Delivery,
    Exchange,
    Inbox,
    Subscription,
    Topology,
)
from towpath.servicekit.broker.memory import MemoryHub
from towpath.servicekit.handling.outcome import to_group, to_user
from towpath.servicekit.handling.timers import BrokerUptime, NoOutbox, Timer, TimerRun, keep
from towpath.servicekit.messaging.publisher import Publisher
from towpath.servicekit.runtime.settings import ServiceSettings
from towpath.servicekit.runtime.telemetry import Telemetry
from towpath.servicekit.storage.database import Database
from towpath.servicekit.storage.outbox import OutboxTables
from towpath.servicekit.storage.relay import Relay
from towpath.testkit.eventually import eventually

METADATA: Final = sa.MetaData()
OUTBOX: Final = OutboxTables.define(METADATA, "test")
THINGS: Final = sa.Table(
    "things",
    METADATA,
    sa.Column("name", sa.String(20), primary_key=True),
    sa.Column("value", sa.BigInteger, nullable=False),
)
PATIENCE: Final = 30.0
SELDOM: Final = 3600.0
EARS: Final = Inbox(name="ears", bindings=[Binding(PUSH, "#"), Binding(EVENTS, "#")])


@pytest.fixture
async def database(empty_database: Database) -> Database:
    async with empty_database.transaction() as connection:
        await connection.run_sync(METADATA.create_all)
        await connection.execute(THINGS.insert(), {"name": "thing", "value": 0})
    return empty_database


@pytest.fixture
async def relay(database: Database, broker: Broker, telemetry: Telemetry) -> AsyncIterator[Relay]:
    """A relay that looks when it is woken, and never by itself."""
    await broker.declare(Topology([Exchange(name) for name in EXCHANGES]))
    settings = ServiceSettings(amqp_url="memory://", outbox_poll=SELDOM)
    async with (
        Publisher.open(broker, "test", settings, telemetry) as publisher,
        Relay.open(database, OUTBOX, publisher, settings, telemetry) as relay,
    ):
        yield relay


class Kept:
    """A timer that is kept, and what became of it.

    Attributes:
        turns: How many have begun.
    """

    def __init__(self, stop: asyncio.Event, task: "asyncio.Task[None]", turns: list[TimerRun]) -> None:
        self.stop = stop
        self.task = task
        self.turns = turns

    async def stopped(self) -> None:
        """Stop it, and wait for its end."""
        self.stop.set()
        async with asyncio.timeout(PATIENCE):
            await self.task


@pytest.fixture
async def keeping(database: Database, relay: Relay, broker: Broker) -> AsyncIterator[Callable[..., Kept]]:
    """Keeps a timer; its turns give what is left of ``results``, and then nothing more to do."""
    kept: list[Kept] = []

    def start(
        *results: bool | Exception, every: float = SELDOM, holding: asyncio.Event | None = None
    ) -> Kept:
        left, turns = list(results), list[TimerRun]()

        async def run(run: TimerRun) -> bool:
            turns.append(run)
            if holding is not None:
                await holding.wait()
            result = left.pop(0) if left else False
            if isinstance(result, Exception):
                raise result
            return result

        stop = asyncio.Event()
        keeper = keep(Timer("test", every, run), database, relay, BrokerUptime(broker), stop)
        kept.append(Kept(stop, asyncio.create_task(keeper), turns))
        return kept[-1]

    yield start
    for one in kept:
        await one.stopped()


Keeping = Callable[..., Kept]


async def test_a_run_with_more_work_is_followed_by_another_at_once(keeping: Keeping) -> None:
    kept = keeping(True, True, True, False)
    await eventually(lambda: len(kept.turns) == 4)
    await kept.stopped()
    assert len(kept.turns) == 4


async def test_a_timer_runs_periodically(keeping: Keeping) -> None:
    kept = keeping(every=0.01)
    await eventually(lambda: len(kept.turns) > 3)


async def test_a_failed_run_is_followed_by_another(keeping: Keeping) -> None:
    kept = keeping(ZeroDivisionError(), BrokerUnavailable("away"), OSError(), every=0.01)
    await eventually(lambda: len(kept.turns) > 4)
    assert not kept.task.done()


async def test_no_run_starts_while_the_broker_accepts_nothing(keeping: Keeping, hub: MemoryHub) -> None:
    kept = keeping(every=0.01)
    for leave, come_back in ((hub.block, hub.unblock), (hub.stop, hub.start)):
        await eventually(lambda: kept.turns and kept.turns[-1].connected_for > 0.3)
        leave()
        held = len(kept.turns)
        await asyncio.wait([kept.task], timeout=0.1)
        assert len(kept.turns) == held
        come_back()
        await eventually(lambda count=held: len(kept.turns) > count)  # type: ignore[misc]
        assert kept.turns[held].connected_for < kept.turns[held - 1].connected_for


async def test_on_stop_a_pause_ends_at_once(keeping: Keeping) -> None:
    kept = keeping()
    await eventually(lambda: kept.turns)
    await kept.stopped()


async def test_on_stop_the_current_run_may_finish_and_is_the_last(keeping: Keeping) -> None:
    holding = asyncio.Event()
    kept = keeping(True, holding=holding)
    await eventually(lambda: kept.turns)
    kept.stop.set()
    holding.set()
    await kept.stopped()
    assert len(kept.turns) == 1


async def test_on_stop_a_run_that_hangs_is_cancelled(keeping: Keeping) -> None:
    kept = keeping(holding=asyncio.Event())
    await eventually(lambda: kept.turns)
    await kept.stopped()


# Publishing


def numbered(number: int) -> Envelope:
    return make("test.numbered", {"number": number})


async def next_of(ears: Subscription) -> Delivery:
    async with asyncio.timeout(PATIENCE):
        return await anext(ears)


async def numbers(ears: Subscription, count: int) -> list[int]:
    """The next published numbers."""
    heard: list[int] = []
    while len(heard) < count:
        heard += [parse(item).data["number"] for item in split_batch((await next_of(ears)).body)]
    return heard


async def test_messages_are_published_in_order_as_soon_as_the_run_commits(
    database: Database, relay: Relay, broker: Broker
) -> None:
    run = TimerRun(database, relay, 1.0)
    async with broker.subscribe(EARS, prefetch=100) as ears:
        async with run.transaction() as connection:
            await run.publish(connection, [to_group("lobby", numbered(number)) for number in range(1000)])
        assert await numbers(ears, 1000) == list(range(1000))


async def test_pushes_and_events_are_published_to_their_receivers(
    database: Database, relay: Relay, broker: Broker
) -> None:
    run = TimerRun(database, relay, 1.0)
    async with broker.subscribe(EARS, prefetch=100) as ears:
        async with run.transaction() as connection:
            await run.publish(connection, [to_user("ana", numbered(1))], events=[numbered(2)])
        heard = [await next_of(ears), await next_of(ears)]
    assert sorted((delivery.exchange, delivery.routing_key) for delivery in heard) == [
        (EVENTS, "test.numbered"),
        (PUSH, "user.ana"),
    ]


async def test_messages_of_a_rolled_back_run_are_not_published(
    database: Database, relay: Relay, broker: Broker
) -> None:
    run = TimerRun(database, relay, 1.0)
    async with broker.subscribe(EARS, prefetch=100) as ears:
        async with run.transaction() as connection:
            await run.publish(connection, [to_group("lobby", numbered(1))])
            await connection.rollback()
        async with run.transaction() as connection:
            await run.publish(connection, [to_group("lobby", numbered(2))])
        assert await numbers(ears, 1) == [2]


async def test_a_run_holds_no_lock_while_the_broker_is_slow(
    database: Database, relay: Relay, broker: Broker, hub: MemoryHub
) -> None:
    change = THINGS.update().values(value=THINGS.c.value + 1)
    run = TimerRun(database, relay, 1.0)

    async def change_and_tell(number: int) -> None:
        async with asyncio.timeout(PATIENCE), run.transaction() as connection:
            await connection.execute(change)
            await run.publish(connection, [to_group("lobby", numbered(number))])

    async with broker.subscribe(EARS, prefetch=100) as ears:
        hub.hold_confirms()
        await change_and_tell(1)
        assert await numbers(ears, 1) == [1]  # and the relay does not know that the broker has it
        await change_and_tell(2)
        await change_and_tell(3)
        async with database.reading() as connection:
            assert (await connection.execute(sa.select(THINGS.c.value))).scalar_one() == 3
        assert ears.take_waiting(1) == []
        hub.release_confirms()
        assert await numbers(ears, 2) == [2, 3]


async def test_publishing_without_an_outbox_raises(database: Database) -> None:
    run = TimerRun(database, None, 1.0)
    async with run.transaction() as connection:
        with pytest.raises(NoOutbox, match="Storage"):
            await run.publish(connection, [to_group("lobby", numbered(1))])
