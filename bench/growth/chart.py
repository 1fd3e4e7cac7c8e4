"""Charts of growth as SVG: panels side by side, lines over a logarithmic or even scale, and up from zero.

A constant looks constant, since every panel begins at zero. Pure functions of the figures.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from xml.sax.saxutils import escape

_WIDTH, _HEIGHT, _MARGIN, _GAP = 960.0, 330.0, 24.0, 26.0
_TOP, _BOTTOM = 96.0, 268.0
_AXIS, _NAMES, _LETTER, _NAME_HEIGHT = 40.0, 14.0, 6.4, 15.0
_COLOURS: Final = ("#0b7285", "#e8590c", "#868e96", "#7048e8")
_INK, _FAINT, _GRID = "#212529", "#6c757d", "#e9ecef"
_FONT: Final = "font-family='system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif'"
_STEPS: Final = (1.0, 2.0, 2.5, 5.0, 10.0)


@dataclass(frozen=True)
class Line:
    """Points ``(size, figure)``: sizes above zero, from small to large; figures not below it."""

    label: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Panel:
    """Lines on one scale."""

    title: str
    lines: Sequence[Line]


def picture(title: str, across: str, panels: Sequence[Panel], *, even: bool = False) -> str:
    """All panels in a row, as one SVG.

    Args:
        even: Whether sizes stand where they are, and not where their logarithms are.
    """
    width = (_WIDTH - 2 * _MARGIN - (len(panels) - 1) * _GAP) / max(len(panels), 1)
    body = [text_at(_MARGIN, 36, title, size=16, weight=600)]
    for place, panel in enumerate(panels):
        body += _panel(panel, across, _MARGIN + place * (width + _GAP), width, even)
    return "\n".join(
        [
            f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {_WIDTH:g} {_HEIGHT:g}' {_FONT} role='img'>",
            f"<title>{escape(title)}</title>",
            f"<rect width='{_WIDTH:g}' height='{_HEIGHT:g}' rx='6' fill='#ffffff'/>",
            *body,
            "</svg>\n",
        ]
    )


def scale_of(most: float) -> list[float]:
    """Round marks from zero to the first that is not below ``most``: three to six of them."""
    rough = (most or 1.0) / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(step * power for step in _STEPS if step * power >= rough * 0.999)
    return [round(step * number, 10) for number in range(math.ceil((most or 1.0) / step * 0.999) + 1)]


def short(value: float) -> str:
    """A size as an axis has room for it: ``10k``, ``1M``."""
    for unit, word in ((1e6, "M"), (1e3, "k")):
        if value >= unit:
            return f"{value / unit:g}{word}"
    return f"{value:g}"


def _panel(panel: Panel, across: str, left: float, width: float, even: bool) -> list[str]:
    points = [point for line in panel.lines for point in line.points]
    body = [text_at(left, 66, panel.title, weight=600)]
    if not points:
        return [*body, text_at(left, _TOP + 20, "nothing was measured", colour=_FAINT)]
    names = max(len(line.label) for line in panel.lines) * _LETTER + _NAMES
    start, end = left + _AXIS, left + width - names
    sizes = sorted({size for size, _ in points})
    marks = scale_of(max(value for _, value in points))

    def x(size: float) -> float:
        least, most, place = (size if even else math.log(size) for size in (sizes[0], sizes[-1], size))
        return start + (place - least) / ((most - least) or 1.0) * (end - start)

    def y(value: float) -> float:
        return _BOTTOM - value / marks[-1] * (_BOTTOM - _TOP)

    for mark in marks:
        body.append(
            f"<line x1='{start:.1f}' x2='{end:.1f}' y1='{y(mark):.1f}' y2='{y(mark):.1f}' stroke='{_GRID}'/>"
        )
        body.append(text_at(start - 8, y(mark) + 4, f"{mark:,g}", anchor="end", colour=_FAINT))
    for size in sizes:
        body.append(text_at(x(size), _BOTTOM + 18, short(size), anchor="middle", colour=_FAINT))
    body.append(text_at((start + end) / 2, _BOTTOM + 38, across, anchor="middle", colour=_FAINT))
    drawn = [(line, colour) for line, colour in zip(panel.lines, _COLOURS, strict=False) if line.points]
    for line, colour in reversed(drawn):  # the first above the others
        path = " ".join(f"{x(size):.1f},{y(value):.1f}" for size, value in line.points)
        body.append(f"<polyline points='{path}' fill='none' stroke='{colour}' stroke-width='2.5'/>")
        body += [
            f"<circle cx='{x(size):.1f}' cy='{y(value):.1f}' r='3.5' fill='{colour}'/>"
            for size, value in line.points
        ]
    ends = apart([y(line.points[-1][1]) + 4 for line, _ in drawn])
    for (line, colour), height in zip(drawn, ends, strict=True):
        body.append(text_at(end + 9, height, line.label, colour=colour))
    return body


def apart(heights: Sequence[float]) -> list[float]:
    """The heights, in their order, with those pushed up that would cover a lower one."""
    placed = list(heights)
    limit = math.inf
    for place in sorted(range(len(placed)), key=lambda place: -placed[place]):
        placed[place] = min(placed[place], limit)
        limit = placed[place] - _NAME_HEIGHT
    return placed


def text_at(
    x: float,
    y: float,
    text: str,
    *,
    size: int = 12,
    weight: int = 400,
    anchor: str = "start",
    colour: str = _INK,
) -> str:
    """A line of text in a picture; its place is the end that ``anchor`` names, on the base line."""
    return (
        f"<text x='{x:.1f}' y='{y:.1f}' font-size='{size}' font-weight='{weight}' text-anchor='{anchor}' "
        f"fill='{colour}'>{escape(text)}</text>"
    )
