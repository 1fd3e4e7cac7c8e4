"""Browsing a queue; on each implementation of the broker."""

import asyncio
from collections.abc import AsyncIterator
from typing import Final

import pytest

from towpath.servicekit.broker.interface import (
    Broker,
    BrokerError,
    BrokerState,
    BrokerUnavailable,
    Delivery,
    Queue,
    QueueBrowser,
)
from towpath.testkit.eventually import eventually

from .contract import PATIENCE, BrokerUnderTest, bodies, bound, drain, is_in, publish_all

PARKED: Final = Queue(name="test.parked", delivery_limit=1_000_000)


async def seen(broker: Broker, limit: int = 1000) -> list[str]:
    """The parked messages, as a browser sees them without settling."""
    async with asyncio.timeout(PATIENCE), broker.browse(PARKED.name) as parked:
        return bodies([delivery async for delivery in first(parked, limit)])


async def look_for_ever(parked: QueueBrowser) -> None:
    while True:
        await anext(parked)


async def first(parked: QueueBrowser, limit: int) -> AsyncIterator[Delivery]:
    for _ in range(limit):
        try:
            yield await anext(parked)
        except StopAsyncIteration:
            return


async def test_browsing_shows_all_messages_in_order_and_changes_nothing(
    broker: Broker, other: Broker
) -> None:
    await broker.declare(bound(PARKED))
    await publish_all(broker, PARKED, "one", "two", "three")
    assert await seen(broker, 2) == ["one", "two"]
    for _ in range(3):
        assert await seen(other) == ["one", "two", "three"]
    assert await drain(broker, PARKED) == ["one", "two", "three"]


async def test_browsing_reports_the_queue_length_and_ends_there(broker: Broker) -> None:
    await broker.declare(bound(PARKED))
    await publish_all(broker, PARKED, "one", "two")
    async with asyncio.timeout(PATIENCE), broker.browse(PARKED.name) as parked:
        assert parked.waiting == 2
    assert await seen(broker) == ["one", "two"]


async def test_a_message_settled_by_a_browser_is_removed_and_the_rest_keeps_its_position(
    broker: Broker,
) -> None:
    await broker.declare(bound(PARKED))
    await publish_all(broker, PARKED, "one", "two", "three", "four")
    async with asyncio.timeout(PATIENCE), broker.browse(PARKED.name) as parked:
        async for delivery in parked:
            if delivery.body in (b'"two"', b'"four"'):
                delivery.ack()
    await publish_all(broker, PARKED, "five")
    assert await seen(broker) == ["one", "three", "five"]


async def test_a_long_queue_keeps_its_order_however_often_it_is_looked_at(
    broker: Broker, other: Broker
) -> None:
    await broker.declare(bound(PARKED))
    names = [str(number) for number in range(100)]
    await publish_all(broker, PARKED, *names)
    for _ in range(2):
        assert await seen(broker) == names
        assert await seen(other) == names


async def test_two_browsers_never_see_the_same_message_at_once(broker: Broker, other: Broker) -> None:
    await broker.declare(bound(PARKED))
    await publish_all(broker, PARKED, "one", "two")
    async with (
        asyncio.timeout(PATIENCE),
        broker.browse(PARKED.name) as mine,
        other.browse(PARKED.name) as theirs,
    ):
        assert bodies([await anext(mine), await anext(theirs)]) == ["one", "two"]
        with pytest.raises(StopAsyncIteration):
            await anext(mine)
    assert sorted(await seen(broker)) == ["one", "two"]


async def test_browsing_a_queue_that_is_not_there_is_an_error_that_names_it(broker: Broker) -> None:
    await broker.until_ready()
    with pytest.raises(BrokerError, match=r"test\.nowhere"):
        async with broker.browse("test.nowhere"):
            pass
    await broker.declare(bound(PARKED))  # the connection goes on
    await publish_all(broker, PARKED, "one")
    assert await seen(broker) == ["one"]


async def test_an_outage_ends_the_browsing_and_loses_nothing(server: BrokerUnderTest, broker: Broker) -> None:
    await broker.declare(bound(PARKED))
    await publish_all(broker, PARKED, "one", "two")
    async with asyncio.timeout(PATIENCE), broker.browse(PARKED.name) as parked:
        await anext(parked)
        await server.stop()
        with pytest.raises(BrokerUnavailable):
            await look_for_ever(parked)
    await server.start()
    await eventually(lambda: is_in(broker, BrokerState.READY))
    assert await seen(broker) == ["one", "two"]


async def test_there_is_nothing_to_browse_without_a_connection(
    server: BrokerUnderTest, broker: Broker
) -> None:
    await broker.declare(bound(PARKED))
    await server.stop()
    await eventually(lambda: is_in(broker, BrokerState.CONNECTING))
    with pytest.raises(BrokerUnavailable):
        async with broker.browse(PARKED.name):
            pass
    await server.start()
