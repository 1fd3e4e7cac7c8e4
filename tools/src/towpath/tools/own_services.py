"""The services of ``towpath dev --with``: processes that start again when their files change.

Guarantees: a service that cannot start, or ends by itself, is one line, and is tried again at the next change of its
files; the other parts of ``towpath dev`` go on. A change that is still being written (an editor, a checkout) starts
it once, after the last file. Its process ends as those of other parts do.
"""

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from towpath.protocol.names import shown
from towpath.servicekit.runtime.settings import ServiceSettings
from towpath.tools.brokers import OpenBroker
from towpath.tools.own_target import FILES_MAX, Snapshot, Target
from towpath.tools.parts import NotReady, ProcessPart, Program

_LOOK_SECONDS: Final = 0.4
_PROGRAM: Final = "towpath.tools.own_program"


class OwnService:
    """One service, over all its processes.

    Args:
        settings: All it needs but the broker.
        log: The output of its newest process.
        say: Shows one line to the person at the terminal.
    """

    def __init__(
        self, target: Target, settings: ServiceSettings, log: Path, say: Callable[[str], None]
    ) -> None:
        self.target = target
        self._program = Program(target.name, target.module, type(settings))
        self._settings = settings
        self._log = log
        self._say = say
        self._settled = asyncio.Event()
        self._seen: Snapshot = {}
        self._part: ProcessPart | None = None

    @property
    def pid(self) -> int | None:
        """The newest process."""
        return None if self._part is None else self._part.pid

    @property
    def admin_url(self) -> str:
        """Where its health and metrics are."""
        return f"http://127.0.0.1:{self._settings.admin_port}"

    async def launch(self) -> None:
        """Start a process; it loads the service and then waits to begin."""
        # Before the process reads them: a change in between starts it once more.
        self._seen = await asyncio.to_thread(self.target.snapshot)
        command = [_PROGRAM, *self.target.arguments]
        self._part = await ProcessPart.launch(self._program, self._settings, self._log, command)

    async def keep(self, broker: OpenBroker, started: Callable[[], None]) -> None:
        """Let it run on ``broker``, and start it again whenever its files change; does not end by itself.

        Args:
            started: Called when it has a new process.
        """
        if len(self._seen) >= FILES_MAX:
            self._say(f"{self.target.name}: only the first {FILES_MAX} of its Python files are watched")
        while True:
            assert self._part is not None
            await self._part.begin(broker)
            await self._until_changed(self._part)
            await self._part.stop()
            await self.launch()
            started()

    async def until_settled(self) -> None:
        """Wait until its first process is ready, or has failed."""
        await self._settled.wait()

    async def stop(self) -> None:
        """Let its process drain, and end it when that takes too long."""
        if self._part is not None:
            await self._part.stop()

    def kill(self) -> None:
        """End its process at once."""
        if self._part is not None:
            self._part.kill()

    async def _until_changed(self, part: ProcessPart) -> None:
        changing = asyncio.create_task(self._changed(), name=f"{self.target.name}: files")
        living = asyncio.create_task(self._live(part), name=f"{self.target.name}: process")
        try:
            changed = await changing
            self._say(f"{self.target.name}: {changed} changed; starting it again")
        finally:
            for task in (changing, living):
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task

    async def _live(self, part: ProcessPart) -> None:
        """Report how the process does, until its end."""
        ready = asyncio.create_task(part.until_ready())
        ended = asyncio.create_task(part.until_ended())
        try:
            await asyncio.wait([ready, ended], return_when=asyncio.FIRST_COMPLETED)
            if ready.done():
                try:
                    ready.result()
                    if self._settled.is_set():
                        self._say(f"{self.target.name}: ready")
                except NotReady as late:
                    self._say(f"{late}; see {self._log}")
                self._settled.set()
            self._say(f"{shown(str(await ended))}; it is tried again when its files change")
            self._settled.set()
        finally:
            for task in (ready, ended):
                task.cancel()

    async def _changed(self) -> str:
        """Wait for a change that is complete; the name of the first changed file."""
        last = self._seen
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            now = await asyncio.to_thread(self.target.snapshot)
            if now != self._seen and now == last:
                changed = sorted(dict(now.items() ^ self._seen.items()))
                return changed[0].name + (f" and {len(changed) - 1} more" if len(changed) > 1 else "")
            last = now


class OwnServices:
    """All services of ``--with`` together."""

    def __init__(self, services: Sequence[OwnService]) -> None:
        self._services = services
        self._keeping: list[asyncio.Task[None]] = []

    @property
    def pids(self) -> dict[str, int]:
        """The newest processes, by name."""
        return {one.target.name: one.pid for one in self._services if one.pid is not None}

    @property
    def admin_urls(self) -> Mapping[str, str]:
        """Where their health and metrics are, by name."""
        return {one.target.name: one.admin_url for one in self._services}

    @property
    def targets(self) -> Sequence[Target]:
        return [one.target for one in self._services]

    async def launch(self) -> None:
        """Start a process of each."""
        for one in self._services:
            await one.launch()

    def begin(self, broker: OpenBroker, started: Callable[[], None]) -> None:
        """Let all run, each until :meth:`stop`."""
        self._keeping = [
            asyncio.create_task(one.keep(broker, started), name=f"{one.target.name}: keep")
            for one in self._services
        ]

    async def until_settled(self) -> None:
        """Wait until each is ready or has failed."""
        await asyncio.gather(*(one.until_settled() for one in self._services))

    async def until_one_fails(self) -> None:
        """Wait for an unforeseen error of the keeping itself, which is raised; does not return otherwise."""
        if not self._keeping:
            await asyncio.Event().wait()
        done, _ = await asyncio.wait(self._keeping, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()

    async def stop(self) -> None:
        """Stop all."""
        for task in self._keeping:
            task.cancel()
        if self._keeping:
            await asyncio.wait(self._keeping)
        await asyncio.gather(*(one.stop() for one in self._services))

    def kill(self) -> None:
        """End all at once."""
        for one in self._services:
            one.kill()
