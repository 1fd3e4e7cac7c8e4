"""What every broker promises, run against each implementation.

A test that passes on one of them only has found a bug, or a difference: then it belongs into
:class:`Differences`, where everybody can read it.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol

import pytest

from towpath.servicekit.broker.interface import (
    Binding,
    Broker,
    BrokerBlocked,
    BrokerError,
    BrokerState,
    BrokerUnavailable,
    Delivery,
    Exchange,
    ExchangeType,
    HeaderValue,
    Inbox,
    Message,
    PublishRefused,
    PublishUnconfirmed,
    Queue,
    QueueBrowser,
    Subscription,
    Topology,
    TopologyMismatch,
    Unroutable,
)
from towpath.servicekit.broker.memory import MemoryHub
from towpath.servicekit.broker.rabbitmq import RabbitBroker

PATIENCE: Final = 20.0  # seconds until what must happen counts as not happening
GRACE: Final = 0.01  # between two looks at a condition

TOPICS: Final = Exchange("test.topics")
EVERYONE: Final = Exchange("test.everyone", ExchangeType.FANOUT)
GRAVES: Final = Exchange("test.graves", ExchangeType.FANOUT)
# RabbitMQ gives a requeued message its place again only under a delivery limit, the default since 4.0:
# https://www.rabbitmq.com/docs/quorum-queues#repeated-requeues
WORK: Final = Queue(name="test.work", bindings=[Binding(TOPICS.name, "work.#")], delivery_limit=10)
DEAD: Final = Queue(name="test.dead", bindings=[Binding(GRAVES.name, "")])
END: Final = b'"end"'


# The two implementations


@dataclass(frozen=True)
class Differences:
    """Where one implementation promises more than the other.

    Attributes:
        length_limit_slack: How many messages more than ``max_length`` a queue may take. RabbitMQ's quorum
            queues tell publishers a little late: https://www.rabbitmq.com/docs/quorum-queues#length-limit
        tells_of_an_alarm_unasked: The state is BLOCKED as soon as the alarm is raised. RabbitMQ tells a
            connection only when it publishes: https://www.rabbitmq.com/docs/connection-blocked
    """

    length_limit_slack: int
    tells_of_an_alarm_unasked: bool


class BrokerUnderTest(Protocol):
    """A broker with the levers of a fault test."""

    differences: Differences

    def connect(self, name: str) -> AbstractAsyncContextManager[Broker]: ...
    def late_confirms(self) -> AbstractAsyncContextManager[float]:
        """Inside, no confirm of a publish or binding arrives within the time limit it gives."""
        ...

    async def stop(self) -> None: ...
    async def start(self) -> None: ...
    async def block(self) -> None: ...
    async def unblock(self) -> None: ...


class MemoryUnderTest:
    differences = Differences(length_limit_slack=0, tells_of_an_alarm_unasked=True)

    def __init__(self) -> None:
        self._hub = MemoryHub()

    def connect(self, name: str) -> AbstractAsyncContextManager[Broker]:
        return self._hub.connect(name=name)

    @asynccontextmanager
    async def late_confirms(self) -> AsyncIterator[float]:
        self._hub.hold_confirms()
        self._hub.hold_bindings()
        yield 0.01
        self._hub.release_confirms()
        self._hub.release_bindings()

    async def stop(self) -> None:
        self._hub.stop()

    async def start(self) -> None:
        self._hub.start()

    async def block(self) -> None:
        self._hub.block()

    async def unblock(self) -> None:
        self._hub.unblock()


class RabbitUnderTest:
    differences = Differences(length_limit_slack=20, tells_of_an_alarm_unasked=False)

    def __init__(self, node: Any) -> None:
        self._node = node

    def connect(self, name: str) -> AbstractAsyncContextManager[Broker]:
        return RabbitBroker.connect(self._node.url, name=name, reconnect_max=0.5)

    @asynccontextmanager
    async def late_confirms(self) -> AsyncIterator[float]:
        yield 1e-6

    async def stop(self) -> None:
        await self._node.stop()

    async def start(self) -> None:
        await self._node.start()

    async def block(self) -> None:
        await self._node.block()

    async def unblock(self) -> None:
        await self._node.unblock()


@pytest.fixture(params=["memory", "rabbitmq"])
def server(request: pytest.FixtureRequest) -> BrokerUnderTest:
    if request.param == "memory":
        return MemoryUnderTest()
    return RabbitUnderTest(request.getfixturevalue("rabbitmq"))


@asynccontextmanager
async def connected(server: BrokerUnderTest, name: str) -> AsyncIterator[Broker]:
    async with server.connect(name) as broker:
        async with asyncio.timeout(PATIENCE):
            await broker.until_ready()
        yield broker


@pytest.fixture
async def broker(server: BrokerUnderTest) -> AsyncIterator[Broker]:
    async with connected(server, "under test") as broker:
        yield broker


@pytest.fixture
async def other(server: BrokerUnderTest) -> AsyncIterator[Broker]:
    """A second connection."""
    async with connected(server, "other") as broker:
        yield broker


# Builders


def a_message(body: str = "hello", **headers: HeaderValue) -> Message:
    return Message(body=f'"{body}"'.encode(), headers=headers)


def bodies(deliveries: Sequence[Delivery]) -> list[str]:
    return [delivery.body.decode().strip('"') for delivery in deliveries]


def bound(*queues: Queue) -> Topology:
    return Topology([TOPICS, EVERYONE, GRAVES], queues)


async def publish_all(broker: Broker, queue: Queue, *names: str) -> None:
    for name in names:
        await broker.publish("", queue.name, a_message(name), mandatory=True)


async def take(subscription: Subscription, count: int) -> list[Delivery]:
    """The next ``count`` deliveries, unsettled."""
    async with asyncio.timeout(PATIENCE):
        return [await anext(subscription) for _ in range(count)]


async def take_and_ack(subscription: Subscription, count: int) -> list[Delivery]:
    deliveries = await take(subscription, count)
    for delivery in deliveries:
        delivery.ack()
    return deliveries


async def drain(broker: Broker, queue: Queue) -> list[str]:
    """Take and ack all that waits in ``queue``, up to a mark put behind it."""
    await broker.publish("", queue.name, Message(body=END), mandatory=True)
    taken: list[Delivery] = []
    async with broker.subscribe(queue, prefetch=100) as subscription:
        while not taken or taken[-1].body != END:
            taken += await take_and_ack(subscription, 1)
    return bodies(taken[:-1])


def is_in(broker: Broker, state: BrokerState) -> bool:
    return broker.state is state


async def eventually(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110  # a broker's state has no event to wait for
            await asyncio.sleep(GRACE)


# Routing


async def test_a_topic_exchange_delivers_to_every_queue_whose_pattern_matches(broker: Broker) -> None:
    exact = Queue(name="exact", bindings=[Binding(TOPICS.name, "order.paid")])
    star = Queue(name="star", bindings=[Binding(TOPICS.name, "order.*")])
    all_below = Queue(name="all_below", bindings=[Binding(TOPICS.name, "order.#")])
    everything = Queue(name="everything", bindings=[Binding(TOPICS.name, "#")])
    await broker.declare(bound(exact, star, all_below, everything))

    for key in ("order.paid", "order.sent", "order", "order.paid.twice", "chat.paid", "orders.paid"):
        await broker.publish(TOPICS.name, key, a_message(key))

    assert await drain(broker, exact) == ["order.paid"]
    assert await drain(broker, star) == ["order.paid", "order.sent"]
    assert await drain(broker, all_below) == ["order.paid", "order.sent", "order", "order.paid.twice"]
    assert len(await drain(broker, everything)) == 6


async def test_a_queue_bound_twice_gets_one_copy(broker: Broker) -> None:
    queue = Queue(name="q", bindings=[Binding(TOPICS.name, "a.*"), Binding(TOPICS.name, "*.b")])
    await broker.declare(bound(queue))
    await broker.publish(TOPICS.name, "a.b", a_message())
    assert await drain(broker, queue) == ["hello"]


async def test_a_fanout_exchange_delivers_to_every_bound_queue_whatever_the_key(broker: Broker) -> None:
    queues = [Queue(name=f"q{n}", bindings=[Binding(EVERYONE.name, f"ignored.{n}")]) for n in range(3)]
    await broker.declare(bound(*queues))
    await broker.publish(EVERYONE.name, "some.key", a_message("one"))
    await broker.publish(EVERYONE.name, "another", a_message("two"))
    for queue in queues:
        assert await drain(broker, queue) == ["one", "two"]


async def test_the_default_exchange_routes_by_queue_name(broker: Broker) -> None:
    first, second = Queue(name="first"), Queue(name="second")
    await broker.declare(Topology(queues=[first, second]))
    await broker.publish("", "second", a_message())
    assert await drain(broker, first) == []
    assert await drain(broker, second) == ["hello"]


async def test_a_delivery_has_its_body_headers_and_origin(broker: Broker) -> None:
    await broker.declare(bound(WORK))
    headers: dict[str, HeaderValue] = {"traceparent": "00-ab-cd-01", "x-attempt": 3, "x-last": True}
    message = Message(body=b'{"a":[1,2]}', type="work", app_id="tests", headers=headers)
    async with broker.subscribe(WORK, prefetch=1) as subscription:
        await broker.publish(TOPICS.name, "work.hard", message)
        [delivery] = await take_and_ack(subscription, 1)
    assert delivery.body == b'{"a":[1,2]}'
    assert (delivery.exchange, delivery.routing_key, delivery.queue) == (TOPICS.name, "work.hard", WORK.name)
    assert delivery.app_id == "tests"
    assert delivery.headers.items() >= headers.items()
    assert not delivery.redelivered


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


# Confirms


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


# Order


async def test_messages_of_a_queue_arrive_in_the_order_published(broker: Broker) -> None:
    await broker.declare(bound(WORK))
    names = [f"m{n}" for n in range(100)]
    async with broker.subscribe(WORK, prefetch=7) as subscription:
        await publish_all(broker, WORK, *names[:50])
        first = await take_and_ack(subscription, 7)
        await publish_all(broker, WORK, *names[50:])
        rest = [(await take_and_ack(subscription, 1))[0] for _ in range(93)]
    assert bodies(first + rest) == names


async def test_what_was_in_hand_comes_again_in_its_order_before_the_rest(
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


async def test_a_requeued_delivery_comes_again_at_once(broker: Broker) -> None:
    await broker.declare(bound(WORK))
    await publish_all(broker, WORK, "one", "two")
    async with broker.subscribe(WORK, prefetch=1) as subscription:
        [first] = await take(subscription, 1)
        first.requeue()
        again = [(await take_and_ack(subscription, 1))[0] for _ in range(2)]
    assert bodies(again) == ["one", "two"]
    assert [delivery.redelivered for delivery in again] == [True, False]


# Subscriptions


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


async def test_what_has_arrived_can_be_taken_without_waiting(broker: Broker) -> None:
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


# Single active consumer


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


# Dead letters and bounds


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


async def test_a_retry_queue_gives_a_message_back_to_the_queue_that_its_key_names(broker: Broker) -> None:
    retries = Exchange("retries", ExchangeType.FANOUT)
    retry = Queue(
        name="retry", bindings=[Binding(retries.name, "")], message_ttl_ms=50, dead_letter_exchange=""
    )
    await broker.declare(Topology([TOPICS, retries], [WORK, retry]))
    async with broker.subscribe(WORK, prefetch=1) as subscription:
        for attempt in (1, 2, 3):
            await broker.publish(
                retries.name, WORK.name, a_message("again", **{"x-attempt": attempt}), mandatory=True
            )
            [delivery] = await take_and_ack(subscription, 1)
            assert (delivery.queue, delivery.routing_key) == (WORK.name, WORK.name)
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


# Inboxes


def an_inbox(**bounds: int) -> Inbox:
    return Inbox(name="inbox", bindings=[Binding(TOPICS.name, "push.#")], **bounds)


async def publish_push(broker: Broker, *names: str) -> None:
    for name in names:
        message = Message(body=a_message(name).body, persistent=False)
        await broker.publish(TOPICS.name, "push.x", message, mandatory=True)


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


# What leads into an inbox


async def publish_told(broker: Broker, *keys: str) -> None:
    for key in keys:
        await broker.publish(TOPICS.name, key, Message(body=a_message(key).body, persistent=False))


async def test_an_inbox_that_stands_can_be_bound_to_more_and_to_less(broker: Broker, other: Broker) -> None:
    await broker.declare(bound())
    inbox = an_inbox()
    async with broker.subscribe(inbox, prefetch=10) as subscription:
        bindings = broker.bindings(inbox)
        for _ in range(2):  # once more changes nothing
            await bindings.add(Binding(TOPICS.name, "*.ana"), timeout=PATIENCE)
        await publish_told(other, "user.ana", "user.ben", "push.x")
        assert bodies(await take_and_ack(subscription, 2)) == ["user.ana", "push.x"]

        for _ in range(2):
            await bindings.remove(Binding(TOPICS.name, "push.#"), timeout=PATIENCE)
        await publish_told(other, "push.x", "user.ana")
        assert bodies(await take_and_ack(subscription, 1)) == ["user.ana"]

        await bindings.add(Binding(TOPICS.name, "push.#"), timeout=PATIENCE)
        await bindings.remove(Binding(TOPICS.name, "*.ana"), timeout=PATIENCE)
        await bindings.remove(Binding(TOPICS.name, "never.bound"), timeout=PATIENCE)
        await publish_told(other, "user.ana", "push.x")
        assert bodies(await take_and_ack(subscription, 1)) == ["push.x"]


async def test_bindings_of_one_inbox_leave_another_of_its_name_alone(broker: Broker) -> None:
    await broker.declare(bound())
    inbox, twin = an_inbox(), an_inbox()
    async with (
        broker.subscribe(inbox, prefetch=10) as one,
        broker.subscribe(twin, prefetch=10) as another,
    ):
        await broker.bindings(twin).add(Binding(TOPICS.name, "*.ana"), timeout=PATIENCE)
        await publish_told(broker, "user.ana", "push.x")
        assert bodies(await take_and_ack(another, 2)) == ["user.ana", "push.x"]
        assert bodies(await take_and_ack(one, 1)) == ["push.x"]


async def test_many_bindings_at_once_all_stand(broker: Broker) -> None:
    await broker.declare(bound())
    inbox, keys = an_inbox(), [f"user.u{n}" for n in range(50)]
    async with broker.subscribe(inbox, prefetch=100) as subscription:
        bindings = broker.bindings(inbox)
        await asyncio.gather(*(bindings.add(Binding(TOPICS.name, key), timeout=PATIENCE) for key in keys))
        await publish_told(broker, *keys)
        assert bodies(await take_and_ack(subscription, 50)) == keys


async def test_only_an_inbox_that_stands_has_bindings(broker: Broker) -> None:
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
            await publish_told(other, "push.x")

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
        await publish_told(other, "user.ana", "push.x")
        assert bodies(await take_and_ack(subscription, 1)) == ["push.x"]
        await broker.bindings(inbox).add(Binding(TOPICS.name, "*.ana"), timeout=PATIENCE)
        await publish_told(other, "user.ana")
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
        await publish_told(broker, "user.ana")
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
        await publish_told(broker, "user.ben")
        assert bodies(await take_and_ack(subscription, 1)) == ["user.ben"]


# Topology


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


# Coming and going


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


async def test_a_broker_that_is_away_at_first_is_waited_for(server: BrokerUnderTest) -> None:
    rebuilt: list[str] = []
    await server.stop()
    async with server.connect("early") as broker:
        broker.on_rebuilt(lambda: rebuilt.append("early"))
        assert is_in(broker, BrokerState.CONNECTING)
        with pytest.raises(BrokerUnavailable):
            await broker.publish("", WORK.name, a_message())
        broker.rebuild("there is nothing to make anew")
        await server.start()
        async with asyncio.timeout(PATIENCE):
            await broker.until_ready()
        assert is_in(broker, BrokerState.READY)
        await broker.declare(bound(WORK))
        await publish_all(broker, WORK, "one")
        assert await drain(broker, WORK) == ["one"]
    assert rebuilt == []


async def test_a_blocked_broker_takes_no_publishes_and_goes_on_delivering(
    server: BrokerUnderTest, broker: Broker
) -> None:
    await broker.declare(bound(WORK))
    await publish_all(broker, WORK, "one", "two", "three")
    async with broker.subscribe(WORK, prefetch=1) as subscription:
        await server.block()
        if not server.differences.tells_of_an_alarm_unasked:
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


async def test_without_a_broker_publishes_say_that_nothing_was_sent(
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


async def test_a_broker_that_comes_back_has_lost_nothing_durable(
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


async def test_an_inbox_is_recreated_empty_when_the_broker_comes_back(
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


async def test_what_is_asked_for_while_the_broker_is_away_stands_when_it_is_back(
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


async def test_a_broker_can_be_closed_while_it_is_away(server: BrokerUnderTest) -> None:
    async with connected(server, "short") as broker:
        await broker.declare(bound(WORK))
        async with broker.subscribe(WORK, prefetch=1):
            await server.stop()
            await eventually(lambda: is_in(broker, BrokerState.CONNECTING))
            async with asyncio.timeout(PATIENCE):
                await broker.close()
            assert is_in(broker, BrokerState.CLOSED)
    await server.start()


# QueueBrowser

PARKED: Final = Queue(name="test.parked", delivery_limit=1_000_000)


async def seen(broker: Broker, limit: int = 1000) -> list[str]:
    """What a look at the parked shows, nothing being settled."""
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


async def test_what_a_browser_settles_is_gone_and_the_rest_keeps_its_place(broker: Broker) -> None:
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


async def test_a_broker_that_goes_ends_the_look_and_loses_nothing(
    server: BrokerUnderTest, broker: Broker
) -> None:
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


# Unsettled deliveries


async def test_settled_waits_for_the_deliveries_that_were_handed_out(broker: Broker) -> None:
    await broker.declare(bound(WORK))
    async with asyncio.timeout(PATIENCE), broker.subscribe(WORK, prefetch=10) as subscription:
        await subscription.settled()
        await publish_all(broker, WORK, "one", "two", "three")
        first = await anext(subscription)
        second = await anext(subscription)
        waiting = asyncio.create_task(subscription.settled())
        first.ack()
        first.ack()  # counts once
        await asyncio.sleep(GRACE)
        assert (subscription.unsettled, waiting.done()) == (1, False)
        second.requeue()
        await waiting
        assert subscription.unsettled == 0, "a delivery that nobody has taken is not waited for"


async def test_settled_waits_for_stale_deliveries_too(server: BrokerUnderTest, broker: Broker) -> None:
    await broker.declare(bound(WORK))
    async with asyncio.timeout(PATIENCE), broker.subscribe(WORK, prefetch=10) as subscription:
        await publish_all(broker, WORK, "one")
        stale = await anext(subscription)
        await server.stop()
        await eventually(lambda: is_in(broker, BrokerState.CONNECTING))
        await server.start()
        again = await anext(subscription)
        again.ack()
        assert subscription.unsettled == 1
        waiting = asyncio.create_task(subscription.settled())
        await asyncio.sleep(GRACE)
        assert not waiting.done(), "its holder still handles it"
        stale.ack()
        await waiting
