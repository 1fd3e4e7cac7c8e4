"""Charts as SVG, written by hand: bars beside bars, and lines over a rate. Pure functions of what is drawn.

One colour is Towpath's, one the baseline's, the rest are grey: the name is beside each bar and line.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final
from xml.sax.saxutils import escape

WIDTH: Final = 960
_MARGIN: Final = 24
_COLOURS: Final = {"own": "#0b7285", "baseline": "#e8590c", "other": "#adb5bd", "limit": "#dee2e6"}
_INK, _FAINT, _GRID = "#212529", "#6c757d", "#e9ecef"
_BAR, _GAP, _HEAD, _PANEL_GAP = 15, 6, 26, 30
_FONT: Final = "font-family='system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif'"
_PLOT_HEIGHT: Final = 320
_NAME_HEIGHT: Final = 16
_LETTER: Final = 6.7  # a letter's width, about


@dataclass(frozen=True)
class Bar:
    """One bar: who, how much, and how that is written.

    Attributes:
        kind: ``own``, ``baseline``, ``other``, or ``limit``, which may be longer than its panel: it is cut off there.
    """

    label: str
    value: float | None
    text: str
    kind: str = "other"


@dataclass(frozen=True)
class Panel:
    """Bars that are compared with each other, on a scale of their own."""

    title: str
    bars: Sequence[Bar]


@dataclass(frozen=True)
class Line:
    """Points ``(x, y)`` of one system, both above zero."""

    label: str
    points: Sequence[tuple[float, float]]
    kind: str = "other"


def bars(title: str, panels: Sequence[Panel], *, columns: int = 2) -> str:
    """Panels side by side. Lengths compare within a panel only; its longest bar, limits aside, fills it."""
    columns = min(columns, len(panels)) or 1
    drawn = [bar for panel in panels for bar in panel.bars]
    label = max((len(bar.label) for bar in drawn), default=0) * _LETTER + 8
    room = max((len(bar.text) for bar in drawn), default=0) * _LETTER + 8
    width = (WIDTH - 2 * _MARGIN - (columns - 1) * _PANEL_GAP) / columns
    body: list[str] = []
    top = _MARGIN + 34.0
    for start in range(0, len(panels), columns):
        row = panels[start : start + columns]
        for place, panel in enumerate(row):
            body += _panel(panel, _MARGIN + place * (width + _PANEL_GAP), top, label, width - label - room)
        top += _HEAD + max(len(panel.bars) for panel in row) * (_BAR + _GAP) + 18
    return _svg(title, body, top)


def _panel(panel: Panel, left: float, top: float, label: float, room: float) -> list[str]:
    """One panel: labels, bars that may be ``room`` long, and what is written beside them."""
    body = [_text(left, top + 10, panel.title, size=13, weight=600)]
    start = left + label
    most = max((bar.value or 0 for bar in panel.bars if bar.kind != "limit"), default=0)
    most = most or max((bar.value or 0 for bar in panel.bars), default=0) or 1
    for place, bar in enumerate(panel.bars):
        y = top + _HEAD + place * (_BAR + _GAP)
        weight = _weight(bar.kind)
        body.append(_text(start - 8, y + 12, bar.label, anchor="end", weight=weight))
        length = 0 if bar.value is None else min(max(room * bar.value / most, 1), room)
        if bar.value is not None:
            body.append(
                f"<rect x='{start:.1f}' y='{y:.1f}' width='{length:.1f}' height='{_BAR}' rx='2' "
                f"fill='{_COLOURS[bar.kind]}'/>"
            )
        if bar.value is not None and bar.value > most:
            cut = start + room - 22
            body.append(
                f"<path d='M{cut:.1f},{y + _BAR + 2:.1f} l6,-{_BAR + 4} h5 l-6,{_BAR + 4} z' fill='#ffffff'/>"
            )
        body.append(_text(start + length + 6, y + 12, bar.text, weight=weight))
    return body


def lines(title: str, across: str, up: str, drawn: Sequence[Line]) -> str:
    """Lines on logarithmic scales, each named at its end."""
    points = [point for line in drawn for point in line.points]
    if not points:
        return _svg(title, [_text(_MARGIN, 80, "nothing was measured", colour=_FAINT)], 100)
    longest = max(len(line.label) for line in drawn)
    left, top, right = _MARGIN + 56.0, _MARGIN + 44.0, WIDTH - _MARGIN - longest * _LETTER - 12
    bottom = top + _PLOT_HEIGHT
    x = _scale([point[0] for point in points], left, right)
    y = _scale([point[1] for point in points], bottom, top)
    body = [
        _text(left, top - 10, up, colour=_FAINT),
        _text(right, bottom + 36, across, anchor="end", colour=_FAINT),
    ]
    for mark in _marks([point[1] for point in points]):
        body.append(
            f"<line x1='{left}' x2='{right}' y1='{y(mark):.1f}' y2='{y(mark):.1f}' stroke='{_GRID}'/>"
        )
        body.append(_text(left - 8, y(mark) + 4, f"{mark:,g}", anchor="end", colour=_FAINT))
    for mark in sorted({point[0] for point in points}):
        body.append(_text(x(mark), bottom + 18, f"{mark:,g}", anchor="middle", colour=_FAINT))
    ends = []
    for line in sorted(drawn, key=lambda line: line.kind, reverse=True):
        if line.points:
            body += _line(line, x, y)
            across_end, up_end = line.points[-1]
            ends.append(_End(x(across_end) + 10, y(up_end) + 4, line))
    body += [
        _text(
            end.x, end.y, end.line.label, colour=_ink(end.line.kind), weight=_weight(end.line.kind), halo=True
        )
        for end in _apart(ends)
    ]
    return _svg(title, body, bottom + 48)


def _line(line: Line, x: Callable[[float], float], y: Callable[[float], float]) -> list[str]:
    colour = _COLOURS[line.kind]
    places = [(x(across), y(up)) for across, up in line.points]
    path = " ".join(f"{across:.1f},{up:.1f}" for across, up in places)
    dots = [f"<circle cx='{across:.1f}' cy='{up:.1f}' r='3.5' fill='{colour}'/>" for across, up in places]
    return [f"<polyline points='{path}' fill='none' stroke='{colour}' stroke-width='2.5'/>", *dots]


@dataclass(frozen=True)
class _End:
    x: float
    y: float
    line: Line


def _apart(ends: Sequence[_End]) -> list[_End]:
    """Names pushed down until none covers another."""
    placed: list[_End] = []
    for end in sorted(ends, key=lambda end: end.y):
        lower = end.y
        for other in sorted(placed, key=lambda other: other.y):
            if _meet(end, other) and abs(other.y - lower) < _NAME_HEIGHT:
                lower = other.y + _NAME_HEIGHT
        placed.append(_End(end.x, lower, end.line))
    return placed


def _meet(one: _End, other: _End) -> bool:
    left, right = sorted((one, other), key=lambda end: end.x)
    return left.x + len(left.line.label) * _LETTER > right.x


def _scale(values: Sequence[float], low: float, high: float) -> Callable[[float], float]:
    least, most = math.log(min(values)), math.log(max(values))
    span = (most - least) or 1.0
    return lambda value: low + (math.log(value) - least) / span * (high - low)


def _marks(values: Sequence[float]) -> list[float]:
    """1, 3, 10, 30 … within the values."""
    exponents = range(math.floor(math.log10(min(values))), math.ceil(math.log10(max(values))) + 1)
    marks = [digit * 10.0**exponent for exponent in exponents for digit in (1, 3)]
    return [mark for mark in marks if min(values) <= mark <= max(values)]


def _ink(kind: str) -> str:
    return _FAINT if kind in ("other", "limit") else _COLOURS[kind]


def _weight(kind: str) -> int:
    return 600 if kind == "own" else 400


def _text(
    x: float,
    y: float,
    text: str,
    *,
    size: int = 12,
    weight: int = 400,
    anchor: str = "start",
    colour: str = _INK,
    halo: bool = False,
) -> str:
    around = " stroke='#ffffff' stroke-width='4' paint-order='stroke'" if halo else ""
    return (
        f"<text x='{x:.1f}' y='{y:.1f}' font-size='{size}' font-weight='{weight}' text-anchor='{anchor}' "
        f"fill='{colour}'{around}>{escape(text)}</text>"
    )


def _svg(title: str, body: Sequence[str], height: float) -> str:
    return "\n".join(
        [
            f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {height:.0f}' {_FONT} role='img'>",
            f"<title>{escape(title)}</title>",
            f"<rect width='{WIDTH}' height='{height:.0f}' rx='6' fill='#ffffff'/>",
            _text(_MARGIN, _MARGIN + 10, title, size=16, weight=600),
            *body,
            "</svg>\n",
        ]
    )
