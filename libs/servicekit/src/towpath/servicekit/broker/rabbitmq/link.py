"""A link: two connections to RabbitMQ that live and die together. The only user of aio-pika."""

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any, Final

import aio_pika
import structlog
from aiormq.abc import AbstractChannel
from aiormq.exceptions import AMQPError, ChannelPreconditionFailed
from yarl import URL

from towpath.servicekit.broker.interface import Binding, Queue, Topology, TopologyMismatch

log = structlog.get_logger(__name__)

CONNECT_TIMEOUT: Final = 5.0
RPC_TIMEOUT: Final = 10.0
CLOSE_TIMEOUT: Final = 5.0
BLOCKED_POLL: Final = 0.2

#: What aio-pika and aiormq raise when a channel or connection goes.
LOST: Final = (AMQPError, ConnectionError, OSError, RuntimeError, TimeoutError)

Channel = aio_pika.abc.AbstractChannel


class Link:
    """Two connections that live and die together."""

    def __init__(
        self, publishing: aio_pika.abc.AbstractConnection, consuming: aio_pika.abc.AbstractConnection
    ) -> None:
        self._publishing = publishing
        self._consuming = consuming
        self._publisher: Channel | None = None
        self._publisher_lock = asyncio.Lock()
        self.blocked = False
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        for connection in (publishing, consuming):
            connection.close_callbacks.add(self._on_connection_closed)

    @classmethod
    async def open(cls, url: URL, name: str) -> "Link":
        opened: list[aio_pika.abc.AbstractConnection] = []
        try:
            for purpose in ("publish", "consume"):
                opened.append(
                    await aio_pika.connect(
                        url,
                        timeout=CONNECT_TIMEOUT,
                        client_properties={"connection_name": f"{name} {purpose}"},
                    )
                )
            link = cls(*opened)
            async with asyncio.timeout(RPC_TIMEOUT):
                await link.publisher()
        except BaseException:
            for connection in opened:
                await close_quietly(connection)
            raise
        return link

    def fail(self, reason: str) -> None:
        """Declare the link lost; the supervisor makes a new one."""
        if not self.lost.done():
            self.lost.set_result(reason)

    def _on_connection_closed(self, _sender: object, error: BaseException | None) -> None:
        self.fail(reason_of(error))

    async def watch(self) -> str:
        """Keep :attr:`blocked` up to date until the link is lost; returns why."""
        transport = self._publishing.transport
        assert transport is not None
        while True:
            done, _ = await asyncio.wait([self.lost], timeout=BLOCKED_POLL)
            if done:
                return self.lost.result()
            # aiormq tells of Connection.Blocked only through ready(), which then waits.
            try:
                async with asyncio.timeout(BLOCKED_POLL / 4):
                    await transport.ready()
            except TimeoutError:
                if not self.blocked:
                    log.warning("broker_blocked")
                self.blocked = True
            else:
                if self.blocked:
                    log.info("broker_unblocked")
                self.blocked = False

    async def publisher(self) -> AbstractChannel:
        """The channel to publish on; a fresh one when the broker closed the last (an unknown exchange does)."""
        channel = self._publisher
        if channel is None or channel.is_closed:
            async with self._publisher_lock:
                channel = self._publisher
                if channel is None or channel.is_closed:
                    channel = self._publishing.channel(publisher_confirms=True, on_return_raises=True)
                    await channel.initialize(timeout=RPC_TIMEOUT)
                    self._publisher = channel
        underlay: AbstractChannel = await channel.get_underlay_channel()
        return underlay

    async def consumer_channel(self) -> Channel:
        channel = self._consuming.channel(publisher_confirms=False)
        await channel.initialize(timeout=RPC_TIMEOUT)
        return channel

    async def declare(self, topology: Topology) -> None:
        channel = await self.consumer_channel()
        try:
            underlay: AbstractChannel = await channel.get_underlay_channel()
            for exchange in topology.exchanges:
                await underlay.exchange_declare(
                    exchange.name, exchange_type=exchange.type.value, durable=True, timeout=RPC_TIMEOUT
                )
            for queue in topology.queues:
                await underlay.queue_declare(
                    queue.name, durable=True, arguments=queue_arguments(queue), timeout=RPC_TIMEOUT
                )
                await bind(underlay, queue.name, queue.bindings)
        except ChannelPreconditionFailed as error:
            raise TopologyMismatch(
                f"RabbitMQ has an exchange or queue with other arguments than this version needs: {error}. "
                "Empty and delete it, or point this service to another virtual host."
            ) from None
        finally:
            await close_quietly(channel)

    async def close(self) -> None:
        self.fail("closed")
        await asyncio.gather(close_quietly(self._publishing), close_quietly(self._consuming))


def queue_arguments(queue: Queue) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "x-queue-type": "quorum",
        "x-delivery-limit": queue.delivery_limit,
    }
    if queue.single_active:
        arguments["x-single-active-consumer"] = True
    if queue.max_length is not None:
        arguments["x-max-length"] = queue.max_length
    if queue.message_ttl_ms is not None:
        arguments["x-message-ttl"] = queue.message_ttl_ms
    arguments["x-overflow"] = "reject-publish"
    if queue.dead_letter_exchange is not None:
        arguments["x-dead-letter-exchange"] = queue.dead_letter_exchange
        # At least once needs reject-publish: https://www.rabbitmq.com/docs/quorum-queues#dead-lettering
        arguments["x-dead-letter-strategy"] = "at-least-once"
    return arguments


async def bind(channel: AbstractChannel, queue: str, bindings: Sequence[Binding]) -> None:
    for binding in bindings:
        await channel.queue_bind(
            queue, exchange=binding.exchange, routing_key=binding.routing_key, timeout=RPC_TIMEOUT
        )


async def close_quietly(closable: Any) -> None:
    with contextlib.suppress(*LOST, asyncio.TimeoutError):
        async with asyncio.timeout(CLOSE_TIMEOUT):
            await closable.close()


def reason_of(error: BaseException | None) -> str:
    if error is None or isinstance(error, asyncio.CancelledError):
        return "closed"
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
