"""A gateway dies, and its users connect to another: the time until they have all missed messages."""

import os
import signal
from typing import Any, Final

from bench.stage import Stage, measured
from bench.works.interface import Case, Scale, Work

_ROOMS: Final = 50
_MEMBERS: Final = 100
_MEMBERS_QUICK: Final = 10
_MAIN: Final = "until all have resumed, s"


def cases(scale: Scale) -> list[Case]:
    """Many people."""
    members = _MEMBERS_QUICK if scale.quick else _MEMBERS
    return [Case(f"{_ROOMS * members:,} users", {"rooms": _ROOMS, "members": members}, gateways=2)]


async def measure(stage: Stage, case: Case, scale: Scale) -> dict[str, Any]:
    """Kill one gateway of two, and let its users reconnect."""

    async def kill(_: dict[str, Any]) -> None:
        os.kill(stage.running.pids["gateway"][0], signal.SIGKILL)

    result = await stage.generate("resume", at={"death": kill}, **case.parameters)
    figures = {
        _MAIN: result["seconds"],
        "dropped as known": float(result["dropped"]),
        "kept for its turn": float(result["waited"]),
    }
    return {**measured(result), "figures": figures}


WORK: Final = Work(
    name="resume",
    title="A storm of resumes",
    about=(
        "All users of a killed gateway connect to another, 500 at a time, and resume their room, where messages "
        "continue meanwhile. Times run from the connect to the answer that the stream is complete. By its position "
        "in the stream a client drops duplicates, and holds pushes that arrive early."
    ),
    main=_MAIN,
    unit="until all have resumed, s",
    lower_is_better=True,
    cases=cases,
    measure=measure,
)
