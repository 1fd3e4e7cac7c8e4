"""The crash probe: a step that crashes or hangs the program is found without ending it."""

import asyncio
import itertools
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from towpath.servicekit.handling.crash_probe import End, FailedStep, run_crash_probe

LONG: Final = 30.0
SHORT: Final = 1.0


def harmless() -> None:
    pass


def raises() -> None:
    raise ValueError("the parent will see it")


def loops() -> None:
    while True:
        pass


def children() -> set[str]:
    return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_harmless_steps_are_not_reported() -> None:
    assert await run_crash_probe([harmless, raises, harmless], time_limit=LONG) is None
    assert await run_crash_probe([], time_limit=LONG) is None


@pytest.mark.parametrize(
    ("step", "how"),
    [
        (lambda: os._exit(3), "status 3"),
        (lambda: os._exit(0), "status 0"),
        (lambda: sys.exit(0), "status 70"),
        (lambda: os.kill(os.getpid(), signal.SIGSEGV), "SIGSEGV"),
        (lambda: os.kill(os.getpid(), signal.SIGKILL), "SIGKILL"),
    ],
)
async def test_a_step_that_ends_the_process_is_reported_with_the_signal_or_status(
    step: Callable[[], Any], how: str
) -> None:
    found = await run_crash_probe([harmless, harmless, step, harmless], time_limit=LONG)
    assert found is not None
    assert (found.step, found.end) == (2, End.CRASHED)
    assert how in found.how


@pytest.mark.parametrize("step", [loops, lambda: time.sleep(3600), lambda: sum(itertools.repeat(1))])
async def test_a_step_that_does_not_end_is_reported_after_its_time_limit(step: Callable[[], Any]) -> None:
    found = await run_crash_probe([harmless, step], time_limit=SHORT)
    assert found == FailedStep(1, End.HUNG, "it did not come to an end within 1 s")


async def test_each_step_has_a_time_limit_of_its_own() -> None:
    limit = 3.0
    slow = [lambda: time.sleep(limit / 5)] * 6
    assert await run_crash_probe(slow, time_limit=limit) is None


async def test_the_event_loop_runs_other_tasks_meanwhile() -> None:
    trying = asyncio.create_task(run_crash_probe([loops], time_limit=SHORT))
    turns = 0
    while not trying.done():
        await asyncio.sleep(0)
        turns += 1
    assert turns > 10


async def test_a_step_has_no_effect_outside_the_copy() -> None:
    seen: list[int] = []
    assert await run_crash_probe([lambda: seen.append(1)], time_limit=LONG) is None
    assert seen == []


async def test_a_cancelled_crash_probe_leaves_no_process() -> None:
    before = children()
    trying = asyncio.create_task(run_crash_probe([loops], time_limit=LONG))
    await asyncio.sleep(0)  # until the copy is made
    assert len(children() - before) == 1
    trying.cancel()
    with pytest.raises(asyncio.CancelledError):
        await trying
    assert children() == before


async def test_without_a_fork_there_is_no_crash_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> int:
        raise BlockingIOError("no more processes")

    monkeypatch.setattr(os, "fork", refuse)
    open_before = descriptors()
    assert await run_crash_probe([loops], time_limit=LONG) is None
    assert descriptors() == open_before
