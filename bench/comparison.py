"""Two runs beside each other. Pure functions of them."""

from collections.abc import Sequence

from bench.measurement import Run
from bench.summary import BASELINE, Summary
from bench.tables import Table, number, summaries
from bench.works.interface import Work


def comparison(earlier: Run, run: Run, works: Sequence[Work]) -> Table:
    """The common measurements of two runs: main figures, ratios to the baseline, and the change of each.

    The change of the ratio matters: it is the same on a slower machine.
    """
    heads = ["", "system", "what", "then", "now", "change", f"× {BASELINE} then", "now", "change"]
    rows = []
    for work in works:
        then = {(row.case, row.system): row for row in summaries(earlier, work)}
        for row in summaries(run, work):
            before = then.get((row.case, row.system))
            if before is not None and before.main is not None and row.main is not None:
                rows.append(_row(work, run, before, row))
    return Table(heads, rows)


def _row(work: Work, run: Run, before: Summary, now: Summary) -> list[str]:
    return [
        f"{work.title}, {now.case}",
        run.titles[now.system],
        work.unit,
        number(before.main),
        number(now.main),
        _change(before.main, now.main),
        number(before.ratio),
        number(now.ratio),
        _change(before.ratio, now.ratio),
    ]


def _change(before: float | None, now: float | None) -> str:
    return f"{now / before - 1:+.0%}" if before and now is not None else ""
