"""Token buckets by key, for a bounded number of keys. No I/O, and no clock.

Guarantees: a key may take ``burst`` at once and ``rate`` a second in the long run; a refusal takes nothing and says
how long to wait; at most ``keys_max`` keys are kept (the one that was used longest ago is forgotten first, and starts
with a full bucket again).
"""

from typing import Final

KEYS_MAX: Final = 100_000


class Buckets:
    """One bucket for each key, full at first.

    A bucket is one number: when it will be full (the "theoretical arrival time" of the generic cell rate algorithm,
    https://en.wikipedia.org/wiki/Generic_cell_rate_algorithm).
    """

    def __init__(self, *, rate: float, burst: float, keys_max: int = KEYS_MAX) -> None:
        self._interval = 1 / rate
        self._depth = burst / rate
        self._keys_max = keys_max
        self._full_at: dict[str, float] = {}  # least recently used first

    def __len__(self) -> int:
        return len(self._full_at)

    def take(self, key: str, now: float) -> float:
        """Take one token: 0 if there was one, else the seconds until there is."""
        full_at = max(self._full_at.pop(key, now), now) + self._interval
        wait = full_at - now - self._depth
        if wait > 1e-9:
            self._full_at[key] = full_at - self._interval
            return wait
        self._full_at[key] = full_at
        self._forget(now)
        return 0.0

    def _forget(self, now: float) -> None:
        # Two at most for one that came: the table shrinks to those that are not full, and no call takes long.
        for _ in range(2):
            oldest = next(iter(self._full_at))
            if self._full_at[oldest] > now and len(self._full_at) <= self._keys_max:
                return
            del self._full_at[oldest]
            if not self._full_at:
                return
