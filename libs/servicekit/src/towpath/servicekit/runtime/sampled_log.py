"""Rate-limited log lines for frequent events: the first event, then a count at most once a minute."""

import time
from collections.abc import Callable
from typing import Any, Final

import structlog

from towpath.servicekit.runtime.telemetry import Counter

log = structlog.get_logger(__name__)

INTERVAL: Final = 60.0


class SampledLog:
    """Counts one kind of event.

    Args:
        event: The name of the log line.
        counter: The metric that is increased with each event.
    """

    def __init__(self, event: str, counter: Counter, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._event = event
        self._counter = counter
        self._clock = clock
        self._unlogged = 0
        self._next = float("-inf")

    def add(self, count: int = 1, **fields: Any) -> None:
        """Count one event; ``fields`` are logged if this event triggers the log line."""
        self._counter.add(count)
        self._unlogged += count
        now = self._clock()
        if now >= self._next:
            log.warning(self._event, count=self._unlogged, **fields)
            self._unlogged = 0
            self._next = now + INTERVAL
