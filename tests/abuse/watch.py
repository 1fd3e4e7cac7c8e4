"""A watch on the programs while they are attacked: memory, ``/health/live``, whether they run, what they count."""

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Final
from urllib.parse import urlsplit

from tests.faults.resources import resident_mib
from towpath.testkit.processes import Process
from towpath.testkit.system import System

_EVERY: Final = 0.2
_LONGEST: Final = 10.0
_SAMPLE: Final = re.compile(r"^(\w+)(?:\{[^}]*\})? ([0-9.eE+-]+)$", re.MULTILINE)


class Watch:
    """Samples of all programs, from entry to exit.

    Attributes:
        memory: For each program ``(when, MiB)``.
        live: For each program ``(when, seconds)`` that ``/health/live`` took; ten when it did not answer.
    """

    def __init__(self, programs: Mapping[str, Process]) -> None:
        self.programs = programs
        self.memory: dict[str, list[tuple[float, float]]] = {name: [] for name in programs}
        self.live: dict[str, list[tuple[float, float]]] = {name: [] for name in programs}

    @classmethod
    @asynccontextmanager
    async def over(cls, system: System) -> AsyncIterator["Watch"]:
        """Watch the programs of a system."""
        gateways = {f"gateway {number}": gateway for number, gateway in enumerate(system.gateways, 1)}
        watch = cls({**gateways, "chat": system.chat, "orders": system.orders})
        watching = [asyncio.create_task(watch._weigh())]
        watching += [asyncio.create_task(watch._knock(name)) for name in watch.programs]
        try:
            yield watch
        finally:
            for task in watching:
                task.cancel()
            await asyncio.gather(*watching, return_exceptions=True)

    def most(self, name: str, since: float, until: float = float("inf")) -> float:
        """The most memory that a program held in this time; 0 for none that was seen."""
        return max((held for at, held in self.memory[name] if since <= at <= until), default=0.0)

    def now(self, name: str) -> float:
        """The memory that it held last."""
        return self.memory[name][-1][1] if self.memory[name] else 0.0

    def slowest(self, name: str, since: float, until: float = float("inf")) -> float:
        """The longest that ``/health/live`` took in this time."""
        return max((took for at, took in self.live[name] if since <= at <= until), default=0.0)

    def ended(self) -> dict[str, int]:
        """Programs that have ended, and their exit status."""
        return {name: process.status for name, process in self.programs.items() if process.status is not None}

    async def _weigh(self) -> None:
        while True:
            for name, process in self.programs.items():
                with contextlib.suppress(FileNotFoundError, ProcessLookupError, KeyError):
                    self.memory[name].append((time.monotonic(), resident_mib(process)))
            await asyncio.sleep(_EVERY)

    async def _knock(self, name: str) -> None:
        process = self.programs[name]
        while True:
            began = time.monotonic()
            answered = await fetch(process, "/health/live", timeout=_LONGEST)
            took = time.monotonic() - began
            if process.status is None:
                self.live[name].append((began, took if answered else _LONGEST))
            await asyncio.sleep(_EVERY)


async def fetch(process: Process, path: str, *, timeout: float = 10.0) -> str:
    """The text of an admin page; empty when it does not answer with 200 in time."""
    with contextlib.suppress(OSError, TimeoutError, ValueError, IndexError):
        async with asyncio.timeout(timeout):
            reader, writer = await asyncio.open_connection("127.0.0.1", urlsplit(process.admin_url).port)
            try:
                writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
                head, _, body = (await reader.read()).decode().partition("\r\n\r\n")
                return body if head.split()[1] == "200" else ""
            finally:
                writer.close()
    return ""


async def counts(process: Process) -> dict[str, float]:
    """Its metrics, summed over labels."""
    found: dict[str, float] = {}
    for name, value in _SAMPLE.findall(await fetch(process, "/metrics")):
        found[name] = found.get(name, 0.0) + float(value)
    return found
