"""The backlog: what a service has taken from the broker and not finished. Order and fairness are kept here.

A request is in one of three places:

* **ready**: it may run on the main path, in the next units of work;
* **in the unit** that runs now;
* **in a line**: a request of its sequence (sender and ordering key) runs beside the main path, or is about to, and it
  waits behind that one. The first of a line is a heavy read, or a command that failed and is retried. ::

      add ─▶ ready ─▶ unit ─▶ (result)
       │       ▲        │ failed: back to the front of its line, with everything of its sequence
       ▼       │        ▼
      line ────┘ the first is finished: those behind it, up to the next heavy read

Guarantees:

* Requests of one sequence are run in the order of arrival, one way or the other.
* The next unit is chosen from all that are ready, whenever they arrived
  (:mod:`towpath.servicekit.handling.fairness`): a request that arrives after a flood waits for the running unit, and
  not for the flood.
* A heavy read starts once all that its sender asked for before has run and is published, so it sees those changes.
* No line waits for ever: when its first request is finished (:meth:`Backlog.finish`), those behind it are ready, and
  :meth:`Backlog.until_ready` wakes the main path, because no delivery does.
"""

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Final

from towpath.servicekit.handling.fairness import FairUnits
from towpath.servicekit.handling.requests import Request
from towpath.servicekit.handling.result import Failed
from towpath.servicekit.runtime.telemetry import Telemetry

#: (sender, ordering key), see :attr:`Request.sequence_key`.
_Sequence = tuple[str, str]

#: A request holds memory even if its item is empty.
_LEAST_BYTES: Final = 1


class Backlog:
    """The unfinished requests of one service.

    Attributes:
        ready_bytes: Bytes of the requests that are ready; 0 if none is.
    """

    def __init__(self, telemetry: Telemetry) -> None:
        self.ready_bytes = 0
        self._units = FairUnits()
        self._ready: list[Request] = []
        self._unit: list[Request] = []
        self._lines: dict[_Sequence, deque[Request]] = {}
        #: Failed commands whose retry has not begun, in the order of their failures.
        self._to_retry: deque[Failed] = deque()
        #: Lines whose first request is a failed command, until it is finished.
        self._retrying: set[_Sequence] = set()
        self._change = asyncio.Event()
        self._freed = asyncio.Event()
        telemetry.gauge(
            "requests_in_trouble",
            "Failed commands that are tried again, and requests that wait behind them",
            lambda: sum(len(self._lines[sequence]) for sequence in self._retrying),
        )

    # The main path

    def add(self, request: Request) -> None:
        """Append a request that has arrived."""
        line = self._lines.get(request.sequence_key) if self._lines else None
        # 1. Behind the first of its line, which it must not overtake. A refusal waits behind a retry only: the
        # sender then gets its answers in the order of its requests.
        if line is not None and (request.refusal is None or request.sequence_key in self._retrying):
            line.append(request)
        # 2. The first of a new line: later requests with its sender and key are answered after it.
        elif request.is_heavy_read:
            self._lines[request.sequence_key] = deque([request])
            self._change.set()
        else:
            # 3. Ready.
            # A refusal, too, if its sequence waits for a heavy read: it has no effect, so no order is lost. It may be
            # the answer ``busy``, and if that waited in the line, nothing would bound the line.
            self._ready.append(request)
            self.ready_bytes += _size(request)

    def next_unit(self, limit: int) -> list[Request]:
        """Take the next unit of work from those that are ready; :meth:`unit_done` follows."""
        self._unit, self._ready = self._units.next(self._ready, limit)
        self.ready_bytes -= sum(map(_size, self._unit))
        return self._unit

    def unit_done(self, failed: Sequence[Failed]) -> None:
        """The unit was run, and its results are published in order; ``failed`` commands are to be retried.

        Each goes to the front of its line, with all of its sequence that was ready: else that would overtake it.
        """
        self._unit = []
        for one in failed:
            sequence = one.request.sequence_key
            waiting = [one.request, *one.behind, *self._take_ready(sequence)]
            # In front of what the line already has: a heavy read of the sequence may have begun it while the unit
            # ran, and was sent after the failed command.
            self._lines.setdefault(sequence, deque()).extendleft(reversed(waiting))
            self._retrying.add(sequence)
            self._to_retry.append(one)
        if self._lines:
            # Without a failure too: a heavy read may have waited until this unit was published.
            self._change.set()

    async def until_ready(self) -> None:
        """Wait until requests have become ready without a delivery: a line has moved on."""
        await self._freed.wait()
        self._freed.clear()

    # Beside it

    def next_retry(self) -> Failed | None:
        """Take a command that is to be retried; :meth:`finish` follows."""
        return self._to_retry.popleft() if self._to_retry else None

    def unblocked(self, reads: Iterable[Request]) -> list[Request]:
        """Those of some heavy reads that may start: each is the first of its line, and all earlier requests of its
        sender (with any ordering key) have been run."""
        first = [read for read in reads if self._lines[read.sequence_key][0] is read]
        if not first:
            return first
        earliest: dict[str, int] = {}
        senders = {read.sender for read in first}
        for request in chain(self._unit, self._ready):
            if request.sender in senders:
                number = earliest.get(request.sender, request.number)
                earliest[request.sender] = min(number, request.number)
        return [read for read in first if read.number < earliest.get(read.sender, read.number + 1)]

    def is_behind_read(self, request: Request) -> bool:
        """Whether ``request``, which arrives now, waits behind a heavy read."""
        if not self._lines:
            return False
        return request.sequence_key in self._lines and request.sequence_key not in self._retrying

    def finish(self, request: Request) -> list[Request]:
        """Everything that ``request`` causes is confirmed; returns those behind it, which are ready now."""
        sequence = request.sequence_key
        line = self._lines[sequence]
        first = line.popleft()
        assert first is request, "a request runs beside the main path, and is not the first of its line"
        self._retrying.discard(sequence)
        ready: list[Request] = []
        # Up to the next heavy read, which is then the first of the line and runs beside the main path in its turn.
        while line and not line[0].is_heavy_read:
            ready.append(line.popleft())
        if not line:
            del self._lines[sequence]
        if ready:
            # In front, because they have waited longest. Nothing of their sequence is ready: it is in the line.
            self._ready[:0] = ready
            self.ready_bytes += sum(map(_size, ready))
            self._freed.set()
        self._change.set()
        return ready

    async def changed(self) -> None:
        """Wait until there may be more to run beside the main path.

        A caller looks whether there is, and then waits, with no ``await`` in between: so it misses no change. It may
        be woken by a change that concerns others.
        """
        await self._change.wait()
        self._change.clear()

    async def ready_or_empty(self, timeout: float) -> bool:
        """Wait until requests are ready, or nothing is left in a line; false after ``timeout`` seconds."""
        try:
            async with asyncio.timeout(timeout):
                while self._lines and not self._ready:
                    await self.changed()
        except TimeoutError:
            return False
        return True

    def _take_ready(self, sequence: _Sequence) -> list[Request]:
        taken = [request for request in self._ready if request.sequence_key == sequence]
        if taken:
            self._ready = [request for request in self._ready if request.sequence_key != sequence]
            self.ready_bytes -= sum(map(_size, taken))
        return taken


def _size(request: Request) -> int:
    return max(len(request.item), _LEAST_BYTES)
