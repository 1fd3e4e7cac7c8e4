"""A trial: honest users on a system, an attack beside them, the verdict, and a line in the table."""

import asyncio
import dataclasses
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager
from typing import Any, Final

from towpath.testkit.processes import Process
from towpath.testkit.system import System

from .bounds import BUSY, Bounds
from .plans import Flood, HalfOpen, Storm
from .program import Program, attacking, keep_to_a_core
from .table import Line, Memory, Table, Waits
from .watch import Watch, counts

_CONTROL_SECONDS: Final = 3.5
#: Of the bound on memory: what a program may hold over its rest and count as back, since allocators keep some.
_BACK_SHARE: Final = 0.35
_MIN_AFTER_SECONDS: Final = 1.5
SAME: Final = "same"
OTHER: Final = "other"


class Ground:
    """One attack under way.

    Args:
        is_kept: The attacked gateway keeps to a core, and attackers share it.

    Attributes:
        system: The attacked system.
        began: When the attack began, on the monotonic clock.
    """

    def __init__(self, system: System, watch: Watch, line: Line, seed: str, *, is_kept: bool) -> None:
        self.system = system
        self.watch = watch
        self.began = 0.0
        self.ended = 0.0
        self._line = line
        self._seed = seed
        self._is_kept = is_kept

    async def attack(self, *plans: Flood | HalfOpen | Storm, gateway: int = 0) -> None:
        """Attack a gateway, with several processes at once if there are several plans."""
        target = self.system.gateways[gateway]
        port = int(target.settings["TOWPATH_PORT"])
        before = (await counts(target)).get("messages_received_total", 0.0)
        async with AsyncExitStack() as stack:
            programs = []
            for plan in plans:
                asked = {
                    "attack": type(plan).__name__,
                    "options": dataclasses.asdict(plan),
                    "port": port,
                    "seed": self._seed,
                }
                program = await stack.enter_async_context(Program.start("attacker", asked))
                self.hold(program)
                programs.append(program)
            self.begin()
            for program in programs:
                program.go()
            longest = max(plan.seconds for plan in plans)
            loot = await asyncio.gather(*(program.result(timeout=longest + 40) for program in programs))
            self.end()
        taken = (await counts(target)).get("messages_received_total", 0.0) - before
        self.note_load(loot, taken)

    def hold(self, attacker: Program) -> None:
        """Let an attacker run only where the attacked gateway runs."""
        if self._is_kept:
            keep_to_a_core(attacker.pid)

    def attacking(self) -> AbstractContextManager[None]:
        """Within it this process is the attacker."""
        return attacking(on_one_core=self._is_kept)

    def begin(self) -> None:
        """The control run ends, the attack begins."""
        self.began = time.monotonic()

    def end(self) -> None:
        """The attack is over; what it left behind is not."""
        self.ended = time.monotonic()

    def note_load(self, loots: list[dict[str, Any]], taken: float) -> None:
        """Say in the table what the attackers got in."""
        messages = sum(loot["messages"] for loot in loots)
        size = sum(loot["bytes"] for loot in loots)
        connections = sum(loot["connections"] for loot in loots)
        processor = sum(loot["processor"] for loot in loots)
        closes = Counter[str]()
        for loot in loots:
            closes.update(loot["closes"])
        told = ", ".join(f"{code} × {count:,}" for code, count in closes.most_common(3))
        self.got_in(
            f"{messages:,} messages, {size / 2**20:,.1f} MiB, {connections:,} connections"
            f"{f' (ended: {told})' if told else ''}; taken {max(taken, 0):,.0f}; {processor:.0%} of a core"
        )

    def got_in(self, load: str) -> None:
        """Say in the table what the load was."""
        self._line.got_in = load

    def note(self, figure: str) -> None:
        """A further figure for the page."""
        self._line.notes.append(figure)

    def fail(self, failure: str) -> None:
        """A promise that did not hold."""
        self._line.failures.append(failure)

    def expect(self, holds: object, failure: str) -> None:
        """Count it as a failure unless it holds; the trial goes on, and fails at its end."""
        if not holds:
            self.fail(failure)


class Trial:
    """One test's trial.

    Args:
        promise: The test's name: what is promised.
        seed: Of whatever is left to chance.
        busy: Other tests run on this machine: the bounds of time are those of :data:`BUSY`, and waits of users on
            the other gateway count as usual.
    """

    def __init__(self, promise: str, seed: str, table: Table, *, busy: bool) -> None:
        self.seed = seed
        self._busy = busy
        self._promise = promise
        self._table = table

    @asynccontextmanager
    async def of(
        self, attack: str, system: System, bounds: Bounds, *, users: int = 20, others: int = 20
    ) -> AsyncIterator[Ground]:
        """Honest users from entry to exit; then what they waited and what the programs held is judged.

        Args:
            attack: Its name in the table.
            bounds: The promise to honest users.
            users, others: How many are on the first gateway, and on the second.

        Raises:
            AssertionError: A promise is broken; the message says which, and with which seed.
        """
        if self._busy:
            bounds = dataclasses.replace(
                bounds, worst=BUSY.worst, p99=BUSY.p99, others=BUSY.others, live=BUSY.live
            )
        async with (
            self._line(Line(self._promise, attack, self.seed, bounds)) as line,
            self._measured(line, system, bounds, users, others) as ground,
        ):
            yield ground

    @asynccontextmanager
    async def counted(self, attack: str) -> AsyncIterator[Line]:
        """A trial whose outcome is a count: its test says what in ``got_in``, and what is wrong in ``failures``."""
        async with self._line(Line(self._promise, attack, self.seed)) as line:
            yield line

    @asynccontextmanager
    async def door(self, threat: str) -> AsyncIterator[Line]:
        """A trial of who may do what: its test counts each hostile input in ``tried``, and ``through`` stays 0."""
        async with self._line(Line(self._promise, threat, self.seed, is_door=True)) as line:
            yield line
            line.expect(line.tried, "nothing was tried")
            line.expect(not line.through or line.failures, f"{line.through:,} got through")

    @asynccontextmanager
    async def _line(self, line: Line) -> AsyncIterator[Line]:
        self._table.add(line)
        try:
            yield line
        except BaseException as error:
            line.failures.append(f"{type(error).__name__}: {error}".partition("\n")[0])
            raise
        self._check(line)

    @asynccontextmanager
    async def _measured(
        self, line: Line, system: System, bounds: Bounds, users: int, others: int
    ) -> AsyncIterator[Ground]:
        groups = {SAME: (system.urls[0], users)}
        is_kept = not self._busy and not bounds.is_on_both
        if is_kept:
            keep_to_a_core(system.gateways[0].pid)
        if others and len(system.urls) > 1:
            groups[OTHER] = (system.urls[1], others)
        async with (
            Program.start("honest", {"groups": groups, "name": f"h{len(self._table.lines)}"}) as honest,
            Watch.over(system) as watch,
        ):
            ground = Ground(system, watch, line, f"{self.seed} {self._promise}", is_kept=is_kept)
            await asyncio.sleep(1.0)  # the first questions find cold caches, not an attack
            started = time.monotonic()
            await asyncio.sleep(_CONTROL_SECONDS)
            rest = {name: watch.most(name, started) for name in watch.programs}
            ground.begin()
            try:
                yield ground
            finally:
                if not ground.ended:
                    ground.end()
            back = await _is_back(watch, rest, bounds, ground.ended)
            honest.go()
            found = await honest.result()
            self._judge(line, found, watch, bounds, rest, started, ground, back)

    def _judge(
        self,
        line: Line,
        found: dict[str, Any],
        watch: Watch,
        bounds: Bounds,
        rest: dict[str, float],
        started: float,
        ground: Ground,
        back: float | None,
    ) -> None:
        began, ended = ground.began, ground.ended

        def before(group: str) -> list[float]:
            """Waits that were over when the attack began."""
            return [
                waited
                for who, _, at, waited, _ in found["waits"]
                if who == group and at >= started and at + waited <= began
            ]

        def until(group: str, end: float) -> list[float]:
            """Waits that were not, of what was asked until ``end``."""
            return [
                waited
                for who, _, at, waited, _ in found["waits"]
                if who == group and at + waited > began and at < end
            ]

        line.control, line.others_control = Waits.of(before(SAME)), Waits.of(before(OTHER))
        line.during, line.others = Waits.of(until(SAME, ended)), Waits.of(until(OTHER, ended))
        line.memory = {
            name: Memory(rest[name], watch.most(name, began), watch.now(name)) for name in watch.programs
        }
        line.usual_p99 = self._table.add_control(SAME, before(SAME))
        others_p99 = self._table.add_control(OTHER, before(OTHER))
        line.live = max(watch.slowest(name, began) for name in watch.programs)
        # Waits that began after the attack may still be due to what it left behind.
        worst = max(until(SAME, float("inf")), default=0.0)
        p99 = max(bounds.p99, 2 * line.usual_p99)
        expect = ground.expect
        expect(line.during.count, "no honest user asked anything")
        # Beside other tests a disk or a core may be away for seconds: users of the other gateway then wait as well.
        beside = line.others.worst if self._busy and not bounds.is_on_both else 0.0
        usual = max(line.control.worst, beside)
        longest = max(bounds.worst, 2 * usual)
        expect(worst <= longest, f"a user waited {_ms(worst)}, not {_ms(longest)} at most")
        expect(line.during.p99 <= p99, f"p99 was {_ms(line.during.p99)}, not {_ms(p99)}")
        if line.others_control.count:
            most = max(bounds.others, 2 * others_p99)
            expect(
                line.others.p99 <= most,
                f"p99 on the other gateway was {_ms(line.others.p99)}, not {_ms(most)}",
            )
        for name, memory in line.memory.items():
            most = bounds.gateway if name.startswith("gateway") else bounds.service
            grew = memory.most - memory.rest
            expect(grew <= most, f"{name} grew by {grew:.0f} MiB, not {most:.0f} at most")
        expect(back is not None, f"memory was not back after {bounds.back:.0f} s")
        expect(line.live <= bounds.live, f"/health/live took {_ms(line.live)}")
        refused = Counter(
            outcome for _, _, at, _, outcome in found["waits"] if at >= began and outcome != "ok"
        )
        expect(not refused, f"honest users were answered {_counted(refused)}")
        ends = Counter(code for _, at, code in found["ends"] if at >= began)
        expect(not ends, f"honest users were disconnected: {_counted(ends)}")
        over = {name: status for name, status in watch.ended().items() if name not in bounds.may_end}
        expect(not over, f"ended: {over}")
        if (late := max((by for at, by in found["lag"] if at >= began), default=0.0)) > bounds.worst / 2:
            line.notes.append(f"the measuring process itself was late by {_ms(late)} once")

    def _check(self, line: Line) -> None:
        assert not line.failures, "\n".join([*line.failures, line.got_in, f"seed {self.seed}"])


async def _is_back(watch: Watch, rest: dict[str, float], bounds: Bounds, since: float) -> float | None:
    """Wait until memory is back; returns after how many seconds, ``None`` when it is not in time."""
    while True:
        passed = time.monotonic() - since
        held = {
            name: watch.now(name) - rest[name] for name, process in watch.programs.items() if _runs(process)
        }
        over = [
            name
            for name, grown in held.items()
            if grown > _BACK_SHARE * (bounds.gateway if name.startswith("gateway") else bounds.service)
        ]
        if not over and passed >= _MIN_AFTER_SECONDS:
            return passed
        if passed > bounds.back:
            return None
        await asyncio.sleep(0.2)


def _runs(process: Process) -> bool:
    return process.status is None


def _counted(counter: Counter[str]) -> str:
    return ", ".join(f"{what} × {count:,}" for what, count in counter.most_common(5))


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:,.0f} ms"
