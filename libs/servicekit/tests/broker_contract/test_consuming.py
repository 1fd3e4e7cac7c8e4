"""Consuming: order, prefetch, redelivery, settling; on each implementation of the broker."""

import asyncio

import pytest

from towpath.servicekit.broker.interface import (
    Broker,
    BrokerError,
    Delivery,
    Queue,
    Subscription,
    Topology,
)

from .contract import (
    DEAD,
    PATIENCE,
    WORK,
    BrokerUnderTest,
    bodies,
    bound,
    connected,
    drain,
    publish_all,
    take,
    take_and_ack,
)


async def test_messages_of_a_queue_arrive_in_the_order_published(broker: Broker) -> None:
    await broker.declare(bound(WORK))
    names = [f"m{n}" for n in range(100)]
    async with broker.subscribe(WORK, prefetch=7) as subscription:
        await publish_all(broker, WORK, *names[:50])
        first = await take_and_ack(subscription, 7)
        await publish_all(broker, WORK, *names[50:])
        rest = [(await take_and_ack(subscription, 1))[0] for _ in range(93)]
    assert bodies(first + rest) == names


async def test_unsettled_deliveries_are_redelivered_in_their_order_before_the_rest(
    server: BrokerUnderTest, other: Broker
) -> None:
    async with connected(server, "crashing") as broker:
        await broker.declare(bound(WORK))
        async with broker.subscribe(WORK, prefetch=3) as subscription:
            await publish_all(broker, WORK, "one", "two", "three", "four", "five")
            deliveries = await take(subscription, 3)
            deliveries[1].ack()
            await take(subscription, 1)
    async with other.subscribe(WORK, prefetch=10) as subscription:
        again = await take_and_ack(subscription, 4)
    assert bodies(again) == ["one", "three", "four", "five"]
    assert [delivery.redelivered for delivery in again] == [True, True, True, False]
    assert [delivery.headers.get("x-delivery-count", 0) for delivery in again] == [1, 1, 1, 0]


async def test_a_requeued_delivery_is_redelivered_at_once(broker: Broker) -> None:
    await broker.declare(bound(WORK))
    await publish_all(broker, WORK, "one", "two")
    async with broker.subscribe(WORK, prefetch=1) as subscription:
        [first] = await take(subscription, 1)
        first.requeue()
        again = [(await take_and_ack(subscription, 1))[0] for _ in range(2)]
    assert bodies(again) == ["one", "two"]
    assert [delivery.redelivered for delivery in again] == [True, False]


async def test_one_subscription_serves_several_queues_and_names_the_queue_of_each_delivery(
    broker: Broker,
) -> None:
    queues = [Queue(name=f"q{n}") for n in range(3)]
    await broker.declare(Topology(queues=queues))
    async with broker.subscribe(*queues, prefetch=5) as subscription:
        for queue in queues:
            await publish_all(broker, queue, f"{queue.name} one", f"{queue.name} two")
        taken = await take_and_ack(subscription, 6)
    for queue in queues:
        arrived = [delivery for delivery in taken if delivery.queue == queue.name]
        assert bodies(arrived) == [f"{queue.name} one", f"{queue.name} two"]


async def test_the_prefetch_bounds_unsettled_deliveries(broker: Broker, other: Broker) -> None:
    await broker.declare(bound(WORK))
    async with broker.subscribe(WORK, prefetch=2) as full, other.subscribe(WORK, prefetch=2) as helper:
        await publish_all(broker, WORK, "one", "two", "three", "four", "five", "six")
        first, second = await asyncio.gather(take(full, 2), take(helper, 2))
        assert sorted(bodies(first + second)) == ["four", "one", "three", "two"]
        for delivery in second:
            delivery.ack()
        assert bodies(await take_and_ack(helper, 2)) == ["five", "six"]  # the first, full, leaves them
        assert full.take_waiting(10) == []


async def test_the_prefetch_counts_for_each_queue(broker: Broker) -> None:
    queues = [Queue(name="q0"), Queue(name="q1")]
    await broker.declare(Topology(queues=queues))
    async with broker.subscribe(*queues, prefetch=1) as subscription:
        await publish_all(broker, queues[0], "one", "two")
        await publish_all(broker, queues[1], "three", "four")
        in_hand = await take(subscription, 2)
        assert sorted(bodies(in_hand)) == ["one", "three"]
        in_hand[0].ack()
        assert (await take(subscription, 1))[0].queue == in_hand[0].queue


async def test_arrived_deliveries_can_be_taken_without_waiting(broker: Broker) -> None:
    await broker.declare(bound(WORK))
    async with broker.subscribe(WORK, prefetch=10) as subscription:
        assert subscription.take_waiting(10) == []
        await publish_all(broker, WORK, "one", "two", "three", "four")
        taken = await take(subscription, 1)
        while len(taken) < 4:
            batch = subscription.take_waiting(2)
            assert len(batch) <= 2
            taken += batch or await take(subscription, 1)
        assert bodies(taken) == ["one", "two", "three", "four"]
        assert subscription.take_waiting(10) == []


async def test_leaving_a_subscription_requeues_unsettled_deliveries(broker: Broker) -> None:
    await broker.declare(bound(WORK))
    async with broker.subscribe(WORK, prefetch=10) as subscription:
        await publish_all(broker, WORK, "one", "two", "three")
        deliveries = await take(subscription, 2)
        deliveries[1].ack()
    deliveries[0].ack()  # too late
    assert await drain(broker, WORK) == ["one", "three"]


async def test_a_subscription_that_was_left_ends_its_iteration(broker: Broker) -> None:
    await broker.declare(bound(WORK))
    async with broker.subscribe(WORK, prefetch=10) as subscription:
        await publish_all(broker, WORK, "one")
        await take_and_ack(subscription, 1)
    async with asyncio.timeout(PATIENCE):
        assert [delivery async for delivery in subscription] == []
    assert subscription.take_waiting(10) == []


async def test_settling_twice_is_harmless(broker: Broker) -> None:
    await broker.declare(bound(WORK, DEAD))
    async with broker.subscribe(WORK, prefetch=1) as subscription:
        await publish_all(broker, WORK, "one", "two", "three")
        [first] = await take(subscription, 1)
        first.requeue()
        first.reject()
        [again] = await take(subscription, 1)
        first.ack()
        again.ack()
        again.requeue()
        assert bodies(await take_and_ack(subscription, 1)) == ["two"]
        assert bodies(await take_and_ack(subscription, 1)) == ["three"]
    assert await drain(broker, WORK) == []


async def test_settling_after_the_connection_closed_is_harmless(
    server: BrokerUnderTest, other: Broker
) -> None:
    async with connected(server, "closing") as broker:
        await broker.declare(bound(WORK))
        async with broker.subscribe(WORK, prefetch=10) as subscription:
            await publish_all(broker, WORK, "one", "two", "three")
            deliveries = await take(subscription, 3)
            await broker.close()
            deliveries[0].ack()
            deliveries[1].reject()
            deliveries[2].requeue()
    assert await drain(other, WORK) == ["one", "two", "three"]


async def test_closing_ends_the_iteration(broker: Broker) -> None:
    async def read(subscription: Subscription) -> list[Delivery]:
        return [delivery async for delivery in subscription]

    await broker.declare(bound(WORK))
    async with broker.subscribe(WORK, prefetch=10) as subscription, asyncio.timeout(PATIENCE):
        _, read_so_far = await asyncio.gather(broker.close(), read(subscription))
    assert read_so_far == []


async def test_subscribing_to_a_queue_that_was_never_declared_is_an_error_that_names_it(
    broker: Broker,
) -> None:
    with pytest.raises(BrokerError, match=WORK.name):
        async with asyncio.timeout(PATIENCE), broker.subscribe(WORK, prefetch=1):
            pass
    async with asyncio.timeout(PATIENCE):
        await broker.declare(bound(WORK))
        await publish_all(broker, WORK, "one")
        assert await drain(broker, WORK) == ["one"]
