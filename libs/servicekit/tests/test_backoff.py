"""Backoff: attempts at once, then after waits that grow to a bound."""

import asyncio
import random

import pytest

from towpath.servicekit.runtime.backoff import attempts


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The upper limit of each wait; the waits themselves take no time."""
    limits: list[float] = []

    def longest(_: float, high: float) -> float:
        limits.append(high)
        return 0.0

    monkeypatch.setattr(random, "uniform", longest)
    return limits


async def test_waits_grow_from_the_first_to_the_longest(limits: list[float]) -> None:
    async for attempt in attempts(first=0.5, longest=3.0):
        if attempt == 6:
            break
    assert limits == [0.5, 1.0, 2.0, 3.0, 3.0]


async def test_the_first_attempt_takes_place_at_once_and_always(limits: list[float]) -> None:
    assert [attempt async for attempt in attempts(for_seconds=0.0)] == [1]
    assert limits == [0.2]


async def test_attempts_end_with_their_time() -> None:
    made = [attempt async for attempt in attempts(first=0.01, longest=0.02, for_seconds=0.2)]
    assert made == [*range(1, len(made) + 1)]
    assert len(made) > 3


async def test_a_loop_that_is_left_after_its_first_attempt_leaves_nothing_to_the_event_loop() -> None:
    async for _ in attempts():
        break
    tasks = asyncio.all_tasks()
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == tasks == {asyncio.current_task()}
