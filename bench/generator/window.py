"""The window within which things count, and the generator's own share of it."""

import asyncio
import time
from collections.abc import Awaitable
from typing import Any

from bench.generator.clients import clock
from bench.generator.control import Control
from bench.histogram import Histogram


class Window:
    """Counts what is finished while it is open.

    Attributes:
        open: Whether things count just now.
        count: The number of finished operations.
        times: How long each took.
    """

    def __init__(self) -> None:
        self.open = False
        self.count = 0
        self.times = Histogram()

    async def during(self, control: Control, load: Awaitable[object]) -> dict[str, Any]:
        """Open it while ``load`` runs, between the marks ``begin`` and ``end``; returns what was counted."""
        await control.mark("begin")
        begin, cpu = clock(), time.process_time()
        self.open = True
        await load
        self.open = False
        passed, cpu = (clock() - begin) / 1e9, time.process_time() - cpu
        await control.mark("end")
        return {
            "seconds": passed,
            "count": self.count,
            "times": self.times.to_json(),
            "generator_share": cpu / passed,
        }

    async def watch(self, control: Control, seconds: float) -> dict[str, Any]:
        """Open it for so long, while a load runs by itself; see :meth:`during`."""
        return await self.during(control, _wait(control, seconds))


async def _wait(control: Control, seconds: float) -> None:
    begin = clock()
    while (passed := (clock() - begin) / 1e9) < seconds:
        control.progress(passed / seconds)
        await asyncio.sleep(min(0.25, seconds - passed))
