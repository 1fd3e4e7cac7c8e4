"""The relay publishes the waiting messages in order and normally once, through crashes and with a slow broker."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial
from itertools import count
from typing import Any, Final

import msgspec
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from towpath.protocol.messages import split_batch
from towpath.protocol.routes import EVENTS, EXCHANGES, PUSH
from towpath.servicekit.broker.interface import (
    Binding,
    BrokerBlocked,
    BrokerError,
    Exchange,
    Inbox,
    PublishRefused,
    Queue,
    Topology,
)
from towpath.servicekit.broker.memory import MemoryHub
from towpath.servicekit.messaging.lanes import LaneFull
from towpath.servicekit.messaging.publication import Publication
from towpath.servicekit.messaging.publisher import Publisher
from towpath.servicekit.runtime.settings import ServiceSettings
from towpath.servicekit.runtime.telemetry import Telemetry
from towpath.servicekit.storage import outbox
from towpath.servicekit.storage.database import Database
from towpath.servicekit.storage.outbox import OutboxTables
from towpath.servicekit.storage.relay import Relay
from towpath.testkit.eventually import eventually
from towpath.testkit.publishing import published

METADATA: Final = sa.MetaData()
OUTBOX: Final = OutboxTables.define(METADATA, "test")
SELDOM: Final = 3600.0
OFTEN: Final = 0.02
LONG: Final = 60.0
PATIENCE: Final = 30.0
EARS: Final = Inbox(name="ears", bindings=[Binding(PUSH, "#"), Binding(EVENTS, "#")])
LOBBY: Final = "group.lobby"
SMALL: Final = "test.small"

Open = Callable[[], AbstractAsyncContextManager[Database]]


class Replica:
    """One replica: its database, its publisher, and its relay, which the test flushes."""

    def __init__(self, database: Database, publisher: Publisher, telemetry: Telemetry, limits: Any) -> None:
        self.database = database
        self.telemetry = telemetry
        self.publisher = publisher
        self._settings = ServiceSettings(amqp_url="memory://", **limits)
        self.relay = self._made()

    def running(self, *, lease: float = LONG, poll: float = SELDOM) -> AbstractAsyncContextManager[Relay]:
        """A running relay that polls every ``poll`` seconds."""
        chosen = self._settings.model_copy(update={"outbox_poll": poll})
        return Relay.open(self.database, OUTBOX, self.publisher, chosen, self.telemetry, lease=lease)

    def dying(self, *, lease: float) -> Relay:
        """Another relay, of a program that will be killed."""
        return self._made(lease=lease)

    async def put(self, *outgoing: Publication) -> None:
        """Commit ``outgoing`` without waking a relay."""
        async with self.database.transaction() as connection:
            await outbox.put(connection, OUTBOX, outgoing)

    async def waiting(self) -> int:
        async with self.database.reading() as connection:
            return await outbox.count(connection, OUTBOX)

    def _made(self, *, lease: float = LONG) -> Relay:
        return Relay(self.database, OUTBOX, self.publisher, self._settings, self.telemetry, lease=lease)


class House:
    """Replicas of a service on one broker and one database, and a listener to all that they publish."""

    def __init__(self, hub: MemoryHub, open_database: Open) -> None:
        self.hub = hub
        self.heard: list[tuple[str, int]] = []
        self._open_database = open_database
        self._numbers = count()

    @asynccontextmanager
    async def replica(self, **limits: Any) -> AsyncIterator[Replica]:
        settings = ServiceSettings(amqp_url="memory://", **limits)
        async with (
            self._open_database() as database,
            Telemetry.open("test", settings) as telemetry,
            self.hub.connect(name=f"replica-{next(self._numbers)}") as broker,
            Publisher.open(broker, "test", settings, telemetry) as publisher,
        ):
            yield Replica(database, publisher, telemetry, limits)

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        async with self.hub.connect(name="listener") as broker:
            await broker.declare(Topology([Exchange(name) for name in EXCHANGES]))
            async with broker.subscribe(EARS, prefetch=1_000_000) as ears:

                async def listen() -> None:
                    async for delivery in ears:
                        for item in split_batch(delivery.body):
                            self.heard.append((delivery.routing_key, msgspec.json.decode(item)["number"]))
                        delivery.ack()

                listening = asyncio.create_task(listen())
                yield
            await listening

    def published(self, key: str = LOBBY) -> list[int]:
        """The numbers that were published with one routing key."""
        return [number for of_key, number in self.heard if of_key == key]

    async def hears(self, numbers: Sequence[int], key: str = LOBBY) -> None:
        await eventually(lambda: self.published(key) == list(numbers))


@pytest.fixture
async def house(hub: MemoryHub, open_empty_database: Open) -> AsyncIterator[House]:
    async with open_empty_database() as database, database.transaction() as connection:
        await connection.run_sync(METADATA.create_all)
    house = House(hub, open_empty_database)
    async with house.listening():
        yield house


@pytest.fixture
async def replica(house: House) -> AsyncIterator[Replica]:
    async with house.replica() as replica:
        yield replica


@pytest.fixture
async def other(house: House) -> AsyncIterator[Replica]:
    async with house.replica() as replica:
        yield replica


def a_push(number: int, key: str = LOBBY, exchange: str = PUSH, size: int = 0) -> Publication:
    item = msgspec.json.encode({"number": number, "more": "x" * size})
    return Publication(exchange, key, msgspec.Raw(item))


def an_event(number: int, size: int = 0) -> Publication:
    return a_push(number, SMALL, EVENTS, size)


Take = Callable[[], Awaitable[list[int]]]


@asynccontextmanager
async def a_small_queue(house: House) -> AsyncIterator[Take]:
    """Another service, whose queue of events is full with one message; yields what takes one from there."""
    small = Queue(name="small", bindings=[Binding(EVENTS, SMALL)], max_length=1)
    async with house.hub.connect(name="another service") as broker:
        await broker.declare(Topology(queues=[small]))

        async def take() -> list[int]:
            async with broker.subscribe(small, prefetch=1) as work, asyncio.timeout(PATIENCE):
                message = await anext(work)
                message.ack()
            return [msgspec.json.decode(item)["number"] for item in split_batch(message.body)]

        yield take


def last_publishes(numbers: Sequence[int]) -> list[int]:
    """Each number at the position of its last publish."""
    return sorted(set(numbers), key=lambda number: max(i for i, one in enumerate(numbers) if one == number))


# Publishing


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 900)), max_size=30))
@settings(
    max_examples=25,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    deadline=None,
)
async def test_each_key_is_published_in_order_and_once(house: House, pushes: list[tuple[str, int]]) -> None:
    house.heard.clear()
    async with house.replica(batch_max_items=4, batch_max_bytes=1024, lane_max_items=3) as replica:
        await replica.put(
            *(a_push(number, f"user.{key}", size=size) for number, (key, size) in enumerate(pushes))
        )
        assert await replica.relay.flush()
        assert await replica.waiting() == 0
    for key in "abc":
        numbers = [number for number, (of_key, _) in enumerate(pushes) if of_key == key]
        await house.hears(numbers, f"user.{key}")


async def test_pushes_and_events_are_published_to_their_exchanges(house: House, replica: Replica) -> None:
    await replica.put(a_push(1), a_push(2, "order.paid", EVENTS))
    assert await replica.relay.flush()
    await house.hears([1])
    await house.hears([2], "order.paid")


async def test_after_a_commit_of_this_process_it_publishes_at_once(house: House, replica: Replica) -> None:
    async with replica.running(poll=SELDOM) as relay:
        for number in range(3):
            await replica.put(a_push(number))
            relay.wake()
            await house.hears(range(number + 1))


async def test_messages_of_a_killed_replica_are_published_by_another(
    house: House, replica: Replica, other: Replica
) -> None:
    async with replica.running(poll=OFTEN):
        await other.put(a_push(1), a_push(2))
        await house.hears([1, 2])


async def test_messages_from_before_the_start_are_published_at_the_start(
    house: House, replica: Replica
) -> None:
    await replica.put(a_push(1))
    async with replica.running(poll=SELDOM):
        await house.hears([1])


async def test_waiting_messages_are_published_on_stop(house: House, replica: Replica) -> None:
    async with replica.running(poll=SELDOM) as relay:
        await replica.put(a_push(1))
        relay.wake()
    await house.hears([1])
    assert await replica.waiting() == 0


async def test_a_metric_counts_the_waiting_messages(house: House, replica: Replica) -> None:
    house.hub.block()
    await replica.put(a_push(1), a_push(2))
    with pytest.raises(BrokerBlocked):
        await replica.relay.flush()
    assert b"outbox_waiting 2.0" in replica.telemetry.exposition()
    house.hub.unblock()
    assert await replica.relay.flush()
    assert b"outbox_waiting 0.0" in replica.telemetry.exposition()


# A broker that is slow, or away


@pytest.mark.parametrize("fault", ["blocked", "away"])
async def test_messages_that_wait_for_the_broker_are_published_in_order_once_it_is_back(
    house: House, replica: Replica, fault: str
) -> None:
    leave, come_back = {
        "blocked": (house.hub.block, house.hub.unblock),
        "away": (house.hub.stop, house.hub.start),
    }[fault]
    leave()
    async with replica.running() as relay:
        for number in range(5):
            await replica.put(a_push(number))
            relay.wake()
        assert house.published() == []
        assert await replica.waiting() == 5
        come_back()
        await house.hears(range(5))


async def test_messages_unconfirmed_by_a_lost_broker_are_published_again(
    house: House, replica: Replica
) -> None:
    await replica.put(*map(a_push, range(5)))
    house.hub.hold_confirms()
    async with replica.running(poll=SELDOM):
        await house.hears(range(5))
        house.hub.stop()
        house.hub.release_confirms()
        house.hub.start()
        await house.hears([*range(5), *range(5)])

        async def is_empty() -> bool:
            return await replica.waiting() == 0

        await eventually(is_empty)


async def test_a_relay_that_stops_without_a_broker_leaves_the_messages_to_the_next(
    house: House, replica: Replica, other: Replica
) -> None:
    house.hub.block()
    async with asyncio.timeout(PATIENCE), replica.running() as relay:
        await replica.put(a_push(1))
        relay.wake()
    house.hub.unblock()
    assert await other.relay.flush()
    await house.hears([1])


async def test_only_the_relay_waits_for_a_slow_broker(house: House, replica: Replica, other: Replica) -> None:
    house.hub.hold_confirms()
    async with replica.running(poll=SELDOM) as relay:
        await replica.put(a_push(1))
        relay.wake()
        await house.hears([1])
        async with asyncio.timeout(PATIENCE):
            for writer in (replica, other):
                async with (
                    writer.database.transaction() as connection
                ):  # even what the relay has in hand is free
                    for table in (OUTBOX.items, OUTBOX.lease):
                        assert (await connection.execute(sa.select(table).with_for_update())).all()
                    await outbox.put(connection, OUTBOX, [a_push(2)])
        assert house.published() == [1]
        house.hub.release_confirms()
        await house.hears([1, 2, 2])


async def test_of_a_thousand_keys_a_few_are_published_at_a_time_so_that_an_answer_is_not_behind_them(
    house: House, replica: Replica
) -> None:
    await replica.put(*(a_push(number, f"group.room-{number}") for number in range(1000)))
    house.hub.hold_confirms()
    flushing = asyncio.create_task(replica.relay.flush())
    await eventually(lambda: house.heard)
    answer = published(replica.publisher, a_push(-1, "connection.gw-1"))
    await house.hears([-1], "connection.gw-1")
    assert len(house.heard) <= 50 + 1
    house.hub.release_confirms()
    await flushing
    await answer
    await eventually(lambda: len(house.heard) == 1001)


async def test_a_refused_key_delays_no_other_and_is_published_when_there_is_room(house: House) -> None:
    async with house.replica(batch_max_items=3) as replica, a_small_queue(house) as take:
        await published(replica.publisher, an_event(0))
        await replica.put(an_event(1), *map(a_push, range(10)), an_event(2))
        with pytest.raises(PublishRefused):
            await replica.relay.flush()
        await house.hears(range(10))
        assert await replica.waiting() == 2
        assert await take() == [0]
        assert await replica.relay.flush()
        assert await take() == [1, 2]


async def test_messages_behind_a_refused_one_are_published_again_after_it(house: House) -> None:
    probes = count()
    async with (
        house.replica(batch_max_items=3, lane_max_bytes=2000) as replica,
        a_small_queue(house) as take,
    ):

        def is_full() -> bool:
            """Whether the lanes are full, so that no more is accepted; accepted items do no harm."""
            try:
                published(replica.publisher, a_push(0, f"test.probe.{next(probes)}", EVENTS, size=200))
            except LaneFull:
                return True
            return False

        # Another relay has one in flight and one behind it, with which the first two of ours share a batch.
        house.hub.hold_confirms()
        others = [published(replica.publisher, an_event(-2))]
        await house.hears([-2], SMALL)
        others.append(published(replica.publisher, an_event(-1)))
        await replica.put(*(an_event(number, size=580) for number in (1, 2, 3)))
        flushing = asyncio.create_task(replica.relay.flush())
        await eventually(is_full)
        house.hub.release_confirms()
        house.hub.hold_confirms()
        await eventually(lambda: not is_full())  # that batch is on its way, and will be refused
        assert await take() == [-2]
        house.hub.release_confirms()
        with pytest.raises(PublishRefused):
            await flushing
        assert await take() == [3]
        assert await replica.relay.flush()
        assert await take() == [1, 2, 3]
        await asyncio.gather(*others, return_exceptions=True)


async def test_a_small_message_does_not_overtake_one_that_is_too_large_for_now(house: House) -> None:
    async with house.replica(lane_max_bytes=1024) as replica:
        house.hub.hold_confirms()
        others = [published(replica.publisher, a_push(-2))]
        await house.hears([-2])
        others.append(
            published(replica.publisher, a_push(-1, size=700))
        )  # it waits for the confirm of the first
        await replica.put(a_push(1, size=500), a_push(2))
        with pytest.raises(LaneFull):
            await replica.relay.flush()
        house.hub.release_confirms()
        await asyncio.gather(*others)
        assert await replica.relay.flush()
        await house.hears([-2, -1, 1, 2])


async def test_a_failure_of_the_database_does_not_end_the_relay(house: House, replica: Replica) -> None:
    async def rename(old: str, new: str) -> None:
        async with replica.database.transaction() as connection:
            await connection.execute(sa.text(f"ALTER TABLE {old} RENAME TO {new}"))

    async with replica.running(poll=OFTEN):
        await rename(OUTBOX.items.name, "elsewhere")
        with pytest.raises(sa.exc.DBAPIError):
            await replica.relay.flush()
        await rename("elsewhere", OUTBOX.items.name)
        await replica.put(a_push(1))
        await house.hears([1])


# Several replicas


async def test_replicas_publish_each_message_once_and_in_order(house: House) -> None:
    count, replicas = 40, 3
    async with AsyncExitStack() as stack:

        async def write(name: str) -> None:
            replica = await stack.enter_async_context(house.replica(batch_max_items=7))
            relay = await stack.enter_async_context(replica.running(poll=OFTEN))
            for number in range(count):
                await replica.put(a_push(number, f"user.{name}"), a_push(number))
                relay.wake()

        names = [f"writer-{number}" for number in range(replicas)]
        await asyncio.gather(*map(write, names))
        for name in names:
            await house.hears(range(count), f"user.{name}")
        await eventually(lambda: len(house.published()) >= count * replicas)
    assert sorted(house.published()) == sorted([*range(count)] * replicas)


async def test_another_replica_takes_over_when_the_lease_of_a_dead_one_has_expired(
    house: House, replica: Replica, other: Replica
) -> None:
    await replica.put(a_push(1), a_push(2))
    house.hub.hold_confirms()
    dying = asyncio.create_task(replica.dying(lease=0.5).flush())
    await house.hears([1, 2])
    assert await other.relay.flush() is False
    dying.cancel()  # between the publish and its confirm
    await asyncio.wait([dying])
    house.hub.release_confirms()
    await eventually(other.relay.flush)
    await house.hears([1, 2, 1, 2])
    assert await other.waiting() == 0


async def test_the_lease_is_extended_during_a_long_wait_for_the_broker(
    house: House, replica: Replica, other: Replica
) -> None:
    async def held_until() -> int:
        async with other.database.reading() as connection:
            return int((await connection.execute(sa.select(OUTBOX.lease.c.held_until))).scalar_one())

    await replica.put(a_push(1))
    house.hub.hold_confirms()
    slow = asyncio.create_task(replica.dying(lease=1.5).flush())
    await house.hears([1])
    taken = await held_until()

    async def is_kept_for_longer() -> bool:
        assert await other.relay.flush() is False
        return await held_until() > taken + 1500

    await eventually(is_kept_for_longer)
    house.hub.release_confirms()
    assert await slow
    assert await other.relay.flush()
    assert house.published() == [1]


async def test_the_lease_is_extended_over_the_parts_of_a_step_though_each_is_short(
    house: House, replica: Replica, other: Replica
) -> None:
    await replica.put(*(a_push(number, f"group.room-{number}") for number in range(250)))
    house.hub.hold_confirms()
    slow = asyncio.create_task(replica.dying(lease=1.5).flush())

    def has_heard(number: int) -> bool:
        return len(house.heard) == number

    for part in range(1, 6):
        await eventually(partial(has_heard, 50 * part))
        await asyncio.sleep(0.4)  # less than a third of the lease; all of them are more than the lease
        assert await other.relay.flush() is False
        house.hub.release_confirms()
        house.hub.hold_confirms()
    house.hub.release_confirms()
    assert await slow
    assert len(house.heard) == 250


async def test_a_relay_that_was_frozen_publishes_no_further_part_of_its_step(
    house: House, replica: Replica, other: Replica
) -> None:
    await replica.put(*(a_push(number, f"group.room-{number}") for number in range(100)))
    house.hub.hold_confirms()
    frozen = asyncio.create_task(replica.dying(lease=0.6).flush())
    await eventually(lambda: len(house.heard) == 50)
    time.sleep(0.8)  # noqa: ASYNC251  # the whole process is frozen for longer than its lease
    house.hub.confirming = True  # its own confirms are still on the way
    assert await other.relay.flush()
    house.hub.release_confirms()
    assert await frozen
    await eventually(lambda: len(house.heard) == 50 + 100)


async def test_a_relay_that_was_frozen_deletes_no_unpublished_message(
    house: House, replica: Replica, other: Replica
) -> None:
    await replica.put(a_push(1))
    house.hub.hold_confirms()
    frozen = asyncio.create_task(replica.dying(lease=LONG).flush())
    await house.hears([1])
    async with other.database.transaction() as connection:  # its lease is over
        await connection.execute(OUTBOX.lease.delete())
    house.hub.confirming = True  # but its own confirm is still on the way
    assert await other.relay.flush()
    house.hub.block()
    await other.put(a_push(2))
    house.hub.release_confirms()
    with pytest.raises(BrokerBlocked):
        await frozen
    assert await other.waiting() == 1
    house.hub.unblock()
    assert await other.relay.flush()
    await house.hears([1, 1, 2])


async def test_the_last_publish_of_each_message_is_in_order_whatever_fails(house: House) -> None:
    total = 60
    async with (
        house.replica(batch_max_items=5) as one,
        house.replica(batch_max_items=5) as two,
        one.running(poll=OFTEN),
        two.running(poll=OFTEN) as relay,
    ):
        for number in range(total):
            await (one, two)[number % 2].put(a_push(number))
            relay.wake()
            match number % 20:
                case 5:
                    house.hub.stop()
                case 9:
                    house.hub.start()
                case 12:
                    house.hub.block()
                case 16:
                    house.hub.unblock()
                case 17:
                    house.hub.hold_confirms()
                case 19:
                    house.hub.release_confirms()
        await eventually(lambda: set(house.published()) == set(range(total)), timeout=30)
    assert last_publishes(house.published()) == list(range(total))


async def test_flush_raises_if_the_broker_accepts_nothing(house: House, replica: Replica) -> None:
    house.hub.stop()
    await replica.put(a_push(1))
    with pytest.raises(BrokerError):
        await replica.relay.flush()
    house.hub.start()


async def test_the_age_of_the_oldest_message_is_shown_until_it_is_published(
    house: House, replica: Replica
) -> None:
    assert lag_of(replica) == 0
    house.hub.block()
    await replica.put(a_push(1))
    with pytest.raises(BrokerError):
        await replica.relay.flush()
    first = lag_of(replica)
    await eventually(lambda: lag_of(replica) > max(first, 0))
    house.hub.unblock()
    await replica.relay.flush()
    assert lag_of(replica) == 0


def lag_of(replica: Replica) -> float:
    """The metric ``outbox_lag_seconds``; two relays of one program share it, so the last one made counts."""
    lines = replica.telemetry.exposition().decode().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith("outbox_lag_seconds "))
