"""The bindings of one inbox of the memory broker, while it exists."""

import asyncio

from towpath.servicekit.broker.interface import Binding, BrokerError, BrokerUnavailable
from towpath.servicekit.broker.memory_queue import MemoryQueue
from towpath.servicekit.broker.memory_vhost import VirtualHost


class MemoryBindings:
    """See :class:`~towpath.servicekit.broker.interface.Bindings`.

    Args:
        changing: Cleared while bindings are held.
    """

    def __init__(self, vhost: VirtualHost, queue: MemoryQueue, changing: asyncio.Event) -> None:
        self._vhost = vhost
        self._queue = queue
        self._changing = changing

    async def add(self, binding: Binding, *, timeout: float) -> None:
        await self._answered(timeout)
        self._vhost.bind_inbox(self._queue, binding)

    async def remove(self, binding: Binding, *, timeout: float) -> None:
        await self._answered(timeout)
        self._vhost.unbind_inbox(self._queue, binding)

    async def _answered(self, timeout: float) -> None:
        """Wait one iteration of the event loop, as a real answer would take, and while bindings are held."""
        try:
            async with asyncio.timeout(timeout):
                await asyncio.sleep(0)
                await self._changing.wait()
        except TimeoutError:
            self._check_exists()
            raise BrokerError(f"the binding was not changed within {timeout:g} s") from None
        self._check_exists()

    def _check_exists(self) -> None:
        if not self._vhost.has_inbox(self._queue):
            raise BrokerUnavailable("the inbox no longer exists")
