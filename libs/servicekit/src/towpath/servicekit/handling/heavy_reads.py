"""Heavy reads: expensive reads of one user do not delay other users.

Reads of :data:`~towpath.servicekit.handling.requests.HEAVY_COST` or more leave the main path. They wait here in one
queue per user, and run in rounds concurrently with it.

Guarantees:

* Users are served round robin. One heavy read per user runs at a time, in the order of arrival.
* A round serves as many users as are expected to hold the event loop for no more than :data:`_ROUND_SECONDS` and to
  need no more than ``round_max_bytes`` of answers, estimated from earlier runs of the action; at least one user. At
  most :data:`_ROUNDS` rounds are in progress, each until the broker has confirmed its answers.
* The number of waiting reads is bounded: ``user_max`` per user, ``total_max`` in all. Once waiting reads hold half
  the prefetch of a queue, only one per user is admitted from it, so that a few users never stop a partition. Past a
  bound :meth:`HeavyReads.admit` returns false, which is answered ``busy``.
* No read runs for a connection that is known to have ended.
* Requests of one sender and ordering key keep their order: a request after an unfinished heavy read waits behind it
  here. No request waits for a heavy read of another sender.
* A delivery is acked once all its answers are confirmed; after a crash it is redelivered.
"""

import asyncio
from collections import Counter as Counts
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from towpath.protocol.messages import Session
from towpath.servicekit.handling.publishing import SharedAck
from towpath.servicekit.handling.requests import Request
from towpath.servicekit.runtime.telemetry import Telemetry

K = TypeVar("K")

_ROUNDS: Final = 2
_ROUND_SECONDS: Final = 0.01
_ROUND_MOST: Final = 64
#: Expected cost of an action before its first run: seconds, bytes.
_UNKNOWN: Final = (0.002, 64 * 1024)
#: Factor by which an expectation that was too high shrinks after each round.
_DECAY: Final = 0.8
#: Milliseconds after which a client may retry after a refusal.
RETRY_AFTER_MS: Final = 1_000


@dataclass(frozen=True, slots=True)
class RoundCost:
    """The cost of a round: seconds that it held the event loop, bytes of answers that it prepared at once."""

    seconds: float
    size: int


#: Runs reads of different users as one unit; returns once all answers are confirmed.
Run = Callable[[Sequence[Request]], Awaitable[RoundCost]]


@dataclass(frozen=True, slots=True)
class Bounds:
    """See :class:`~towpath.servicekit.runtime.settings.ServiceSettings`.

    Attributes:
        followers_max: Maximum number of requests that wait behind heavy reads of the same sender.
    """

    user_max: int = 16
    followers_max: int = 128
    total_max: int = 2_000
    round_max_bytes: int = 4 * 1024 * 1024
    queue_held_max: int = 32


@dataclass(slots=True)
class _Expected:
    """The expected cost of one request of an action; rises at once and falls slowly."""

    seconds: float = _UNKNOWN[0]
    size: float = _UNKNOWN[1]

    def learn(self, seconds: float, size: float) -> None:
        self.seconds = max(seconds, self.seconds * _DECAY)
        self.size = max(size, self.size * _DECAY)


class HeavyReads:
    """The heavy reads that wait in one replica; :meth:`run` runs them.

    Args:
        run: Runs a round.
        is_connected: False if a session's connection is known to have ended.
    """

    def __init__(
        self, run: Run, bounds: Bounds, is_connected: Callable[[Session], bool], telemetry: Telemetry
    ) -> None:
        self._run = run
        self._bounds = bounds
        self._is_here = is_connected
        self._waiting: OrderedDict[str, deque[tuple[Request, SharedAck]]] = OrderedDict()
        self._admitted: Counts[tuple[str, bool]] = Counts()  # By user and whether the request is heavy.
        self._sequences: Counts[tuple[str, str]] = Counts()
        self._held: Counts[str] = Counts()  # deliveries, by queue
        self._holding: Counts[SharedAck] = Counts()
        self._total = 0
        self._active: set[str] = set()
        self._arrived = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._expected: dict[str, _Expected] = {}
        self._busy = telemetry.counter("heavy_reads_busy", "Heavy reads answered busy: too many waited")
        self._gone = telemetry.counter("heavy_reads_gone", "Heavy reads not run: their connection had gone")
        telemetry.gauge("heavy_reads_waiting", "Heavy reads that wait or are run", lambda: self._total)

    def wants(self, request: Request) -> bool:
        """Whether a command belongs here: it is a heavy read, or follows one of the same sender and ordering key."""
        if request.session is None:
            return False
        return request.handler.is_heavy_read or (
            bool(self._sequences) and request.sequence_key in self._sequences
        )

    def admit(self, request: Request) -> bool:
        """Reserve room for one more request, if there is any; :meth:`put` follows."""
        bounds, who = self._bounds, (request.sender, request.handler.is_heavy_read)
        most = bounds.user_max if who[1] else bounds.followers_max
        if self._held[request.delivery.queue] >= bounds.queue_held_max:
            most = 1
        if self._total >= bounds.total_max or self._admitted[who] >= most:
            self._busy.add(1)
            return False
        self._total += 1
        self._admitted[who] += 1
        self._sequences[request.sequence_key] += 1
        self._idle.clear()
        return True

    def put(self, request: Request, ack: SharedAck) -> None:
        """Queue an admitted read; it holds its delivery until it is answered."""
        ack.hold()
        if not self._holding[ack]:
            self._held[request.delivery.queue] += 1
        self._holding[ack] += 1
        self._waiting.setdefault(request.sender, deque()).append((request, ack))
        self._arrived.set()

    async def run(self) -> None:
        """Run waiting reads until cancelled. An unexpected error ends it."""
        async with asyncio.TaskGroup() as tasks:
            for number in range(_ROUNDS):
                tasks.create_task(self._rounds(), name=f"heavy reads {number}")

    async def finished(self, timeout: float) -> bool:
        """Wait until no read waits or runs; false if that takes longer than ``timeout`` seconds."""
        try:
            async with asyncio.timeout(timeout):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True

    async def _rounds(self) -> None:
        while True:
            taken = self._take()
            if not taken:
                self._arrived.clear()
                await self._arrived.wait()
                continue
            try:
                await self._round(taken)
            finally:
                for request, _ in taken:
                    self._active.discard(request.sender)
                self._arrived.set()
            for request, ack in taken:
                self._release(request, ack)
            await asyncio.sleep(0)  # The main path's new arrivals come first.

    async def _round(self, taken: Sequence[tuple[Request, SharedAck]]) -> None:
        reads = [request for request, _ in taken if self._is_wanted(request)]
        self._gone.add(len(taken) - len(reads))
        if not reads:
            return
        took = await self._run(reads)
        expected = self._expected.setdefault(_kind(reads[0]), _Expected())
        expected.learn(took.seconds / len(reads), took.size / len(reads))

    def _is_wanted(self, request: Request) -> bool:
        # A change takes effect even if its sender no longer waits for the answer.
        gone = request.session is not None and not self._is_here(request.session)
        return not gone or not request.handler.is_heavy_read

    def _take(self) -> list[tuple[Request, SharedAck]]:
        """The next round: the first request of each of some users, all reads of one action or no heavy reads."""
        taken: list[tuple[Request, SharedAck]] = []
        action, most = "", 1
        for user, waiting in list(self._waiting.items()):
            if user in self._active:
                continue
            first = _kind(waiting[0][0])
            if not taken:
                action, most = first, self._most(first)
            elif first != action:
                continue
            taken.append(waiting.popleft())
            self._active.add(user)
            if waiting:
                self._waiting.move_to_end(user)
            else:
                del self._waiting[user]
            if len(taken) >= most:
                break
        return taken

    def _most(self, action: str) -> int:
        expected = self._expected.get(action, _Expected())
        by_time = _ROUND_SECONDS / max(expected.seconds, 1e-6)
        by_size = self._bounds.round_max_bytes / max(expected.size, 1.0)
        return max(1, min(_ROUND_MOST, int(by_time), int(by_size)))

    def _release(self, request: Request, ack: SharedAck) -> None:
        self._total -= 1
        _take_one(self._admitted, (request.sender, request.handler.is_heavy_read))
        _take_one(self._sequences, request.sequence_key)
        if not _take_one(self._holding, ack):
            _take_one(self._held, request.delivery.queue)
        ack.release()
        if not self._total:
            self._idle.set()


def _kind(request: Request) -> str:
    """The kind of a request; a round has requests of one kind."""
    return request.envelope.action if request.handler.is_heavy_read else ""


def _take_one(tally: Counts[K], key: K) -> int:
    """Count one less; returns what is left."""
    left = tally[key] - 1
    if left:
        tally[key] = left
    else:
        del tally[key]
    return left
