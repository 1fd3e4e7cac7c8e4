"""The summary of several rounds. Pure functions of measurements.

Rates and figures are medians over rounds; ratios are the median of each round's own ratio, so that what the machine
did in one round touches both sides; times are merged from all rounds; what was lost or doubled is added up.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

from bench.histogram import Histogram
from bench.measurement import Measurement

#: The baseline of the comparison.
BASELINE: Final = "bare"
ROLES: Final = ("generator", "gateway", "service", "database", "broker")


@dataclass(frozen=True)
class Summary:
    """One system in one case.

    Attributes:
        main: The work's main figure; ``None`` when nothing was measured.
        rate: As measured, whether it is the main figure or not.
        ratio: ``main`` as a multiple of :data:`BASELINE`'s; ``None`` without one.
        at_least: Whether the generator may have been the limit in a round: more than ``main`` may be possible.
        base_at_least: The same of the baseline: ``ratio`` may be less.
        spread: Lowest and highest of ``main`` over the rounds.
        wrong: The faults, in words: "3 lost"; empty without any.
        failure: Why there are no figures; or ``None``.
    """

    work: str
    case: str
    system: str
    rounds: int
    main: float | None
    rate: float | None
    ratio: float | None
    spread: tuple[float, float] | None
    times: Histogram | None
    cpu: dict[str, float]
    figures: dict[str, float]
    wrong: str
    at_least: bool
    base_at_least: bool
    failure: str | None


def summarise(work: str, case: str, system: str, measured: Iterable[Measurement], main: str) -> Summary:
    """One system in one case, out of everything that was measured."""
    here = [one for one in measured if (one.work, one.case) == (work, case)]
    all_own = [one for one in here if one.system == system]
    own = [one for one in all_own if one.failure is None]
    values = [value for one in own if (value := _main(one, main)) is not None]
    bases = [one for one in here if one.system == BASELINE and one.failure is None]
    base = {one.round: _main(one, main) for one in bases}
    ratios = [
        value / below
        for one in own
        if (value := _main(one, main)) is not None and (below := base.get(one.round))
    ]
    times = [one.times for one in own if one.times is not None]
    return Summary(
        work=work,
        case=case,
        system=system,
        rounds=len(own),
        main=median(values) if values else None,
        rate=median(rates) if (rates := [one.rate for one in own if one.rate is not None]) else None,
        ratio=median(ratios) if ratios else None,
        spread=(min(values), max(values)) if values else None,
        times=Histogram.merged(times) if times else None,
        cpu=_medians([one.cpu for one in own]),
        figures=_medians([one.figures for one in own]),
        wrong=_wrong(own),
        at_least=any(one.at_least for one in own),
        base_at_least=any(one.at_least for one in bases),
        failure=_failure(all_own, own),
    )


def _main(one: Measurement, main: str) -> float | None:
    match main:
        case "rate":
            return one.rate
        case "p99":
            return one.times.quantile(0.99) / 1000 if one.times is not None and one.times.counts else None
    return one.figures.get(main)


def _medians(tables: Sequence[dict[str, float]]) -> dict[str, float]:
    names = dict.fromkeys(name for table in tables for name in table)
    return {name: median(table[name] for table in tables if name in table) for name in names}


def _wrong(own: Sequence[Measurement]) -> str:
    counted = {
        "lost": sum(one.lost for one in own),
        "twice": sum(one.duplicates for one in own),
        "out of order": sum(one.disorder for one in own),
        "refused": sum(one.refused for one in own),
        "cut off": sum(one.cut_off for one in own),
    }
    return ", ".join(f"{count:,} {name}" for name, count in counted.items() if count)


def _failure(all_own: Sequence[Measurement], own: Sequence[Measurement]) -> str | None:
    if own:
        return None
    failures = [one.failure for one in all_own if one.failure is not None]
    return f"failed: {failures[0]}" if failures else "not measured"
