"""Bindings of an inbox that change while it is consumed; on each implementation of the broker."""

import asyncio

import pytest

from towpath.servicekit.broker.interface import (
    Binding,
    Broker,
    BrokerError,
    BrokerState,
    BrokerUnavailable,
    Delivery,
)
from towpath.testkit.eventually import eventually

from .contract import (
    PATIENCE,
    TOPICS,
    BrokerUnderTest,
    an_inbox,
    bodies,
    bound,
    is_in,
    publish_push,
    publish_transient,
    take_and_ack,
)


async def test_bindings_can_be_added_to_an_existing_inbox_and_removed(broker: Broker, other: Broker) -> None:
    await broker.declare(bound())
    inbox = an_inbox()
    async with broker.subscribe(inbox, prefetch=10) as subscription:
        bindings = broker.bindings(inbox)
        for _ in range(2):  # once more changes nothing
            await bindings.add(Binding(TOPICS.name, "*.ana"), timeout=PATIENCE)
        await publish_transient(other, "user.ana", "user.ben", "push.x")
        assert bodies(await take_and_ack(subscription, 2)) == ["user.ana", "push.x"]

        for _ in range(2):
            await bindings.remove(Binding(TOPICS.name, "push.#"), timeout=PATIENCE)
        await publish_transient(other, "push.x", "user.ana")
        assert bodies(await take_and_ack(subscription, 1)) == ["user.ana"]

        await bindings.add(Binding(TOPICS.name, "push.#"), timeout=PATIENCE)
        await bindings.remove(Binding(TOPICS.name, "*.ana"), timeout=PATIENCE)
        await bindings.remove(Binding(TOPICS.name, "never.bound"), timeout=PATIENCE)
        await publish_transient(other, "user.ana", "push.x")
        assert bodies(await take_and_ack(subscription, 1)) == ["push.x"]


async def test_bindings_of_one_inbox_leave_another_of_its_name_alone(broker: Broker) -> None:
    await broker.declare(bound())
    inbox, twin = an_inbox(), an_inbox()
    async with (
        broker.subscribe(inbox, prefetch=10) as one,
        broker.subscribe(twin, prefetch=10) as another,
    ):
        await broker.bindings(twin).add(Binding(TOPICS.name, "*.ana"), timeout=PATIENCE)
        await publish_transient(broker, "user.ana", "push.x")
        assert bodies(await take_and_ack(another, 2)) == ["user.ana", "push.x"]
        assert bodies(await take_and_ack(one, 1)) == ["push.x"]


async def test_many_bindings_added_at_once_all_exist(broker: Broker) -> None:
    await broker.declare(bound())
    inbox, keys = an_inbox(), [f"user.u{n}" for n in range(50)]
    async with broker.subscribe(inbox, prefetch=100) as subscription:
        bindings = broker.bindings(inbox)
        await asyncio.gather(*(bindings.add(Binding(TOPICS.name, key), timeout=PATIENCE) for key in keys))
        await publish_transient(broker, *keys)
        assert bodies(await take_and_ack(subscription, 50)) == keys


async def test_only_an_existing_inbox_has_bindings(broker: Broker) -> None:
    await broker.declare(bound())
    inbox = an_inbox()
    with pytest.raises(BrokerUnavailable):
        broker.bindings(inbox)
    async with broker.subscribe(inbox, prefetch=1):
        bindings = broker.bindings(inbox)
    with pytest.raises(BrokerUnavailable):
        await bindings.add(Binding(TOPICS.name, "*.ana"), timeout=PATIENCE)
    with pytest.raises(BrokerUnavailable):
        broker.bindings(inbox)


async def test_a_fresh_inbox_delivers_nothing_before_the_callbacks_of_the_rebuild_have_run(
    broker: Broker, other: Broker
) -> None:
    async def publish_for_ever() -> None:
        while True:
            await publish_transient(other, "push.x")

    early: list[Delivery] = []
    rebuilt = asyncio.Event()
    broker.on_rebuilt(lambda: early.extend(subscription.take_waiting(1000)))
    broker.on_rebuilt(rebuilt.set)
    await broker.declare(bound())
    # While the second inbox is made, the first one has deliveries.
    async with broker.subscribe(an_inbox(), an_inbox(), prefetch=10) as subscription:
        publishing = asyncio.create_task(publish_for_ever())
        for _ in range(3):
            rebuilt.clear()
            broker.rebuild("the test says so")
            async with asyncio.timeout(PATIENCE):
                await rebuilt.wait()
            assert early == []
            await take_and_ack(subscription, 10)
        publishing.cancel()


async def test_a_recreated_inbox_has_its_declared_bindings(broker: Broker, other: Broker) -> None:
    rebuilt = asyncio.Event()
    broker.on_rebuilt(rebuilt.set)
    await broker.declare(bound())
    inbox = an_inbox()
    async with broker.subscribe(inbox, prefetch=10) as subscription:
        before = broker.bindings(inbox)
        await before.add(Binding(TOPICS.name, "*.ana"), timeout=PATIENCE)
        await before.remove(Binding(TOPICS.name, "push.#"), timeout=PATIENCE)
        broker.rebuild("the test says so")
        async with asyncio.timeout(PATIENCE):
            await rebuilt.wait()
        with pytest.raises(BrokerUnavailable):
            await before.remove(Binding(TOPICS.name, "push.#"), timeout=PATIENCE)
        await publish_transient(other, "user.ana", "push.x")
        assert bodies(await take_and_ack(subscription, 1)) == ["push.x"]
        await broker.bindings(inbox).add(Binding(TOPICS.name, "*.ana"), timeout=PATIENCE)
        await publish_transient(other, "user.ana")
        assert bodies(await take_and_ack(subscription, 1)) == ["user.ana"]


async def test_without_a_broker_bindings_are_unavailable(server: BrokerUnderTest, broker: Broker) -> None:
    await broker.declare(bound())
    inbox = an_inbox()
    async with broker.subscribe(inbox, prefetch=1):
        bindings = broker.bindings(inbox)
        await server.stop()
        await eventually(lambda: is_in(broker, BrokerState.CONNECTING))
        with pytest.raises(BrokerUnavailable):
            await bindings.add(Binding(TOPICS.name, "*.ana"), timeout=PATIENCE)
        with pytest.raises(BrokerUnavailable):
            broker.bindings(inbox)
        await server.start()


async def test_a_binding_that_is_refused_is_an_error_and_costs_no_delivery(broker: Broker) -> None:
    await broker.declare(bound())
    inbox = an_inbox()
    async with broker.subscribe(inbox, prefetch=10) as subscription:
        bindings = broker.bindings(inbox)
        with pytest.raises(BrokerError) as refused:
            await bindings.add(Binding("test.nowhere", "*.ana"), timeout=PATIENCE)
        assert not isinstance(refused.value, BrokerUnavailable)
        await publish_push(broker, "one")
        assert bodies(await take_and_ack(subscription, 1)) == ["one"]
        await bindings.add(Binding(TOPICS.name, "*.ana"), timeout=PATIENCE)
        await publish_transient(broker, "user.ana")
        assert bodies(await take_and_ack(subscription, 1)) == ["user.ana"]


async def test_a_binding_without_an_answer_in_time_is_an_error_and_the_next_one_is_made(
    server: BrokerUnderTest, broker: Broker
) -> None:
    await broker.declare(bound())
    inbox = an_inbox()
    async with broker.subscribe(inbox, prefetch=10) as subscription:
        bindings = broker.bindings(inbox)
        async with server.late_confirms() as too_soon:
            with pytest.raises(BrokerError) as late:
                await bindings.add(Binding(TOPICS.name, "*.ana"), timeout=too_soon)
            assert not isinstance(late.value, BrokerUnavailable)
        await bindings.add(Binding(TOPICS.name, "*.ben"), timeout=PATIENCE)
        await publish_transient(broker, "user.ben")
        assert bodies(await take_and_ack(subscription, 1)) == ["user.ben"]
