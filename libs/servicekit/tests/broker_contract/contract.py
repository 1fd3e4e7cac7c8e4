"""The promises of every broker, run against each implementation: the two, and what their tests share.

A test that passes on one of them only has found a bug, or a difference: then it belongs into
:class:`Differences`, where they are listed.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, Protocol

from towpath.servicekit.broker.interface import (
    Binding,
    Broker,
    BrokerState,
    Delivery,
    Exchange,
    ExchangeType,
    HeaderValue,
    Inbox,
    Message,
    Queue,
    Subscription,
    Topology,
)
from towpath.servicekit.broker.memory import MemoryHub
from towpath.servicekit.broker.rabbitmq import RabbitBroker

PATIENCE: Final = 20.0  # seconds until what must happen counts as not happening
#: Seconds in which a wait that must go on would have ended.
GRACE: Final = 0.01
TOPICS: Final = Exchange("test.topics")
EVERYONE: Final = Exchange("test.everyone", ExchangeType.FANOUT)
GRAVES: Final = Exchange("test.graves", ExchangeType.FANOUT)
# RabbitMQ gives a requeued message its place again only under a delivery limit, the default since 4.0:
# https://www.rabbitmq.com/docs/quorum-queues#repeated-requeues
WORK: Final = Queue(name="test.work", bindings=[Binding(TOPICS.name, "work.#")], delivery_limit=10)
DEAD: Final = Queue(name="test.dead", bindings=[Binding(GRAVES.name, "")])
END: Final = b'"end"'


@dataclass(frozen=True)
class Differences:
    """Where one implementation promises more than the other.

    Attributes:
        length_limit_slack: How many messages more than ``max_length`` a queue may take. RabbitMQ's quorum
            queues report their length to publishers a little late: https://www.rabbitmq.com/docs/quorum-queues#length-limit
        reports_an_alarm_unasked: The state is BLOCKED as soon as the alarm is raised. RabbitMQ reports it
            to a connection only when it publishes: https://www.rabbitmq.com/docs/connection-blocked
    """

    length_limit_slack: int
    reports_an_alarm_unasked: bool


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
    differences = Differences(length_limit_slack=0, reports_an_alarm_unasked=True)

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
    differences = Differences(length_limit_slack=20, reports_an_alarm_unasked=False)

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


@asynccontextmanager
async def connected(server: BrokerUnderTest, name: str) -> AsyncIterator[Broker]:
    async with server.connect(name) as broker:
        async with asyncio.timeout(PATIENCE):
            await broker.until_ready()
        yield broker


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


def an_inbox(**bounds: int) -> Inbox:
    return Inbox(name="inbox", bindings=[Binding(TOPICS.name, "push.#")], **bounds)


async def publish_push(broker: Broker, *names: str) -> None:
    for name in names:
        message = Message(body=a_message(name).body, persistent=False)
        await broker.publish(TOPICS.name, "push.x", message, mandatory=True)


async def publish_transient(broker: Broker, *keys: str) -> None:
    for key in keys:
        await broker.publish(TOPICS.name, key, Message(body=a_message(key).body, persistent=False))
