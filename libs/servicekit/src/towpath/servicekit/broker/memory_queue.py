"""One queue of the memory broker: its messages, consumers, unsettled deliveries and dead-lettering.

Guarantees, those of a RabbitMQ quorum queue with ``x-overflow: reject-publish`` (an inbox: of an exclusive
queue with drop-head):

* Messages leave in the order they came. Requeued messages keep their position, ahead of those never delivered.
* A consumer has at most ``prefetch`` unsettled deliveries. Consumers are served round robin, unless the queue has a
  single active consumer: then the next one starts when the first has left and its deliveries are requeued.
* A message is dead-lettered once, for one reason, and is then no longer held.

No method awaits: each runs to its end on the event loop and leaves at most one timer behind.
"""

import asyncio
import heapq
import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from towpath.servicekit.broker.interface import Inbox, Queue
from towpath.servicekit.broker.memory_message import OVERHEAD, DeadLetterReason, Entry, HeldMessage


class DeadLetterRouter(Protocol):
    """The broker around the queue."""

    held_bytes: int

    def dead_letter(self, queue: "MemoryQueue", message: HeldMessage, reason: DeadLetterReason) -> None:
        """Route a dead message to the queue's dead-letter exchange, or drop it."""
        ...


class MemoryQueue:
    """A queue under its ``name`` on the broker, made for ``source``."""

    def __init__(self, name: str, source: Queue | Inbox, router: DeadLetterRouter) -> None:
        self.name = name
        self.source = source
        self._router = router
        self._fresh: deque[Entry] = deque()  # Never delivered, in order.
        self._returned: list[Entry] = []  # Delivered and requeued: a heap, all before the fresh ones.
        self._ready_bytes = 0
        self._pushed = 0
        self._consumers: deque[QueueConsumer] = deque()
        self._timer: asyncio.TimerHandle | None = None
        ttl = source.message_ttl_ms
        self._ttl = math.inf if ttl is None else ttl / 1000
        self._max_length = math.inf if source.max_length is None else source.max_length
        self._max_bytes = source.max_bytes if isinstance(source, Inbox) else math.inf

    def __len__(self) -> int:
        """Number of waiting messages; unsettled deliveries do not count."""
        return len(self._fresh) + len(self._returned)

    @property
    def unsettled(self) -> int:
        """Number of deliveries that its consumers have not settled."""
        return sum(len(consumer.unsettled) for consumer in self._consumers)

    @property
    def consumers(self) -> int:
        """Number of active consumers; as in RabbitMQ, those that wait behind a single active one do not count."""
        is_shared = isinstance(self.source, Inbox) or not self.source.single_active
        return len(self._consumers) if is_shared else min(len(self._consumers), 1)

    @property
    def full(self) -> bool:
        """Whether it refuses publishes. An inbox never does: it drops its oldest message."""
        return isinstance(self.source, Queue) and len(self) >= self._max_length

    def push(self, message: HeldMessage) -> None:
        """Add a message, and deliver it if a consumer is free."""
        self._pushed += 1
        expires = math.inf if self._ttl == math.inf else asyncio.get_running_loop().time() + self._ttl
        self._fresh.append(Entry(self._pushed, message, expires))
        self._ready_bytes += len(message.body)
        self._router.held_bytes += len(message.body) + OVERHEAD
        self.pump()

    def pump(self) -> None:
        """Deliver waiting messages as far as consumers have room; drop those that are expired or over a bound."""
        # Expired messages first, or a consumer would get one whose time is over.
        self._drop_expired()
        while (self._fresh or self._returned) and (consumer := self._next_free()) is not None:
            consumer.receive(self._pop())
        # After the delivery: with a free consumer nothing is waiting, so nothing is dropped.
        # https://www.rabbitmq.com/docs/maxlength
        if isinstance(self.source, Inbox):
            while len(self) > self._max_length or self._ready_bytes > self._max_bytes:
                self._forget(self._pop())
        # One timer per queue, for its head: it fires early at worst, and looks again.
        if self._timer is None and self._ttl != math.inf and self:
            self._timer = asyncio.get_running_loop().call_at(self._head().expires, self._on_timer)

    def attach(self, consumer: "QueueConsumer") -> None:
        """Deliver to ``consumer`` from the next :meth:`pump` on."""
        self._consumers.append(consumer)

    def cancel(self, consumer: "QueueConsumer") -> None:
        """Deliver nothing more to ``consumer``, which keeps its unsettled deliveries."""
        if consumer in self._consumers:
            self._consumers.remove(consumer)

    def detach(self, consumer: "QueueConsumer") -> None:
        """Requeue all deliveries of ``consumer``. The caller pumps once all leaving consumers are detached."""
        self.cancel(consumer)
        self.take_back(consumer)

    def hand_to(self, consumer: "QueueConsumer") -> bool:
        """Deliver the head to ``consumer``, which need not be attached; false when the queue is empty."""
        self._drop_expired()
        if self:
            consumer.receive(self._pop())
            return True
        return False

    def take_back(self, consumer: "QueueConsumer") -> None:
        """Requeue all deliveries of ``consumer`` at their positions."""
        entries = [delivery.entry for delivery in consumer.unsettled]
        consumer.unsettled.clear()
        # In their order, as a quorum queue requeues: else the next consumer would see later messages first.
        self._put_back(sorted(entries))

    def drop_transient(self) -> None:
        """Drop transient messages, as a restart of the broker does."""
        waiting = sorted((*self._returned, *self._fresh))
        for entry in waiting:
            if not entry.message.persistent:
                self._ready_bytes -= len(entry.message.body)
                self._forget(entry)
        self._returned = [entry for entry in waiting if entry.message.persistent and entry.returns]
        self._fresh = deque(entry for entry in waiting if entry.message.persistent and not entry.returns)

    def delete(self) -> None:
        """Drop everything; unsettled deliveries become stale."""
        for consumer in list(self._consumers):
            self.detach(consumer)
        while self:
            self._forget(self._pop())
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # Called by deliveries

    def ack(self, entry: Entry) -> None:
        self._forget(entry)
        self.pump()

    def reject(self, entry: Entry) -> None:
        self._dead_letter(entry, DeadLetterReason.REJECTED)
        self.pump()

    def requeue(self, entry: Entry) -> None:
        self._put_back([entry])
        self.pump()

    # Inside

    def _put_back(self, entries: Iterable[Entry]) -> None:
        limit = self.source.delivery_limit if isinstance(self.source, Queue) else None
        for entry in entries:
            entry.returns += 1
            # As RabbitMQ does: https://www.rabbitmq.com/docs/quorum-queues#poison-message-handling
            if limit is not None and entry.returns > limit:
                self._dead_letter(entry, DeadLetterReason.DELIVERY_LIMIT)
            else:
                heapq.heappush(self._returned, entry)
                self._ready_bytes += len(entry.message.body)

    def _next_free(self) -> "QueueConsumer | None":
        consumers = self._consumers
        if isinstance(self.source, Queue) and self.source.single_active:
            # The first only, also while it is full: the next one starts when it has left.
            return consumers[0] if consumers and consumers[0].free else None
        for _ in range(len(consumers)):
            consumer = consumers[0]
            consumers.rotate(-1)
            if consumer.free:
                return consumer
        return None

    def _head(self) -> Entry:
        return self._returned[0] if self._returned else self._fresh[0]

    def _pop(self) -> Entry:
        entry = heapq.heappop(self._returned) if self._returned else self._fresh.popleft()
        self._ready_bytes -= len(entry.message.body)
        return entry

    def _forget(self, entry: Entry) -> None:
        self._router.held_bytes -= len(entry.message.body) + OVERHEAD

    def _dead_letter(self, entry: Entry, reason: DeadLetterReason) -> None:
        self._forget(entry)
        self._router.dead_letter(self, entry.message, reason)

    def _drop_expired(self) -> None:
        # One time to live for all messages of a queue, so the oldest expires first.
        if self._ttl == math.inf:
            return
        now = asyncio.get_running_loop().time()
        while self and self._head().expires <= now:
            self._dead_letter(self._pop(), DeadLetterReason.EXPIRED)

    def _on_timer(self) -> None:
        self._timer = None
        self.pump()


class QueueConsumer:
    """The consumer of one subscription on one queue, from one (re)connect to the next.

    Args:
        prefetch: Maximum of unsettled deliveries.
        deliver: Called with each delivery.
        settled: Called once for each delivery that its holder settles, also if it is stale by then.

    Attributes:
        unsettled: Delivered and not settled; empty once the consumer has left, so that its deliveries are stale.
    """

    __slots__ = ("_deliver", "_prefetch", "queue", "settled", "unsettled")

    def __init__(
        self,
        queue: MemoryQueue,
        *,
        prefetch: int,
        deliver: Callable[["MemoryDelivery"], None],
        settled: Callable[[], None] = lambda: None,
    ) -> None:
        self.queue = queue
        self.unsettled: set[MemoryDelivery] = set()
        self.settled = settled
        self._prefetch = prefetch
        self._deliver = deliver

    @property
    def free(self) -> bool:
        return len(self.unsettled) < self._prefetch

    def receive(self, entry: Entry) -> None:
        delivery = MemoryDelivery(self, entry)
        self.unsettled.add(delivery)
        self._deliver(delivery)


class MemoryDelivery:
    """See :class:`~towpath.servicekit.broker.interface.Delivery`."""

    __slots__ = ("_consumer", "_is_settled", "_returns", "entry")

    def __init__(self, consumer: QueueConsumer, entry: Entry) -> None:
        self._consumer = consumer
        self._returns = entry.returns
        self._is_settled = False
        self.entry = entry

    @property
    def body(self) -> bytes:
        return self.entry.message.body

    @property
    def exchange(self) -> str:
        return self.entry.message.exchange

    @property
    def routing_key(self) -> str:
        return self.entry.message.routing_key

    @property
    def queue(self) -> str:
        return self._consumer.queue.source.name

    @property
    def redelivered(self) -> bool:
        return self._returns > 0

    @property
    def app_id(self) -> str | None:
        return self.entry.message.app_id

    @property
    def user_id(self) -> str | None:
        return None  # there are no accounts

    @property
    def headers(self) -> Mapping[str, Any]:
        headers = self.entry.message.headers
        if self._returns and isinstance(self._consumer.queue.source, Queue):
            return {**headers, "x-delivery-count": self._returns}
        return headers

    def ack(self) -> None:
        if self._settle():
            self._consumer.queue.ack(self.entry)

    def reject(self) -> None:
        if self._settle():
            self._consumer.queue.reject(self.entry)

    def requeue(self) -> None:
        if self._settle():
            self._consumer.queue.requeue(self.entry)

    def _settle(self) -> bool:
        """False if it has no effect: it was settled before, or it is stale."""
        if self._is_settled:
            return False
        self._is_settled = True
        self._consumer.settled()
        # Stale: its consumer has left, and the message was requeued.
        if self not in self._consumer.unsettled:
            return False
        self._consumer.unsettled.remove(self)
        return True
