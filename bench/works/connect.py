"""A storm of connects, as after a network failure."""

from typing import Any, Final

from bench.stage import Stage, measured
from bench.works.interface import Case, Scale, Work

_CLIENTS: Final = 5_000
_CLIENTS_QUICK: Final = 1_000


def cases(scale: Scale) -> list[Case]:
    """Many at once."""
    clients = _CLIENTS_QUICK if scale.quick else _CLIENTS
    return [Case(f"{clients:,} connections", {"clients": clients})]


async def measure(stage: Stage, case: Case, scale: Scale) -> dict[str, Any]:
    """Connect every client."""
    return measured(await stage.generate("connect", **case.parameters))


WORK: Final = Work(
    name="connect",
    title="A storm of connects",
    about=(
        "Clients connect, 500 at a time. A connection counts when its system reports it as usable; Towpath "
        "has checked a signed token by then, and publishes the session to its services."
    ),
    unit="connections a second",
    most_rounds=1,
    cases=cases,
    measure=measure,
)
