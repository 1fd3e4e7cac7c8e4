"""The pool: requests that a service has taken from the broker and has not handled yet.

Guarantees:

* The next unit of work is chosen from all waiting requests, so that a request that arrives after a flood waits for
  the running unit and not for the flood. Requests with the same sender and ordering key keep their order
  (:func:`towpath.servicekit.handling.requests.next_unit`).
* A delivery is released when the last unit that contains a request of it is finished.
* A heavy read is handed over once all earlier requests of its sender have run.
"""

from collections import Counter
from collections.abc import Iterator

from towpath.servicekit.handling.publishing import SharedAck
from towpath.servicekit.handling.requests import Refusal, Request, next_unit


class PendingRequests:
    """The waiting requests, in the order of arrival.

    Attributes:
        bytes: Total size of the waiting requests.
    """

    def __init__(self) -> None:
        self.bytes = 0
        self._waiting: list[Request | Refusal] = []
        self._taken: dict[int, tuple[int, SharedAck]] = {}  # By id of the item: its size and its delivery.
        #: Heavy reads, with the number of requests of their sender that must run first.
        self._apart: list[tuple[Request, SharedAck, int]] = []
        #: Number of requests run per sender since the first of the heavy reads arrived.
        self._run: Counter[str] = Counter()
        self._idle: list[SharedAck] = []

    def has_more(self) -> bool:
        """Whether anything is left to run, hand over or release."""
        return bool(self._waiting or self._apart or self._idle)

    def add(self, item: Request | Refusal, size: int, ack: SharedAck) -> None:
        """Append one item."""
        ack.hold()
        size = max(size, 1)
        self.bytes += size
        self._waiting.append(item)
        self._taken[id(item)] = size, ack

    def add_heavy_read(self, read: Request, ack: SharedAck) -> None:
        """Add one heavy read behind all waiting requests of its sender."""
        ack.hold()
        self.bytes += 1
        ahead = sum(item.sender == read.sender for item in self._waiting)
        self._apart.append((read, ack, ahead + self._run[read.sender]))

    def all_added(self, ack: SharedAck) -> None:
        """Mark a delivery as read; it is released with the next unit, or when the last of its items is finished."""
        self._idle.append(ack)

    def next_unit(self, limit: int) -> tuple[list[Request | Refusal], list[SharedAck]]:
        """The next items to run, and the acks to release once they are finished (one per item)."""
        unit, self._waiting = next_unit(self._waiting, limit)
        acks, self._idle = self._idle, []
        for item in unit:
            size, ack = self._taken.pop(id(item))
            self.bytes -= size
            acks.append(ack)
        if self._apart:
            self._run.update(item.sender for item in unit)
        return unit, acks

    def ready_heavy_reads(self) -> Iterator[tuple[Request, SharedAck]]:
        """Heavy reads that no longer have to wait for their sender's earlier requests."""
        apart, self._apart = self._apart, []
        for read, ack, ahead in apart:
            if self._run[read.sender] >= ahead:
                self.bytes -= 1
                yield read, ack
            else:
                self._apart.append((read, ack, ahead))
        if not self._apart:
            self._run.clear()
