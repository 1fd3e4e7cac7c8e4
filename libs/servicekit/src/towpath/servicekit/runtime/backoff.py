"""Backoff between attempts, with full jitter, so that programs that wait together do not retry together."""

from collections.abc import AsyncIterator

import tenacity


async def pauses() -> AsyncIterator[None]:
    """Yield at once, then after waits with full jitter of up to 5 s."""
    async for attempt in tenacity.AsyncRetrying(
        wait=tenacity.wait_random_exponential(multiplier=0.2, max=5), retry=tenacity.retry_always
    ):
        yield None
        attempt.retry_state.set_result(None)
