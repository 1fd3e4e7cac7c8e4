"""Backoff between attempts, with full jitter, so that programs that wait together do not retry together.

https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/

Three waits of the kit are not this backoff, on purpose. A timer (``handling/timers.py``) waits with its own jitter,
because its pause must end at ``stop``. The broker's supervisor tries often within the first minute and has a rule of
its own (ADR 4). SQLite's switch to WAL waits milliseconds, for another program's switch to end.
"""

from collections.abc import AsyncIterator

import tenacity


async def attempts(
    *, first: float = 0.2, longest: float = 5.0, for_seconds: float | None = None
) -> AsyncIterator[int]:
    """Yield 1 at once, then 2, 3, … after growing waits; the caller leaves the loop when an attempt succeeds.

    Args:
        first: Limit of the first wait, in seconds; each further limit is twice as long.
        longest: The limit stops growing here.
        for_seconds: No attempt begins later than this after the first one, which always takes place.
    """
    stop = tenacity.stop_never if for_seconds is None else tenacity.stop_before_delay(for_seconds)
    try:
        async for attempt in tenacity.AsyncRetrying(
            wait=tenacity.wait_random_exponential(multiplier=first, max=longest),
            retry=tenacity.retry_always,
            stop=stop,
        ):
            yield attempt.retry_state.attempt_number
            attempt.retry_state.set_result(None)
    except tenacity.RetryError:
        return
