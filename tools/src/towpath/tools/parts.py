"""The programs that ``towpath dev`` runs: gateway, chat and orders, as processes or as tasks of this process.

Guarantees: a part that ends by itself is noticed at once and says why; stopping follows the drain order (the
gateway first, so that nothing new comes in) and is bounded in time; no process outlives this one, even when it is
killed (see :mod:`~towpath.tools.lifeline`).
"""

import asyncio
import contextlib
import json
import os
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

import aiohttp

from towpath.chat.settings import ChatSettings
from towpath.gateway.settings import GatewaySettings
from towpath.orders.settings import OrdersSettings
from towpath.servicekit.settings import PREFIX, BrokerSettings

if TYPE_CHECKING:
    from towpath.servicekit.broker import Connect

_READY_SECONDS: Final = 60.0
_READY_POLL_SECONDS: Final = 0.05
_GRACE_SECONDS: Final = 3.0
_TAIL_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class Program:
    """One of Towpath's programs.

    Attributes:
        name: What people and logs call it.
        module: Where its ``app`` and ``__main__`` are.
        settings: The model of its settings.
    """

    name: str
    module: str
    settings: type[BrokerSettings]


GATEWAY: Final = Program("gateway", "towpath.gateway", GatewaySettings)
CHAT: Final = Program("chat", "towpath.chat", ChatSettings)
ORDERS: Final = Program("orders", "towpath.orders", OrdersSettings)

PROGRAMS: Final = (GATEWAY, CHAT, ORDERS)
#: What stops together, in this order.
_DRAIN_ORDER: Final = ((GATEWAY,), (CHAT, ORDERS))


class PartEnded(Exception):
    """A part ended by itself. The message is one line for a person.

    Attributes:
        bad_setting: Whether it ended because of a setting.
    """

    def __init__(self, message: str, *, bad_setting: bool = False) -> None:
        super().__init__(message)
        self.bad_setting = bad_setting


class NotReady(Exception):
    """The parts run, but are not ready in time. The message is one line for a person."""


class Part(ABC):
    """A program that runs.

    Args:
        admin_port: Where its health is.
        drain_timeout: Seconds it may take to stop.
    """

    def __init__(self, program: Program, settings: BrokerSettings) -> None:
        self.program = program
        self.admin_port = settings.admin_port
        self.patience = settings.drain_timeout + _GRACE_SECONDS

    @property
    @abstractmethod
    def pid(self) -> int | None:
        """Its process; ``None`` when that is this one."""

    @abstractmethod
    async def until_ended(self) -> PartEnded:
        """Wait for its end, and tell of it as of one that nobody asked for."""

    @abstractmethod
    async def stop(self) -> None:
        """Let it drain, and end it when it takes longer than it may. Harmless when it has ended."""

    @abstractmethod
    def kill(self) -> None:
        """End it at once."""


class ProcessPart(Part):
    """A program as a process in a session of its own, so that Ctrl-C in the terminal does not reach it."""

    def __init__(
        self, program: Program, settings: BrokerSettings, process: asyncio.subprocess.Process, log: Path
    ) -> None:
        super().__init__(program, settings)
        self._process = process
        self._log = log

    @classmethod
    async def launch(cls, program: Program, settings: BrokerSettings, log: Path) -> "ProcessPart":
        """Start the process; it loads its modules and then waits for :meth:`begin`."""
        with log.open("wb") as output:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", "towpath.tools.lifeline", program.module),
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        return cls(program, settings, process, log)

    def begin(self, settings: Mapping[str, object]) -> None:
        """Let it run with ``settings``, by field name."""
        assert self._process.stdin is not None
        environment = {f"{PREFIX}{name.upper()}": str(value) for name, value in settings.items()}
        self._process.stdin.write(json.dumps(environment).encode() + b"\n")

    @property
    def pid(self) -> int | None:
        return self._process.pid

    async def until_ended(self) -> PartEnded:
        status = await self._process.wait()
        ended = f"ended with status {status}" if status >= 0 else f"was ended by signal {-status}"
        said = _last_line(self._log)
        return PartEnded(
            f"{self.program.name} {ended}: {said}" if said else f"{self.program.name} {ended}, without a word",
            bad_setting=status == 2,
        )

    async def stop(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
        try:
            async with asyncio.timeout(self.patience):
                await self._process.wait()
        except TimeoutError:
            self.kill()
            await self._process.wait()

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()


class TaskPart(Part):
    """A program as a task of this process, on the memory broker of this process."""

    def __init__(self, program: Program, settings: BrokerSettings, serve: Any, connect: "Connect") -> None:
        super().__init__(program, settings)
        self._stop = asyncio.Event()
        self._task = asyncio.create_task(self._run(serve(settings, self._stop, connect)), name=program.name)

    @classmethod
    async def launch(cls, program: Program, settings: BrokerSettings, connect: "Connect") -> "TaskPart":
        """Start the task, once its modules are loaded."""
        app = await asyncio.to_thread(import_module, f"{program.module}.app")
        return cls(program, settings, app.serve, connect)

    async def _run(self, serving: Any) -> None:
        import structlog

        structlog.contextvars.bind_contextvars(service=self.program.name)
        await serving

    @property
    def pid(self) -> int | None:
        return None

    async def until_ended(self) -> PartEnded:
        await asyncio.wait([self._task])
        error = None if self._task.cancelled() else self._task.exception()
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        said = str(error or "") or type(error).__name__
        return PartEnded(f"{self.program.name} ended: {said}" if error else f"{self.program.name} ended")

    async def stop(self) -> None:
        self._stop.set()
        await asyncio.wait([self._task], timeout=self.patience)
        self.kill()
        await asyncio.wait([self._task])

    def kill(self) -> None:
        self._task.cancel()


class Parts:
    """All parts together."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self._parts = {part.program: part for part in parts}

    @property
    def pids(self) -> dict[str, int]:
        """The processes, by name."""
        return {
            program.name: part.pid for program, part in self._parts.items() if part.pid is not None
        }

    async def until_one_ends(self) -> NoReturn:
        """Wait for the first to end by itself.

        Raises:
            PartEnded
        """
        waiting = [asyncio.create_task(part.until_ended()) for part in self._parts.values()]
        try:
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waiting:
                task.cancel()
        raise done.pop().result()

    async def until_ready(self) -> None:
        """Wait until all answer that they are ready.

        Raises:
            NotReady: They are not within a minute.
        """
        timeout = aiohttp.ClientTimeout(total=5)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            await asyncio.gather(*(_until_ready(session, part) for part in self._parts.values()))

    async def stop(self) -> None:
        """Stop all in drain order."""
        for programs in _DRAIN_ORDER:
            await asyncio.gather(*(self._parts[program].stop() for program in programs if program in self._parts))

    def kill(self) -> None:
        """End all at once."""
        for part in self._parts.values():
            part.kill()


async def _until_ready(session: aiohttp.ClientSession, part: Part) -> None:
    problem = "does not answer"
    try:
        async with asyncio.timeout(_READY_SECONDS):
            while True:
                with contextlib.suppress(aiohttp.ClientError, TimeoutError, ValueError):
                    async with session.get(f"http://127.0.0.1:{part.admin_port}/health/ready") as answer:
                        if answer.status == 200:
                            return
                        problem = f"waits for its {' and '.join((await answer.json())['failing'])}"
                await asyncio.sleep(_READY_POLL_SECONDS)
    except TimeoutError:
        raise NotReady(f"{part.program.name} is not ready after {_READY_SECONDS:g} s: it {problem}") from None


def _last_line(log: Path) -> str:
    """What a program said last, for a person: a line of JSON becomes its event and its error."""
    with contextlib.suppress(OSError), log.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
        lines = file.read().decode("utf-8", "replace").strip().splitlines()
        if lines:
            return _plainly(lines[-1])[:300]
    return ""


def _plainly(line: str) -> str:
    try:
        record = json.loads(line)
        event, error = record["event"], record.get("exception") or record.get("error") or ""
    except (ValueError, TypeError, KeyError):
        return line.strip()
    return f"{event}: {str(error).strip().splitlines()[-1]}" if error else str(event)
