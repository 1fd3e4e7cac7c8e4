"""docs/judges.md, and the table in the terminal."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from judges.judge import Judge, Outcome
from judges.verdict import PASSED, Expected

_INTRODUCTION: Final = """\
# Judges from outside

Written by `make judges` on {day}: {satisfied} of {count} judges were satisfied, in {facts}.

Each judge is a suite that others wrote, run against a part of Towpath. A case whose outcome is not `ok` is listed
with its reason in [judges/expected](../judges/expected). A deviation that is not listed fails the run, and so does a
listed one that no longer occurs, unless it depends on time (*or ok*).
"""
_COLUMNS: Final = ("judge", "from", "cases", "ok", "expected deviations", "unexpected", "s", "")


@dataclass(frozen=True, slots=True)
class Row:
    """One judge in the table."""

    judge: Judge
    outcome: Outcome
    expected: Expected

    @property
    def cells(self) -> tuple[str, ...]:
        cases = self.outcome.cases
        counts: tuple[str, ...] = ("–", "–", "–")
        if cases is not None:
            passed = sum(outcome == PASSED for outcome in cases.values())
            counts = (f"{len(cases)}", f"{passed}", f"{len(cases) - passed - self._unexpected(cases)}")
        return (
            self.judge.judged,
            self.judge.source,
            *counts,
            f"{len(self.outcome.problems)}",
            f"{self.outcome.seconds:.0f}",
            "✗" if self.outcome.problems else "✓",
        )

    def _unexpected(self, cases: dict[str, str]) -> int:
        listed = {case: self.expected.of(case) for case in cases}
        return sum(
            outcome != PASSED and (one is None or one.outcome != outcome)
            for (case, outcome), one in zip(cases.items(), listed.values(), strict=True)
        )


def terminal(rows: Sequence[Row]) -> str:
    """The table, and what was not as expected."""
    table = [_COLUMNS, *(row.cells for row in rows)]
    widths = [max(len(cells[column]) for cells in table) for column in range(len(_COLUMNS))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) for cells in table
    ]
    lines += [f"✗ {row.judge.judged}: {problem}" for row in rows for problem in row.outcome.problems]
    return "\n".join(line.rstrip() for line in lines)


def markdown(rows: Sequence[Row], day: str, facts: str) -> str:
    """All of docs/judges.md."""
    parts = [
        _INTRODUCTION.format(
            day=day,
            satisfied=sum(not row.outcome.problems for row in rows),
            count=len(rows),
            facts=facts,
        ),
        "| " + " | ".join(_COLUMNS) + " |\n" + "| --- " * len(_COLUMNS) + "|",
        *("| " + " | ".join(row.cells) + " |" for row in rows),
        "",
        "## Expected deviations\n",
    ]
    for row in rows:
        if row.expected.deviations:
            parts += [f"### {row.judge.judged}\n", "| case | outcome | reason |", "| --- | --- | --- |"]
            parts += [
                f"| {one.case} | {one.outcome}{' or ok' if one.sometimes else ''} | {one.reason} |"
                for one in row.expected.deviations
            ]
            parts += [""]
    if failed := [row for row in rows if row.outcome.problems]:
        parts += ["## Not as expected\n"]
        parts += [f"- *{row.judge.judged}*: {'; '.join(row.outcome.problems)}." for row in failed]
    return "\n".join(parts).rstrip() + "\n"
