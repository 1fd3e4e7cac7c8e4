"""``towpath rolling``: restarts the replicas of one part one after the other, and waits for each.

Towpath owns no process: a command of the operator's supervisor restarts a replica, or for gateways a drain and the
supervisor's own restart.

Guarantees: nothing is restarted unless all replicas of the part work. The next one is restarted only when as many as
before work again: each gateway ready, each partition of a service held. The first one that does not return in time
ends the command, and the others are not touched.
"""

import asyncio
import contextlib
import os
import signal
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from towpath.protocol.names import shown
from towpath.protocol.routes import PARTITIONS
from towpath.servicekit.broker.interface import BrokerUnavailable, PublishUnconfirmed
from towpath.tools.operating import Reached, operate
from towpath.tools.ops import screen, survey
from towpath.tools.ops.drain import ask_to_drain
from towpath.tools.ops.listening import Listening
from towpath.tools.ops.picture import Picture
from towpath.tools.ops.screen import plain
from towpath.tools.trouble import Trouble

#: The part whose replicas are gateways; every other name is that of a service.
GATEWAY: Final = "gateway"
_NAME_LETTERS: Final = 64
#: Replicas that have just started may not have their share yet.
_READY_SECONDS: Final = 10.0
#: Longer than the pause between two announcements of a replica.
_LOOK_SECONDS: Final = 3.0
_POLL_SECONDS: Final = 0.2
_STANDARD_ERROR: Final = 2


class BadRolling(Trouble):
    """A part or a command that cannot be used."""

    status = 2


class NotWorking(Trouble):
    """The part does not work, or one replica is all there is; nothing was restarted."""


class CommandFailed(Trouble):
    """The command that restarts a replica failed."""


class NotBack(Trouble):
    """A replica did not return in time."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """The options, as typed.

    Attributes:
        part: ``gateway``, or the name of a service.
        each: Shell commands, each of which restarts one replica; gateways are drained if there is none.
        seconds: Time limit for each replica, from the command until all work.
        pause: Seconds between two replicas.
    """

    part: str
    each: Sequence[str] = ()
    seconds: float = 120.0
    pause: float = 5.0

    def check(self) -> None:
        """Refuse what cannot be used.

        Raises:
            BadRolling
        """
        if not 0 < len(self.part) <= _NAME_LETTERS:
            raise BadRolling(f"part {self.part[:70]!a}: must be {GATEWAY}, or a service such as orders")
        if blank := next((one for one in self.each if not one.strip()), None):
            raise BadRolling(
                f"--each {blank!a}: must be a command, such as 'docker restart towpath-orders-1'"
            )
        if not self.each and self.part != GATEWAY:
            raise BadRolling(
                f"{self.part[:70]!a} is restarted by your own commands: give one for each replica, such as "
                f"--each 'docker restart towpath-{self.part[:70]}-1'"
            )


@dataclass(frozen=True, slots=True)
class State:
    """The replicas of a part at one moment.

    Attributes:
        runs: The name of each, and its run; of a service a run has its own name.
        problem: The problem in a few words; ``None`` if all of them work.
        silent: Gateways that announce themselves and do not answer; also, for some seconds, those that have ended.
    """

    runs: frozenset[tuple[str, str]]
    problem: str | None
    silent: Sequence[str] = ()

    def names(self, runs: frozenset[tuple[str, str]] | None = None) -> list[str]:
        """The names of some, in order; of all by default."""
        return sorted(name for name, _ in (self.runs if runs is None else runs))


@dataclass(frozen=True, slots=True)
class _Step:
    """The restart of one replica.

    Attributes:
        title: As it is shown.
    """

    title: str
    begin: Callable[[], Awaitable[None]]


def rolling(wanted: Wanted, *, as_json: bool, data: Path) -> bool:
    """Restart all replicas of a part; returns whether each command restarted one that no other had restarted.

    Raises:
        BadRolling, NotWorking: Nothing was restarted.
        CommandFailed, NotBack: Some may have been restarted; the line says how many.
    """
    wanted.check()

    async def roll(reached: Reached) -> bool:
        async with Listening.begin(reached.broker) as listening:
            return await _Rolling(reached, listening, wanted, as_json=as_json).run()

    return operate(roll, data, "rolling")


def state_of(picture: Picture, part: str) -> State:
    """The state of one part."""
    runs, problem = _gateways(picture) if part == GATEWAY else _service(picture, part)
    silent = picture.silent if part == GATEWAY else ()
    return State(frozenset(runs), "RabbitMQ accepts no messages" if picture.is_blocked else problem, silent)


def _gateways(picture: Picture) -> tuple[set[tuple[str, str]], str | None]:
    failing = next((one for one in picture.gateways if one.failing), None)
    runs = {(one.gateway_id, one.incarnation) for one in picture.gateways}
    if failing is None:
        return runs, None
    return runs, f"{shown(failing.gateway_id)} is not ready: {shown(', '.join(failing.failing))}"


def _service(picture: Picture, name: str) -> tuple[set[tuple[str, str]], str | None]:
    service = next((one for one in picture.services if one.name == name), None)
    if service is None:
        return set(), "has never run on this broker"
    runs = {(replica, replica) for replica in service.replicas}
    if (problem := service.problem()) is not None:
        return runs, problem
    # A replica that has died is consumed for by nothing, and one that hangs is silent.
    if unclaimed := [queue.name for queue in service.queues if not queue.holders]:
        return runs, f"no replica says that it holds {', '.join(unclaimed)}"
    holding = sum(1 for held in service.replicas.values() if held)
    if holding < min(len(runs), PARTITIONS):
        return runs, f"{len(runs) - holding} of {len(runs)} replicas hold no partition yet"
    return runs, None


class _Rolling:
    def __init__(self, reached: Reached, listening: Listening, wanted: Wanted, *, as_json: bool) -> None:
        self._reached = reached
        self._listening = listening
        self._wanted = wanted
        self._as_json = as_json
        self._loop = asyncio.get_running_loop()
        self._done = 0

    async def run(self) -> bool:
        part, pause = self._wanted.part, self._wanted.pause
        first = before = await self._working()
        steps = self._steps(first)
        for number, step in enumerate(steps, start=1):
            if number > 1:
                await asyncio.sleep(pause)
            self._say(None, f"{number} of {len(steps)}: {step.title}")
            began = self._loop.time()
            deadline = began + self._wanted.seconds
            await self._begin(step, deadline)
            after = await self._until_back(step, before, deadline)
            self._done = number
            took = round(self._loop.time() - began, 1)
            ended, started = after.names(before.runs - after.runs), after.names(after.runs - before.runs)
            text = f"{_list(ended)} ended, {_list(started)} started; all work after {took:g} s"
            record = {"part": part, "step": number, "of": len(steps), "did": step.title}
            record |= {"ended": ended, "started": started, "seconds": took}
            self._say(record, f"{number} of {len(steps)}: {text}")
            before = after
        left = before.names(first.runs & before.runs)
        text = f"{part}: {len(steps)} restarted" + (f", not restarted: {_list(left)}" if left else "")
        self._say({"part": part, "restarted": len(steps), "not_restarted": left}, text)
        return not left or len(steps) < len(first.runs)

    async def _working(self) -> State:
        """The state before anything is restarted."""
        part = self._wanted.part
        state = await self._until(
            lambda one: one.problem is None and not one.silent, self._loop.time() + _READY_SECONDS
        )
        problem = state.problem or (f"{_list(state.silent)} does not answer" if state.silent else None)
        if problem is not None:
            raise NotWorking(f"{part}: {problem}; nothing was restarted, `towpath doctor` says more")
        if len(state.runs) < 2:
            raise NotWorking(
                f"{len(state.runs)} replica of {part} works, and its work would wait: start a second one first, or "
                "restart it yourself"
            )
        if (given := len(self._wanted.each)) > len(state.runs):
            raise BadRolling(f"{given} commands for {len(state.runs)} replicas of {part}: give one for each")
        return state

    def _steps(self, state: State) -> list[_Step]:
        if self._wanted.each:
            return [_Step(one, partial(_carry_out, one)) for one in self._wanted.each]
        broker = self._reached.broker
        return [
            _Step(f"drain {name}", partial(ask_to_drain, broker, name, run))
            for name, run in sorted(state.runs)
        ]

    async def _begin(self, step: _Step, deadline: float) -> None:
        try:
            async with asyncio.timeout_at(deadline):
                await step.begin()
        except TimeoutError:
            raise NotBack(
                f"{step.title!a} still runs after {self._wanted.seconds:g} s and was ended; {self._so_far()}"
            ) from None
        except CommandFailed as error:
            raise CommandFailed(f"{error}; {self._so_far()}") from None

    async def _until_back(self, step: _Step, before: State, deadline: float) -> State:
        def is_back(state: State) -> bool:
            is_changed = not before.runs <= state.runs
            return is_changed and len(state.runs) >= len(before.runs) and state.problem is None

        state = await self._until(is_back, deadline)
        if is_back(state):
            return state
        part, seconds = self._wanted.part, self._wanted.seconds
        if before.runs <= state.runs:
            reason = f"no replica of {part} has ended {seconds:g} s after {step.title!a}"
        else:
            gone = _list(state.names(before.runs - state.runs))
            work = f"{len(state.runs)} of {len(before.runs)} run"
            reason = f"{part}: {gone} ended, and {seconds:g} s after {step.title!a} {work}"
            reason += f" ({state.problem})" if state.problem else ""
        if part == GATEWAY and not self._wanted.each:
            reason += ", which its supervisor does (or give --each)"
        raise NotBack(f"{reason}; {self._so_far()}")

    async def _until(self, holds: Callable[[State], bool], deadline: float) -> State:
        """The first state that ``holds``, or the last one before ``deadline``."""
        while True:
            state = await self._look()
            if holds(state) or self._loop.time() >= deadline:
                return state
            await asyncio.sleep(_POLL_SECONDS)

    async def _look(self) -> State:
        part = self._wanted.part
        services = [] if part == GATEWAY else [part]
        try:
            picture = await survey.take(
                self._reached.broker, self._listening, self._reached.version, services, seconds=_LOOK_SECONDS
            )
        except (BrokerUnavailable, PublishUnconfirmed) as error:  # it may return in time
            return State(frozenset(), f"RabbitMQ: {error}")
        return state_of(picture, part)

    def _so_far(self) -> str:
        return f"{self._done} restarted before, the others are untouched"

    def _say(self, record: dict[str, Any] | None, text: str) -> None:
        if not self._as_json:
            screen.console().print(plain(text))
        elif record is not None:
            screen.print_json(record)


async def _carry_out(command: str) -> None:
    """Run a shell command; its output goes to standard error.

    Raises:
        CommandFailed
    """
    process = await asyncio.create_subprocess_shell(
        command, stdin=asyncio.subprocess.DEVNULL, stdout=_STANDARD_ERROR, start_new_session=True
    )
    try:
        status = await process.wait()
    finally:
        if process.returncode is None:  # too late, or Ctrl-C
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
    if status:
        raise CommandFailed(f"{command!a} ended with status {status}")


def _list(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"
