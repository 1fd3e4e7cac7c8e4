"""Tables, as rows of text: for the terminal and for the page. Pure functions of a run."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from bench.measurement import Run
from bench.summary import BASELINE, ROLES, Summary, summarise
from bench.works.interface import Work

_QUANTILES: Final = {"p50": 0.5, "p95": 0.95, "p99": 0.99, "p99.9": 0.999}
_RIGHT: Final = "nothing"


@dataclass(frozen=True)
class Table:
    """Rows of text under heads; the first two columns name the case and the system, the last says what went wrong."""

    heads: list[str]
    rows: list[list[str]]


def summaries(run: Run, work: Work) -> list[Summary]:
    """Case by case, the systems in the order of the run."""
    own = [one for one in run.measurements if one.work == work.name]
    cases = list(dict.fromkeys(one.case for one in own))
    names = [name for name in run.differences if any(one.system == name for one in own)]
    return [summarise(work.name, case, name, own, work.main) for case in cases for name in names]


def table(run: Run, work: Work) -> Table:
    """Everything about one work."""
    rows = summaries(run, work)
    columns: dict[str, list[str]] = {"": [row.case for row in rows]}
    columns["system"] = [run.titles[row.system] for row in rows]
    if work.main == "p99":  # it is among the times
        columns[work.rate_unit] = [number(row.rate) for row in rows]
    else:
        columns[work.unit] = [main_figure(row) for row in rows]
    if any(row.ratio is not None for row in rows):
        columns[f"× {BASELINE}" + (", p99" if work.main == "p99" else "")] = [ratio(row) for row in rows]
    if any(row.times is not None and row.times.counts for row in rows):
        for name, share in _QUANTILES.items():
            columns[f"{name}, ms"] = [
                "" if row.times is None else number(row.times.quantile(share) / 1000) for row in rows
            ]
    for name in dict.fromkeys(name for row in rows for name in row.figures):
        if name != work.main:
            columns[name] = [number(row.figures.get(name)) for row in rows]
    for role in ROLES:
        if any(role in row.cpu for row in rows):
            columns[f"µs {role}"] = [number(row.cpu.get(role)) for row in rows]
    columns["went wrong"] = [row.failure or row.wrong or _RIGHT for row in rows]
    return Table(list(columns), [list(row) for row in zip(*columns.values(), strict=True)])


def direction(work: Work) -> str:
    """The note beside a figure of which less is better."""
    return " (less is better)" if work.lower_is_better else ""


def main_figure(row: Summary) -> str:
    """The main figure, marked where more may be possible."""
    return ("≥ " if row.at_least else "") + number(row.main) if row.main is not None else ""


def ratio(row: Summary) -> str:
    """The ratio to the baseline, marked where it may be more, less, or either."""
    if row.ratio is None:
        return ""
    if row.system == BASELINE:
        return "1.00"
    mark = {(True, False): "≥ ", (False, True): "≤ ", (True, True): "≈ "}.get(
        (row.at_least, row.base_at_least), ""
    )
    return f"{mark}{row.ratio:.2f}"


def number(value: float | None) -> str:
    """Three digits that matter, and no more."""
    if value is None:
        return ""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def markdown(shown: Table) -> str:
    """As GitHub shows it: figures to the right, each case named once."""
    last = len(shown.heads) - 1
    lines = [shown.heads, ["---:" if 1 < place < last else "---" for place in range(last + 1)]]
    previous = None
    for row in shown.rows:
        lines.append(["" if row[0] == previous else row[0], *row[1:]])
        previous = row[0]
    return "\n".join(_line(cells) for cells in lines)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
