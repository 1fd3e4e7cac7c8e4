"""A run of growth as tests need it: every point there is, with round figures."""

from dataclasses import replace
from typing import Final

from bench.growth.load import USUAL
from bench.growth.points import Growth, Point
from bench.growth.services import KINDS, RATIO
from bench.growth.stored import TITLES
from bench.growth.units import DELIVERY, HEARTBEAT, MESSAGE

_CPU: Final = {"µs gateway": 60.0, "µs service": 55.0, "µs broker": 45.0, "p50, ms": 5.0, "p99, ms": 20.0}


def a_run(**changes: float) -> Growth:
    """A whole run.

    Args:
        changes: ``take=…``: what each further gateway pays for a push, in µs.
    """
    take = changes.pop("take", 50.0)
    assert not changes, changes
    connected = {"KiB a connection": 18.0, "MiB a gateway without": 57.0, "µs presence a connect": 400.0}
    points = [
        *(Point("connections", size, "", _CPU | connected) for size in (1_000, 10_000)),
        *(Point("load", size, "", _CPU | {"µs broker": 300.0}) for size in (250, USUAL)),
        *(Point("rooms", size, "", _CPU | {"bytes a push": 300.0}) for size in (1, 10_000)),
        *(
            Point("replicas", size, f"{kind}, {routing}", _CPU | {"µs gateway": 100.0 + take * (size - 1)})
            for kind in ("push", "request")
            for routing in ("everything", "selective")
            for size in (1, 2, 3, 4)
        ),
        *(
            Point("services", size, kind, _CPU | {"a second": 200.0 * size, RATIO: 0.95 * size})
            for kind in KINDS
            for size in (1, 2, 4)
        ),
        *(
            Point("stored", size, "", _CPU | {f"{title}, ms": 4.0 for title in TITLES.values()})
            for size in (1_000, 1_000_000)
        ),
        Point("units", 1, HEARTBEAT, {"µs gateway": 20.0}),
        Point("units", 1, DELIVERY, {"µs gateway": 7.0}),
        Point("units", 1, MESSAGE, _CPU | {"µs service": 160.0, "µs database": 30.0}),
    ]
    return Growth("python -m bench --growth", {"Day": "2026-11-23"}, points)


def without(growth: Growth, axis: str) -> Growth:
    """The same, but that an axis could not be measured."""
    return replace(growth, points=[one for one in growth.points if one.axis != axis])
