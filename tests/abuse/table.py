"""The table of all attacks: printed, and written as docs/abuse.md."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from .bounds import HUNDREDS, Bounds
from .plans import SECONDS

_HEAD: Final = (
    "attack", "got in", "control", "under attack", "bound", "other gateway", "gateway MiB", "chat MiB",
    "orders MiB", "live", "",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Waits:
    """How long some waited, in seconds."""

    count: int = 0
    median: float = 0.0
    p99: float = 0.0
    worst: float = 0.0

    @classmethod
    def of(cls, waits: Sequence[float]) -> "Waits":
        """The figures of these waits; the 99th percentile by nearest rank."""
        if not waits:
            return cls()
        found = sorted(waits)
        rank = math.ceil(0.99 * len(found)) - 1
        return cls(len(found), found[len(found) // 2], found[rank], found[-1])

    def __str__(self) -> str:
        if not self.count:
            return "–"
        return " / ".join(_milliseconds(wait) for wait in (self.median, self.p99, self.worst))


@dataclass(frozen=True, slots=True)
class Memory:
    """MiB of one program: at rest, at most under attack, and when it was last seen."""

    rest: float = 0.0
    most: float = 0.0
    after: float = 0.0

    def __str__(self) -> str:
        return f"{self.rest:.0f} → {self.most:.0f} → {self.after:.0f}"


@dataclass(slots=True)
class Line:
    """One attack.

    Attributes:
        promise: The name of its test.
        attack: The load.
        got_in: The load: messages and connections.
        control, during: Waits of honest users on the same gateway.
        others_control, others: Waits on the other gateway.
        usual_p99: The 99th percentile without an attack, in seconds: see :meth:`Table.add_control`.
        memory: By program.
        live: The slowest ``/health/live``, in seconds.
        notes: Further figures.
        failures: Promises that did not hold.
        seed: Repeats what was left to chance.
        is_door: The attack is on who may do what: its outcome is how many of its inputs got through.
        tried, through: Hostile inputs of such an attack, and those that were not refused.
    """

    promise: str
    attack: str
    seed: str
    bounds: Bounds | None = None
    got_in: str = ""
    control: Waits = field(default_factory=Waits)
    during: Waits = field(default_factory=Waits)
    others_control: Waits = field(default_factory=Waits)
    others: Waits = field(default_factory=Waits)
    usual_p99: float = 0.0
    memory: Mapping[str, Memory] = field(default_factory=dict)
    live: float = 0.0
    notes: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    is_door: bool = False
    tried: int = 0
    through: int = 0

    def expect(self, holds: object, failure: str) -> None:
        """Count it as a failure unless it holds; the trial goes on, and fails at its end."""
        if not holds:
            self.failures.append(failure)

    def refused(self, held: object, what: str) -> None:
        """One hostile input: ``held`` says whether it was refused, ``what`` names it."""
        self.tried += 1
        if not held:
            self.through += 1
            self.failures.append(f"got through: {what}")


@dataclass(frozen=True, slots=True)
class Run:
    """One run of the suite, as its page names it."""

    command: str
    seed: str
    facts: str
    day: str


class Table:
    """The lines of one run, in the order they were begun."""

    def __init__(self) -> None:
        self.lines: list[Line] = []
        self._controls: dict[str, list[float]] = {}

    def add(self, line: Line) -> None:
        self.lines.append(line)

    def add_control(self, group: str, waits: Sequence[float]) -> float:
        """Add a control run; returns its 99th percentile, or that of all control runs so far where that is more.

        One run has some 200 waits, so that its 99th percentile is the second longest of them: mostly chance.
        """
        controls = self._controls.setdefault(group, [])
        controls += waits
        return max(Waits.of(waits).p99, Waits.of(controls).p99)

    def text(self) -> str:
        """For the terminal."""
        rows = [_HEAD, *(_cells(line) for line in self.lines if line.bounds)]
        widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
        shown = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows
        ]
        shown += [f"{_mark(line)} {line.attack}: {_outcome(line)}" for line in self.lines if not line.bounds]
        shown += [f"✗ {line.attack}: {failure}" for line in self.lines for failure in line.failures]
        return "\n".join(row.rstrip() for row in shown)

    def page(self, run: Run) -> str:
        """All of docs/abuse.md."""
        held = [line for line in self.lines if not line.failures]
        measured = [line for line in self.lines if line.bounds]
        counted = [line for line in self.lines if not line.bounds and not line.is_door]
        doors = [line for line in self.lines if line.is_door]
        parts = [
            _INTRODUCTION.format(
                command=run.command, day=run.day, seed=run.seed, facts=run.facts, held=len(held),
                count=len(self.lines), seconds=SECONDS,
            ),
            "| " + " | ".join(_HEAD) + " |\n" + "| --- " * len(_HEAD) + "|",
            *("| " + " | ".join(_cells(line)) + " |" for line in measured),
            _LEGEND.format(others=_milliseconds(Bounds().others), hundreds=_milliseconds(HUNDREDS.others)),
        ]  # fmt: skip
        if counted:
            parts += [
                "## Counted instead of timed\n",
                "| attack | outcome | |",
                "| --- | --- | --- |",
            ]
            parts += [f"| {line.attack} | {line.got_in} | {_mark(line)} |" for line in counted]
            parts += [""]
        if doors:
            parts += [
                _DOORS,
                "| threat | hostile inputs tried | got through | |",
                "| --- | --- | --- | --- |",
            ]
            parts += [
                f"| {line.attack} | {line.tried:,} | {line.through:,} | {_mark(line)} |" for line in doors
            ]
            parts += [""]
        noted = [line for line in self.lines if line.notes]
        if noted:
            parts += ["## Further figures\n"]
            parts += [f"- *{line.attack}*: {'; '.join(line.notes)}." for line in noted] + [""]
        parts += ["## Promises of the trials\n"]
        parts += [f"- *{line.attack}*: {_sentence(line.promise)}." for line in self.lines]
        if failed := [line for line in self.lines if line.failures]:
            parts += ["", "## Failed promises\n"]
            parts += [f"- *{line.attack}*: {'; '.join(line.failures)}." for line in failed]
        return "\n".join(parts).rstrip() + "\n"


_INTRODUCTION: Final = """\
# Abuse trials: the effect of an attacker on others

Written by `{command}` on {day}: {held} of {count} attacks stayed within their bounds. {facts}. Seed {seed}; the same
seed repeats the random choices.

Each attack is a test in [tests/abuse](../tests/abuse): real processes (RabbitMQ, two gateways, chat, orders), 20
honest users on each of them; one gateway is attacked. Each honest user sends to a room, pings, reads, lists and
submits orders, every 0.25 to 0.5 s, and does not wait for an answer before the next request. Honest users and
attackers run in processes of their own, which would be machines of their own: honest users get the processor at once
(`nice -10`), the attacker only while nothing else wants it (`SCHED_IDLE`). The attacked gateway keeps to one of the
two cores, as on a machine of its own, and so does its attacker; all else may use both. A crowd joins through both
gateways, which use both cores. Every row has its own control run on the same machine, just before the attack begins.
A flood of messages lasts {seconds:g} s.
"""
_LEGEND: Final = """
- *got in*: the messages and bytes that the attacker could write, and the share of one core that it used. *taken*: the
  messages that the gateway read (its metric `messages_received`, those of honest users included).
- *control*, *under attack*, *other gateway*: waits of honest users for answers and pushes: median / 99th
  percentile / longest, in milliseconds. A missing answer counts with the time until the end of the trial.
- *bound*: the longest wait, and the 99th percentile; for both twice the control run where that is more: the machine
  was busy with something else. One control run has some 200 waits, so that its 99th percentile is the second longest
  of them. Where that of all control runs so far is more, it counts.
- On the *other gateway* 99 of 100 waits are at most {others} ms, or twice the control; where hundreds attack, or
  both gateways are attacked, at most {hundreds} ms.
- *MiB*: resident memory at rest → the most → at the end of the trial. Bounds: +64 for a gateway, +128 for a service,
  and back within 30 s.
- *live*: the slowest answer of `/health/live` of any program, in milliseconds; the bound is 1,000.
- ✓ means as well: no honest user was refused or disconnected, and no program ended.
"""
_DOORS: Final = """\
## Doors

Attempts to come in, or to do or read what another may: each input has to be refused, or to reach its own sender only.
The threats, their controls and their tests are in [SECURITY.md](../SECURITY.md#threats).
"""


def _outcome(line: Line) -> str:
    return f"{line.through:,} of {line.tried:,} got through" if line.is_door else line.got_in


def _cells(line: Line) -> tuple[str, ...]:
    bounds = line.bounds or Bounds()
    p99 = max(bounds.p99, 2 * line.usual_p99)
    return (
        line.attack,
        line.got_in,
        str(line.control),
        str(line.during),
        f"{_milliseconds(max(bounds.worst, 2 * line.control.worst))}, {_milliseconds(p99)}",
        f"{line.others_control} → {line.others}",
        str(line.memory.get("gateway 1", Memory())),
        str(line.memory.get("chat", Memory())),
        str(line.memory.get("orders", Memory())),
        _milliseconds(line.live),
        _mark(line),
    )


def _mark(line: Line) -> str:
    return "✗" if line.failures else "✓"


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:,.0f}"


def _sentence(promise: str) -> str:
    words = promise.removeprefix("test_").replace("[", " (").replace("]", ")").replace("_", " ")
    return words[0].upper() + words[1:]
