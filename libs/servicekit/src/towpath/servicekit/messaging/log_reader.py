"""A reader of a log: hands over every message from the first one on, and knows when it has read all that was there.

The broker does not say how long a log is: RabbitMQ's count of a stream is some seconds old. So the reader publishes a
marker to the log. Once it reads its own marker, it has read everything that was confirmed before.

Guarantees: messages are handled in order, all that have arrived at once. ``is_current`` is true only once everything
that was in the log when the reader connected has been handled. It is false without a connection, and after each
reconnect until everything was read again, because messages of the time without a connection are among it.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import structlog

from towpath.servicekit.broker.interface import (
    Binding,
    Broker,
    BrokerError,
    BrokerState,
    Delivery,
    Exchange,
    Log,
    Message,
    Subscription,
    Topology,
    Unroutable,
)
from towpath.servicekit.runtime.backoff import attempts
from towpath.servicekit.runtime.error_text import describe_error
from towpath.servicekit.runtime.settings import CannotStart

log = structlog.get_logger(__name__)

#: Maximum of unsettled deliveries, and so of messages that are handled at once.
_PREFETCH: Final = 500


class LogReader:
    """Reads one log; see :meth:`run`.

    Args:
        broker: A connection for this log alone: a log that cannot be read (its node is down, in a cluster) must not
            end the link that everything else needs.
        marker: Exchange and routing key of markers; a binding of the log matches it. Messages under this key are not
            handed over.
        handle: Handles messages in order.

    Attributes:
        is_current: See the head of this module.
    """

    def __init__(
        self,
        broker: Broker,
        source: Log,
        marker: Binding,
        handle: Callable[[Sequence[Delivery]], Awaitable[None]],
    ) -> None:
        self._broker = broker
        self._source = source
        self._marker = marker
        self._handle = handle
        self._current = asyncio.Event()
        self._due = asyncio.Event()
        self._awaited = b""
        broker.on_rebuilt(self._begin)

    @property
    def is_current(self) -> bool:
        return self._current.is_set() and self._broker.state is not BrokerState.CONNECTING

    async def until_current(self) -> None:
        """Wait until everything has been read."""
        await self._current.wait()

    async def run(self) -> None:
        """Read until cancelled.

        Raises:
            BrokerRefused, TopologyMismatch: The log does not exist and cannot be made, or is not a log.
        """
        exchanges = Topology([Exchange(binding.exchange) for binding in self._source.bindings])
        async for _ in attempts():
            try:
                await self._broker.declare(exchanges)
                async with (
                    self._broker.subscribe(self._source, prefetch=_PREFETCH) as subscription,
                    asyncio.TaskGroup() as tasks,
                ):
                    self._begin()
                    marking = tasks.create_task(self._mark(), name=f"{self._source.name}: mark")
                    await self._read(subscription)
                    marking.cancel()
                return  # The broker was closed.
            except CannotStart:
                raise
            except BrokerError as error:
                log.warning("log_unreadable", log=self._source.name, error=describe_error(error))
                # On another node of the cluster there may be a replica of it.
                self._broker.rebuild(f"{self._source.name} cannot be read on this node")

    async def _read(self, subscription: Subscription) -> None:
        async for first in subscription:
            deliveries = [first, *subscription.take_waiting(_PREFETCH)]
            awaited = self._awaited
            marked = [one for one in deliveries if one.routing_key == self._marker.routing_key]
            if len(marked) < len(deliveries):
                await self._handle([one for one in deliveries if one not in marked])
            for delivery in deliveries:
                delivery.ack()
            # Another one is awaited if the broker was reconnected meanwhile.
            if awaited == self._awaited and any(one.body == awaited for one in marked):
                self._current.set()

    async def _mark(self) -> None:
        while True:
            await self._due.wait()
            self._due.clear()
            async for _ in attempts():
                try:
                    await self._publish_marker()
                    break
                except Unroutable:
                    # The log exists and its binding does not: it is bound again when everything is rebuilt.
                    self._broker.rebuild(f"{self._source.name} is not bound to {self._marker.routing_key}")
                except BrokerError as error:
                    log.warning("log_not_marked", log=self._source.name, error=describe_error(error))

    async def _publish_marker(self) -> None:
        exchange, key = self._marker.exchange, self._marker.routing_key
        await self._broker.publish(exchange, key, Message(body=self._awaited), mandatory=True)

    def _begin(self) -> None:
        """The log is read from its first message now."""
        self._current.clear()
        self._awaited = b'{"reader":"%s"}' % secrets.token_hex(8).encode()
        self._due.set()
