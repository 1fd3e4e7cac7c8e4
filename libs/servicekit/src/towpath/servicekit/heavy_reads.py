"""Heavy reads: what one user asks for at length does not hold up the others.

Reads of :data:`~towpath.servicekit.requests.HEAVY_COST` or more leave the main path. They wait here, a queue a user,
and are run in rounds beside it.

Guarantees:

* Users take turns. Of one user one heavy read is run at a time, in the order of arrival.
* A round takes as many users as are expected to hold the event loop for no more than :data:`_ROUND_SECONDS` and to be
  answered with no more than ``round_max_bytes``, by what this action took before; one at least. At most
  :data:`_ROUNDS` rounds are on their way, each until the broker has confirmed its answers.
* What may wait is bounded: ``user_max`` of one user, ``total_max`` in all. Where waiting reads hold half the prefetch
  of a queue, it takes one of each user at most, so that reads of few users never stop a partition. Past a bound
  :meth:`HeavyReads.admit` says no, which is answered ``busy``.
* Nothing is run for a connection that is known to be gone.
* Requests of one sender and ordering key keep their order: what comes after a heavy read that is not finished waits
  behind it here. Nothing waits for a heavy read of another sender.
* A delivery is acked once all answers to it are confirmed; after a crash it comes again.
"""

import asyncio
from collections import Counter as Tally
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from towpath.protocol.messages import Session
from towpath.servicekit.requests import Request
from towpath.servicekit.telemetry import Telemetry
from towpath.servicekit.telling import SharedAck

K = TypeVar("K")

_ROUNDS: Final = 2
_ROUND_SECONDS: Final = 0.01
_ROUND_MOST: Final = 64
#: What an action is expected to take before it was ever run: seconds, bytes.
_UNKNOWN: Final = (0.002, 64 * 1024)
#: How much of an expectation that was too high remains after each round.
_REMAINS: Final = 0.8
#: When to try again after a refusal, in milliseconds.
RETRY_AFTER_MS: Final = 1_000


@dataclass(frozen=True, slots=True)
class Taken:
    """What a round took: seconds that it held the event loop, bytes that it had ready at once."""

    seconds: float
    size: int


#: Runs reads of different users as one unit; returns once all answers are confirmed.
Run = Callable[[Sequence[Request]], Awaitable[Taken]]


@dataclass(frozen=True, slots=True)
class Bounds:
    """See :class:`~towpath.servicekit.settings.ServiceSettings`.

    Attributes:
        followers_max: What may wait behind heavy reads of the same sender.
    """

    user_max: int = 16
    followers_max: int = 128
    total_max: int = 2_000
    round_max_bytes: int = 4 * 1024 * 1024
    queue_held_max: int = 32


@dataclass(slots=True)
class _Expected:
    """What one request of an action takes; rises at once and falls slowly."""

    seconds: float = _UNKNOWN[0]
    size: float = _UNKNOWN[1]

    def learn(self, seconds: float, size: float) -> None:
        self.seconds = max(seconds, self.seconds * _REMAINS)
        self.size = max(size, self.size * _REMAINS)


class HeavyReads:
    """The heavy reads that wait in one replica; :meth:`run` runs them.

    Args:
        run: Runs a round.
        is_here: Whether a session's connection may still be there.
    """

    def __init__(
        self, run: Run, bounds: Bounds, is_here: Callable[[Session], bool], telemetry: Telemetry
    ) -> None:
        self._run = run
        self._bounds = bounds
        self._is_here = is_here
        self._waiting: OrderedDict[str, deque[tuple[Request, SharedAck]]] = OrderedDict()
        self._admitted: Tally[tuple[str, bool]] = Tally()  # by user, and whether they are heavy
        self._orders: Tally[tuple[str, str]] = Tally()
        self._held: Tally[str] = Tally()  # deliveries, by queue
        self._holding: Tally[SharedAck] = Tally()
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
        """Whether a command belongs here: it is a heavy read, or comes after one in its order."""
        if request.session is None:
            return False
        return request.handler.is_heavy_read or (bool(self._orders) and request.order in self._orders)

    def admit(self, request: Request) -> bool:
        """Take one more request into account, if there is room; :meth:`put` follows."""
        bounds, who = self._bounds, (request.sender, request.handler.is_heavy_read)
        most = bounds.user_max if who[1] else bounds.followers_max
        if self._held[request.delivery.queue] >= bounds.queue_held_max:
            most = 1
        if self._total >= bounds.total_max or self._admitted[who] >= most:
            self._busy.add(1)
            return False
        self._total += 1
        self._admitted[who] += 1
        self._orders[request.order] += 1
        self._idle.clear()
        return True

    def put(self, request: Request, ack: SharedAck) -> None:
        """Queue an admitted read, whose delivery it holds until it is answered."""
        ack.hold()
        if not self._holding[ack]:
            self._held[request.delivery.queue] += 1
        self._holding[ack] += 1
        self._waiting.setdefault(request.sender, deque()).append((request, ack))
        self._arrived.set()

    async def run(self) -> None:
        """Run what waits, until cancelled. An error that nobody expected ends it."""
        async with asyncio.TaskGroup() as tasks:
            for number in range(_ROUNDS):
                tasks.create_task(self._rounds(), name=f"heavy reads {number}")

    async def finished(self, timeout: float) -> bool:
        """Wait until nothing waits or is run; false if that takes longer than ``timeout`` seconds."""
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
            await asyncio.sleep(0)  # what arrived on the main path meanwhile comes first

    async def _round(self, taken: Sequence[tuple[Request, SharedAck]]) -> None:
        reads = [request for request, _ in taken if self._is_wanted(request)]
        self._gone.add(len(taken) - len(reads))
        if not reads:
            return
        took = await self._run(reads)
        expected = self._expected.setdefault(_kind(reads[0]), _Expected())
        expected.learn(took.seconds / len(reads), took.size / len(reads))

    def _is_wanted(self, request: Request) -> bool:
        # A change has its effect, whether its sender waits for the answer or not.
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
        _take_one(self._orders, request.order)
        if not _take_one(self._holding, ack):
            _take_one(self._held, request.delivery.queue)
        ack.release()
        if not self._total:
            self._idle.set()


def _kind(request: Request) -> str:
    """What stands together in a round."""
    return request.envelope.action if request.handler.is_heavy_read else ""


def _take_one(tally: Tally[K], key: K) -> int:
    """Count one less; returns what is left."""
    left = tally[key] - 1
    if left:
        tally[key] = left
    else:
        del tally[key]
    return left
