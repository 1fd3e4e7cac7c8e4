"""A crowd joins one room: each is answered, other users do not wait, and deliveries do not grow with its square."""

import asyncio
from typing import Final

import pytest

from towpath.testkit.system import System

from .bounds import CROWD
from .program import Program
from .trial import Trial

#: Seconds in which all of them ask to join.
_WITHIN: Final = 4.0
_SECONDS: Final = 12.0
#: Up to 100 members each join is pushed to all; then a count is pushed to each once a second.
_TOLD_ONE_BY_ONE: Final = 100 * 101


@pytest.mark.parametrize("count", [100, 500, 2_000])
async def test_a_crowd_that_joins_a_room_is_answered_and_does_not_delay_others(
    fresh_system: System, trial: Trial, count: int
) -> None:
    ports = [int(gateway.settings["TOWPATH_PORT"]) for gateway in fresh_system.gateways]
    plan = {"name": "fan", "count": count, "ports": ports, "room": "arena", "within": _WITHIN}
    async with (
        Program.start("people", plan, timeout=120) as people,
        trial.of(f"{count:,} users join one room within {_WITHIN:g} s", fresh_system, CROWD) as ground,
    ):
        people.go()
        await asyncio.sleep(_SECONDS)
        ground.end()
        people.go()
        told = await people.result()
        slowest = max(told["answers"], default=0.0)
        pushes = sum(told["pushes"].values())
        kinds = ", ".join(f"{action} × {number:,}" for action, number in sorted(told["pushes"].items()))
        ground.got_in(f"{count:,} joins; slowest answer {slowest:.1f} s; {pushes:,} deliveries")
        ground.note(f"deliveries: {kinds}")
        answered = told["outcomes"].get("ok", 0)
        ground.expect(answered == count, f"answered {told['outcomes']}, not ok × {count:,}")
        ground.expect(slowest < 5, f"the slowest join took {slowest:.1f} s")
        most = _TOLD_ONE_BY_ONE + 2 * _SECONDS * count
        ground.expect(pushes <= most, f"{pushes:,} deliveries, not {most:,.0f} at most")
