"""Parse turns: limits the event loop's time that parsing of client bytes may take.

The kernel hands over up to 256 KB at once, which may be 36,000 frames. So a connection's bytes are parsed in slices,
and bytes not parsed in one loop iteration wait for the next, while the socket is not read: the TCP window then
slows down its sender.

Guarantees:

* All connections together take at most ``turn`` seconds of a loop iteration (plus one slice), and each of them at
  most ``share``. Nothing is delayed while there is less to parse than that.
* Waiting connections are served round robin, first between users and then between the connections of each, so a user
  with a hundred connections gets as much as a user with one.
* At most the bytes of one read wait per connection: it is not read again before they are parsed.
"""

import asyncio
from collections import OrderedDict, deque
from time import perf_counter
from typing import Final, Protocol

#: Seconds. A request takes many loop iterations from its socket over the broker to its answer, so each of them has to
#: be short: with 30 ms here a flood made honest users wait for 1.5 s. A smaller value costs no throughput: bytes that
#: wait are parsed in the next iteration, which follows at once.
TURN: Final = 0.004
SHARE: Final = 0.002


class Reader(Protocol):
    """A connection with bytes to parse."""

    @property
    def owner(self) -> str:
        """The user, or the address while the user is unknown."""
        ...

    def parse_slice(self) -> bool:
        """Parse some of the waiting bytes; returns whether more wait."""
        ...


class ParseTurns:
    """Divides the parse time of one event loop."""

    def __init__(self, turn: float = TURN, share: float = SHARE) -> None:
        self._loop = asyncio.get_running_loop()
        self._turn = turn
        self._share = share
        self._filed: dict[Reader, str] = {}  # Reader → the user or address that it is queued under.
        self._spent = 0.0
        self._is_scheduled = False
        self._waiting: OrderedDict[str, deque[Reader]] = OrderedDict()
        self.deferred = 0  #: How often a connection had to wait for a later iteration.

    @property
    def waiting(self) -> int:
        """Number of connections with bytes that wait to be parsed."""
        return len(self._filed)

    def take(self, reader: Reader) -> bool:
        """Parse bytes of ``reader``, as far as this iteration allows; returns whether the rest waits for a later
        one."""
        # Also if nothing will wait: `_begin` is what resets `_spent` in the next iteration.
        self._schedule()
        began = perf_counter()
        # May be past already; then nothing is parsed, and all of it waits.
        until = began + min(self._share, self._turn - self._spent)
        now = began
        more = True
        while more and now < until:
            more = reader.parse_slice()
            now = perf_counter()
        self._spent += now - began
        if more:
            self.deferred += 1
            self._queue(reader)
        return more

    def begin_small(self) -> float:
        """Reserve time to parse one slice without being queued; 0 if this iteration has none left."""
        if self._spent >= self._turn:
            return 0.0
        if not self._is_scheduled:
            self._schedule()
        return perf_counter()

    def end_small(self, began: float) -> None:
        """Account the time that :meth:`begin_small` reserved."""
        self._spent += perf_counter() - began

    def forget(self, reader: Reader) -> None:
        """Forget a connection that has ended."""
        # Not under ``reader.owner``: it may have been admitted since, and have a user now.
        owner = self._filed.pop(reader, None)
        if owner is not None:
            readers = self._waiting[owner]
            readers.remove(reader)
            if not readers:
                del self._waiting[owner]

    def _queue(self, reader: Reader) -> None:
        # Recorded, because `owner` changes from the address to the user when the handshake is done.
        owner = self._filed[reader] = reader.owner
        self._waiting.setdefault(owner, deque()).append(reader)

    def _schedule(self) -> None:
        if not self._is_scheduled:
            self._is_scheduled = True
            self._loop.call_soon(self._begin)

    def _begin(self) -> None:
        """Start of a new loop iteration: serve the waiting connections."""
        self._is_scheduled = False
        self._spent = 0.0
        if not self._waiting:
            return
        self._schedule()
        began = perf_counter()
        while self._waiting:
            # The owner goes to the end if more waits: first between users, so that more connections are not more
            # turns.
            owner, readers = self._waiting.popitem(last=False)
            reader = readers.popleft()
            del self._filed[reader]
            if readers:
                self._waiting[owner] = readers
            # One slice and not a whole share: with many waiting connections each gets a little, soon.
            if reader.parse_slice():
                self._queue(reader)
            self._spent = perf_counter() - began
            if (
                self._spent >= self._turn / 2
            ):  # The rest is for bytes that arrive now: a flood must not delay them by an iteration.
                break
