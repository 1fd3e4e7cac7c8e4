"""The reader of a log: when it has read everything."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

import aio_pika
import pytest

from towpath.servicekit.broker.interface import (
    Binding,
    Broker,
    BrokerError,
    Delivery,
    Exchange,
    Log,
    Message,
    Topology,
    TopologyMismatch,
)
from towpath.servicekit.broker.memory import MemoryHub
from towpath.servicekit.broker.rabbitmq import RabbitBroker
from towpath.servicekit.messaging.log_reader import LogReader
from towpath.testkit.eventually import eventually
from towpath.testkit.rabbitmq import Rabbit

TOPICS = Topology([Exchange("topics")])
LOG = Log(name="log", bindings=[Binding("topics", "log.*")], max_bytes=10**6, segment_bytes=10**5, max_age=1)
MARKER = Binding("topics", "log.reader")


class Reading:
    """A reader, and the bodies that it has handled."""

    def __init__(self, broker: Broker) -> None:
        self.read: list[bytes] = []
        self.may_handle = asyncio.Event()
        self.may_handle.set()
        self.reader = LogReader(broker, LOG, MARKER, self.handle)

    async def handle(self, deliveries: Sequence[Delivery]) -> None:
        await self.may_handle.wait()
        self.read += [delivery.body for delivery in deliveries]

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        running = asyncio.create_task(self.reader.run())
        yield
        running.cancel()
        await asyncio.wait([running])
        assert running.cancelled()

    def is_current(self) -> bool:
        return self.reader.is_current

    async def until_current(self) -> None:
        async with asyncio.timeout(20):
            await self.reader.until_current()


async def write(broker: Broker, *names: bytes) -> None:
    for name in names:
        await broker.publish("topics", "log.x", Message(body=name), mandatory=True)


async def test_a_reader_is_current_once_it_has_handled_what_was_there(broker: Broker) -> None:
    first, second = Reading(broker), Reading(broker)
    async with first.running():
        await first.until_current()
        await write(broker, b"1", b"2", b"3")
        await eventually(lambda: first.read == [b"1", b"2", b"3"])
    second.may_handle.clear()
    async with second.running():
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await second.reader.until_current()
        second.may_handle.set()
        await second.until_current()
        # Neither its own marker nor another's is among it.
        assert second.read == [b"1", b"2", b"3"]


async def test_after_a_reconnect_a_reader_is_current_only_when_it_has_read_everything_again(
    hub: MemoryHub, broker: Broker
) -> None:
    one = Reading(broker)
    async with one.running(), hub.connect(name="writer") as writer:
        await one.until_current()
        await write(writer, b"1")
        await eventually(lambda: one.read == [b"1"])
        assert one.is_current()
        hub.stop()
        assert not one.is_current()
        hub.start()
        assert not one.is_current()
        await write(writer, b"2")
        await one.until_current()
        assert one.read == [b"1", b"1", b"2"]


async def test_a_marker_that_was_handled_with_an_older_connection_does_not_count(
    hub: MemoryHub, broker: Broker
) -> None:
    one = Reading(broker)
    hub.hold_confirms()
    async with one.running(), hub.connect(name="writer") as writer:
        hub.release_confirms()
        await one.until_current()
        one.may_handle.clear()
        await write(writer, b"1")
        hub.stop()
        hub.start()
        one.may_handle.set()
        await one.until_current()
        assert one.read[-1:] == [b"1"]


async def test_a_reader_whose_log_lost_its_binding_binds_it_again(rabbitmq: Rabbit) -> None:
    async with RabbitBroker.connect(rabbitmq.url, name="reader", reconnect_max=0.2) as broker:
        one, another = Reading(broker), Reading(broker)
        async with one.running():
            await one.until_current()
        admin = await aio_pika.connect(rabbitmq.url)
        queue = await (await admin.channel()).get_queue(LOG.name)
        await queue.unbind("topics", "log.*")
        async with another.running():
            await another.until_current()
            await write(broker, b"1")
            await eventually(lambda: another.read == [b"1"])
        await admin.close()


class OneNodeWithoutTheLog:
    """A broker of several nodes: the first has no replica of the log, and a rebuilt connection goes to another."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self.rebuilt: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._broker, name)

    def subscribe(self, *sources: Any, **options: Any) -> Any:
        if not self.rebuilt:
            raise BrokerError("stream 'log' does not have a replica on the local node")
        return self._broker.subscribe(*sources, **options)

    def rebuild(self, reason: str) -> None:
        self.rebuilt.append(reason)


async def test_a_log_without_a_replica_on_one_node_is_read_on_another(broker: Broker) -> None:
    cluster = OneNodeWithoutTheLog(broker)
    one = Reading(cast("Broker", cluster))
    async with one.running():
        await one.until_current()
        assert cluster.rebuilt == ["log cannot be read on this node"]
        await write(broker, b"1")
        await eventually(lambda: one.read == [b"1"])


async def test_a_queue_with_other_arguments_ends_the_reader(broker: Broker) -> None:
    await broker.declare(TOPICS)
    async with broker.subscribe(Log(name="log", max_bytes=5, segment_bytes=5, max_age=5), prefetch=1):
        pass
    with pytest.raises(TopologyMismatch, match="log"):
        await LogReader(broker, LOG, MARKER, Reading(broker).handle).run()
