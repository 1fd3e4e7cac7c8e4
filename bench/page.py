"""The page: docs/performance.md. A pure function of a run, so that a run can be rendered again without measuring."""

from collections.abc import Sequence
from statistics import median
from textwrap import fill
from typing import Final

from bench.measurement import MOST_GENERATOR_SHARE, Run
from bench.summary import BASELINE
from bench.tables import direction, main_figure, markdown, number, ratio, summaries, table
from bench.works.interface import Work

_OWN: Final = "towpath"
_WIDTH: Final = 118
#: Other programs may take this share of the machine without a note on the page.
_QUIET: Final = 0.05

_METHOD: Final = f"""\
- One machine, one private RabbitMQ node, everything else real processes on 127.0.0.1. All share the cores, the load
  generator too: figures compare systems with each other; on other machines they differ.
- Every system in turn within a round, each started fresh on an empty virtual host; the order rotates. Figures are
  medians over rounds, ratios (*× {BASELINE}*) the median of each round's own ratio to the baseline of the same round.
  Times are merged from all rounds.
- The generator is one process with clients of a C library. Where it took more than {MOST_GENERATOR_SHARE:.0%} of a
  core it may have been the limit: such a figure is marked with *≥*; a ratio with *≥*, *≤* or *≈*.
- Every message has a number. Lost, doubled, disordered and refused messages are counted, in the last column;
  *nothing* is a finding.
- *µs* are microseconds of CPU a finished message, in all processes of that role together."""


def page(run: Run, works: Sequence[Work], comparison: str = "") -> str:
    """The whole page as Markdown; the pictures of ``works`` are ``images/performance-<work>.svg``."""
    parts = [
        "# Performance",
        "Towpath and its peers under the same work, on one machine at the same time.\n"
        f"Written by `{run.command}`; do not edit.",
        _in_short(run, works),
        _facts(run),
        comparison,
        *(_section(run, work) for work in works),
        "## How it is measured",
        _METHOD,
        "## Differences between the systems",
        _differences(run),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def picture_name(work: Work) -> str:
    """The file of a work's chart."""
    return f"performance-{work.name}.svg"


def _in_short(run: Run, works: Sequence[Work]) -> str:
    lines = [
        f"| | {run.titles.get(_OWN, _OWN)} | {run.titles.get(BASELINE, BASELINE)} | ratio |",
        "| --- | ---: | ---: | ---: |",
    ]
    for work in works:
        rows = summaries(run, work)
        base = {row.case: row.main for row in rows if row.system == BASELINE}
        shown = {row.case for row in rows if row.case in work.headlines} or {row.case for row in rows}
        for row in rows:
            if row.system == _OWN and row.case in shown and row.main is not None:
                figures = f"{main_figure(row)} | {number(base.get(row.case))} | {ratio(row)}"
                lines.append(f"| {work.title}, {row.case}: {work.unit}{direction(work)} | {figures} |")
    return "## In short\n\n" + "\n".join(lines) if len(lines) > 2 else ""


def _facts(run: Run) -> str:
    rounds = {name: len({one.round for one in run.measurements if one.system == name}) for name in run.titles}
    most = max(rounds.values(), default=0)
    fewer = {times for times in rounds.values() if times < most}
    others = f"; of the other peers {max(fewer)}" if fewer else ""
    facts = {**run.facts, "Rounds": f"{most}{others}"}
    shares = [one.elsewhere for one in run.measurements if one.elsewhere]
    if shares and median(shares) > _QUIET:
        facts["Not alone"] = (
            f"other programs took {median(shares):.0%} of the machine meanwhile (median), {max(shares):.0%} at most: "
            "measure again on a quiet one"
        )
    return "\n".join(f"- {title}: {text}" for title, text in facts.items())


def _section(run: Run, work: Work) -> str:
    return "\n\n".join(
        [
            f"## {work.title}",
            fill(work.about, _WIDTH),
            f"![{work.title}: {work.unit}, by system; the figures are in the table](images/{picture_name(work)})",
            markdown(table(run, work)),
        ]
    )


def _differences(run: Run) -> str:
    lines = []
    for name, differences in run.differences.items():
        lines.append(f"- {run.titles[name]}")
        lines += [f"  - {difference}" for difference in differences] or ["  - nothing that we know of"]
    return "\n".join(lines)
