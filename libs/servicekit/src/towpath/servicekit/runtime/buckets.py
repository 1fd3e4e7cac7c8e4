"""Token buckets: rate limits with a burst. Pure; the caller passes the time.

A bucket holds ``burst`` tokens and fills with ``rate`` tokens a second
(https://en.wikipedia.org/wiki/Token_bucket). Guarantees: over any ``t`` seconds a bucket gives at most
``burst + rate * t`` tokens, and a refusal takes nothing. A family of buckets drops those that are full again and have
no holder, so that its size is bounded by current and recent users.
"""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

#: Buckets of one family that are checked for being full each time a new one is made.
_FORGET_STEP: Final = 4
_FULL_BUCKETS_KEPT: Final = 10_000

K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Rate:
    """The limit of a bucket.

    Attributes:
        rate: Tokens a second in the long run; 0 for no limit.
        burst: Tokens at once.

    Example:
        >>> Rate(rate=5, burst=20)  # 20 at once, then 5 a second
        Rate(rate=5, burst=20)
    """

    rate: float
    burst: float


class Bucket:
    """One bucket; full when made."""

    __slots__ = ("_at", "_burst", "_left", "_rate", "holders")

    def __init__(self, rate: Rate, now: float) -> None:
        self._rate = rate.rate
        self._burst = rate.burst
        self._left = rate.burst
        self._at = now
        self.holders = 0  #: It is not dropped while this is above 0.

    def take(self, cost: float, now: float) -> float:
        """Take ``cost`` tokens; returns 0, or, when there are too few, the seconds until there are enough.

        A cost above the size of the bucket is granted when the bucket is full, and leaves a debt.
        """
        rate = self._rate
        if not rate:
            return 0.0
        burst = self._burst
        left = self._left + (now - self._at) * rate
        if left > burst:
            left = burst
        self._at = now
        needed = cost if cost < burst else burst
        if left < needed:
            self._left = left
            return (needed - left) / rate
        self._left = left - cost
        return 0.0

    def spend(self, cost: float, now: float, debt: float | None = None) -> None:
        """Take ``cost`` tokens even if there are too few; the debt is ``debt`` at most, by default a full bucket.

        A debt that is larger already stays as it is.
        """
        left = min(self._left + (now - self._at) * self._rate, self._burst)
        lowest = -self._burst if debt is None else -debt
        self._left = max(left - cost, min(left, lowest))
        self._at = now

    def give_back(self, cost: float) -> None:
        """Undo a :meth:`take`."""
        self._left = min(self._left + cost, self._burst)

    def let_go(self) -> None:
        """Undo one :meth:`Buckets.hold`."""
        self.holders -= 1

    def is_full(self, now: float) -> bool:
        """Whether no token is used."""
        return self._left + (now - self._at) * self._rate >= self._burst


class Buckets(Generic[K]):
    """A bucket for each key, such as a user or an address.

    Args:
        rate: The limit of each bucket.
        keep: Number of full buckets that are kept: creating them again costs more.

    Example:
        >>> buckets = Buckets[str](Rate(rate=5, burst=2))
        >>> [buckets.of("ana", now=100.0).take(1, now=100.0) for _ in range(3)]
        [0.0, 0.0, 0.2]

        The third was refused: there is a token again in 0.2 s.

        >>> buckets.of("ana", now=100.2).take(1, now=100.25)
        0.0
    """

    def __init__(self, rate: Rate, keep: int = _FULL_BUCKETS_KEPT) -> None:
        self._rate = rate
        self._keep = keep
        self._buckets: dict[K, Bucket] = {}

    def __len__(self) -> int:
        return len(self._buckets)

    def of(self, key: K, now: float) -> Bucket:
        """The bucket of ``key``."""
        bucket = self._buckets.get(key)
        if bucket is None:
            if len(self._buckets) >= self._keep:
                self._forget(now)
            bucket = self._buckets[key] = Bucket(self._rate, now)
        return bucket

    def hold(self, key: K, now: float) -> Bucket:
        """The bucket of ``key``, which stays the same one until :meth:`Bucket.let_go`."""
        bucket = self.of(key, now)
        bucket.holders += 1
        return bucket

    def _forget(self, now: float) -> None:
        # Round robin: buckets still needed go to the end. More are dropped than added, so the family cannot grow
        # beyond those that are held or not full.
        for _ in range(min(_FORGET_STEP, len(self._buckets))):
            key = next(iter(self._buckets))
            bucket = self._buckets.pop(key)
            if bucket.holders or not bucket.is_full(now):
                self._buckets[key] = bucket
