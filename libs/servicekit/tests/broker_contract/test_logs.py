"""Logs: every reader reads them from the first message, and they stay; on each implementation of the broker."""

import asyncio
from contextlib import AsyncExitStack

import pytest

from towpath.servicekit.broker.interface import (
    Binding,
    Broker,
    Log,
    Message,
    Topology,
    TopologyMismatch,
)

from .contract import (
    END,
    PATIENCE,
    TOPICS,
    BrokerUnderTest,
    a_message,
    bodies,
    connected,
    take,
    take_and_ack,
)

LOG = Log(
    name="test.log",
    bindings=[Binding(TOPICS.name, "log.*")],
    max_bytes=20_000_000,
    segment_bytes=1_000_000,
    max_age=400,
)
ONLY_TOPICS = Topology([TOPICS])


async def write(broker: Broker, *names: str) -> None:
    for name in names:
        await broker.publish(TOPICS.name, "log.x", a_message(name, odd="header"), mandatory=True)


async def make(broker: Broker) -> None:
    await broker.declare(ONLY_TOPICS)
    async with broker.subscribe(LOG, prefetch=1):
        pass


async def test_each_reader_reads_a_log_from_its_first_message(broker: Broker, other: Broker) -> None:
    await make(broker)
    await write(broker, "one", "two")
    for reader in (broker, other, broker):
        async with reader.subscribe(LOG, prefetch=10) as subscription:
            assert bodies(await take_and_ack(subscription, 2)) == ["one", "two"]
    async with AsyncExitStack() as stack:
        both = [await stack.enter_async_context(one.subscribe(LOG, prefetch=10)) for one in (broker, other)]
        await write(broker, "three")
        for subscription in both:
            assert bodies(await take_and_ack(subscription, 3)) == ["one", "two", "three"]


async def test_a_delivery_of_a_log_has_what_was_published(broker: Broker) -> None:
    await make(broker)
    await write(broker, "one")
    async with broker.subscribe(LOG, prefetch=10) as subscription:
        [found] = await take_and_ack(subscription, 1)
    assert (found.exchange, found.routing_key, found.queue) == (TOPICS.name, "log.x", LOG.name)
    assert (found.headers["odd"], found.redelivered) == ("header", False)


async def test_a_reader_gets_at_most_prefetch_unsettled_messages_and_all_of_them_in_the_end(
    broker: Broker,
) -> None:
    await make(broker)
    names = [str(number) for number in range(100)]
    await write(broker, *names)
    async with broker.subscribe(LOG, prefetch=7) as subscription:
        read: list[str] = []
        while len(read) < len(names):
            taken = [*(await take(subscription, 1)), *subscription.take_waiting(100)]
            assert len(taken) <= 7
            read += bodies(taken)
            # In whatever way: a log gives nothing back and drops nothing.
            for delivery, settle in zip(taken, ("ack", "reject", "requeue") * 3, strict=False):
                getattr(delivery, settle)()
    assert read == names


async def test_a_log_survives_the_broker_and_is_read_again_after_a_reconnect(
    broker: Broker, server: BrokerUnderTest
) -> None:
    rebuilt = asyncio.Event()
    broker.on_rebuilt(rebuilt.set)
    await make(broker)
    await broker.publish(TOPICS.name, "log.x", Message(body=b'"one"', persistent=False), mandatory=True)
    async with broker.subscribe(LOG, prefetch=10) as subscription:
        assert bodies(await take_and_ack(subscription, 1)) == ["one"]
        await server.stop()
        await server.start()
        async with asyncio.timeout(PATIENCE):
            await rebuilt.wait()
        await write(broker, "two")
        assert bodies(await take_and_ack(subscription, 2)) == ["one", "two"]
    async with connected(server, "later") as later, later.subscribe(LOG, prefetch=10) as subscription:
        assert bodies(await take_and_ack(subscription, 2)) == ["one", "two"]


async def test_a_cancelled_reader_gets_nothing_more(broker: Broker) -> None:
    await make(broker)
    async with broker.subscribe(LOG, prefetch=10) as subscription:
        await subscription.cancel()
        await write(broker, "one")
        async with broker.subscribe(LOG, prefetch=10) as another:
            assert bodies(await take_and_ack(another, 1)) == ["one"]
        assert subscription.take_waiting(10) == []


async def test_many_programs_may_make_a_log_at_once(server: BrokerUnderTest) -> None:
    async with AsyncExitStack() as stack:
        programs = [await stack.enter_async_context(connected(server, f"{number}")) for number in range(5)]
        await programs[0].declare(ONLY_TOPICS)

        async def read_one(broker: Broker) -> list[str]:
            async with broker.subscribe(LOG, prefetch=10) as subscription:
                return bodies(await take_and_ack(subscription, 1))

        reading = [asyncio.create_task(read_one(program)) for program in programs]
        await make(programs[0])
        await write(programs[0], "one")
        assert await asyncio.gather(*reading) == [["one"]] * 5


async def test_a_queue_under_the_name_of_a_log_is_a_mismatch_that_names_it(broker: Broker) -> None:
    await make(broker)
    with pytest.raises(TopologyMismatch, match=LOG.name):
        async with broker.subscribe(
            Log(name=LOG.name, max_bytes=1_000_000, segment_bytes=1_000_000, max_age=1), prefetch=1
        ):
            pass


async def test_a_log_drops_its_oldest_messages_past_its_size(broker: Broker) -> None:
    small = Log(
        name="small",
        bindings=[Binding(TOPICS.name, "log.*")],
        max_bytes=2_000_000,
        segment_bytes=500_000,
        max_age=1,
    )
    await broker.declare(ONLY_TOPICS)
    async with broker.subscribe(small, prefetch=10):
        pass
    body = b'"' + b"x" * 100_000 + b'"'
    for _ in range(60):
        await broker.publish(TOPICS.name, "log.x", Message(body=body), mandatory=True)
    await broker.publish(TOPICS.name, "log.x", Message(body=END), mandatory=True)
    kept = 0
    async with broker.subscribe(small, prefetch=10) as subscription:
        while (await take_and_ack(subscription, 1))[0].body != END:
            kept += 1
    # Whole segments are dropped, and never the last one.
    assert 10 <= kept <= 30
