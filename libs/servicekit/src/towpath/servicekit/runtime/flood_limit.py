"""Flood limit: no event fills the log, whatever others do.

Guarantees:

* Of one event (a logger and its event, not the values) at most ``burst`` lines are logged in a minute.
* The others are counted. The count is logged with the first line, of whatever event, after that minute, and at the
  latest when the program ends: ``lines_left_out`` with the event and the number.
* Memory is bounded: events are named in the code, and at most :data:`EVENTS_MAX` of them are remembered.
"""

import logging
import threading
import time
from collections.abc import Callable
from typing import Any, Final

SECONDS: Final = 60.0
EVENTS_MAX: Final = 1_000
LEFT_OUT: Final = "lines_left_out"
_NAME_LETTERS: Final = 200


class FloodLimit(logging.Filter):
    """A filter of a handler.

    Args:
        burst: Lines of one event in a minute.
        report: Logs how many lines of an event were left out; it is called outside of any lock.
    """

    def __init__(
        self, burst: int, report: Callable[[str, int], None], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__()
        self._burst = burst
        self._report = report
        self._clock = clock
        self._lock = threading.Lock()
        self._events: dict[str, _Minute] = {}
        self._next_end = float("inf")

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to log ``record``."""
        name = _event_of(record)
        if name == LEFT_OUT:
            return True
        now = self._clock()
        with self._lock:
            over = self._take_ended(now) if now >= self._next_end else []
            is_logged = self._count(name, now)
        for event, count in over:
            self._report(event, count)
        return is_logged

    def flush(self) -> None:
        """Log the counts of all events now."""
        with self._lock:
            over = self._take_ended(float("inf"))
        for event, count in over:
            self._report(event, count)

    def _count(self, name: str, now: float) -> bool:
        minute = self._events.get(name)
        if minute is None:
            if len(self._events) >= EVENTS_MAX:
                return True
            minute = self._events[name] = _Minute(now + SECONDS)
            self._next_end = min(self._next_end, minute.end)
        minute.count += 1
        return minute.count <= self._burst

    def _take_ended(self, now: float) -> list[tuple[str, int]]:
        ended = [name for name, minute in self._events.items() if now >= minute.end]
        counts = [(name, self._events.pop(name).count - self._burst) for name in ended]
        self._next_end = min((minute.end for minute in self._events.values()), default=float("inf"))
        return [(name, count) for name, count in counts if count > 0]


class _Minute:
    """The lines of one event since its first one."""

    __slots__ = ("count", "end")

    def __init__(self, end: float) -> None:
        self.end = end
        self.count = 0


def _event_of(record: logging.LogRecord) -> str:
    # Of structlog the message is a dictionary; of other libraries it is the text before the values are put in.
    message: Any = record.msg
    event = message.get("event", "") if isinstance(message, dict) else message
    return str(event)[:_NAME_LETTERS]
