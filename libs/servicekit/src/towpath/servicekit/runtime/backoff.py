"""Backoff between attempts, with full jitter, so that programs that wait together do not retry together.

https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/

Three waits of the kit are not this backoff, on purpose. A timer (``handling/timers.py``) waits with its own jitter,
because its pause must end at ``stop``. The broker's supervisor tries often within the first minute and has a rule of
its own (ADR 4). SQLite's switch to WAL waits milliseconds, for another program's switch to end.
"""

import math
from collections.abc import AsyncIterator
from time import monotonic

import tenacity


def attempts(
    *, first: float = 0.2, longest: float = 5.0, for_seconds: float = math.inf
) -> AsyncIterator[int]:
    """Yield 1 at once, then 2, 3, … after growing waits; the caller leaves the loop when an attempt succeeds.

    Args:
        first: Limit of the first wait, in seconds; each further limit is twice as long.
        longest: The limit stops growing here.
        for_seconds: No attempt begins later than this after the first one, which always takes place.
    """
    wait = tenacity.wait_random_exponential(multiplier=first, max=longest)
    return _Attempts(_later_attempts(wait, monotonic() + for_seconds))


class _Attempts(AsyncIterator[int]):
    """1, then the later ones.

    Not a generator: the event loop closes one that is left early, with a task of its own, and nearly every loop is
    left after its first attempt. The generator of the later ones has not begun then, so nothing has to be closed.
    """

    def __init__(self, later: AsyncIterator[int]) -> None:
        self._later = later
        self._is_first = True

    async def __anext__(self) -> int:
        if self._is_first:
            self._is_first = False
            return 1
        return await anext(self._later)


async def _later_attempts(wait: tenacity.wait_random_exponential, until: float) -> AsyncIterator[int]:
    stop = tenacity.stop_before_delay(until - monotonic())
    try:
        async for attempt in tenacity.AsyncRetrying(wait=wait, retry=tenacity.retry_always, stop=stop):
            # The first one was made before this began.
            if attempt.retry_state.attempt_number > 1:
                yield attempt.retry_state.attempt_number
            attempt.retry_state.set_result(None)
    except tenacity.RetryError:
        return
