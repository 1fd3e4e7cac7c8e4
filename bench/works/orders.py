"""The same with a real service: reading an order, and storing one."""

from typing import Any, Final

from bench.stage import Stage
from bench.works.interface import Case, Scale, Work
from bench.works.request import ask

_SIZES: Final = ((5, 1), (50, 1), (200, 1), (200, 4), (1000, 1))
_QUICK: Final = ((200, 1),)
#: Requests a second of 200 clients together, whatever the service does.
_RATES: Final = (1000, 2000)


def cases(scale: Scale) -> list[Case]:
    """Reads, then writes: as fast as answers come, then at a steady rate."""
    found = []
    for kind in ("order.get", "order.submit"):
        for clients, depth in _QUICK if scale.quick else _SIZES:
            asked = {"kind": kind, "clients": clients, "in_flight": depth}
            found.append(Case(f"{kind}, {clients:,} × {depth}", asked))
        for rate in () if scale.quick else _RATES:
            found.append(Case(f"{kind}, {rate:,} a second", {"kind": kind, "clients": 200, "rate": rate}))
    return found


async def measure(stage: Stage, case: Case, scale: Scale) -> dict[str, Any]:
    """Ask the orders service."""
    return await ask(stage, scale, **case.parameters)


WORK: Final = Work(
    name="orders",
    title="Orders read and stored",
    about=(
        "Requests to the orders service on SQLite. `order.submit` commits the order, its stream entry and the "
        "outcome for repetitions before it is answered; the user gets a push as well. Where a rate is named, 200 "
        "clients send at that rate, and times run from the moment when a request was due."
    ),
    unit="answers a second",
    headlines=("order.get, 200 × 4", "order.submit, 200 × 4"),
    most_rounds=1,
    cases=cases,
    measure=measure,
)
