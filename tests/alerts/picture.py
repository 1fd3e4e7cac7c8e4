"""The dashboard as a picture, from the panels of its file and the samples of a real Prometheus.

A picture of Grafana itself would need Grafana. Titles, expressions, units, limits and the order of panels are those
of the file; the drawing is this module's. Series that are 0 all the time are drawn, and share one entry of the legend
if there are many.
"""

import json
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, pairwise
from pathlib import Path
from typing import Any, Final

from bench.growth.chart import scale_of, short, text_at

DASHBOARD: Final = Path(__file__).parents[2] / "deploy/grafana/towpath.json"
#: Gives the series of an expression over the time of the picture.
Range = Callable[[str], Awaitable[Sequence[Mapping[str, Any]]]]

_COLUMNS: Final = 3
_WIDTH, _HEIGHT, _GAP, _MARGIN = 400.0, 226.0, 14.0, 24.0
#: Of a panel: where its plot is, and the first line of its legend.
_LEFT, _RIGHT, _TOP, _BOTTOM, _LEGEND = 56.0, 14.0, 40.0, 146.0, 182.0
_PAGE: Final = 2 * _MARGIN + _COLUMNS * _WIDTH + (_COLUMNS - 1) * _GAP
_HEAD, _ALERTS, _ROW = 74.0, 46.0, 40.0
_LINE, _LINES, _LETTER, _DOT = 15.0, 3, 6.3, 13.0
_COLOURS: Final = (
    "#0b7285", "#e8590c", "#7048e8", "#2f9e44", "#c2255c", "#1971c2", "#f08c00", "#5f3dc4", "#087f5b", "#a61e4d",
)  # fmt: skip
_FAINT, _GRID, _LIMIT, _FLAT = "#6c757d", "#e9ecef", "#e03131", "#adb5bd"
_FONT: Final = "font-family='system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif'"
#: Names of series that stay at 0, from which on they share an entry.
_MANY: Final = 3


@dataclass(frozen=True)
class _Series:
    """Points ``(time, value)``, in the order of time."""

    name: str
    points: Sequence[tuple[float, float]]

    @property
    def is_flat(self) -> bool:
        return all(value == 0 for _, value in self.points)


async def draw(ask: Range, subtitle: str, minutes: float) -> str:
    """The dashboard as SVG.

    Args:
        subtitle: The origin of the samples.
        minutes: The time that the picture covers, as its axes show it.

    Raises:
        AssertionError: A panel has no samples; with its title.
    """
    body = [
        text_at(_MARGIN, 44, "Towpath", size=20, weight=600),
        text_at(_MARGIN, 64, subtitle, size=12, colour=_FAINT),
    ]
    top, column = _HEAD + 8, 0
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        if panel["type"] == "table":
            fired = [one["metric"]["alertname"] for one in await ask(panel["targets"][0]["expr"])]
            body += _alerts(panel["title"], fired, top)
            top += _ALERTS
        elif panel["type"] == "row":
            top += (_HEIGHT + _GAP) * (column > 0)
            column = 0
            body.append(text_at(_MARGIN, top + 28, panel["title"], size=16, weight=600))
            top += _ROW
        else:
            series = [one async for one in _all_series(panel, ask)]
            assert series, f"the panel {panel['title']!r} has no samples"
            body += _panel(panel, series, _MARGIN + column * (_WIDTH + _GAP), top, minutes)
            column += 1
            if column == _COLUMNS:
                top, column = top + _HEIGHT + _GAP, 0
    height = top + (_HEIGHT + _GAP) * (column > 0) + _MARGIN - _GAP
    return "\n".join(
        [
            f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {_PAGE:g} {height:g}' {_FONT} role='img'>",
            "<title>The dashboard of Towpath, under load</title>",
            f"<rect width='{_PAGE:g}' height='{height:g}' rx='6' fill='#f8f9fa'/>",
            *body,
            "</svg>\n",
        ]
    )


async def _all_series(panel: Mapping[str, Any], ask: Range) -> AsyncIterator[_Series]:
    for target in panel["targets"]:
        for found in await ask(target["expr"]):
            name = target["legendFormat"]
            for label, value in found["metric"].items():
                name = name.replace(f"{{{{{label}}}}}", value.removeprefix("towpath-"))
            points = [(float(at), float(value)) for at, value in found["values"]]
            if points := [point for point in points if math.isfinite(point[1])]:
                yield _Series(name, points)


def _alerts(title: str, fired: Sequence[str], top: float) -> list[str]:
    width = _PAGE - 2 * _MARGIN
    names, colour = (", ".join(sorted(set(fired))), _LIMIT) if fired else ("None fires.", _FAINT)
    return [
        _box(_MARGIN, top, width, _ALERTS),
        text_at(_MARGIN + 14, top + 28, title, size=13, weight=600),
        text_at(_MARGIN + 76, top + 28, names, size=12, colour=colour),
    ]


def _panel(
    panel: Mapping[str, Any], series: Sequence[_Series], left: float, top: float, minutes: float
) -> list[str]:
    defaults = panel["fieldConfig"]["defaults"]
    unit = defaults["unit"]
    limits = [step["value"] for step in defaults["thresholds"]["steps"] if step["value"] is not None]
    times = [at for one in series for at, _ in one.points]
    first, last = min(times), max(times)
    marks = _marks(unit, max(value for one in series for _, value in one.points))
    start, end = left + _LEFT, left + _WIDTH - _RIGHT

    def x(at: float) -> float:
        return start + (at - first) / ((last - first) or 1.0) * (end - start)

    def y(value: float) -> float:
        return top + _BOTTOM - value / marks[-1] * (_BOTTOM - _TOP)

    body = [
        _box(left, top, _WIDTH, _HEIGHT),
        text_at(left + 14, top + 24, panel["title"], size=13, weight=600),
    ]
    for mark in marks:
        body.append(_across(start, end, y(mark), _GRID))
        body.append(
            text_at(start - 7, y(mark) + 4, _written(unit, mark), size=10, anchor="end", colour=_FAINT)
        )
    for quarter in range(5):
        label = f"{minutes * quarter / 4:g}" + (" min" if quarter == 4 else "")
        anchor = ("start", "middle", "middle", "middle", "end")[quarter]
        place = start + (end - start) * quarter / 4
        body.append(text_at(place, top + _BOTTOM + 15, label, size=10, anchor=anchor, colour=_FAINT))
    for limit in limits:
        if limit <= marks[-1]:
            body.append(_across(start, end, y(limit), _LIMIT, dashed=True))
        else:
            note = f"alert above {_written(unit, limit)}"
            body.append(text_at(end, top + 24, note, size=10, anchor="end", colour=_LIMIT))
    named, flat = _divided(series)
    drawn = list(zip(named, cycle(_COLOURS), strict=False))
    # The first above the others; of those that are at 0 one is enough.
    for one, colour in [*((one, _FLAT) for one in flat[:1]), *reversed(drawn)]:
        for part in _unbroken(one.points):
            path = " ".join(f"{x(at):.1f},{y(value):.1f}" for at, value in _corners(part))
            body.append(
                f"<polyline points='{path}' fill='none' stroke='{colour}' stroke-width='1.6' "
                "stroke-linejoin='round'/>"
            )
    entries = [(one.name, colour) for one, colour in drawn]
    if flat:
        entries.append((f"{len(flat)} {'others' if entries else 'series'} at 0", _FLAT))
    return body + _legend(entries, left + 16, top + _LEGEND, left + _WIDTH - 12)


def _divided(series: Sequence[_Series]) -> tuple[Sequence[_Series], Sequence[_Series]]:
    """The series with an entry of their own in the legend, and those at 0 that share one."""
    flat = [one for one in series if one.is_flat]
    if len(flat) <= _MANY and len(series) <= len(_COLOURS):
        return series, []
    return [one for one in series if not one.is_flat], flat


def _legend(entries: Sequence[tuple[str, str]], left: float, top: float, end: float) -> list[str]:
    """Names with their colours, in as many lines as there is room for."""
    body: list[str] = []
    x, y = left, top
    for place, (name, colour) in enumerate(entries):
        width = _DOT + _LETTER * len(name)
        if x > left and x + width > end:
            x, y = left, y + _LINE
        left_over = len(entries) - place
        if y >= top + _LINES * _LINE:
            body.append(text_at(end, y - _LINE, f"+ {left_over}", size=11, anchor="end", colour=_FAINT))
            break
        body.append(f"<circle cx='{x + 4:.1f}' cy='{y - 4:.1f}' r='3.5' fill='{colour}'/>")
        body.append(text_at(x + _DOT - 2, y, name, size=11))
        x += width + 10
    return body


def _unbroken(points: Sequence[tuple[float, float]]) -> Iterator[list[tuple[float, float]]]:
    """The points in parts, without the times at which there is no value."""
    step = min((later[0] - earlier[0] for earlier, later in pairwise(points)), default=1.0)
    part: list[tuple[float, float]] = []
    for point in points:
        if part and point[0] - part[-1][0] > 1.5 * step:
            yield part
            part = []
        part.append(point)
    yield part


def _corners(points: Sequence[tuple[float, float]]) -> Iterator[tuple[float, float]]:
    """The points without those between two others of the same value."""
    for place, point in enumerate(points):
        beside = points[max(place - 1, 0) : place + 2]
        if len(beside) < 3 or any(other[1] != point[1] for other in beside):
            yield point


def _marks(unit: str, most: float) -> list[float]:
    if unit == "short" and most <= 5:
        return [float(mark) for mark in range(max(2, math.ceil(most) + 1))]
    return scale_of(most or 1.0)


def _written(unit: str, value: float) -> str:
    if unit == "s":
        return f"{value:g} s" if value >= 1 or value == 0 else f"{value * 1000:g} ms"
    if unit == "percentunit":
        return f"{value * 100:g} %"
    if unit == "bytes":
        return f"{short(round(value, -5) if value > 1e6 else value)}B"
    return f"{short(value)}/s" if unit in ("reqps", "cps") else short(value)


def _box(left: float, top: float, width: float, height: float) -> str:
    return (
        f"<rect x='{left:g}' y='{top:g}' width='{width:g}' height='{height:g}' rx='5' fill='#ffffff' "
        f"stroke='{_GRID}'/>"
    )


def _across(start: float, end: float, y: float, colour: str, *, dashed: bool = False) -> str:
    dashes = " stroke-dasharray='5 4'" if dashed else ""
    return f"<line x1='{start:g}' x2='{end:g}' y1='{y:.1f}' y2='{y:.1f}' stroke='{colour}'{dashes}/>"
