"""Publishing: confirms, unroutable and refused messages, unknown outcomes; on each implementation of the broker."""

import asyncio

import pytest

from towpath.servicekit.broker.interface import (
    Broker,
    BrokerError,
    PublishUnconfirmed,
    Unroutable,
)

from .contract import TOPICS, WORK, BrokerUnderTest, a_message, bound, connected, drain, publish_all


async def test_an_unroutable_message_is_confirmed_and_dropped(broker: Broker) -> None:
    await broker.declare(bound(WORK))
    await broker.publish(TOPICS.name, "play", a_message())
    assert await drain(broker, WORK) == []


async def test_a_mandatory_message_without_a_bound_queue_is_unroutable(broker: Broker) -> None:
    await broker.declare(bound(WORK))
    with pytest.raises(Unroutable, match="play"):
        await broker.publish(TOPICS.name, "play", a_message(), mandatory=True)
    with pytest.raises(Unroutable, match=r"no\.such\.queue"):
        await broker.publish("", "no.such.queue", a_message(), mandatory=True)


async def test_of_many_publishes_at_once_only_the_unroutable_fail(broker: Broker) -> None:
    await broker.declare(bound(WORK))
    keys = [f"work.{n}" if n % 2 else f"play.{n}" for n in range(20)]
    outcomes = await asyncio.gather(
        *(broker.publish(TOPICS.name, key, a_message(key), mandatory=True) for key in keys),
        return_exceptions=True,
    )
    assert [key for key, outcome in zip(keys, outcomes, strict=True) if outcome is None] == keys[1::2]
    assert all(isinstance(outcome, Unroutable) for outcome in outcomes[0::2])
    assert sorted(await drain(broker, WORK)) == sorted(keys[1::2])


async def test_asking_for_a_permission_delivers_nothing(broker: Broker) -> None:
    await broker.declare(bound(WORK))
    assert await broker.may_publish(TOPICS.name, "work.1")
    await broker.publish(TOPICS.name, "work.2", a_message("published"))
    assert await drain(broker, WORK) == ["published"]


async def test_publishing_to_an_unknown_exchange_is_an_error_that_names_it(broker: Broker) -> None:
    await broker.declare(bound(WORK))
    with pytest.raises(BrokerError, match="nowhere"):
        await broker.publish("nowhere", "work", a_message("lost"))
    await broker.publish(TOPICS.name, "work", a_message("found"))
    assert await drain(broker, WORK) == ["found"]


async def test_publishing_to_an_unknown_exchange_does_not_affect_other_publishes(broker: Broker) -> None:
    await broker.declare(bound(WORK))
    exchanges = ["nowhere" if n % 3 == 0 else TOPICS.name for n in range(30)]
    outcomes = await asyncio.gather(
        *(broker.publish(exchange, "work", a_message(str(n))) for n, exchange in enumerate(exchanges)),
        return_exceptions=True,
    )
    assert [outcome is None for outcome in outcomes] == [exchange == TOPICS.name for exchange in exchanges]
    assert len(await drain(broker, WORK)) == 20


async def test_a_confirmed_message_waits_for_a_later_consumer(server: BrokerUnderTest) -> None:
    async with connected(server, "publisher") as publisher:
        await publisher.declare(bound(WORK))
        await publish_all(publisher, WORK, "one", "two")
    async with connected(server, "consumer") as consumer:
        assert await drain(consumer, WORK) == ["one", "two"]


async def test_a_publish_without_a_confirm_in_time_is_unknown(
    server: BrokerUnderTest, broker: Broker
) -> None:
    await broker.declare(bound(WORK))
    async with server.late_confirms() as timeout:
        with pytest.raises(PublishUnconfirmed):
            await broker.publish("", WORK.name, a_message("perhaps"), timeout=timeout)
    await broker.publish("", WORK.name, a_message("surely"))
    assert await drain(broker, WORK) in (["perhaps", "surely"], ["surely"])


async def test_closing_waits_for_confirms_on_their_way(server: BrokerUnderTest, other: Broker) -> None:
    async with connected(server, "closing") as broker:
        await broker.declare(bound(WORK))
        names = [f"m{n}" for n in range(10)]
        publishes = [broker.publish("", WORK.name, a_message(name)) for name in names]
        await asyncio.gather(*publishes, broker.close())
    assert sorted(await drain(other, WORK)) == sorted(names)
