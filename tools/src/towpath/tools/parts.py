"""The programs that ``towpath dev`` runs, as processes or as tasks here: gateway, ingress, every installed service.

Guarantees: a part that ends by itself is noticed at once and says why; stopping follows the drain order (gateway
and ingress first, so that nothing new comes in) and is bounded in time; no process outlives this one, even when it is
killed (see :mod:`~towpath.tools.lifeline`).
"""

import asyncio
import contextlib
import json
import os
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Final, NoReturn

import aiohttp
import structlog

from towpath.gateway.settings import GatewaySettings
from towpath.ingress.settings import IngressSettings
from towpath.servicekit.installed import installed_services
from towpath.servicekit.runtime.exit_status import ExitStatus
from towpath.servicekit.runtime.settings import PREFIX, BadSetting, BrokerSettings
from towpath.tools.brokers import OpenBroker
from towpath.tools.trouble import Trouble

_READY_SECONDS: Final = 60.0
_READY_POLL_SECONDS: Final = 0.05
_GRACE_SECONDS: Final = 3.0
_TAIL_BYTES: Final = 64 * 1024
_LINE_LETTERS: Final = 800  # with a path and a remedy


@dataclass(frozen=True, slots=True)
class Program:
    """One of Towpath's programs.

    Attributes:
        name: The name for messages and logs.
        module: Where its ``app`` and ``__main__`` are.
        settings: The model of its settings.
    """

    name: str
    module: str
    settings: type[BrokerSettings]


GATEWAY: Final = Program("gateway", "towpath.gateway", GatewaySettings)
INGRESS: Final = Program("ingress", "towpath.ingress", IngressSettings)
#: The programs that let requests in.
ENTRANCES: Final = (GATEWAY, INGRESS)


def _cannot_start(status: int) -> bool:
    """Whether a program ended because it cannot start, and a restart would not help."""
    return status > 0 and status in set(ExitStatus) and not ExitStatus(status).restart_helps


def programs() -> list[Program]:
    """The gateway, the ingress, and the services by name; loads the modules of their settings.

    Raises:
        BadEntryPoint: A service is not installed as it should be.
    """
    services = [Program(one.name, one.package, one.settings()) for one in installed_services()]
    return [GATEWAY, INGRESS, *services]


#: ``serve`` of a program's ``app``; each takes the settings that its model makes.
Serve = Callable[[Any, asyncio.Event, Any], Coroutine[Any, Any, None]]


class PartEnded(Trouble):
    """A part ended by itself.

    Args:
        bad_setting: Whether it ended because of a setting.
    """

    def __init__(self, message: str, *, bad_setting: bool = False) -> None:
        super().__init__(message)
        self.status = 2 if bad_setting else 1


class NotReady(Trouble):
    """The parts run, but are not ready in time."""


class Part(ABC):
    """A program that runs, once it has begun.

    Args:
        settings: All it needs but the broker.
    """

    def __init__(self, program: Program, settings: BrokerSettings) -> None:
        self.program = program
        self.settings = settings
        self.patience = settings.drain_timeout + _GRACE_SECONDS

    @property
    def pid(self) -> int | None:
        """Its process; ``None`` when that is this one."""
        return None

    @abstractmethod
    async def begin(self, broker: OpenBroker) -> None:
        """Let it run on ``broker``; the next may begin when this returns."""

    @property
    def admin_url(self) -> str:
        """Where its health and metrics are."""
        return f"http://127.0.0.1:{self.settings.admin_port}"

    async def until_ready(self) -> None:
        """Wait until it answers that it is ready.

        Raises:
            NotReady: It is not within a minute.
        """
        url, problem = f"{self.admin_url}/health/ready", "does not answer"
        try:
            async with (
                asyncio.timeout(_READY_SECONDS),
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session,
            ):
                while True:
                    with contextlib.suppress(aiohttp.ClientError, TimeoutError, ValueError):
                        async with session.get(url) as answer:
                            if answer.status == 200:
                                return
                            problem = f"waits for its {' and '.join((await answer.json())['failing'])}"
                    await asyncio.sleep(_READY_POLL_SECONDS)
        except TimeoutError:
            raise NotReady(
                f"{self.program.name} is not ready after {_READY_SECONDS:g} s: it {problem}"
            ) from None

    @abstractmethod
    async def until_ended(self) -> PartEnded:
        """Wait for its end, and report it as unexpected."""

    @abstractmethod
    async def stop(self) -> None:
        """Let it drain, and end it when it takes longer than it may. Harmless when it has ended."""

    @abstractmethod
    def kill(self) -> None:
        """End it at once."""


class ProcessPart(Part):
    """A program as a process in a session of its own, so that Ctrl-C in the terminal does not reach it."""

    def __init__(
        self, program: Program, settings: BrokerSettings, log: Path, process: asyncio.subprocess.Process
    ) -> None:
        super().__init__(program, settings)
        self._log = log
        self._process = process

    @classmethod
    async def launch(
        cls, program: Program, settings: BrokerSettings, log: Path, command: Sequence[str] = ()
    ) -> "ProcessPart":
        """Start the process; it loads its modules and then waits to begin.

        Args:
            command: The module to run and its arguments; by default the program's, by :mod:`towpath.tools.lifeline`.
        """
        with log.open("wb") as output:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", *(command or ("towpath.tools.lifeline", program.module))),
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        return cls(program, settings, log, process)

    @property
    def pid(self) -> int | None:
        return self._process.pid

    async def begin(self, broker: OpenBroker) -> None:
        told = {name: getattr(self.settings, name) for name in self.settings.model_fields_set}
        told["amqp_url"] = broker.url
        environment = {PREFIX + name.upper(): str(value) for name, value in told.items() if value is not None}
        assert self._process.stdin is not None
        with contextlib.suppress(OSError, RuntimeError):  # it has ended already; until_ended reports it
            self._process.stdin.write(json.dumps(environment).encode() + b"\n")

    async def until_ended(self) -> PartEnded:
        status = await self._process.wait()
        how = f"ended with status {status}" if status >= 0 else f"was ended by signal {-status}"
        # A program that cannot start puts its own name in front.
        said = _last_line(self._log).removeprefix(f"towpath-{self.program.name}: ") or "it said nothing"
        return PartEnded(f"{self.program.name} {how}: {said}", bad_setting=_cannot_start(status))

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
    """A program as a task of this process, which the broker lives in as well."""

    def __init__(self, program: Program, settings: BrokerSettings, serve: Serve) -> None:
        super().__init__(program, settings)
        self._serve = serve
        self._stop = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @classmethod
    async def launch(cls, program: Program, settings: BrokerSettings, log: Path) -> "TaskPart":
        """Load its modules; it logs to the log of this process."""
        app = await asyncio.to_thread(import_module, f"{program.module}.app")
        return cls(program, settings, app.serve)

    async def begin(self, broker: OpenBroker) -> None:
        self._task = asyncio.create_task(self._run(broker), name=self.program.name)
        # Alembic's context belongs to the process: two services cannot migrate at the same time.
        ready = asyncio.create_task(self.until_ready())
        try:
            await asyncio.wait([self._task, ready], return_when=asyncio.FIRST_COMPLETED)
            if ready.done():
                ready.result()
        finally:
            ready.cancel()

    async def until_ended(self) -> PartEnded:
        assert self._task is not None
        await asyncio.wait([self._task])
        error = None if self._task.cancelled() else self._task.exception()
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        said = "it gave no reason" if error is None else str(error) or repr(error)
        return PartEnded(f"{self.program.name} ended: {said}", bad_setting=isinstance(error, BadSetting))

    async def stop(self) -> None:
        if self._task is None:
            return
        self._stop.set()
        await asyncio.wait([self._task], timeout=self.patience)
        self.kill()
        await asyncio.wait([self._task])

    def kill(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _run(self, broker: OpenBroker) -> None:
        structlog.contextvars.bind_contextvars(service=self.program.name)
        await self._serve(self.settings, self._stop, broker.connect)


class Parts:
    """All parts together."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self._parts = {part.program: part for part in parts}

    @property
    def pids(self) -> dict[str, int]:
        """The processes, by name."""
        return {program.name: part.pid for program, part in self._parts.items() if part.pid is not None}

    @property
    def admin_urls(self) -> dict[str, str]:
        """Where their health and metrics are, by name."""
        return {program.name: part.admin_url for program, part in self._parts.items()}

    async def begin(self, broker: OpenBroker) -> None:
        """Let all run."""
        for part in self._parts.values():
            await part.begin(broker)

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
            NotReady: One is not within a minute.
        """
        await asyncio.gather(*(part.until_ready() for part in self._parts.values()))

    async def stop(self) -> None:
        """Stop all in drain order: the entrances first, so that no request comes in while the services drain."""
        for is_entrance in (True, False):
            await asyncio.gather(
                *(
                    part.stop()
                    for program, part in self._parts.items()
                    if (program in ENTRANCES) is is_entrance
                )
            )

    def kill(self) -> None:
        """End all at once."""
        for part in self._parts.values():
            part.kill()


def _last_line(log: Path) -> str:
    """The last output line of a program, readable: a line of JSON becomes its event and its error."""
    with contextlib.suppress(OSError), log.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
        lines = file.read().decode("utf-8", "replace").strip().splitlines()
        if lines:
            return _plainly(lines[-1])[:_LINE_LETTERS]
    return ""


def _plainly(line: str) -> str:
    try:
        record = json.loads(line)
        event, error = record["event"], record.get("exception") or record.get("error") or ""
    except (ValueError, TypeError, KeyError):
        return line.strip()
    return f"{event}: {str(error).strip().splitlines()[-1]}" if error else str(event)
