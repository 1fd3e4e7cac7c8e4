"""A running consumer over one link after another."""

import asyncio
import contextlib
import secrets
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from aiormq.abc import AbstractChannel, DeliveredMessage

from towpath.servicekit.broker.interface import Delivery, Inbox, Queue
from towpath.servicekit.broker.rabbitmq.link import (
    CLOSE_TIMEOUT,
    LOST,
    RPC_TIMEOUT,
    Channel,
    Link,
    bind,
    close_quietly,
    reason_of,
)


class RabbitSubscription:
    """See :class:`~towpath.servicekit.broker.interface.Subscription`."""

    def __init__(self, sources: tuple[Queue | Inbox, ...], prefetch: int) -> None:
        self._sources = sources
        self._prefetch = prefetch
        self._channel: Channel | None = None
        self._waiting: deque[RabbitDelivery] = deque()
        self._arrived = asyncio.Event()
        self._settlements: deque[tuple[int, str]] = deque()
        self._to_settle = asyncio.Event()
        self._settler: asyncio.Task[None] | None = None
        self._starting = False
        self._ended = False

    def __aiter__(self) -> "RabbitSubscription":
        return self

    async def __anext__(self) -> Delivery:
        while not self._waiting:
            if self._ended:
                raise StopAsyncIteration
            self._arrived.clear()
            await self._arrived.wait()
        return self._waiting.popleft()

    def take_waiting(self, limit: int) -> list[Delivery]:
        return [self._waiting.popleft() for _ in range(min(limit, len(self._waiting)))]

    async def start(self, link: Link) -> None:
        """Consume over a new link; what was in hand from an older one is forgotten (it comes again)."""
        await self.stop()
        channel = await link.consumer_channel()
        underlay: AbstractChannel = await channel.get_underlay_channel()
        channel.close_callbacks.add(lambda _, error: self._on_channel_closed(link, channel, error))
        underlay.on_consumer_cancel_callbacks.add(lambda _: link.fail("the broker cancelled a consumer"))
        await underlay.basic_qos(prefetch_count=self._prefetch, timeout=RPC_TIMEOUT)
        self._channel = channel
        self._starting = True
        self._settler = asyncio.create_task(self._settle(underlay), name="subscription: settle")
        try:
            for source in self._sources:
                queue = source.name if isinstance(source, Queue) else await make_inbox(underlay, source)
                await underlay.basic_consume(
                    queue, self._receiver(source.name, underlay), timeout=RPC_TIMEOUT
                )
        except BaseException:
            await self.stop()
            raise
        finally:
            self._starting = False

    async def stop(self) -> None:
        """Forget the channel and all that came over it."""
        channel, self._channel = self._channel, None
        self._waiting.clear()
        settler, self._settler = self._settler, None
        if settler is not None:
            settler.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await settler
        self._settlements.clear()
        if channel is not None:
            await close_quietly(channel)

    async def close(self) -> None:
        """Stop intake, send what was settled, give the rest back."""
        self._ended = True
        self._arrived.set()
        channel = self._channel
        if channel is not None and not channel.is_closed:
            with contextlib.suppress(*LOST, asyncio.TimeoutError):
                async with asyncio.timeout(CLOSE_TIMEOUT):
                    underlay: AbstractChannel = await channel.get_underlay_channel()
                    await self._send_settlements(underlay)
        await self.stop()

    def settle(self, channel: AbstractChannel, tag: int, how: str) -> None:
        current = self._channel
        if current is None or current.is_closed or channel.is_closed:
            return  # A stale delivery: the broker redelivers it.
        self._settlements.append((tag, how))
        self._to_settle.set()

    def _receiver(self, name: str, channel: AbstractChannel) -> Callable[[DeliveredMessage], Any]:
        async def receive(message: DeliveredMessage) -> None:
            self._waiting.append(RabbitDelivery(message, name, self, channel))
            self._arrived.set()

        return receive

    async def _settle(self, channel: AbstractChannel) -> None:
        # One task sends all settlements, so that ack() never waits for the socket.
        with contextlib.suppress(*LOST):
            while True:
                await self._to_settle.wait()
                self._to_settle.clear()
                await self._send_settlements(channel)

    async def _send_settlements(self, channel: AbstractChannel) -> None:
        while self._settlements:
            tag, how = self._settlements.popleft()
            if how == "ack":
                await channel.basic_ack(tag, wait=False)
            else:
                await channel.basic_reject(tag, requeue=how == "requeue", wait=False)

    def _on_channel_closed(self, link: Link, channel: Channel, error: BaseException | None) -> None:
        if self._channel is channel and not self._starting:  # not closed by ourselves, nor refused
            link.fail(f"a consuming channel closed: {reason_of(error)}")


class RabbitDelivery:
    """See :class:`~towpath.servicekit.broker.interface.Delivery`."""

    __slots__ = ("_channel", "_message", "_subscription", "queue")

    def __init__(
        self,
        message: DeliveredMessage,
        queue: str,
        subscription: RabbitSubscription,
        channel: AbstractChannel,
    ) -> None:
        self._message = message
        self._subscription = subscription
        self._channel = channel
        self.queue = queue

    @property
    def body(self) -> bytes:
        return self._message.body

    @property
    def exchange(self) -> str:
        return self._message.exchange or ""

    @property
    def routing_key(self) -> str:
        return self._message.routing_key or ""

    @property
    def redelivered(self) -> bool:
        return bool(self._message.redelivered)

    @property
    def app_id(self) -> str | None:
        return self._message.header.properties.app_id

    @property
    def headers(self) -> Mapping[str, Any]:
        return self._message.header.properties.headers or {}

    def ack(self) -> None:
        self._settle("ack")

    def reject(self) -> None:
        self._settle("reject")

    def requeue(self) -> None:
        self._settle("requeue")

    def _settle(self, how: str) -> None:
        tag = self._message.delivery_tag
        assert tag is not None
        self._subscription.settle(self._channel, tag, how)


async def make_inbox(channel: AbstractChannel, inbox: Inbox) -> str:
    name = f"{inbox.name}.{secrets.token_hex(6)}"
    await channel.queue_declare(
        name,
        exclusive=True,
        auto_delete=True,
        durable=False,
        arguments={
            "x-max-length": inbox.max_length,
            "x-max-length-bytes": inbox.max_bytes,
            "x-message-ttl": inbox.message_ttl_ms,
            "x-overflow": "drop-head",
        },
        timeout=RPC_TIMEOUT,
    )
    await bind(channel, name, inbox.bindings)
    return name
