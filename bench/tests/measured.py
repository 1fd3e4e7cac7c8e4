"""Builders of measurements and runs."""

from typing import Any

from bench.measurement import Measurement, Run

WORK = "request"
CASE = "200 × 4"


def a_measurement(system: str, round: int = 0, **fields: Any) -> Measurement:
    """A measurement of ``system`` in one round."""
    return Measurement(fields.pop("work", WORK), fields.pop("case", CASE), system, round, **fields)


def a_run(*measurements: Measurement) -> Run:
    """A run of all of them."""
    names = list(dict.fromkeys(one.system for one in measurements))
    return Run(
        command="python -m bench",
        facts={"Machine": "2 cores"},
        titles={name: name.title() for name in names},
        differences={name: [f"{name} is different"] for name in names},
        measurements=list(measurements),
    )
