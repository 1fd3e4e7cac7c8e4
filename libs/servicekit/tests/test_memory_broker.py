"""Guarantees of the memory broker beyond the contract of all brokers."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from towpath.servicekit.broker.interface import (
    Binding,
    Broker,
    BrokerBlocked,
    BrokerState,
    Exchange,
    Inbox,
    Message,
    PublishUnconfirmed,
    Queue,
    Topology,
    Unpublishable,
)
from towpath.servicekit.broker.memory import MemoryHub
from towpath.servicekit.broker.memory_message import HeldMessage
from towpath.servicekit.broker.memory_queue import MemoryDelivery, MemoryQueue, QueueConsumer
from towpath.servicekit.broker.memory_vhost import VirtualHost

TOPICS = Exchange("topics")
WORK = Queue(name="work", delivery_limit=10)
HELLO = Message(body=b'"hello"')
PATIENCE = 30.0


@pytest.fixture
def hub() -> MemoryHub:
    return MemoryHub()


@pytest.fixture
async def broker(hub: MemoryHub) -> AsyncIterator[Broker]:
    async with hub.connect(name="under test") as broker:
        await broker.declare(Topology([TOPICS], [WORK]))
        yield broker


async def one_body(broker: Broker, queue: Queue) -> bytes:
    async with asyncio.timeout(PATIENCE), broker.subscribe(queue, prefetch=1) as subscription:
        delivery = await anext(subscription)
        delivery.ack()
        return delivery.body


async def until_nothing_is_held(hub: MemoryHub) -> None:
    async with asyncio.timeout(PATIENCE):
        while hub.vhost.held_bytes:  # noqa: ASYNC110  # queues have no event for it
            await asyncio.sleep(0.001)
    assert hub.vhost.held_bytes == 0


async def test_a_hub_that_holds_too_much_is_blocked_until_consumers_have_taken_enough() -> None:
    hub = MemoryHub(max_bytes=100_000)
    async with hub.connect(name="under test") as broker:
        await broker.declare(Topology(queues=[WORK]))
        await broker.publish("", WORK.name, Message(body=b"x" * 60_000))
        await broker.publish("", WORK.name, Message(body=b"x" * 60_000))
        assert broker.state is BrokerState.BLOCKED
        with pytest.raises(BrokerBlocked):
            await broker.publish("", WORK.name, HELLO)
        await one_body(broker, WORK)
        await broker.publish("", WORK.name, HELLO)


async def test_a_message_is_no_longer_held_once_it_is_settled_expired_or_dropped(
    hub: MemoryHub, broker: Broker
) -> None:
    to_all = [Binding(TOPICS.name, "#")]
    short = Queue(name="short", bindings=to_all, message_ttl_ms=10)
    await broker.declare(Topology(queues=[short]))
    async with (
        broker.subscribe(Inbox(name="inbox", bindings=to_all, max_length=2), prefetch=1),
        broker.subscribe(WORK, prefetch=10) as work,
    ):
        for _ in range(5):
            await broker.publish(TOPICS.name, "any", HELLO)
        for _ in range(3):
            await broker.publish("", WORK.name, HELLO)
        acked, rejected, requeued = [await anext(work) for _ in range(3)]
        acked.ack()
        rejected.reject()
        requeued.requeue()
        (await anext(work)).ack()
        assert hub.vhost.held_bytes > 0
    await until_nothing_is_held(hub)


async def test_a_restart_loses_transient_messages_only(hub: MemoryHub, broker: Broker) -> None:
    await broker.publish("", WORK.name, Message(body=b"1", persistent=False))
    await broker.publish("", WORK.name, Message(body=b"2"))
    hub.stop()
    hub.start()
    assert await one_body(broker, WORK) == b"2"
    assert hub.vhost.held_bytes == 0


async def test_a_message_that_would_cycle_for_ever_is_dropped(hub: MemoryHub, broker: Broker) -> None:
    ring = Queue(name="ring", message_ttl_ms=1, dead_letter_exchange="")
    await broker.declare(Topology(queues=[ring]))
    await broker.publish("", ring.name, HELLO)
    await until_nothing_is_held(hub)


async def test_a_rejected_message_may_cycle(broker: Broker) -> None:
    ring = Queue(name="ring", dead_letter_exchange="")
    await broker.declare(Topology(queues=[ring]))
    await broker.publish("", ring.name, HELLO)
    async with asyncio.timeout(PATIENCE), broker.subscribe(ring, prefetch=1) as subscription:
        for _ in range(3):
            (await anext(subscription)).reject()


async def test_a_publish_waits_while_confirms_are_held(hub: MemoryHub, broker: Broker) -> None:
    hub.hold_confirms()
    async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as tasks:
        publish = tasks.create_task(broker.publish("", WORK.name, HELLO))
        assert await one_body(broker, WORK) == HELLO.body
        assert not publish.done()
        hub.release_confirms()


async def test_a_publish_without_a_confirm_is_unconfirmed_when_the_hub_stops(
    hub: MemoryHub, broker: Broker
) -> None:
    hub.hold_confirms()
    async with asyncio.timeout(PATIENCE), broker.subscribe(WORK, prefetch=1) as subscription:
        publish = asyncio.create_task(broker.publish("", WORK.name, HELLO))
        await anext(subscription)
        hub.stop()
        with pytest.raises(PublishUnconfirmed):
            await publish


async def test_closing_does_not_wait_for_ever_for_confirms(hub: MemoryHub) -> None:
    hub.hold_confirms()
    async with asyncio.timeout(PATIENCE), hub.connect(name="closing", publish_timeout=0.01) as broker:
        await broker.declare(Topology(queues=[WORK]))
        publish = broker.publish("", WORK.name, HELLO, timeout=60)
        outcome, _ = await asyncio.gather(publish, broker.close(), return_exceptions=True)
        assert isinstance(outcome, PublishUnconfirmed)


async def test_a_routing_key_that_amqp_cannot_carry_is_refused(broker: Broker) -> None:
    with pytest.raises(Unpublishable, match="255"):
        await broker.publish(TOPICS.name, "ü" * 128, HELLO)


class QueueMachine(RuleBasedStateMachine):
    """Consumers come, go and settle in any order: the oldest is handed out first, and nothing is lost."""

    @initialize(single_active=st.booleans())
    def begin(self, single_active: bool) -> None:
        self.single_active = single_active
        self.host = VirtualHost()
        self.queue = MemoryQueue("q", Queue(name="q", single_active=single_active), self.host)
        self.published = 0
        self.settled = 0
        self.waiting: list[int] = []
        self.consumers: list[QueueConsumer] = []
        self.deliveries: list[MemoryDelivery] = []

    def delivered(self, delivery: MemoryDelivery) -> None:
        number = int(delivery.body)
        assert number == min(self.waiting)
        self.waiting.remove(number)
        self.deliveries.append(delivery)
        if self.single_active:
            assert delivery in self.consumers[0].unsettled

    @rule()
    def push(self) -> None:
        self.published += 1
        self.waiting.append(self.published)
        self.queue.push(HeldMessage(str(self.published).encode(), "", "q", True, None, {}))

    @rule(prefetch=st.integers(1, 3))
    def join(self, prefetch: int) -> None:
        self.consumers.append(QueueConsumer(self.queue, prefetch=prefetch, deliver=self.delivered))
        self.queue.attach(self.consumers[-1])
        self.queue.pump()

    @precondition(lambda self: self.consumers)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        consumer = data.draw(st.sampled_from(self.consumers))
        self.waiting += [int(delivery.body) for delivery in consumer.unsettled]
        self.consumers.remove(consumer)
        self.queue.detach(consumer)
        self.queue.pump()

    @precondition(lambda self: self.deliveries)
    @rule(data=st.data(), way=st.sampled_from(["ack", "reject", "requeue"]))
    def settle(self, data: st.DataObject, way: str) -> None:
        """Any delivery ever made; most are stale, and settling those changes nothing."""
        delivery = data.draw(st.sampled_from(self.deliveries))
        if any(delivery in consumer.unsettled for consumer in self.consumers):
            if way == "requeue":
                self.waiting.append(int(delivery.body))
            else:
                self.settled += 1
        getattr(delivery, way)()

    @invariant()
    def everything_is_somewhere(self) -> None:
        in_hand = [int(delivery.body) for consumer in self.consumers for delivery in consumer.unsettled]
        assert len(self.queue) == len(self.waiting)
        assert len(set(in_hand)) == len(in_hand)
        assert self.published == self.settled + len(self.waiting) + len(in_hand)
        assert (self.host.held_bytes == 0) == (self.published == self.settled)

    @invariant()
    def nobody_has_too_much_and_nothing_waits_for_nothing(self) -> None:
        takers = self.consumers[:1] if self.single_active else self.consumers
        assert not (self.waiting and any(consumer.free for consumer in takers))


TestQueueMachine = QueueMachine.TestCase
