"""The page: a text written by hand, with every blank filled from measurements. Pure functions of a run.

Guarantee: a blank without a value is an error, so every figure on the page was measured, set or assumed.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from textwrap import fill
from typing import Final

from bench.growth import chart
from bench.growth.axis import Axis
from bench.growth.million import SUMS, Million, million, scenarios
from bench.growth.points import Growth, Point
from bench.growth.services import KINDS, RATIO
from bench.growth.sums import shown
from bench.growth.units import MESSAGE
from bench.tables import Table, number

TEMPLATE: Final = Path(__file__).parent / "scaling.md.in"
_BLANK: Final = re.compile(r"\{\{([^{}]+)\}\}")
_ITEM: Final = re.compile(r"^- ", re.MULTILINE)
_WIDTH: Final = 118
_QUIET: Final = 0.05
_FIGURE: Final = re.compile(r"-?[\d.,]*|cannot be")
_RIGHT: Final = "nothing"


class Unfilled(Exception):
    """A blank has a name that nothing is known of."""


def page(growth: Growth, axes: Sequence[Axis], template: str) -> str:
    """The whole page as Markdown; the pictures are ``images/growth-<axis>.svg``.

    Raises:
        Missing: A figure of the page was not measured.
        Unfilled: The template asks for something else.
    """
    worked_out = million(growth)
    blanks = {
        "command": f"`{growth.command}`",
        "facts": _facts(growth, axes),
        "table: in short": markdown(in_short(growth, axes)),
        "table: given": markdown(_given(worked_out)),
        "table: sums": markdown(_sums(worked_out)),
        "table: limits": markdown(_limits(worked_out)),
        "parts": shown(worked_out.parts),
        **{f"services.{kind}": shown(growth.last("services", kind, RATIO)) for kind in KINDS},
        "together": shown(growth.last("units", MESSAGE, "µs gateway")),
    }
    blanks |= {f"chapter: {axis.name}": _chapter(growth, axis) for axis in axes}
    blanks |= {one.name: shown(one.value) for one in worked_out.given}
    blanks |= {f"limit.{limit.name}": shown(at) for limit, at in worked_out.limits}
    blanks |= {
        f"{scenario}.{name}": shown(value)
        for scenario, results in worked_out.results.items()
        for name, value in results.items()
    }
    return in_lines(filled(template, blanks))


def filled(template: str, blanks: Mapping[str, str]) -> str:
    """The template with its blanks ``{{name}}`` filled.

    Raises:
        Unfilled: There is none of that name.
    """

    def value(found: re.Match[str]) -> str:
        name = found[1].strip()
        if name not in blanks:
            raise Unfilled(f"There is no {name!r} to fill {found[0]} with.")
        return blanks[name]

    return _BLANK.sub(value, template)


def in_lines(text: str) -> str:
    """The same with paragraphs and lists in lines of one width: blanks are shorter or longer than what fills them."""
    return "\n\n".join(_block(block) for block in text.split("\n\n")).rstrip() + "\n"


def _block(block: str) -> str:
    if block.startswith(("|", "#", "!")) or "\n|" in block:
        return block
    items = _ITEM.split(block)
    if len(items) == 1:
        return _wrapped(block)
    return "\n".join(_wrapped(f"- {item}", "  ") for item in items[1:])


def _wrapped(text: str, indent: str = "") -> str:
    text = " ".join(text.split())
    return fill(text, _WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def picture_name(axis: Axis) -> str:
    """The file of an axis' chart."""
    return f"growth-{axis.name}.svg"


def picture(growth: Growth, axis: Axis) -> str:
    """The chart of an axis, as SVG."""
    panels = [
        chart.Panel(
            drawn.title,
            [
                chart.Line(line.label, growth.line(axis.name, line.variant, line.figure))
                for line in drawn.lines
            ],
        )
        for drawn in axis.panels
    ]
    return chart.picture(axis.title, axis.across, panels, even=axis.even)


def table(growth: Growth, axis: Axis) -> Table:
    """All points of an axis."""
    points = sorted(growth.along(axis.name), key=lambda one: _place(growth, axis, one.variant))
    names = list(dict.fromkeys(name for one in points for name in one.figures))
    columns: dict[str, list[str]] = {}
    if any(one.variant for one in points):
        columns[""] = [one.variant for one in points]
    if axis.across:
        columns[axis.across] = [f"{one.size:,.0f}" for one in points]
    for name in names:
        columns[name] = [number(one.figures.get(name)) for one in points]
    columns["went wrong"] = [one.wrong or _RIGHT for one in points]
    return Table(list(columns), [list(row) for row in zip(*columns.values(), strict=True)])


def in_short(growth: Growth, axes: Sequence[Axis]) -> Table:
    """Everything that is drawn, at the smallest and at the largest size."""
    rows = []
    for axis in axes:
        for drawn in axis.panels:
            for line in drawn.lines:
                found = growth.line(axis.name, line.variant, line.figure)
                if len(found) > 1:
                    (small, least), (large, most) = found[0], found[-1]
                    sizes = f"{chart.short(small)} → {chart.short(large)} {axis.across}"
                    times = f"{most / least:.2f}" if least else ""
                    rows.append([sizes, f"{drawn.title}: {line.label}", number(least), number(most), times])
    return Table(["", "", "smallest", "largest", "ratio"], rows)


def markdown(made: Table) -> str:
    """As GitHub shows it: columns in which everything but the head is a figure are to the right."""
    right = [all(_FIGURE.fullmatch(row[place]) for row in made.rows) for place in range(len(made.heads))]
    rows = [made.heads, ["---:" if to_the_right else "---" for to_the_right in right], *made.rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _place(growth: Growth, axis: Axis, variant: str) -> int:
    return [one.variant for one in growth.points if one.axis == axis.name].index(variant)


def _chapter(growth: Growth, axis: Axis) -> str:
    across = f", over the number of {axis.across}" if axis.across else ""
    shown_here = f"![{axis.title}{across}; the figures are in the table](images/{picture_name(axis)})"
    parts = [
        axis.about,
        *([shown_here] if axis.panels else []),
        markdown(table(growth, axis)),
    ]
    return "\n\n".join(parts)


def _facts(growth: Growth, axes: Sequence[Axis]) -> str:
    own = [one for one in growth.points if one.axis not in growth.apart]
    facts = _with_others(growth.facts, own)
    lines = [f"- {title}: {text}" for title, text in facts.items()]
    titles = {axis.name: axis.title for axis in axes}
    for name, run in growth.apart.items():
        different = {
            title: text
            for title, text in _with_others(run.facts, growth.along(name)).items()
            if facts.get(title) != text
        }
        said = "; ".join(f"{title.lower()}: {text}" for title, text in different.items())
        lines.append(
            f"- *{titles[name]}* is from another run, `{run.command}`" + (f" ({said})" if said else "")
        )
    return "\n".join(lines)


def _with_others(facts: Mapping[str, str], points: Sequence[Point]) -> dict[str, str]:
    """The facts, and how much other programs took where that was more than a little."""
    shares = [one.elsewhere for one in points if one.elsewhere]
    if not shares or median(shares) <= _QUIET:
        return dict(facts)
    took = (
        f"other programs took {median(shares):.0%} of the machine meanwhile (median), {max(shares):.0%} at most: "
        "measure again on a quiet one"
    )
    return {**facts, "Not alone": took}


def _given(worked_out: Million) -> Table:
    rows = [[f"`{one.name}`", one.source, shown(one.value), one.unit] for one in worked_out.given]
    return Table(["name", "what, and where it is from", "figure", "unit"], rows)


def _sums(worked_out: Million) -> Table:
    ways = scenarios()
    rows = [
        [f"`{name}`", "given", *(shown(worked_out.results[way.name][name]) for way in ways), ""]
        for name in ways[0].given
    ]
    rows += [
        [
            f"`{one.name}`",
            f"`{one.formula}`",
            *(shown(worked_out.results[way.name][one.name]) for way in ways),
            one.unit,
        ]
        for one in SUMS
    ]
    return Table(["name", "sum", *(way.title for way in ways), "of what"], rows)


def _limits(worked_out: Million) -> Table:
    rows = [[one.title, f"`{one.formula}`", shown(at), one.remedy] for one, at in worked_out.limits]
    return Table(["limit", "sum", "connections", "remedy"], rows)
