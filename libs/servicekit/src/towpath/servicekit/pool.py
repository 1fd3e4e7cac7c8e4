"""The pool: what a service has taken from the broker and has not handled yet.

Guarantees:

* The next unit of work is made from all that waits, so that who arrives later than a flood waits for the unit that is
  being run and not for the flood. Requests that share sender and ordering key keep their order
  (:func:`towpath.servicekit.requests.next_unit`).
* A delivery is released when the last unit with something of it is settled.
* A heavy read is handed over once all that its sender had asked for before is run.
"""

from collections import Counter
from collections.abc import Iterator

from towpath.servicekit.requests import Refusal, Request, next_unit
from towpath.servicekit.telling import SharedAck


class Pool:
    """What waits, in the order of arrival.

    Attributes:
        bytes: The size of what waits.
    """

    def __init__(self) -> None:
        self.bytes = 0
        self._waiting: list[Request | Refusal] = []
        self._taken: dict[int, tuple[int, SharedAck]] = {}  # by id of the item: its size, its delivery
        #: Heavy reads, with how much of their sender has to be run before.
        self._apart: list[tuple[Request, SharedAck, int]] = []
        #: How much of each sender was run since the first of the heavy reads came.
        self._run: Counter[str] = Counter()
        self._idle: list[SharedAck] = []

    def has_more(self) -> bool:
        """Whether there is anything to be run, handed over or released."""
        return bool(self._waiting or self._apart or self._idle)

    def add(self, item: Request | Refusal, size: int, ack: SharedAck) -> None:
        """Put one item to the end."""
        ack.hold()
        size = max(size, 1)
        self.bytes += size
        self._waiting.append(item)
        self._taken[id(item)] = size, ack

    def add_apart(self, read: Request, ack: SharedAck) -> None:
        """Put one heavy read behind all that its sender waits for."""
        ack.hold()
        self.bytes += 1
        ahead = sum(item.sender == read.sender for item in self._waiting)
        self._apart.append((read, ack, ahead + self._run[read.sender]))

    def all_added(self, ack: SharedAck) -> None:
        """The delivery is read; it is released with the next unit, or when the last of its items is settled."""
        self._idle.append(ack)

    def next_unit(self, limit: int) -> tuple[list[Request | Refusal], list[SharedAck]]:
        """What is to be run next, and what to release once that is settled (a delivery for each item)."""
        unit, self._waiting = next_unit(self._waiting, limit)
        acks, self._idle = self._idle, []
        for item in unit:
            size, ack = self._taken.pop(id(item))
            self.bytes -= size
            acks.append(ack)
        if self._apart:
            self._run.update(item.sender for item in unit)
        return unit, acks

    def free_apart(self) -> Iterator[tuple[Request, SharedAck]]:
        """Heavy reads that have nothing to wait for any more."""
        apart, self._apart = self._apart, []
        for read, ack, ahead in apart:
            if self._run[read.sender] >= ahead:
                self.bytes -= 1
                yield read, ack
            else:
                self._apart.append((read, ack, ahead))
        if not self._apart:
            self._run.clear()
