"""The same requests at a steady rate, whatever the system does: how long an answer takes under a given load."""

from typing import Any, Final

from bench.stage import Stage
from bench.works.interface import Case, Chart, Scale, Work
from bench.works.request import ask

_CLIENTS: Final = 200
#: Requests a second of all together.
_RATES: Final = (500, 1000, 2000, 4000, 8000)
_QUICK: Final = (500,)


def cases(scale: Scale) -> list[Case]:
    """From a light load to more than most can take."""
    return [Case(f"{rate:,} a second", {"rate": rate}) for rate in (_QUICK if scale.quick else _RATES)]


async def measure(stage: Stage, case: Case, scale: Scale) -> dict[str, Any]:
    """Ask for echoes."""
    return await ask(stage, scale, kind="echo", clients=_CLIENTS, **case.parameters)


WORK: Final = Work(
    name="steady",
    title="Times at a steady rate",
    about=(
        "The same echo, requested at a steady rate by 200 clients, one after the other. Times run from the moment "
        "when a request was *due*. The times of a system that cannot keep up grow without end; it is not drawn there."
    ),
    main="p99",
    unit="p99, ms",
    rate_unit="answers a second",
    lower_is_better=True,
    headlines=("500 a second", "1,000 a second"),
    needs="request",
    most_rounds=1,
    cases=cases,
    measure=measure,
    chart=Chart.LINES,
)
