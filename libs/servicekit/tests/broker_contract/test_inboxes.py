"""Inboxes: whose they are, how long they exist, and their bounds; on each implementation of the broker."""

import pytest

from towpath.servicekit.broker.interface import (
    Broker,
    Queue,
    Unroutable,
)

from .contract import (
    DEAD,
    GRAVES,
    BrokerUnderTest,
    an_inbox,
    bodies,
    bound,
    connected,
    publish_all,
    publish_push,
    take,
    take_and_ack,
)


async def test_an_inbox_gets_messages_of_its_bindings(broker: Broker) -> None:
    await broker.declare(bound())
    async with broker.subscribe(an_inbox(), prefetch=10) as subscription:
        await publish_push(broker, "one", "two")
        taken = await take_and_ack(subscription, 2)
    assert bodies(taken) == ["one", "two"]
    assert {delivery.queue for delivery in taken} == {"inbox"}


async def test_inboxes_of_the_same_name_are_apart(broker: Broker, other: Broker) -> None:
    await broker.declare(bound())
    async with (
        broker.subscribe(an_inbox(), prefetch=10) as one,
        broker.subscribe(an_inbox(), prefetch=10) as another,
        other.subscribe(an_inbox(), prefetch=10) as a_third,
    ):
        await publish_push(broker, "hello")
        for subscription in (one, another, a_third):
            assert bodies(await take_and_ack(subscription, 1)) == ["hello"]


async def test_an_inbox_is_gone_with_its_connection(server: BrokerUnderTest, other: Broker) -> None:
    async with connected(server, "short") as broker:
        await broker.declare(bound())
        async with broker.subscribe(an_inbox(), prefetch=10):
            await publish_push(other, "one")
    with pytest.raises(Unroutable):
        await publish_push(other, "two")


async def test_an_inbox_is_gone_with_its_subscription(broker: Broker) -> None:
    await broker.declare(bound())
    async with broker.subscribe(an_inbox(), prefetch=10):
        await publish_push(broker, "one")
    with pytest.raises(Unroutable):
        await publish_push(broker, "two")


async def test_an_inbox_over_its_length_drops_the_oldest(broker: Broker) -> None:
    await broker.declare(bound())
    async with broker.subscribe(an_inbox(max_length=3), prefetch=1) as subscription:
        await publish_push(broker, "in hand")
        [in_hand] = await take(subscription, 1)
        await publish_push(broker, "one", "two", "three", "four", "five")
        in_hand.ack()
        taken = [(await take_and_ack(subscription, 1))[0] for _ in range(3)]
    assert bodies(taken) == ["three", "four", "five"]


async def test_an_inbox_over_its_bytes_drops_the_oldest(broker: Broker) -> None:
    await broker.declare(bound())
    big = ["a" * 400, "b" * 400, "c" * 400]
    async with broker.subscribe(an_inbox(max_bytes=1000), prefetch=1) as subscription:
        await publish_push(broker, "in hand")
        [in_hand] = await take(subscription, 1)
        await publish_push(broker, *big)
        in_hand.ack()
        taken = [(await take_and_ack(subscription, 1))[0] for _ in range(2)]
    assert bodies(taken) == big[1:]


async def test_an_inbox_drops_expired_messages(broker: Broker) -> None:
    clock = Queue(name="clock", message_ttl_ms=250, dead_letter_exchange=GRAVES.name)
    await broker.declare(bound(clock, DEAD))
    async with (
        broker.subscribe(an_inbox(message_ttl_ms=50), prefetch=1) as subscription,
        broker.subscribe(DEAD, prefetch=1) as later,
    ):
        await publish_push(broker, "in hand")
        [in_hand] = await take(subscription, 1)
        await publish_push(broker, "old")
        await publish_all(broker, clock, "tick")
        await take_and_ack(later, 1)
        in_hand.ack()
        await publish_push(broker, "new")
        assert bodies(await take_and_ack(subscription, 1)) == ["new"]


async def test_a_full_inbox_never_holds_up_the_others(broker: Broker, other: Broker) -> None:
    await broker.declare(bound())
    async with (
        broker.subscribe(an_inbox(max_length=1), prefetch=1),
        other.subscribe(an_inbox(), prefetch=100) as quick,
    ):
        names = [f"m{n}" for n in range(20)]
        await publish_push(broker, *names)
        assert bodies(await take_and_ack(quick, 20)) == names
