"""Dead letters, expiry, delivery limits, and queues that are full; on each implementation of the broker."""

import asyncio
from contextlib import suppress
from dataclasses import replace

import pytest

from towpath.servicekit.broker.interface import (
    Binding,
    Broker,
    Delivery,
    Exchange,
    ExchangeType,
    PublishRefused,
    Queue,
    Topology,
)

from .contract import (
    DEAD,
    GRAVES,
    PATIENCE,
    TOPICS,
    WORK,
    BrokerUnderTest,
    a_message,
    bodies,
    bound,
    drain,
    publish_all,
    take,
    take_and_ack,
)


def its_death(delivery: Delivery) -> tuple[str, str]:
    return delivery.headers["x-first-death-queue"], delivery.headers["x-first-death-reason"]


async def test_a_rejected_message_goes_to_the_dead_letter_exchange(broker: Broker) -> None:
    work = Queue(name="work", dead_letter_exchange=GRAVES.name)
    await broker.declare(bound(work, DEAD))
    async with broker.subscribe(work, DEAD, prefetch=1) as subscription:
        await broker.publish("", work.name, a_message("bad", **{"x-attempt": 4}))
        (await take(subscription, 1))[0].reject()
        [dead] = await take_and_ack(subscription, 1)
    assert (dead.queue, dead.exchange, dead.routing_key) == (DEAD.name, GRAVES.name, work.name)
    assert bodies([dead]) == ["bad"]
    assert dead.headers["x-attempt"] == 4
    assert its_death(dead) == (work.name, "rejected")


async def test_a_rejected_message_without_a_dead_letter_exchange_is_dropped(broker: Broker) -> None:
    await broker.declare(bound(WORK))
    async with broker.subscribe(WORK, prefetch=1) as subscription:
        await publish_all(broker, WORK, "one", "two")
        (await take(subscription, 1))[0].reject()
        assert bodies(await take_and_ack(subscription, 1)) == ["two"]
    assert await drain(broker, WORK) == []


async def test_a_message_that_stays_too_long_is_dead_lettered(broker: Broker) -> None:
    waiting = Queue(name="waiting", message_ttl_ms=50, dead_letter_exchange=GRAVES.name)
    await broker.declare(bound(waiting, DEAD))
    await publish_all(broker, waiting, "one", "two")
    async with broker.subscribe(DEAD, prefetch=10) as subscription:
        dead = await take_and_ack(subscription, 2)
    assert bodies(dead) == ["one", "two"]
    assert its_death(dead[0]) == (waiting.name, "expired")
    assert await drain(broker, Queue(name="waiting")) == []


@pytest.mark.parametrize("back", ["", "test.again"])
async def test_a_retry_queue_gives_a_message_back_to_the_queue_that_its_key_names(
    broker: Broker, back: str
) -> None:
    retries, again = Exchange("retries", ExchangeType.FANOUT), Exchange("test.again", ExchangeType.DIRECT)
    retry = Queue(
        name="retry", bindings=[Binding(retries.name, "")], message_ttl_ms=50, dead_letter_exchange=back
    )
    work = replace(WORK, bindings=[*WORK.bindings, Binding(again.name, WORK.name)])
    await broker.declare(Topology([TOPICS, retries, again], [work, retry]))
    async with broker.subscribe(WORK, prefetch=1) as subscription:
        for attempt in (1, 2, 3):
            await broker.publish(
                retries.name, WORK.name, a_message("again", **{"x-attempt": attempt}), mandatory=True
            )
            [delivery] = await take_and_ack(subscription, 1)
            assert (delivery.queue, delivery.routing_key) == (WORK.name, WORK.name)
            assert delivery.exchange == back
            assert delivery.headers["x-attempt"] == attempt
            assert its_death(delivery) == (retry.name, "expired")


async def test_a_message_given_back_too_often_is_dead_lettered(broker: Broker) -> None:
    work = Queue(name="work", delivery_limit=2, dead_letter_exchange=GRAVES.name)
    await broker.declare(bound(work, DEAD))
    await publish_all(broker, work, "poison")
    counts: list[int] = []
    async with broker.subscribe(work, DEAD, prefetch=1) as subscription:
        while (delivery := (await take(subscription, 1))[0]).queue == work.name:
            counts.append(delivery.headers.get("x-delivery-count", 0))
            delivery.requeue()
        delivery.ack()
    assert counts == [0, 1, 2]
    assert its_death(delivery) == (work.name, "delivery_limit")


async def test_a_full_queue_refuses_until_it_has_room_again(server: BrokerUnderTest, broker: Broker) -> None:
    queue = Queue(name="small", max_length=5)
    await broker.declare(bound(queue))
    limit = 5 + server.differences.length_limit_slack
    accepted: list[str] = []
    with suppress(PublishRefused):
        for n in range(limit + 1):
            await broker.publish("", queue.name, a_message(f"m{n}"))
            accepted.append(f"m{n}")
    assert 5 <= len(accepted) <= limit

    async with broker.subscribe(queue, prefetch=100) as subscription:
        assert bodies(await take_and_ack(subscription, len(accepted))) == accepted
        async with asyncio.timeout(PATIENCE):
            while True:
                with suppress(PublishRefused):
                    await broker.publish("", queue.name, a_message("room"))
                    break
        assert bodies(await take_and_ack(subscription, 1)) == ["room"]
