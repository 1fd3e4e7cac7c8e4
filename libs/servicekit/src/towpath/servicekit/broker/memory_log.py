"""One log of the memory broker: messages that every reader reads from the first one, and that stay.

Guarantees: each reader gets every message that is kept, in order, at most ``prefetch`` of them unsettled; the bytes
are bounded, and the oldest messages are dropped, in whole segments, as RabbitMQ does. A log has no age here: it does
not outlive its process.
"""

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from towpath.servicekit.broker.interface import Log
from towpath.servicekit.broker.memory_message import OVERHEAD, HeldMessage


class MemoryLog:
    """A log under its ``name`` on the broker."""

    #: It takes every message, and drops old ones.
    full = False

    def __init__(self, source: Log) -> None:
        self.name = source.name
        self.source = source
        self._messages: deque[HeldMessage] = deque()
        self._first = 0  #: the offset of the oldest message
        self._bytes = 0
        self._readers: list[MemoryLogReader] = []

    def push(self, message: HeldMessage) -> None:
        """Add a message, and deliver it to readers that have room."""
        self._messages.append(message)
        self._bytes += len(message.body) + OVERHEAD
        if self._bytes > self.source.max_bytes:
            kept = self.source.max_bytes - self.source.segment_bytes
            while self._bytes > kept and len(self._messages) > 1:
                self._bytes -= len(self._messages.popleft().body) + OVERHEAD
                self._first += 1
        for reader in list(self._readers):
            self.pump(reader)

    def attach(self, reader: "MemoryLogReader") -> None:
        """Deliver to ``reader`` from the next :meth:`pump` on, starting with the first message."""
        self._readers.append(reader)

    def detach(self, reader: "MemoryLogReader") -> None:
        """Deliver nothing more to ``reader``."""
        if reader in self._readers:
            self._readers.remove(reader)

    def pump(self, reader: "MemoryLogReader") -> None:
        """Deliver as far as ``reader`` has room."""
        while reader in self._readers and reader.has_room:
            reader.next = max(reader.next, self._first)
            if reader.next - self._first >= len(self._messages):
                return
            reader.take(self._messages[reader.next - self._first])


class MemoryLogReader:
    """The reader of one subscription on one log, from one (re)connect to the next.

    Args:
        prefetch: Maximum of unsettled deliveries.
        deliver: Called with each delivery.
        settled: Called once for each delivery that its holder settles, also if it is stale by then.

    Attributes:
        next: The offset of the message to deliver next.
    """

    def __init__(
        self,
        log: MemoryLog,
        *,
        prefetch: int,
        deliver: Callable[["LogDelivery"], None],
        settled: Callable[[], None],
    ) -> None:
        self.log = log
        self.next = 0
        self._prefetch = prefetch
        self._deliver = deliver
        self._settled = settled
        self._unsettled = 0

    @property
    def has_room(self) -> bool:
        return self._unsettled < self._prefetch

    def take(self, message: HeldMessage) -> None:
        """Deliver the next message."""
        self.next += 1
        self._unsettled += 1
        self._deliver(LogDelivery(self, message))

    def settle(self) -> None:
        """One delivery was settled."""
        self._settled()
        self._unsettled -= 1
        self.log.pump(self)


class LogDelivery:
    """See :class:`~towpath.servicekit.broker.interface.Delivery`."""

    __slots__ = ("_is_settled", "_message", "_reader")

    redelivered = False

    def __init__(self, reader: MemoryLogReader, message: HeldMessage) -> None:
        self._reader = reader
        self._message = message
        self._is_settled = False

    @property
    def body(self) -> bytes:
        return self._message.body

    @property
    def exchange(self) -> str:
        return self._message.exchange

    @property
    def routing_key(self) -> str:
        return self._message.routing_key

    @property
    def queue(self) -> str:
        return self._reader.log.name

    @property
    def app_id(self) -> str | None:
        return self._message.app_id

    @property
    def user_id(self) -> str | None:
        return None  # there are no accounts

    @property
    def headers(self) -> Mapping[str, Any]:
        return self._message.headers

    def ack(self) -> None:
        if not self._is_settled:
            self._is_settled = True
            self._reader.settle()

    def reject(self) -> None:
        self.ack()

    def requeue(self) -> None:
        self.ack()
