"""The same with a real service: reading an order, and storing one."""

from typing import Any, Final

from bench.stage import Stage
from bench.works.interface import Case, Scale, Work
from bench.works.request import ask

_SIZES: Final = ((200, 1), (200, 4))


def cases(scale: Scale) -> list[Case]:
    """Reads, then writes."""
    return [
        Case(f"{kind}, {clients} × {depth}", {"kind": kind, "clients": clients, "in_flight": depth})
        for kind in ("order.get", "order.submit")
        for clients, depth in (_SIZES[:1] if scale.quick else _SIZES)
    ]


async def measure(stage: Stage, case: Case, scale: Scale) -> dict[str, Any]:
    """Ask the orders service."""
    return await ask(stage, scale, **case.parameters)


WORK: Final = Work(
    name="orders",
    title="Orders read and stored",
    about=(
        "The same through the orders service on SQLite. `order.submit` commits the order, its stream entry and the "
        "outcome for repetitions before it is answered; the user is told by a push as well."
    ),
    unit="answers a second",
    headlines=("order.get, 200 × 4", "order.submit, 200 × 4"),
    most_rounds=1,
    cases=cases,
    measure=measure,
)
