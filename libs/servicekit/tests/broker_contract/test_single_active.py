"""Single active consumers, and how one takes over from another; on each implementation of the broker."""

from contextlib import AsyncExitStack
from typing import Final

from towpath.servicekit.broker.interface import (
    Broker,
    Queue,
)

from .contract import BrokerUnderTest, bodies, bound, connected, publish_all, take, take_and_ack

ORDERED: Final = Queue(name="test.ordered", single_active=True)


async def test_only_the_first_consumer_of_a_single_active_queue_gets_deliveries(
    broker: Broker, other: Broker
) -> None:
    await broker.declare(bound(ORDERED))
    async with (
        broker.subscribe(ORDERED, prefetch=2) as active,
        other.subscribe(ORDERED, prefetch=2) as standby,
    ):
        await publish_all(broker, ORDERED, "one", "two", "three", "four")
        taken = await take_and_ack(active, 2)
        taken += await take_and_ack(active, 2)
        assert bodies(taken) == ["one", "two", "three", "four"]
        assert standby.take_waiting(10) == []


async def test_of_a_single_active_queue_only_the_active_consumer_is_counted(
    broker: Broker, other: Broker
) -> None:
    await broker.declare(bound(ORDERED))
    assert await broker.consumers(ORDERED.name) == {ORDERED.name: 0}
    async with broker.subscribe(ORDERED, prefetch=2), other.subscribe(ORDERED, prefetch=2):
        assert await broker.consumers(ORDERED.name) == {ORDERED.name: 1}


async def test_the_next_consumer_of_a_single_active_queue_goes_on_where_the_first_left(
    server: BrokerUnderTest, other: Broker
) -> None:
    async with AsyncExitStack() as first:
        broker = await first.enter_async_context(connected(server, "first"))
        await broker.declare(bound(ORDERED))
        active = await first.enter_async_context(broker.subscribe(ORDERED, prefetch=3))
        async with other.subscribe(ORDERED, prefetch=10) as standby:
            await publish_all(other, ORDERED, "one", "two", "three", "four", "five")
            (await take(active, 3))[0].ack()
            await first.aclose()
            await publish_all(other, ORDERED, "six")
            taken = await take_and_ack(standby, 5)
    assert bodies(taken) == ["two", "three", "four", "five", "six"]
    assert [delivery.redelivered for delivery in taken[:2]] == [True, True]


async def test_a_consumer_that_leaves_a_single_active_queue_hands_it_over(
    broker: Broker, other: Broker
) -> None:
    await broker.declare(bound(ORDERED))
    async with other.subscribe(ORDERED, prefetch=10) as first:
        await publish_all(broker, ORDERED, "one", "two")
        await take_and_ack(first, 1)
        async with broker.subscribe(ORDERED, prefetch=10) as second:
            await take_and_ack(first, 1)
            await publish_all(broker, ORDERED, "three")
            assert bodies(await take_and_ack(first, 1)) == ["three"]
            assert second.take_waiting(10) == []
    async with broker.subscribe(ORDERED, prefetch=10) as second:
        await publish_all(broker, ORDERED, "four")
        assert bodies(await take_and_ack(second, 1)) == ["four"]
