"""One member of a room reads nothing any more."""

from typing import Any, Final

from bench.stage import Stage, measured
from bench.works.idle import memory
from bench.works.interface import Case, Scale, Work

_MEMBERS: Final = 100
_IN_FLIGHT: Final = 8
#: Long messages, so that the kernel's buffers are soon full.
_LETTERS: Final = 3_900
_ROLE: Final = "gateway"
_MAIN: Final = "p99"


def cases(scale: Scale) -> list[Case]:
    """With all of them reading, then with one who does not."""
    stalled = Case("one does not read", {"stalled": 1})
    return [stalled] if scale.quick else [Case("all read", {"stalled": 0}), stalled]


async def measure(stage: Stage, case: Case, scale: Scale) -> dict[str, Any]:
    """Speak to those who do, and look at the gateway's memory."""
    held: dict[str, float] = {}

    async def at_ready(_: dict[str, Any]) -> None:
        held["before"] = memory(stage).get(_ROLE, 0.0)

    async def at_end(_: dict[str, Any]) -> None:
        held["after"] = memory(stage).get(_ROLE, 0.0)

    result = await stage.generate(
        "room",
        at={"ready": at_ready, "end": at_end},
        rooms=1,
        members=_MEMBERS,
        in_flight=_IN_FLIGHT,
        letters=_LETTERS,
        warm_up=scale.warm_up,
        seconds=scale.seconds,
        **case.parameters,
    )
    # Where the gateway is a part of the broker, its memory cannot be separated from the broker's.
    grown = {"MiB the gateway grew": (held["after"] - held["before"]) / 1024} if held["before"] else {}
    return {**measured(result), "figures": grown}


WORK: Final = Work(
    name="stalled",
    title="A member that does not read",
    about=(
        "A room of 100 in which one member stops reading. Messages are long (3,900 letters), so that the backlog of "
        "that member exceeds the kernel's buffers. Times are those of the other 99, until the last has a message. "
        "Towpath keeps 4 MiB for one connection, then closes it: the client reconnects and resumes."
    ),
    main=_MAIN,
    unit="p99, ms",
    rate_unit="deliveries a second",
    lower_is_better=True,
    headlines=("one does not read",),
    most_rounds=1,
    cases=cases,
    measure=measure,
)
