"""Each frame reaches the right people only, whatever happens at the same time."""

from pathlib import Path

import pytest

from .trial import Trial
from .wrong_person import WrongPerson


@pytest.mark.timeout(1_200)
@pytest.mark.parametrize(
    "steps", [pytest.param(2_000, marks=pytest.mark.abuse_short), 100_000], ids=["short", "long"]
)
async def test_no_frame_reaches_a_wrong_person(tmp_path: Path, trial: Trial, steps: int) -> None:
    async with (
        trial.door(
            "a wrong person gets a frame or comes in: pushes, rooms, blocks, kicks, revocations, reconnects"
        ) as door,
        WrongPerson.running(tmp_path / "chat.sqlite", trial.seed) as wrong_person,
    ):
        await wrong_person.run(steps)
        door.tried = steps
        door.through = len(wrong_person.misdelivered)
        door.notes.append(
            f"{wrong_person.frames:,} frames were checked, {len(wrong_person.missed)} were missed"
        )
        door.failures += wrong_person.misdelivered[:5] + wrong_person.missed[:5]
        least = min(wrong_person.steps.values())
        door.expect(least >= steps // 200, f"an operation was done {least} times only")
