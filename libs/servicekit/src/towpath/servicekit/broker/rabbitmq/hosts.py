"""The hosts of a cluster, round robin: which one to try next, and how long to wait before."""

import random
from collections.abc import Sequence
from typing import Final

from yarl import URL

#: The longest wait early in an outage: most outages are restarts, and the program should be back soon after.
EARLY_MAX: Final = 5.0
#: Later on the longest wait is this share of the outage, so that a long one ends with a wide spread.
SHARE: Final = 1 / 12


class Hosts:
    """Hosts, round robin from a random one, so that programs spread over them.

    Args:
        reconnect_max: The longest wait, in seconds.
        chance: Source of the jitter.
    """

    def __init__(self, urls: Sequence[URL], reconnect_max: float, chance: random.Random) -> None:
        self._urls = list(urls)
        self._reconnect_max = reconnect_max
        self._chance = chance
        self._next = chance.randrange(len(self._urls))
        self._failures = 0
        self._refusing: set[URL] = set()

    @property
    def all(self) -> list[URL]:
        return list(self._urls)

    def next(self) -> URL:
        """The host to try now."""
        url = self._urls[self._next]
        self._next = (self._next + 1) % len(self._urls)
        return url

    def connected(self) -> None:
        """An attempt succeeded: the next wait is a short one again."""
        self._failures = 0

    def failed(self, url: URL, *, refused: bool, outage: float) -> float:
        """Record a failed attempt.

        Args:
            refused: The host answered and refused the connection.
            outage: Seconds without a connection so far.

        Returns:
            Seconds to wait before the next attempt: none within a round of all hosts, then full jitter.
        """
        if refused:
            self._refusing.add(url)
        else:
            self._refusing.discard(url)
        self._failures += 1
        # No wait within a round: a cluster with one dead node costs one attempt more.
        rounds, left = divmod(self._failures, len(self._urls))
        return self._chance.uniform(0, self.longest_wait(rounds, outage)) if not left else 0.0

    def longest_wait(self, rounds: int, outage: float) -> float:
        """1 s, 2 s, 4 s, 5 s, and from a minute on a twelfth of the outage; never more than ``reconnect_max``."""
        return min(self._reconnect_max, max(min(2.0 ** min(rounds - 1, 10), EARLY_MAX), outage * SHARE))

    @property
    def all_refuse(self) -> bool:
        """Whether each host refused us when it was tried last."""
        # A set, because the setting may name one host twice.
        return len(self._refusing) == len(set(self._urls))
