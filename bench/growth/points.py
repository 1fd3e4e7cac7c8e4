"""The measurements: a point is one size on one axis.

As JSON, so that the page can be rendered again without measuring.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Self

from bench.histogram import Histogram
from bench.stage import counted, measured

#: The names in a point of the fields of a result that count faults.
_WRONG: Final = {
    "lost": "lost",
    "duplicates": "twice",
    "disorder": "out of order",
    "refused": "refused",
    "cut_off": "cut off",
}


@dataclass(frozen=True)
class Point:
    """One size of one axis.

    Attributes:
        axis: The name of the axis.
        size: How many there are of what grows there.
        variant: The variant, where there are several; else empty.
        figures: By name, which has the unit: ``{"µs gateway": 41.5, "p99, ms": 7.0}``.
        wrong: The faults, in words; empty without any.
        elsewhere: The share of the machine that programs took which have no part in it.
    """

    axis: str
    size: float
    variant: str = ""
    figures: dict[str, float] = field(default_factory=dict)
    wrong: str = ""
    elsewhere: float = 0.0


@dataclass(frozen=True)
class Run:
    """One call of the command.

    Attributes:
        command: The command of the run.
        facts: When, on what machine, with which versions: title → text.
    """

    command: str
    facts: dict[str, str]


class Missing(Exception):
    """A figure was not measured. The message names it."""


@dataclass(frozen=True)
class Growth:
    """Everything that one call of the command has measured.

    Attributes:
        command: The command of the run.
        facts: When, on what machine, with which versions: title → text.
        failures: Axis → why it could not be measured.
        apart: Axis → the run that measured it, where that is another one.
    """

    command: str
    facts: dict[str, str]
    points: list[Point] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)
    apart: dict[str, "Run"] = field(default_factory=dict)

    def with_axes(self, newer: "Growth") -> "Growth":
        """The same, but that all axes of ``newer`` are as they are there; the page says so."""
        axes = {one.axis for one in newer.points} | newer.failures.keys()
        own = [one for one in self.points if one.axis not in axes]
        failures = {axis: why for axis, why in self.failures.items() if axis not in axes} | newer.failures
        apart = self.apart | dict.fromkeys(sorted(axes), Run(newer.command, newer.facts))
        return Growth(self.command, self.facts, own + newer.points, failures, apart)

    def along(self, axis: str, variant: str | None = None) -> list[Point]:
        """The points of an axis, from small to large."""
        found = [one for one in self.points if one.axis == axis and variant in (None, one.variant)]
        return sorted(found, key=lambda one: one.size)

    def line(self, axis: str, variant: str, name: str) -> list[tuple[float, float]]:
        """Size and figure of every point that has a figure of this name."""
        return [(one.size, one.figures[name]) for one in self.along(axis, variant) if name in one.figures]

    def last(self, axis: str, variant: str, name: str) -> float:
        """The figure of the largest size.

        Raises:
            Missing: There is none.
        """
        if not (line := self.line(axis, variant, name)):
            raise Missing(f"{axis}: {variant} {name}")
        return line[-1][1]

    def at(self, axis: str, size: float, name: str) -> float:
        """The figure of one size.

        Raises:
            Missing: There is none.
        """
        for measured_size, value in self.line(axis, "", name):
            if measured_size == size:
                return value
        raise Missing(f"{axis}: {name} at {size:g}")

    def slope(self, axis: str, variant: str, name: str) -> float:
        """The growth of a figure for each one more: the straight line of least squares, and never below zero.

        Raises:
            Missing: There are no two sizes.
        """
        line = self.line(axis, variant, name)
        middle = sum(size for size, _ in line) / max(len(line), 1)
        spread = sum((size - middle) ** 2 for size, _ in line)
        if not spread:
            raise Missing(f"{axis}: {variant} {name} of two sizes")
        return max(sum((size - middle) * value for size, value in line) / spread, 0.0)

    def save(self, file: Path) -> None:
        """Write it as JSON."""
        file.write_text(json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n")

    @classmethod
    def load(cls, file: Path) -> Self:
        """A file written by :meth:`save`.

        Raises:
            OSError, ValueError: The file is not there, or is something else.
        """
        content = json.loads(file.read_text())
        try:
            points = [Point(**one) for one in content["points"]]
            apart = {axis: Run(**run) for axis, run in content.get("apart", {}).items()}
            return cls(content["command"], content["facts"], points, content["failures"], apart)
        except (KeyError, TypeError) as error:
            raise ValueError(f"it holds no growth ({error!r})") from None


def point(
    axis: str,
    size: float,
    result: Mapping[str, Any],
    *,
    variant: str = "",
    also: Mapping[str, float] | None = None,
    wrong: str = "",
) -> Point:
    """The counts of a script with a window, as a point.

    Args:
        also: Further figures.
        wrong: Further faults.
    """
    fields = measured(result)
    figures = {"a second": fields["rate"], **quantiles(fields["times"])}
    figures |= {f"µs {role}": value for role, value in fields["cpu"].items()}
    return Point(
        axis,
        size,
        variant,
        figures | dict(also or {}),
        ", ".join(text for text in (faults(result), wrong) if text),
        fields.get("elsewhere", 0.0),
    )


def quantiles(times: Histogram) -> dict[str, float]:
    """Median and 99th percentile in milliseconds, by the names that points have for them."""
    return {name: times.quantile(share) / 1000 for name, share in {"p50, ms": 0.5, "p99, ms": 0.99}.items()}


def faults(result: Mapping[str, Any]) -> str:
    """The faults, in words; empty without any."""
    found = counted(result)
    return ", ".join(f"{found[name]:,} {word}" for name, word in _WRONG.items() if found.get(name))
