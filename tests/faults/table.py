"""The table of all trials: printed, and written as docs/reliability.md."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Final

from .broker import Holdings
from .oracle import Verdict
from .resources import Held

_HEAD: Final = ("fault", "operations", "lost", "twice", "out of order", "wrong person", "untrue", "recovery")


@dataclass(slots=True)
class Line:
    """One trial.

    Attributes:
        promise: The name of its test.
        fault: The injected fault.
        bound: Seconds that recovery may take.
        recovery: Seconds that it took; ``None`` where nothing was to recover.
        failure: Why the trial failed.
        not_run: Why it could not be held here.
    """

    promise: str
    fault: str
    bound: float | None = None
    verdict: Verdict = field(default_factory=Verdict)
    recovery: float | None = None
    failure: str = ""
    not_run: str = ""


@dataclass(frozen=True, slots=True)
class Run:
    """One run of the suite, as its page names it."""

    command: str
    seed: str
    versions: str
    day: str


@dataclass(frozen=True, slots=True)
class Soaked:
    """The results of random faults over a long time.

    Attributes:
        lasting: How long, as it was asked for.
        recoveries: For each kind of fault, the seconds that each recovery took.
        had, has: Resources of the programs before the first fault, and after the last.
        before, after: Queues, bindings and connections of the broker.
    """

    lasting: str
    recoveries: Mapping[str, Sequence[float]]
    had: Mapping[str, Held]
    has: Mapping[str, Held]
    before: Holdings
    after: Holdings


class Table:
    """The lines of one run, in the order they were begun."""

    def __init__(self) -> None:
        self.lines: list[Line] = []
        self.soaked: Soaked | None = None

    def add(self, line: Line) -> None:
        self.lines.append(line)

    def text(self) -> str:
        """For the terminal: a row each, in columns."""
        rows = [_HEAD, *map(_cells, self.lines)]
        widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
        return "\n".join(
            "  ".join(
                cell.rjust(width) if column else cell.ljust(width)
                for column, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in rows
        )

    def page(self, run: Run) -> str:
        """All of docs/reliability.md."""
        ran = [line for line in self.lines if not line.not_run]
        held = [line for line in ran if not line.failure]
        rows = ["| " + " | ".join(_HEAD) + " |", "| --- |" + " ---: |" * (len(_HEAD) - 1)]
        rows += ["| " + " | ".join(_cells(line)) + " |" for line in ran]
        parts = [
            _INTRODUCTION.format(
                command=run.command, day=run.day, seed=run.seed, held=len(held), ran=len(ran),
                versions=run.versions,
            ),
            "\n".join(rows),
            _LEGEND,
            "## Promises of the trials\n",
            "\n".join(f"- *{line.fault}*: {_sentence(line.promise)}." for line in self.lines),
        ]  # fmt: skip
        if failed := [line for line in ran if line.failure]:
            parts += ["\n## Failed promises\n"]
            parts += ["\n".join(f"- *{line.fault}*: {line.failure}" for line in failed)]
        if left := [line for line in self.lines if line.not_run]:
            parts += ["\n## Trials not run\n"]
            parts += ["\n".join(f"- *{line.fault}*: {line.not_run}" for line in left)]
        parts += [_LIMITS]
        return "\n".join(parts).rstrip() + "\n"

    def soak_page(self, run: Run) -> str:
        """All of docs/reliability-soak.md; only after a soak."""
        assert self.soaked is not None
        soaked, line = self.soaked, self.lines[-1]
        faults = sum(len(times) for times in soaked.recoveries.values())
        rows = ["| fault | times | recovery, median | longest |", "| --- | ---: | ---: | ---: |"]
        for fault, times in sorted(soaked.recoveries.items()):
            rows.append(f"| {fault} | {len(times)} | {median(times):.1f} s | {max(times):.1f} s |")
        rows += ["", "| held by | before | after |", "| --- | --- | --- |"]
        rows += [f"| {kind} | {soaked.had[kind]} | {soaked.has[kind]} |" for kind in soaked.had]
        rows += [f"| RabbitMQ | {soaked.before} | {soaked.after} |"]
        verdict = line.verdict
        introduction = _SOAK.format(
            command=f'{run.command} ARGS="--soak {soaked.lasting} --seed {run.seed}"', day=run.day,
            versions=run.versions, lasting=soaked.lasting, faults=faults, operations=f"{verdict.operations:,}",
            lost=len(verdict.lost), twice=len(verdict.twice), disorder=len(verdict.disorder),
            strangers=len(verdict.strangers), untrue=len(verdict.untrue),
            broken=f"\n**It does not hold**: {line.failure}\n" if line.failure else "",
        )  # fmt: skip
        return introduction + "\n" + "\n".join(rows) + "\n"


_SOAK: Final = """\
# One fault after the other

Written by `{command}` on {day}. {versions}.

For {lasting} random faults struck two gateways, chat, orders and RabbitMQ, one after the other, while users
and another backend were active. {faults} faults, {operations} operations: {lost} lost, {twice} shown twice,
{disorder} out of order, {strangers} for a wrong person, {untrue} untrue ([meaning of these words](reliability.md)).
{broken}
Recovery is the time from the end of a fault until every user has the answer to a request made after it.
Resources are the least of ten samples in five seconds, under the same load before the first fault and after the
last; both gateways count together, since users move between them.
"""
_INTRODUCTION: Final = """\
# Fault trials

Written by `{command}` on {day}: {held} of {ran} trials held. {versions}. Seed {seed}; the same seed repeats
the same requests and the same moments of faults.

Each trial is a test in [tests/faults](../tests/faults): real processes, a real RabbitMQ, and users (the Python
client, two devices each) who talk in rooms, submit and cancel orders, while another backend publishes events of its
own orders by plain AMQP. Meanwhile a fault happens. All requests, answers and pushes are recorded and
compared with the state of the services at the end. Recovery is the time from the fault (or its end, where it lasts)
until every user has the answer to a request made after it. The results of faults that follow each other for half an
hour are on [a page of their own](reliability-soak.md).
"""
_LEGEND: Final = """
- *lost*: answered as done and without effect, or stored and never shown to a user who follows the stream.
- *twice*: an effect that happened twice, or a push shown twice on one device.
- *out of order*: within a room or an order.
- *wrong person*: shown or answered to a user it was not for.
- *untrue*: an answer or push that differs from the stored state, or a refusal of a valid request.
"""
_LIMITS: Final = """
## Not covered

- Clocks that jump. Order and time limits do not depend on the time of day, but no trial sets it back.
- Storms of bindings. By default gateways bind catch-alls ([ADR 6](adr/0006-catch-all-bindings-first.md)), and there
  are none; the bounded ones of `TOWPATH_ROUTING=selective` ([ADR 11](adr/0011-selective-routing.md)) have no trial.
- Lost packets and lost connection attempts: the network of these trials is a TCP proxy, which can be slow, silent or
  closed, in one direction or in both. Only the links between the nodes of a cluster are cut below TCP.
- More machines than one, and power failures: the kernel still writes the files of a killed process.
"""


def _cells(line: Line) -> tuple[str, ...]:
    if line.not_run:
        return (line.fault, "not run", *[""] * (len(_HEAD) - 2))
    verdict = line.verdict
    bound = "" if line.bound is None else f" (< {line.bound:g})"
    counts = (verdict.lost, verdict.twice, verdict.disorder, verdict.strangers, verdict.untrue)
    return (
        line.fault + (" ✗" if line.failure else ""),
        f"{verdict.operations:,}",
        *(str(len(found)) for found in counts),
        "–" if line.recovery is None else f"{line.recovery:.1f} s{bound}",
    )


def _sentence(promise: str) -> str:
    words = promise.removeprefix("test_").replace("[", " (").replace("]", ")").replace("_", " ")
    return words[0].upper() + words[1:]
