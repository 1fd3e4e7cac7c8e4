"""A work: its load, its sizes, and its counts."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from bench.stage import Stage
from bench.systems.interface import System

#: In a narrow run: who does every work, and which variants do none.
_ALWAYS: Final = ("towpath", "bare")
_VARIANTS: Final = ("socketio_tuned",)


@dataclass(frozen=True)
class Scale:
    """How long to measure.

    Attributes:
        quick: A few seconds a system, for a first look.
        narrow: Only the works for a first look on all systems; the others on Towpath and the baseline.
        peer_rounds: How often systems that are neither are measured; they take most of the time.
    """

    quick: bool = False
    narrow: bool = False
    peer_rounds: int = 100

    @property
    def warm_up(self) -> float:
        """Seconds of load before the window."""
        return 0.5 if self.quick else 1.0

    @property
    def seconds(self) -> float:
        """Of the window."""
        return 1.5 if self.quick else 4.0

    def systems(self, work: "Work", systems: Sequence[System], number: int = 0) -> list[System]:
        """Those that are to do ``work`` in this round."""
        able = [system for system in systems if work.suits(system)]
        if number < self.peer_rounds:
            if not self.narrow:
                return able
            if work.first_look:
                return [system for system in able if system.name not in _VARIANTS]
        return [system for system in able if system.name in _ALWAYS]


@dataclass(frozen=True)
class Case:
    """One size of a work.

    Attributes:
        name: Unique within the work: ``200 × 4``.
        parameters: The inputs of the work.
        gateways: How many a system is started with.
        postgres: Whether its service stores in PostgreSQL instead of SQLite.
    """

    name: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    gateways: int = 1
    postgres: bool = False


class Chart(StrEnum):
    """How a work is drawn.

    Attributes:
        BARS: The main figure of each system, a panel a case.
        LINES: The main figure over the number in the name of the case.
    """

    BARS = "bars"
    LINES = "lines"


@dataclass(frozen=True)
class Work:
    """A work.

    Attributes:
        name: The word on the command line.
        title: The heading of its table.
        about: The load and the counts: a sentence or two, shown above the table.
        cases: Its sizes.
        measure: Does one case and returns fields of a :class:`~bench.measurement.Measurement`.
        main: The figure that systems are compared by: ``rate``, ``p99`` (milliseconds), or the title of one of the
            ``figures``.
        unit: The unit of ``main``, for the head of its column.
        rate_unit: The unit of a rate, where ``main`` is something else.
        lower_is_better: Of ``main``.
        headlines: The cases that stand for the work in the page's first table; empty for all.
        first_look: Whether all systems do it even in a narrow run.
        most_rounds: For what takes long, and says much already when it is done so often.
        needs: Required in a system's ``works``; by default the name.
        chart: How it is drawn.
    """

    name: str
    title: str
    about: str
    cases: Callable[[Scale], list[Case]]
    measure: Callable[[Stage, Case, Scale], Awaitable[dict[str, Any]]]
    main: str = "rate"
    unit: str = "a second"
    rate_unit: str = ""
    lower_is_better: bool = False
    headlines: Sequence[str] = ()
    first_look: bool = False
    most_rounds: int = 100
    needs: str = ""
    chart: Chart = Chart.BARS

    def rounds(self, asked: int) -> int:
        """How often it is done when ``asked`` rounds are."""
        return min(asked, self.most_rounds)

    def suits(self, system: System) -> bool:
        """Whether a system can do it."""
        return (self.needs or self.name) in system.works
