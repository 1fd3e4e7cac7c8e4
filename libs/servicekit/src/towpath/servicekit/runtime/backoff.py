"""Backoff between attempts, with full jitter, so that programs that wait together do not retry together.

https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/

Three waits of the kit are not this backoff, on purpose. A timer (``handling/timers.py``) waits with its own jitter,
because its pause must end at ``stop``. The broker's supervisor tries often within the first minute and has a rule of
its own (ADR 4). SQLite's switch to WAL waits milliseconds, for another program's switch to end.
"""

from collections.abc import AsyncIterator
from time import monotonic

import tenacity


def attempts(
    *, first: float = 0.2, longest: float = 5.0, for_seconds: float | None = None
) -> AsyncIterator[int]:
    """Yield 1 at once, then 2, 3, … after growing waits; the caller leaves the loop when an attempt succeeds.

    Args:
        first: Limit of the first wait, in seconds; each further limit is twice as long.
        longest: The limit stops growing here.
        for_seconds: No attempt begins later than this after the first one, which always takes place.
    """
    return _Attempts(tenacity.wait_random_exponential(multiplier=first, max=longest), for_seconds)


class _Attempts(AsyncIterator[int]):
    """The numbers of the attempts.

    No generator: the event loop closes one that is left early, with a task of its own, and nearly every loop is left
    after its first attempt. That one needs nothing of tenacity either.
    """

    def __init__(self, wait: tenacity.wait_random_exponential, for_seconds: float | None) -> None:
        self._wait = wait
        self._for_seconds = for_seconds
        self._began: float | None = None
        self._retrying: tenacity.AsyncRetrying | None = None
        self._last: tenacity.AttemptManager | None = None

    async def __anext__(self) -> int:
        if self._began is None:
            self._began = monotonic()
            return 1
        if self._retrying is None:
            stop = (
                tenacity.stop_never
                if self._for_seconds is None
                else tenacity.stop_before_delay(self._for_seconds - (monotonic() - self._began))
            )
            self._retrying = aiter(
                tenacity.AsyncRetrying(wait=self._wait, retry=tenacity.retry_always, stop=stop)
            )
            # Its first attempt is the one that was made without it.
            self._last = await anext(self._retrying)
        if self._last is not None:
            self._last.retry_state.set_result(None)
        try:
            self._last = await anext(self._retrying)
        except tenacity.RetryError:
            raise StopAsyncIteration from None
        return self._last.retry_state.attempt_number
