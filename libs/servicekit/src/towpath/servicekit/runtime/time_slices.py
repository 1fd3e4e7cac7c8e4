"""Time slices: long work in slices, so that the event loop serves heartbeats and health checks in between."""

import asyncio
from time import perf_counter
from typing import Final

#: Seconds of work between two yields: short compared to a network round trip, long compared to a loop iteration.
SLICE: Final = 0.005


class Turn:
    """The time budget of one slice: ``if turn.is_over(): await turn.next()``."""

    __slots__ = ("_ends",)

    def __init__(self) -> None:
        self._ends = perf_counter() + SLICE

    def is_over(self) -> bool:
        """Whether the slice is used up."""
        return perf_counter() >= self._ends

    async def next(self) -> None:
        """Yield to the event loop, then begin a new slice."""
        await asyncio.sleep(0)
        self._ends = perf_counter() + SLICE
