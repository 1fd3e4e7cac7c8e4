"""Writability: whether what a service writes to its database is stored, from what it meets and from a probe.

A database that answers questions may still store nothing: it is read-only, full, or a standby. So two things are
taken as evidence. A transaction that fails for lack of something counts for :data:`MEMORY` seconds, since the work
that waits is tried again within that time. And a probe commits a small write every few seconds, so that a service
that has nothing to do knows as well.

Guarantees: while writes fail it is not writable; it is again, by itself, at most ``MEMORY`` seconds and one probe
after they succeed. A log line when that changes, and once a minute while it fails.
"""

import time
from collections.abc import Callable
from typing import Final

import structlog

from towpath.servicekit.wording import in_words

log = structlog.get_logger(__name__)

#: Longer than the longest pause between two tries of work that waits for the database.
MEMORY: Final = 10.0
_REPEAT: Final = 60.0


class Writability:
    """What is known of one database."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failed_until = float("-inf")
        self._probe_failed = False
        self._told_at: float | None = None  # while it fails: when that was logged last

    @property
    def is_writable(self) -> bool:
        """Whether writes succeed, as far as is known."""
        return not self._probe_failed and self._clock() >= self._failed_until

    def failed(self, error: BaseException) -> None:
        """A transaction failed, and the database is to blame."""
        self._failed_until = self._clock() + MEMORY
        self._tell(error)

    def probed(self, error: BaseException | None) -> None:
        """A probe was committed, or failed."""
        self._probe_failed = error is not None
        if error is not None:
            self._tell(error)
        elif self._told_at is not None and self.is_writable:
            self._told_at = None
            log.info("database_writable")

    def _tell(self, error: BaseException) -> None:
        now = self._clock()
        if self._told_at is None or now - self._told_at >= _REPEAT:
            self._told_at = now
            log.error("database_not_writable", error=in_words(error, 300))
