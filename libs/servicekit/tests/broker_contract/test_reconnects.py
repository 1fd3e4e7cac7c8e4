"""Outages, restarts, alarms and closing; on each implementation of the broker."""

import asyncio
from collections import Counter
from contextlib import suppress

import pytest

from towpath.servicekit.broker.interface import (
    Broker,
    BrokerBlocked,
    BrokerState,
    BrokerUnavailable,
    PublishUnconfirmed,
)
from towpath.testkit.eventually import eventually

from .contract import (
    PATIENCE,
    TOPICS,
    WORK,
    BrokerUnderTest,
    a_message,
    an_inbox,
    bodies,
    bound,
    connected,
    drain,
    is_in,
    publish_all,
    publish_push,
    take,
    take_and_ack,
)


async def test_a_broker_is_ready_until_it_is_closed(server: BrokerUnderTest) -> None:
    async with connected(server, "short") as broker:
        assert is_in(broker, BrokerState.READY)
        await broker.declare(bound(WORK))
        await broker.close()
        assert is_in(broker, BrokerState.CLOSED)
        with pytest.raises(BrokerUnavailable):
            await broker.publish("", WORK.name, a_message())
        await broker.close()
    assert is_in(broker, BrokerState.CLOSED)


async def test_a_client_waits_for_a_broker_that_is_not_reachable_at_first(server: BrokerUnderTest) -> None:
    rebuilt: list[str] = []
    await server.stop()
    async with server.connect("early") as broker:
        broker.on_rebuilt(lambda: rebuilt.append("early"))
        assert is_in(broker, BrokerState.CONNECTING)
        with pytest.raises(BrokerUnavailable):
            await broker.publish("", WORK.name, a_message())
        broker.rebuild("there is nothing to rebuild")
        await server.start()
        async with asyncio.timeout(PATIENCE):
            await broker.until_ready()
        assert is_in(broker, BrokerState.READY)
        await broker.declare(bound(WORK))
        await publish_all(broker, WORK, "one")
        assert await drain(broker, WORK) == ["one"]
    assert rebuilt == []


async def test_a_blocked_broker_refuses_publishes_and_still_delivers(
    server: BrokerUnderTest, broker: Broker
) -> None:
    await broker.declare(bound(WORK))
    await publish_all(broker, WORK, "one", "two", "three")
    async with broker.subscribe(WORK, prefetch=1) as subscription:
        await server.block()
        if not server.differences.reports_an_alarm_unasked:
            async with asyncio.timeout(PATIENCE):
                while not is_in(broker, BrokerState.BLOCKED):
                    with suppress(PublishUnconfirmed, BrokerBlocked):
                        await broker.publish("", "nobody", a_message(), timeout=0.2)
        assert is_in(broker, BrokerState.BLOCKED)
        with pytest.raises(BrokerBlocked):
            await broker.publish("", WORK.name, a_message("refused"))
        taken = [(await take_and_ack(subscription, 1))[0] for _ in range(3)]
        assert bodies(taken) == ["one", "two", "three"]

        await server.unblock()
        await eventually(lambda: is_in(broker, BrokerState.READY))
        await publish_all(broker, WORK, "four")
        assert bodies(await take_and_ack(subscription, 1)) == ["four"]


async def test_without_a_broker_a_publish_raises_that_nothing_was_sent(
    server: BrokerUnderTest, broker: Broker
) -> None:
    await broker.declare(bound(WORK))
    await server.stop()
    await eventually(lambda: is_in(broker, BrokerState.CONNECTING))
    with pytest.raises(BrokerUnavailable):
        await broker.publish("", WORK.name, a_message("never"))
    await server.start()
    await eventually(lambda: is_in(broker, BrokerState.READY))
    assert await drain(broker, WORK) == []


async def test_a_restarted_broker_has_lost_nothing_durable(
    server: BrokerUnderTest, broker: Broker, other: Broker
) -> None:
    rebuilt: Counter[str] = Counter()
    broker.on_rebuilt(lambda: rebuilt.update(["broker"]))
    other.on_rebuilt(lambda: rebuilt.update(["other"]))
    await broker.declare(bound(WORK))
    async with broker.subscribe(WORK, prefetch=2) as subscription:
        await publish_all(broker, WORK, "one", "two", "three")
        stale = await take(subscription, 2)

        await server.stop()
        await eventually(lambda: {broker.state, other.state} == {BrokerState.CONNECTING})
        assert rebuilt == {}
        await server.start()
        await eventually(lambda: rebuilt == {"broker": 1, "other": 1})

        assert is_in(broker, BrokerState.READY)
        for delivery in stale:
            delivery.ack()
        await other.publish(TOPICS.name, "work.more", a_message("four"), mandatory=True)
        taken = [(await take_and_ack(subscription, 1))[0] for _ in range(4)]
    assert bodies(taken) == ["one", "two", "three", "four"]
    assert [delivery.redelivered for delivery in taken[:2]] == [True, True]


async def test_an_inbox_is_recreated_empty_after_a_restart_of_the_broker(
    server: BrokerUnderTest, broker: Broker
) -> None:
    rebuilt = asyncio.Event()
    broker.on_rebuilt(rebuilt.set)
    await broker.declare(bound())
    async with broker.subscribe(an_inbox(), prefetch=1) as subscription:
        await publish_push(broker, "in hand", "lost")
        [in_hand] = await take(subscription, 1)
        await server.stop()
        await eventually(lambda: is_in(broker, BrokerState.CONNECTING))
        await server.start()
        async with asyncio.timeout(PATIENCE):
            await rebuilt.wait()
        in_hand.ack()
        await publish_push(broker, "fresh")
        [delivery] = await take_and_ack(subscription, 1)
    assert bodies([delivery]) == ["fresh"]
    assert delivery.queue == "inbox"


async def test_a_dropped_link_is_rebuilt_with_new_inboxes(broker: Broker, other: Broker) -> None:
    rebuilt = asyncio.Event()
    broker.on_rebuilt(rebuilt.set)
    await broker.declare(bound(WORK))
    async with broker.subscribe(WORK, an_inbox(), prefetch=1) as subscription:
        await publish_push(other, "in hand", "lost")
        await publish_all(other, WORK, "kept")
        stale = await take(subscription, 2)
        broker.rebuild("the test says so")
        async with asyncio.timeout(PATIENCE):
            await rebuilt.wait()
        for delivery in stale:
            delivery.ack()
        await publish_push(other, "fresh")
        again = await take_and_ack(subscription, 2)
    assert sorted(bodies(again)) == ["fresh", "kept"]
    assert is_in(broker, BrokerState.READY)


async def test_queues_and_subscriptions_made_during_an_outage_exist_after_it(
    server: BrokerUnderTest, broker: Broker
) -> None:
    async def consume_one() -> list[str]:
        await broker.declare(bound(WORK))
        async with broker.subscribe(WORK, prefetch=1) as subscription:
            await publish_all(broker, WORK, "hello")
            return bodies(await take_and_ack(subscription, 1))

    await server.stop()
    await eventually(lambda: is_in(broker, BrokerState.CONNECTING))
    async with asyncio.TaskGroup() as tasks:
        consuming = tasks.create_task(consume_one())
        await server.start()
    assert consuming.result() == ["hello"]


async def test_a_client_can_be_closed_during_an_outage(server: BrokerUnderTest) -> None:
    async with connected(server, "short") as broker:
        await broker.declare(bound(WORK))
        async with broker.subscribe(WORK, prefetch=1):
            await server.stop()
            await eventually(lambda: is_in(broker, BrokerState.CONNECTING))
            async with asyncio.timeout(PATIENCE):
                await broker.close()
            assert is_in(broker, BrokerState.CLOSED)
    await server.start()
