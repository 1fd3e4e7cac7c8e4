"""Long loops: an unexpected error does not end them."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from structlog.testing import capture_logs

from towpath.servicekit.runtime.loops import LONGEST_PAUSE, failures_of, keep_running
from towpath.servicekit.runtime.telemetry import Counter, Telemetry
from towpath.testkit.eventually import eventually


@contextlib.asynccontextmanager
async def running(
    work: Callable[[], Awaitable[object]], failed: Counter | None = None
) -> AsyncIterator[None]:
    task = asyncio.create_task(keep_running("test", work, pause=0, failed=failed))
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


class Work:
    """Fails the first ``failures`` times, then succeeds."""

    def __init__(self, failures: int) -> None:
        self.left = failures
        self.successes = 0

    async def step(self) -> None:
        if self.left:
            self.left -= 1
            raise ZeroDivisionError("a bug")
        self.successes += 1


async def test_a_step_runs_again_and_again() -> None:
    work = Work(failures=0)
    async with running(work.step):
        await eventually(lambda: work.successes >= 3)


async def test_a_loop_outlives_errors_which_are_logged_and_counted(telemetry: Telemetry) -> None:
    work, failed = Work(failures=3), failures_of("test", telemetry)
    with capture_logs() as logs:
        async with running(work.step, failed):
            await eventually(lambda: work.successes)
    told = [line for line in logs if line["event"] == "loop_failed"]
    assert [line["loop"] for line in told] == ["test"] * 3
    assert b'loops_failed_total{loop="test"} 3.0' in telemetry.exposition()


async def test_pauses_after_errors_grow_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    limits: list[float] = []

    def longest(low: float, high: float) -> float:
        limits.append(high)
        return 0.0

    monkeypatch.setattr(random, "uniform", longest)
    work = Work(failures=12)
    async with running(work.step):
        await eventually(lambda: work.successes)
    assert limits == sorted(limits)
    assert (limits[0], limits[-1]) == (0.2, LONGEST_PAUSE)


async def test_cancellation_ends_a_loop() -> None:
    task = asyncio.ensure_future(keep_running("test", Work(failures=0).step, pause=60))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
