"""A room: one speaks, all hear it."""

from typing import Any, Final

from bench.stage import Stage, measured
from bench.works.interface import Case, Scale, Work

#: Rooms, and members of each.
_SIZES: Final = ((1, 10), (1, 100), (1, 1000), (50, 10), (50, 100))
_QUICK: Final = ((1, 1000),)
_IN_FLIGHT: Final = 2


def cases(scale: Scale) -> list[Case]:
    """One room, then fifty."""
    return [
        Case(f"{rooms} room{'s' * (rooms > 1)} of {members:,}", {"rooms": rooms, "members": members})
        for rooms, members in (_QUICK if scale.quick else _SIZES)
    ]


async def measure(stage: Stage, case: Case, scale: Scale) -> dict[str, Any]:
    """Let one member of each room speak."""
    result = await stage.generate(
        "room", in_flight=_IN_FLIGHT, warm_up=scale.warm_up, seconds=scale.seconds, **case.parameters
    )
    return measured(result)


WORK: Final = Work(
    name="room",
    title="One sender, many receivers",
    about=(
        "In each room one member sends, through the service, with two messages in flight at any time. Counted are "
        "deliveries; times run until the last member has the message. Towpath's rooms are chat's: every message is "
        "stored first, as an entry of a stream that clients resume. The others store nothing."
    ),
    unit="deliveries a second",
    headlines=("1 room of 1,000", "50 rooms of 100"),
    first_look=True,
    cases=cases,
    measure=measure,
)
