"""The dashboard as a picture, from the panels of its file and the samples of a real Prometheus.

A picture of Grafana itself would need Grafana. Titles, expressions, units, limits and the order of panels are the
file's; only the drawing is another. Panels without samples are left out.
"""

import json
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final
from xml.sax.saxutils import escape

from bench.growth.chart import scale_of

DASHBOARD: Final = Path(__file__).parents[2] / "deploy/grafana/towpath.json"
#: The name of a series and its points, ``(time, value)``.
Lines = list[tuple[str, list[tuple[float, float]]]]
Range = Callable[[str], Awaitable[Sequence[Mapping[str, Any]]]]

_COLUMNS: Final = 3
_WIDTH, _HEIGHT, _GAP, _MARGIN = 380, 190, 12, 16
_LEFT, _TOP, _BOTTOM, _RIGHT = 52, 34, 138, 12
_ROW: Final = 34
_COLOURS: Final = ("#0b7285", "#e8590c", "#7048e8", "#2f9e44", "#c2255c", "#868e96", "#1971c2", "#f08c00")
_INK, _FAINT, _GRID, _LIMIT = "#212529", "#6c757d", "#e9ecef", "#e03131"
_FONT: Final = "font-family='system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif'"
_UNITS: Final = {"s": "s", "reqps": "/s", "cps": "/s", "bytes": "B", "percentunit": "", "short": ""}


async def draw(ask: Range) -> str:
    """The dashboard as SVG; ``ask`` gives the series of a range query."""
    body: list[str] = []
    top, column = _MARGIN, 0
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        if panel["type"] == "row":
            top += (_HEIGHT + _GAP) * (column > 0)
            column = 0
            body.append(_text(_MARGIN, top + 22, panel["title"], size=16, weight=600))
            top += _ROW
        elif panel["type"] == "timeseries" and (lines := await _lines(panel, ask)):
            body += _panel(panel, lines, _MARGIN + column * (_WIDTH + _GAP), top)
            column += 1
            if column == _COLUMNS:
                top, column = top + _HEIGHT + _GAP, 0
    width = 2 * _MARGIN + _COLUMNS * _WIDTH + (_COLUMNS - 1) * _GAP
    height = top + (_HEIGHT + _GAP) * (column > 0) + _MARGIN
    return "\n".join(
        [
            f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {width} {height}' {_FONT} role='img'>",
            "<title>The dashboard, under load</title>",
            f"<rect width='{width}' height='{height}' rx='6' fill='#f8f9fa'/>",
            *body,
            "</svg>\n",
        ]
    )


async def _lines(panel: Mapping[str, Any], ask: Range) -> Lines:
    lines: Lines = []
    for target in panel["targets"]:
        for series in await ask(target["expr"]):
            name = target["legendFormat"]
            for label, value in series["metric"].items():
                name = name.replace(f"{{{{{label}}}}}", value.removeprefix("towpath-"))
            points = [(float(at), float(value)) for at, value in series["values"]]
            if points := [point for point in points if math.isfinite(point[1])]:
                lines.append((name.split("{{")[0].strip() or "all", points))
    # Those that are zero all the time last: there is room for a few names only.
    return sorted(lines, key=lambda line: -max(value for _, value in line[1]))[: len(_COLOURS)]


def _panel(panel: Mapping[str, Any], lines: Lines, left: float, top: float) -> list[str]:
    defaults = panel["fieldConfig"]["defaults"]
    unit = _UNITS[defaults["unit"]]
    limits = [step["value"] for step in defaults["thresholds"]["steps"] if step["value"] is not None]
    times = [at for _, points in lines for at, _ in points]
    marks = scale_of(max(value for _, points in lines for _, value in points) or 1.0)
    start, end = left + _LEFT, left + _WIDTH - _RIGHT

    def x(at: float) -> float:
        return start + (at - min(times)) / ((max(times) - min(times)) or 1.0) * (end - start)

    def y(value: float) -> float:
        return top + _BOTTOM - value / marks[-1] * (_BOTTOM - _TOP)

    body = [
        f"<rect x='{left}' y='{top}' width='{_WIDTH}' height='{_HEIGHT}' rx='4' fill='#ffffff' stroke='{_GRID}'/>",
        _text(left + 12, top + 22, panel["title"], size=13, weight=600),
    ]
    for mark in marks:
        body.append(f"<line x1='{start}' x2='{end}' y1='{y(mark):.1f}' y2='{y(mark):.1f}' stroke='{_GRID}'/>")
        body.append(_text(start - 6, y(mark) + 4, f"{mark:g}{unit}", size=10, anchor="end", colour=_FAINT))
    for limit in limits:
        if limit <= marks[-1]:
            body.append(
                f"<line x1='{start}' x2='{end}' y1='{y(limit):.1f}' y2='{y(limit):.1f}' stroke='{_LIMIT}' "
                "stroke-dasharray='5 4'/>"
            )
    for (_, points), colour in reversed(list(zip(lines, _COLOURS, strict=False))):
        path = " ".join(f"{x(at):.1f},{y(value):.1f}" for at, value in points)
        body.append(f"<polyline points='{path}' fill='none' stroke='{colour}' stroke-width='1.6'/>")
    return body + _legend(lines, left + 12, top + _BOTTOM + 18)


def _legend(lines: Lines, left: float, top: float) -> list[str]:
    """The names in two lines at most, as far as there is room."""
    body: list[str] = []
    x, y = left, top
    for (name, _), colour in zip(lines, _COLOURS, strict=False):
        width = 16 + 5.8 * len(name)
        if x + width > left + _WIDTH - 20:
            x, y = left, y + 15
            if y > top + 20:
                break
        body.append(f"<circle cx='{x + 4:.1f}' cy='{y - 3:.1f}' r='3.5' fill='{colour}'/>")
        body.append(_text(x + 11, y, name, size=10, colour=_INK))
        x += width + 6
    return body


def _text(
    x: float,
    y: float,
    text: str,
    *,
    size: int,
    weight: int = 400,
    anchor: str = "start",
    colour: str = _INK,
) -> str:
    return (
        f"<text x='{x:.1f}' y='{y:.1f}' font-size='{size}' font-weight='{weight}' text-anchor='{anchor}' "
        f"fill='{colour}'>{escape(text)}</text>"
    )
