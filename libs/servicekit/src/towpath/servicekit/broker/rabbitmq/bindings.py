"""The bindings of one inbox on RabbitMQ, changed over a channel of their own.

RabbitMQ handles the frames of a channel one after another, and a binding waits for the metadata store: on the
consuming channel that would delay deliveries and acks.
"""

import asyncio
from collections.abc import Awaitable, Callable

from towpath.servicekit.broker.interface import Binding, BrokerError, BrokerUnavailable
from towpath.servicekit.broker.rabbitmq.connection import (
    LOST,
    close_channel,
    reason_of,
    within,
)
from towpath.servicekit.broker.rabbitmq.driver import Channel, Driver, driver_of
from towpath.servicekit.broker.rabbitmq.link import Link


class RabbitBindings:
    """See :class:`~towpath.servicekit.broker.interface.Bindings`.

    Args:
        queue: The name of the inbox on the broker, unique and fixed while the inbox exists.
    """

    def __init__(self, link: Link, queue: str) -> None:
        self._link = link
        self._queue = queue
        self._channel: Channel | None = None
        self._request_lock = asyncio.Lock()
        self._ended = False

    @property
    def exists(self) -> bool:
        return not self._ended and not self._link.lost.done()

    async def add(self, binding: Binding, *, timeout: float) -> None:
        exchange, key = binding.exchange, binding.routing_key
        await self._request(timeout, lambda driver: driver.queue_bind(self._queue, exchange, key))

    async def remove(self, binding: Binding, *, timeout: float) -> None:
        exchange, key = binding.exchange, binding.routing_key
        await self._request(timeout, lambda driver: driver.queue_unbind(self._queue, exchange, key))

    def end(self) -> None:
        """The inbox was deleted."""
        self._ended = True

    async def close(self) -> None:
        """The inbox was deleted; close its channel."""
        self.end()
        channel, self._channel = self._channel, None
        if channel is not None:
            await close_channel(channel)

    async def _request(self, timeout: float, request: Callable[[Driver], Awaitable[object]]) -> None:
        self._check_exists()
        try:
            await within(timeout, self._reply(request))
        except LOST as error:
            # Without the inbox it is another error: `BrokerUnavailable`, as the next inbox has bindings of its own.
            self._check_exists()
            raise BrokerError(f"RabbitMQ did not change a binding: {reason_of(error)}") from error

    async def _reply(self, request: Callable[[Driver], Awaitable[object]]) -> None:
        async with self._request_lock:
            # Stored for reuse only after the reply: a late reply must not answer the next request.
            channel, self._channel = self._channel, None
            if channel is None or channel.is_closed:
                channel = await self._link.consumer_channel()
            try:
                await request(await driver_of(channel))
            except BaseException:
                # Its reply may still arrive, so the channel is not used again.
                await close_channel(channel)
                raise
            if self._ended:
                await close_channel(channel)
            else:
                self._channel = channel

    def _check_exists(self) -> None:
        if not self.exists:
            raise BrokerUnavailable("the inbox no longer exists")
