"""Requests to a service and back, as fast as they are answered."""

from typing import Any, Final

from bench.stage import Stage, measured
from bench.works.interface import Case, Scale, Work

#: Clients, and requests of each in flight.
_SIZES: Final = ((5, 1), (50, 1), (200, 1), (200, 4), (1000, 1))
_QUICK: Final = ((5, 1), (200, 4))


def cases(scale: Scale) -> list[Case]:
    """From a few clients to many."""
    return [
        Case(f"{clients:,} × {depth}", {"clients": clients, "in_flight": depth})
        for clients, depth in (_QUICK if scale.quick else _SIZES)
    ]


async def measure(stage: Stage, case: Case, scale: Scale) -> dict[str, Any]:
    """Ask for echoes."""
    return await ask(stage, scale, kind="echo", **case.parameters)


async def ask(stage: Stage, scale: Scale, **parameters: Any) -> dict[str, Any]:
    """Run the script ``request``."""
    result = await stage.generate("request", warm_up=scale.warm_up, seconds=scale.seconds, **parameters)
    return measured(result)


WORK: Final = Work(
    name="request",
    title="Request, service, reply",
    about=(
        "Clients request an echo of 64 letters from a service without storage, through the broker. *200 × 4*: 200 "
        "clients with 4 requests in flight each; after an answer a client sends the next request."
    ),
    unit="answers a second",
    headlines=("5 × 1", "200 × 1", "200 × 4"),
    first_look=True,
    cases=cases,
    measure=measure,
)
