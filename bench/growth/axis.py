"""An axis: a growing size, a measurement at each size, and its charts."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

from bench.growth.ground import Field

#: The figures of the processes, in the order of tables and charts.
ROLES: Final = ("gateway", "service", "broker")


@dataclass(frozen=True)
class Line:
    """One line of a chart: a figure of the points of one variant."""

    label: str
    figure: str
    variant: str = ""


@dataclass(frozen=True)
class Drawn:
    """One panel of an axis' chart."""

    title: str
    lines: Sequence[Line]


@dataclass(frozen=True)
class Axis:
    """An axis.

    Attributes:
        name: The word in files and results.
        title: The heading of its chapter.
        about: The load and the measurement: shown above its chart.
        across: The unit of its sizes.
        sizes: From small to large.
        quick: Those for a first look.
        even: Whether its sizes are few, and drawn as they are.
        variants: In how many ways each size is measured.
        measure: Measures the given sizes and adds the points to the field.
        panels: Its chart; none for what is measured at one size only.
    """

    name: str
    title: str
    about: str
    across: str
    sizes: Sequence[int]
    quick: Sequence[int]
    measure: Callable[[Field, Sequence[int]], Awaitable[None]]
    panels: Sequence[Drawn] = ()
    even: bool = False
    variants: int = 1

    def chosen(self, field: Field) -> Sequence[int]:
        """The sizes for this field."""
        return self.quick if field.scale.quick else self.sizes


#: CPU by process, as most axes draw it.
CPU: Final = Drawn("CPU a message, µs", [Line(role, f"µs {role}") for role in ROLES])
TIMES: Final = Drawn("Time to the answer, ms", [Line("p50", "p50, ms"), Line("p99", "p99, ms")])
