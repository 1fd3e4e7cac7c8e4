"""Heavy reads: expensive reads of one user do not delay other users.

Reads of :data:`~towpath.servicekit.handling.requests.HEAVY_COST` or more leave the main path. They wait here in one
queue per user, and run in rounds beside it (:class:`~towpath.servicekit.handling.dispatcher.Dispatcher`).

Guarantees:

* Users are served round robin. One heavy read per user runs at a time, in the order of arrival.
* A round serves one user, and as many more as are expected to add no more than :data:`_ROUND_SECONDS` of the event
  loop and to need no more than ``unit_max_bytes`` of answers, estimated from earlier rounds of the action. Its reads
  are of one action, so that one estimate holds for all of them.
* A crowd that asks the same (a gateway has ended, and all its clients resume) soon shares rounds: what a round costs
  with one read in it, it costs only once.
* The number of waiting reads is bounded: ``heavy_reads_user_max`` per user, ``heavy_reads_max`` in all. Requests that
  wait behind reads of their sender are counted as well (:data:`_FOLLOWERS_MAX`). Once these hold half the prefetch of
  a queue, only one per user is admitted from it, so that a few users never stop a partition. Past a bound the answer
  is ``busy``.
* No read runs for a connection that is known to have ended (the dispatcher asks).
"""

from collections import Counter, OrderedDict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from msgspec.structs import replace

from towpath.protocol.errors import Busy
from towpath.servicekit.broker.interface import Delivery
from towpath.servicekit.handling.backlog import Backlog
from towpath.servicekit.handling.requests import Request
from towpath.servicekit.runtime.settings import ServiceSettings
from towpath.servicekit.runtime.telemetry import Telemetry

K = TypeVar("K")

#: Seconds that the further reads of a round may hold the event loop: a delay that no other user notices.
_ROUND_SECONDS: Final = 0.01
_ROUND_MOST: Final = 64
#: Requests of one sender that may wait behind its heavy reads.
_FOLLOWERS_MAX: Final = 128
#: Expected cost of a read of an action before its first run: seconds, bytes.
_UNKNOWN: Final = (0.002, 64 * 1024)
#: Factor by which an expectation that was too high shrinks after each round.
_DECAY: Final = 0.8
#: Factor by which a round may be larger than the one before: an estimate from few reads says little about many.
_GROWTH: Final = 2
#: Milliseconds after which a client may retry after a refusal.
RETRY_AFTER_MS: Final = 1_000


@dataclass(slots=True)
class _Expected:
    """The expected cost of an action; rises at once and falls slowly.

    Attributes:
        alone: Seconds of a round with one read: its transaction, what else ran meanwhile, and the read. 0: unknown.
        further: Seconds of each further read of a round.
        size: Bytes of an answer.
        served: Reads in the last round.
    """

    alone: float = 0.0
    further: float = _UNKNOWN[0]
    size: float = _UNKNOWN[1]
    served: int = _ROUND_MOST

    def learn(self, reads: int, seconds: float, size: float) -> None:
        """A round of ``reads`` took ``seconds``, and its answers are ``size`` bytes together."""
        # The least of the last rounds, since other work of the event loop is in the measured time; and a round of
        # many costs no less than one read.
        if reads > 1:
            self.alone = min(seconds, self.alone)
        else:
            self.alone = min(seconds, self.alone / _DECAY) if self.alone else seconds
        further = max(seconds - self.alone, 0.0) / (reads - 1) if reads > 1 else 0.0
        self.further = max(further, self.further * _DECAY)
        self.size = max(size / reads, self.size * _DECAY)
        self.served = reads

    def most(self, max_bytes: int) -> int:
        """How many reads the next round may have."""
        by_time = 1 + _ROUND_SECONDS / max(self.further, 1e-6)
        by_size = max_bytes / max(self.size, 1.0)
        # At least one, or an action that is slower than a round would never run.
        return max(1, min(_ROUND_MOST, self.served * _GROWTH, int(by_time), int(by_size)))


class ReadTurns:
    """Whose heavy read runs next, and how many may wait."""

    def __init__(self, backlog: Backlog, settings: ServiceSettings, telemetry: Telemetry) -> None:
        self._backlog = backlog
        self._user_max = settings.heavy_reads_user_max
        self._total_max = settings.heavy_reads_max
        self._round_max_bytes = settings.unit_max_bytes
        self._queue_held_max = max(1, settings.prefetch // 2)
        #: Heavy reads that wait, by user; the next user is the first.
        self._waiting: OrderedDict[str, deque[Request]] = OrderedDict()
        #: Users with a read in a round.
        self._running: set[str] = set()
        #: Reads that wait or run, and the requests behind them.
        self._admitted: set[Request] = set()
        self._by_user: Counter[tuple[str, bool]] = Counter()  # User, and whether the request is a read.
        self._by_delivery: Counter[Delivery] = Counter()
        self._held_by_queue: Counter[str] = Counter()  # Deliveries that hold an admitted request.
        self._expected: dict[str, _Expected] = {}
        self._busy = telemetry.counter("heavy_reads_busy", "Heavy reads answered busy: too many waited")
        telemetry.gauge(
            "heavy_reads_waiting", "Heavy reads that wait or are run", lambda: len(self._admitted)
        )

    def admitted(self, request: Request) -> Request:
        """``request`` itself, or refused as ``busy`` if it is a heavy read, or waits behind one, and has no room."""
        is_read = request.is_heavy_read
        # Not for this module: it goes to the main path, or behind a retry.
        if not is_read and (request.refusal is not None or not self._backlog.is_behind_read(request)):
            return request
        if not self._has_room(request, is_read):
            self._busy.add(1)
            # `busy` and not a wait: the delivery would stay unacked, and with the prefetch used up, the queue of all
            # its users stops. https://www.rabbitmq.com/docs/consumer-prefetch
            return replace(request, refusal=_too_many())
        self._admitted.add(request)
        self._by_user[request.sender, is_read] += 1
        if not self._by_delivery[request.delivery]:
            self._held_by_queue[request.delivery.queue] += 1
        self._by_delivery[request.delivery] += 1
        if is_read:
            self._waiting.setdefault(request.sender, deque()).append(request)
        return request

    def next_round(self) -> list[Request] | None:
        """Take the next round: one read of each of some users, all of one action; :meth:`finished` follows."""
        if not self._waiting:
            return None
        # One read per user: a user with ten reads takes ten rounds, a user with one read takes one.
        first = [waiting[0] for user, waiting in self._waiting.items() if user not in self._running]
        taken: list[Request] = []
        action, most = "", 1
        for read in self._backlog.unblocked(first):
            if not taken:
                action = read.envelope.action
                most = self._expected.get(action, _Expected()).most(self._round_max_bytes)
            # Left for a later round, in its position: the estimate is per action.
            elif read.envelope.action != action:
                continue
            self._take(read)
            taken.append(read)
            if len(taken) >= most:
                break
        return taken or None

    def finished(self, reads: Sequence[Request]) -> None:
        """Their answers are confirmed, or they were not run."""
        self._running.difference_update(read.sender for read in reads)
        self.release(reads)

    def learn(self, reads: Sequence[Request], seconds: float, size: int) -> None:
        """Together ``reads``, all of one action, held the event loop for ``seconds`` and prepared ``size`` bytes."""
        expected = self._expected.setdefault(reads[0].envelope.action, _Expected())
        expected.learn(len(reads), seconds, size)

    def release(self, requests: Iterable[Request]) -> None:
        """They wait no longer; those that were not admitted here are ignored."""
        for request in requests:
            if request not in self._admitted:
                continue
            self._admitted.discard(request)
            # Whether it counted as a read: an admitted request that is none waited behind one.
            _take_one(self._by_user, (request.sender, request.is_heavy_read))
            if not _take_one(self._by_delivery, request.delivery):
                _take_one(self._held_by_queue, request.delivery.queue)

    def _has_room(self, request: Request, is_read: bool) -> bool:
        most = self._user_max if is_read else _FOLLOWERS_MAX
        queue_is_held = self._held_by_queue[request.delivery.queue] >= self._queue_held_max
        # A delivery that is held anyway costs no further place of the prefetch. Another one is held only for a user
        # without a waiting read.
        if queue_is_held and request.delivery not in self._by_delivery:
            most = 1
        return len(self._admitted) < self._total_max and self._by_user[request.sender, is_read] < most

    def _take(self, read: Request) -> None:
        user = read.sender
        self._running.add(user)
        waiting = self._waiting[user]
        waiting.popleft()
        if waiting:
            self._waiting.move_to_end(user)
        else:
            del self._waiting[user]


def _too_many() -> Busy:
    return Busy(
        "Too many of your large requests wait for an answer. Try again shortly.",
        retry_after_ms=RETRY_AFTER_MS,
    )


def _take_one(counts: Counter[K], key: K) -> int:
    """Count one less; returns what is left."""
    left = counts[key] - 1
    if left:
        counts[key] = left
    else:
        del counts[key]
    return left
