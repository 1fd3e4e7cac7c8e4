"""The chart of a work, from what was measured. Pure functions of a run."""

import re
from typing import Final

from bench import charts
from bench.measurement import Run
from bench.summary import BASELINE, Summary
from bench.tables import direction, main_figure, ratio, summaries
from bench.works.interface import Chart, Work

_OWN: Final = "towpath"
#: A system that answers less than this share of a steady rate does not keep up.
_KEEPING_UP: Final = 0.97


def picture(run: Run, work: Work) -> str:
    """The chart as SVG."""
    rows = summaries(run, work)
    return _lines(run, work, rows) if work.chart is Chart.LINES else _bars(run, work, rows)


def _bars(run: Run, work: Work, rows: list[Summary]) -> str:
    panels = []
    for case in dict.fromkeys(row.case for row in rows):
        drawn = [
            charts.Bar(run.titles[row.system], row.main, _written(row), _kind(row.system))
            for row in rows
            if row.case == case
        ]
        panels.append(charts.Panel(case, drawn))
    return charts.bars(f"{work.title}: {work.unit}{direction(work)}", panels)


def _lines(run: Run, work: Work, rows: list[Summary]) -> str:
    drawn = []
    for system in dict.fromkeys(row.system for row in rows):
        points = [
            (_rate_in(row.case), row.main)
            for row in rows
            if row.system == system and row.main is not None and _keeps_up(row)
        ]
        drawn.append(charts.Line(run.titles[system], points, _kind(system)))
    return charts.lines(f"{work.title}{direction(work)}", "requests a second", work.unit, drawn)


def _written(row: Summary) -> str:
    if row.main is None:
        return (row.failure or "not measured").partition(":")[0]
    beside = "" if row.ratio is None or row.system == BASELINE else f" (× {ratio(row)})"
    return f"{main_figure(row)}{beside}"


def _keeps_up(row: Summary) -> bool:
    return row.rate is not None and row.rate >= _KEEPING_UP * _rate_in(row.case)


def _rate_in(case: str) -> float:
    return float(re.sub(r"[^0-9.]", "", case))


def _kind(system: str) -> str:
    return {_OWN: "own", BASELINE: "baseline", "limit": "limit"}.get(system, "other")
