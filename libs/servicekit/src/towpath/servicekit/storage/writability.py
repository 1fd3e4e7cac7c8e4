"""Writability: whether writes to the database succeed, judged by transactions and by a probe.

A database that answers reads may still refuse writes: it is read-only, full, or a standby. So there are two sources
of evidence. A transaction that fails for lack of a resource counts for :data:`MEMORY` seconds, because waiting work
is retried within that time. And a probe commits a small write every few seconds, so that an idle service knows as
well.

Guarantees: while writes fail the database counts as not writable; it counts as writable again at most ``MEMORY``
seconds and one probe after they succeed. A change is logged, and a failure once a minute.
"""

import time
from collections.abc import Callable
from typing import Final

import structlog

from towpath.servicekit.runtime.error_text import describe_error

log = structlog.get_logger(__name__)

#: Longer than the longest pause between two attempts of work that waits for the database.
MEMORY: Final = 10.0
_REPEAT: Final = 60.0


class Writability:
    """The known state of one database."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failed_until = float("-inf")
        self._probe_failed = False
        self._logged_at: float | None = None  # While it fails: time of the last log line.

    @property
    def is_writable(self) -> bool:
        """Whether writes succeed, as far as known."""
        return not self._probe_failed and self._clock() >= self._failed_until

    def failed(self, error: BaseException) -> None:
        """Record a transaction that failed because of the database."""
        self._failed_until = self._clock() + MEMORY
        self._log(error)

    def probed(self, error: BaseException | None) -> None:
        """Record the result of a probe; ``None`` if it was committed."""
        self._probe_failed = error is not None
        if error is not None:
            self._log(error)
        elif self._logged_at is not None and self.is_writable:
            self._logged_at = None
            log.info("database_writable")

    def _log(self, error: BaseException) -> None:
        now = self._clock()
        if self._logged_at is None or now - self._logged_at >= _REPEAT:
            self._logged_at = now
            log.error("database_not_writable", error=describe_error(error, 300))
