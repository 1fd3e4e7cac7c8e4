"""The progress on the terminal: one bar for all of it, one for the current measurement."""

from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from bench.systems.interface import System
from bench.works.interface import Case, Scale, Work


class Screen:
    """Progress bars while it is entered."""

    def __init__(
        self, console: Console, works: Sequence[Work], systems: Sequence[System], rounds: int, scale: Scale
    ) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self._rounds = rounds
        steps = sum(
            len(work.cases(scale)) * len(scale.systems(work, systems, number))
            for work in works
            for number in range(work.rounds(rounds))
        )
        self._all = self._progress.add_task("All", total=steps)
        self._now = self._progress.add_task("Starting", total=1.0)
        self._done: set[tuple[int, str, str, str]] = set()

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def report(self, number: int, work: Work, case: Case, system: System, share: float) -> None:
        """How far one measurement is."""
        name = f"Round {number + 1} of {self._rounds}: {work.title}, {case.name}, {system.title}"
        self._progress.update(self._now, description=name, completed=share)
        if share >= 1.0:
            self._done.add((number, work.name, case.name, system.name))
            self._progress.update(self._all, completed=len(self._done))
