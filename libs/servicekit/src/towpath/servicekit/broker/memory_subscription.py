"""A running consumer of the memory broker, and a look at one of its queues.

They outlive their connection to the broker: see ``start`` and ``leave``, which a connection calls when the broker
comes and goes.
"""

import asyncio
from collections import deque
from collections.abc import Sequence

from towpath.servicekit.broker.arrivals import Arrivals
from towpath.servicekit.broker.interface import BrokerError, BrokerUnavailable, Delivery, Inbox, Log, Queue
from towpath.servicekit.broker.memory_log import MemoryLogReader
from towpath.servicekit.broker.memory_queue import MemoryDelivery, MemoryQueue, QueueConsumer
from towpath.servicekit.broker.memory_vhost import VirtualHost


class MemorySubscription(Arrivals):
    """See :class:`~towpath.servicekit.broker.interface.Subscription`."""

    def __init__(
        self,
        vhost: VirtualHost,
        sources: Sequence[Queue | Inbox | Log],
        prefetch: int,
        arrived: asyncio.Event | None = None,
    ) -> None:
        super().__init__(arrived)
        self._vhost = vhost
        self._sources = sources
        self._prefetch = prefetch
        self._consumers: list[QueueConsumer] = []
        self._readers: list[MemoryLogReader] = []
        self._cancelled = False

    def start(self) -> None:
        """Consume from the existing queues and from newly created inboxes."""
        if self._cancelled:
            return
        try:
            for source in self._sources:
                if isinstance(source, Log):
                    self._read(source)
                    continue
                queue = (
                    self._vhost.queue(source.name)
                    if isinstance(source, Queue)
                    else self._vhost.make_inbox(source)
                )
                consumer = QueueConsumer(
                    queue,
                    prefetch=self._prefetch,
                    deliver=self._receive,
                    settled=self._was_settled,
                )
                queue.attach(consumer)
                self._consumers.append(consumer)
        except BrokerError:
            self.end()
            raise
        # Only now, as a delivery may be settled at once, and its queue then delivers to all who are attached.
        for consumer in self._consumers:
            consumer.queue.pump()
        for reader in self._readers:
            reader.log.pump(reader)

    def _read(self, source: Log) -> None:
        log = self._vhost.make_log(source)
        reader = MemoryLogReader(
            log, prefetch=self._prefetch, deliver=self._receive, settled=self._was_settled
        )
        log.attach(reader)
        self._readers.append(reader)

    async def cancel(self) -> None:
        self._cancelled = True
        self._stop_reading()
        for consumer in self._consumers:
            consumer.queue.cancel(consumer)
        for consumer in self._consumers:
            consumer.queue.pump()

    def inbox(self, inbox: Inbox) -> MemoryQueue | None:
        """The queue of one of its inboxes, if it exists."""
        queues = (consumer.queue for consumer in self._consumers)
        return next((queue for queue in queues if queue.source is inbox), None)

    def leave(self) -> list[MemoryQueue]:
        """Stop consuming and requeue unsettled deliveries; returns the queues to be pumped now."""
        self._waiting.clear()
        self._stop_reading()
        left: list[MemoryQueue] = []
        while self._consumers:
            consumer = self._consumers.pop()
            if isinstance(consumer.queue.source, Inbox):
                self._vhost.delete_inbox(consumer.queue)
            else:
                consumer.queue.detach(consumer)
                left.append(consumer.queue)
        return left

    def _stop_reading(self) -> None:
        for reader in self._readers:
            reader.log.detach(reader)
        self._readers.clear()

    def end(self) -> None:
        """Leave for good: the iteration ends."""
        self._end_iteration()
        leave_all([self])


class MemoryQueueBrowser:
    """See :class:`~towpath.servicekit.broker.interface.QueueBrowser`."""

    def __init__(self, queue: MemoryQueue) -> None:
        self.waiting = len(queue)
        self._seen: deque[MemoryDelivery] = deque()
        self._looking = QueueConsumer(queue, prefetch=0, deliver=self._seen.append)
        self._ended = False

    def __aiter__(self) -> "MemoryQueueBrowser":
        return self

    async def __anext__(self) -> Delivery:
        await asyncio.sleep(0)
        if self._ended:
            raise BrokerUnavailable("the connection is gone")
        if not self._looking.queue.hand_to(self._looking):
            raise StopAsyncIteration
        return self._seen.pop()

    def end(self) -> None:
        """Requeue unsettled deliveries."""
        if not self._ended:
            self._ended = True
            self._looking.queue.take_back(self._looking)
            self._looking.queue.pump()


def leave_all(subscriptions: Sequence[MemorySubscription]) -> None:
    """All leave before any queue delivers again, or one would receive what another requeued."""
    for queue in [queue for subscription in subscriptions for queue in subscription.leave()]:
        queue.pump()
