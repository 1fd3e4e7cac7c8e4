"""Browse a queue with ``basic.get`` on a separate channel; closing the channel requeues everything.

One message at a time, so that memory is bounded for any queue length.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from towpath.servicekit.broker.interface import BrokerError, BrokerUnavailable, Delivery
from towpath.servicekit.broker.rabbitmq.connection import LOST, close_channel, reason_of, rpc
from towpath.servicekit.broker.rabbitmq.delivery import RabbitDelivery
from towpath.servicekit.broker.rabbitmq.driver import ChannelNotFoundEntity, Driver, driver_of
from towpath.servicekit.broker.rabbitmq.link import Link

#: Messages that are requeued before the queue is asked whether it has them; below RabbitMQ's 32, see below.
_STEP: Final = 16
_LAST_SECONDS: Final = 5.0
_CHECKS: Final = 50
_CHECK_SECONDS: Final = 0.01


class RabbitQueueBrowser:
    """See :class:`~towpath.servicekit.broker.interface.QueueBrowser`; made with :meth:`begin`."""

    def __init__(self, channel: Driver, queue: str, waiting: int) -> None:
        self._channel = channel
        self._queue = queue
        self._settlements: deque[tuple[int, str]] = deque()
        self._unsettled: dict[int, None] = {}
        self._settled = False
        self.waiting = waiting

    @classmethod
    @asynccontextmanager
    async def begin(cls, link: Link, queue: str) -> AsyncIterator["RabbitQueueBrowser"]:
        """Look at ``queue`` from entry to exit.

        Raises:
            BrokerError: There is no such queue, or the connection is gone.
        """
        try:
            channel = await link.consumer_channel()
        except LOST as error:
            raise _gone(error) from error
        try:
            try:
                driver = await driver_of(channel)
                waiting = await _waiting(driver, queue)
            except ChannelNotFoundEntity:
                raise BrokerError(f"there is no queue {queue!r}") from None
            except LOST as error:
                raise _gone(error) from error
            browsing = cls(driver, queue, waiting)
            try:
                yield browsing
            except BaseException:
                with contextlib.suppress(*LOST):
                    async with asyncio.timeout(_LAST_SECONDS):  # Closing the channel requeues the rest.
                        await browsing._requeue_rest()
                raise
            try:
                await browsing._requeue_rest()
            except LOST as error:
                if browsing._settled:  # Else there is nothing to requeue.
                    raise _gone(error) from error
        finally:
            await close_channel(channel)

    def __aiter__(self) -> "RabbitQueueBrowser":
        return self

    async def __anext__(self) -> Delivery:
        try:
            await self._send_settlements()
            # `basic.get`, not a consumer: nothing is prefetched. https://www.rabbitmq.com/docs/consumers
            message = await rpc(self._channel.basic_get(self._queue))
        except LOST as error:
            raise _gone(error) from error
        if message.delivery_tag is None:  # Basic.GetEmpty
            raise StopAsyncIteration
        self._unsettled[message.delivery_tag] = None
        return RabbitDelivery(message, self._queue, self, self._channel)

    def settle(self, channel: Driver, tag: int, how: str) -> None:
        """Record a settlement; it is sent before the next ``basic.get``, or at the end."""
        if self._unsettled.pop(tag, tag) is None:
            self._settlements.append((tag, how))
        self._settled = True

    async def _requeue_rest(self) -> None:
        """Send the settlements, requeue the rest, and wait until the queue holds it again.

        In small steps: RabbitMQ loses the order when a channel requeues more than 32 messages at once, or when the
        channel closes.
        """
        await self._send_settlements()
        alone = True
        for number, tag in enumerate(self._unsettled, 1):
            await self._channel.basic_nack(tag, requeue=True, wait=False)
            if alone and (not number % _STEP or number == len(self._unsettled)):
                alone = await self._is_requeued(number)

    async def _is_requeued(self, count: int) -> bool:
        """Whether the queue holds ``count`` messages within a moment; false if another consumer takes them
        meanwhile."""
        for _ in range(_CHECKS):
            # A passive declare counts ready messages.
            if await _waiting(self._channel, self._queue) >= count:
                return True
            await asyncio.sleep(_CHECK_SECONDS)
        return False

    async def _send_settlements(self) -> None:
        while self._settlements:
            tag, how = self._settlements.popleft()
            if how == "ack":
                await self._channel.basic_ack(tag, wait=False)
            else:
                await self._channel.basic_reject(tag, requeue=how == "requeue", wait=False)


async def _waiting(channel: Driver, queue: str) -> int:
    declared = await rpc(channel.queue_declare(queue, passive=True))
    return declared.message_count or 0


def _gone(error: BaseException) -> BrokerUnavailable:
    return BrokerUnavailable(f"the connection to RabbitMQ is gone: {reason_of(error)}")
