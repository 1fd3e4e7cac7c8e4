"""Chat that is stored: how many messages a second, on either database."""

from typing import Any, Final

from bench.stage import Stage, measured
from bench.works.interface import Case, Scale, Work

_ROOMS: Final = 200
_MEMBERS: Final = 2
_IN_FLIGHT: Final = 4


def cases(scale: Scale) -> list[Case]:
    """SQLite, then PostgreSQL."""
    return [Case("SQLite"), Case("PostgreSQL", postgres=True)]


async def measure(stage: Stage, case: Case, scale: Scale) -> dict[str, Any]:
    """Let one of two speak in each of many rooms."""
    result = await stage.generate(
        "room",
        rooms=_ROOMS,
        members=_MEMBERS,
        in_flight=_IN_FLIGHT,
        warm_up=scale.warm_up,
        seconds=scale.seconds,
    )
    result["count"] /= _MEMBERS  # messages, not deliveries
    return measured(result)


WORK: Final = Work(
    name="chat",
    title="Chat, stored and pushed",
    about=(
        "In 200 rooms of two, one member sends, with four messages in flight. Each message is committed with its "
        "stream entry and the outcome for repetitions before it is pushed. Messages count when both members have "
        "received them. SQLite syncs with every commit; PostgreSQL runs without fsync, as in tests."
    ),
    unit="messages a second",
    cases=cases,
    measure=measure,
)
