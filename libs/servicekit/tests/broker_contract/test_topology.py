"""Declaring exchanges and queues, twice and differently; on each implementation of the broker."""

import asyncio
from dataclasses import replace

import pytest

from towpath.servicekit.broker.interface import (
    Binding,
    Broker,
    BrokerError,
    Exchange,
    ExchangeType,
    Inbox,
    Queue,
    QueueCounts,
    Topology,
    TopologyMismatch,
)

from .contract import GRAVES, PATIENCE, TOPICS, WORK, a_message, bound, drain, publish_all


async def test_declaring_again_changes_nothing(broker: Broker, other: Broker) -> None:
    everything = Queue(
        name="everything",
        bindings=[Binding(TOPICS.name, "#")],
        single_active=True,
        delivery_limit=3,
        max_length=100,
        dead_letter_exchange=GRAVES.name,
        message_ttl_ms=60_000,
    )
    await broker.declare(bound(everything))
    await broker.publish(TOPICS.name, "any", a_message())
    await broker.declare(bound(everything))
    await other.declare(bound(everything))
    assert await drain(other, everything) == ["hello"]


async def test_looking_shows_what_exists_and_declares_nothing(broker: Broker, other: Broker) -> None:
    wanted = Topology([TOPICS, Exchange("test.none")], [WORK, Queue(name="test.none")])
    await broker.declare(bound(WORK))
    await publish_all(broker, WORK, "one", "two")
    for _ in range(2):
        found = await other.look(wanted)
        assert found.missing(wanted) == Topology([Exchange("test.none")], [Queue(name="test.none")])
        assert found.queues == {WORK.name: QueueCounts(waiting=2, consumers=0)}
    async with broker.subscribe(WORK, prefetch=1) as deliveries:
        delivery = await anext(deliveries)
        assert (await other.look(wanted)).queues == {WORK.name: QueueCounts(waiting=1, consumers=1)}
        delivery.ack()


async def test_comparing_names_what_differs_and_changes_nothing(broker: Broker, other: Broker) -> None:
    await broker.declare(bound(replace(WORK, max_length=50)))
    await publish_all(broker, WORK, "kept")
    wanted = Topology([TOPICS], [replace(WORK, max_length=5)])
    for _ in range(2):
        [difference] = await other.compare(wanted)
        assert (difference.name, difference.is_known) == (WORK.name, True)
        assert "50" in difference.detail
    assert await other.compare(Topology([TOPICS], [replace(WORK, max_length=50)])) == []
    assert await drain(broker, replace(WORK, max_length=50)) == ["kept"]


async def test_declaring_more_bindings_adds_them(broker: Broker) -> None:
    await broker.declare(bound(Queue(name="q", bindings=[Binding(TOPICS.name, "a")])))
    await broker.declare(bound(Queue(name="q", bindings=[Binding(TOPICS.name, "b")])))
    await broker.publish(TOPICS.name, "a", a_message("a"), mandatory=True)
    await broker.publish(TOPICS.name, "b", a_message("b"), mandatory=True)
    assert await drain(broker, Queue(name="q")) == ["a", "b"]


async def test_a_queue_with_other_arguments_is_a_mismatch_that_names_it(
    broker: Broker, other: Broker
) -> None:
    await broker.declare(bound(WORK))
    await publish_all(broker, WORK, "kept")
    with pytest.raises(TopologyMismatch, match=WORK.name):
        await other.declare(bound(replace(WORK, max_length=5)))
    assert await drain(other, WORK) == ["kept"]


async def test_an_exchange_of_another_type_is_a_mismatch_that_names_it(broker: Broker, other: Broker) -> None:
    await broker.declare(bound(WORK))
    with pytest.raises(TopologyMismatch, match=TOPICS.name):
        await other.declare(Topology([Exchange(TOPICS.name, ExchangeType.FANOUT)]))
    await other.publish(TOPICS.name, "work", a_message(), mandatory=True)


async def test_binding_to_an_unknown_exchange_is_an_error_that_names_it(broker: Broker) -> None:
    nowhere = [Binding("nowhere", "#")]
    with pytest.raises(BrokerError, match="nowhere"):
        async with asyncio.timeout(PATIENCE):
            await broker.declare(Topology(queues=[Queue(name="q", bindings=nowhere)]))
    with pytest.raises(BrokerError, match="nowhere"):
        async with asyncio.timeout(PATIENCE), broker.subscribe(Inbox(name="i", bindings=nowhere), prefetch=1):
            pass
    async with asyncio.timeout(PATIENCE):
        await broker.declare(bound(WORK))
        await publish_all(broker, WORK, "one")
        assert await drain(broker, WORK) == ["one"]
