"""Waiting between tries, with full jitter, so that those who wait together do not come back together."""

from collections.abc import AsyncIterator

import tenacity


async def pauses() -> AsyncIterator[None]:
    """Once at once, then again and again with full jitter, up to 5 s apart."""
    async for attempt in tenacity.AsyncRetrying(
        wait=tenacity.wait_random_exponential(multiplier=0.2, max=5), retry=tenacity.retry_always
    ):
        yield None
        attempt.retry_state.set_result(None)
