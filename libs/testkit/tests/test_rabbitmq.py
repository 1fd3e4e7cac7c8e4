"""The ``rabbitmq`` fixture, seen from AMQP."""

import asyncio
from typing import NamedTuple

import aio_pika
import pytest
from aio_pika.abc import AbstractChannel
from aio_pika.exceptions import AMQPConnectionError, ChannelNotFoundEntity

from towpath.testkit.rabbitmq import Rabbit, RabbitContainer
from towpath.tools.rabbitmq_node import NodeFailed, RabbitControl, RabbitNode


async def declare(channel: AbstractChannel) -> None:
    await channel.declare_queue("q", durable=True, arguments={"x-queue-type": "quorum"})


async def publish(channel: AbstractChannel, text: str) -> None:
    message = aio_pika.Message(text.encode(), delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
    await channel.default_exchange.publish(message, "q", timeout=60)


async def get(channel: AbstractChannel) -> str:
    message = await (await channel.get_queue("q")).get(timeout=60)
    assert message is not None
    await message.ack()
    return message.body.decode()


async def test_a_test_can_publish_and_get(rabbitmq: Rabbit) -> None:
    async with await aio_pika.connect(rabbitmq.url) as connection:
        channel = await connection.channel()
        await declare(channel)
        await publish(channel, "here")
        assert await get(channel) == "here"


async def test_each_test_has_queues_of_its_own(rabbitmq_node: RabbitControl) -> None:
    async with Rabbit.on(rabbitmq_node) as one, Rabbit.on(rabbitmq_node) as another:
        async with await aio_pika.connect(one.url) as connection:
            await declare(await connection.channel())
        async with await aio_pika.connect(another.url) as connection:
            with pytest.raises(ChannelNotFoundEntity):
                await (await connection.channel()).get_queue("q")


async def test_stop_ends_connections_and_start_restores_durable_state(rabbitmq: Rabbit) -> None:
    connection = await aio_pika.connect(rabbitmq.url)
    ended = asyncio.Event()
    connection.close_callbacks.add(lambda *_: ended.set())
    channel = await connection.channel()
    await declare(channel)
    await publish(channel, "durable")

    await rabbitmq.stop()
    async with asyncio.timeout(60):
        await ended.wait()
    with pytest.raises((AMQPConnectionError, ConnectionError)):
        await aio_pika.connect(rabbitmq.url, timeout=5)

    await rabbitmq.start()
    async with await aio_pika.connect(rabbitmq.url) as again:
        assert await get(await again.channel()) == "durable"


async def test_block_withholds_confirms_until_unblock(rabbitmq: Rabbit) -> None:
    async with await aio_pika.connect(rabbitmq.url) as connection:
        channel = await connection.channel()
        await declare(channel)
        await rabbitmq.block()
        publishing = asyncio.create_task(publish(channel, "late"))
        done, _ = await asyncio.wait([publishing], timeout=0.5)
        assert not done
        await rabbitmq.unblock()
        await publishing
        assert await get(channel) == "late"


async def test_changes_of_a_test_to_the_broker_are_undone(rabbitmq_node: RabbitControl) -> None:
    async with Rabbit.on(rabbitmq_node) as careless:
        await careless.block()
        await careless.stop()
    async with Rabbit.on(rabbitmq_node) as next_one, await aio_pika.connect(next_one.url) as connection:
        channel = await connection.channel()
        await declare(channel)
        await publish(channel, "as before")
        assert await get(channel) == "as before"


class Ran(NamedTuple):
    exit_code: int
    output: bytes


class ContainerOfNode:
    """A node in the place of a container: ``exec`` runs the same commands, without Docker."""

    def __init__(self, node: RabbitNode) -> None:
        self._node = node

    def get_container_host_ip(self) -> str:
        return "127.0.0.1"

    def get_exposed_port(self, port: int) -> int:
        assert port == 5672
        return self._node.port

    def exec(self, command: list[str]) -> Ran:
        program, *arguments = command
        assert program == "rabbitmqctl"
        try:
            return Ran(0, asyncio.run(self._node.ctl(*arguments)).encode())
        except NodeFailed as failure:
            return Ran(1, str(failure).encode())


async def test_a_container_takes_the_same_commands_by_rabbitmqctl() -> None:
    async with RabbitNode() as node:
        password = node.url().split(":")[2].partition("@")[0]
        control = RabbitContainer(ContainerOfNode(node), password)
        async with Rabbit.on(control) as rabbit:
            await rabbit.block()
            assert "memory" in await asyncio.to_thread(control.evaluate, "rabbit_alarm:get_alarms()")
            await rabbit.unblock()
            assert await asyncio.to_thread(control.evaluate, "rabbit_alarm:get_alarms()") == "[]"
            await rabbit.stop()
            await rabbit.start()
            async with await aio_pika.connect(rabbit.url) as connection:
                channel = await connection.channel()
                await declare(channel)
                await publish(channel, "by name and password")
                assert await get(channel) == "by name and password"
        with pytest.raises(NodeFailed, match="no_such_module"):
            await asyncio.to_thread(control.evaluate, "no_such_module:run()")
