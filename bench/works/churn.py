"""People who join rooms and leave them again."""

from typing import Any, Final

from bench.stage import Stage, measured
from bench.works.interface import Case, Scale, Work

_CLIENTS: Final = 200
_ROOMS: Final = 50


def cases(scale: Scale) -> list[Case]:
    """One size."""
    return [Case(f"{_CLIENTS} clients, {_ROOMS} rooms", {"clients": _CLIENTS, "rooms": _ROOMS})]


async def measure(stage: Stage, case: Case, scale: Scale) -> dict[str, Any]:
    """Let them come and go."""
    return measured(
        await stage.generate("churn", warm_up=scale.warm_up, seconds=scale.seconds, **case.parameters)
    )


WORK: Final = Work(
    name="churn",
    title="Joins and leaves",
    about=(
        "Clients join a room and leave it, repeatedly. In Towpath this is chat: the membership is stored, and pushed "
        "to all the others in the room. The other systems change a set in the gateway's memory."
    ),
    unit="joins and leaves a second",
    most_rounds=1,
    cases=cases,
    measure=measure,
)
