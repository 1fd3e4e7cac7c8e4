"""Resources of programs: memory, files, threads and asyncio tasks; the same kind of program counted together."""

import asyncio
import contextlib
import re
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from towpath.testkit.processes import Process
from towpath.testkit.system import System

_TASKS = re.compile(r"^asyncio_tasks(?:\{[^}]*\})? ([0-9.]+)$", re.MULTILINE)
#: Samples, half a second apart: what is in hand comes and goes, what is leaked stays.
_SAMPLES = 10


@dataclass(frozen=True, slots=True)
class Held:
    """The resources of some processes together: the least of several samples, so that only lasting ones count."""

    mebibytes: float
    files: int
    threads: int
    tasks: int

    @classmethod
    async def by(cls, processes: Sequence[Process]) -> Self:
        """The current resources of ``processes``."""
        samples = []
        for _ in range(_SAMPLES):
            samples.append([await asyncio.to_thread(_held_by, process) for process in processes])
            await asyncio.sleep(0.5)
        least = (
            min(column)
            for column in zip(*(map(sum, zip(*rows, strict=True)) for rows in samples), strict=True)
        )
        memory, files, threads, tasks = least
        return cls(memory, int(files), int(threads), int(tasks))

    def __str__(self) -> str:
        return f"{self.mebibytes:.0f} MiB, {self.files} files, {self.threads} threads, {self.tasks} tasks"


async def held(system: System) -> Mapping[str, Held]:
    """The resources of each kind of program; users may have moved between gateways, so these count together."""
    kinds = {"gateways": system.gateways, "chat": [system.chat], "orders": [system.orders]}
    counted = await asyncio.gather(*map(Held.by, kinds.values()))
    return dict(zip(kinds, counted, strict=True))


def resident_mib(process: Process) -> float:
    """Memory that a process holds."""
    return int(_status(process)["VmRSS"]) / 1024


def peak_mib(process: Process) -> float:
    """The most memory that a process has held."""
    return int(_status(process)["VmHWM"]) / 1024


def open_sockets(process: Process) -> int:
    """How many sockets it has."""
    count = 0
    for entry in Path(f"/proc/{process.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            count += str(entry.readlink()).startswith("socket:")
    return count


def _held_by(process: Process) -> tuple[float, int, int, int]:
    found = _status(process)
    files = len(list(Path(f"/proc/{process.pid}/fd").iterdir()))
    with urllib.request.urlopen(f"{process.admin_url}/metrics", timeout=10) as answer:
        tasks = _TASKS.search(answer.read().decode())
    assert tasks is not None, f"{process.name} does not say how many tasks it has"
    return int(found["VmRSS"]) / 1024, files, int(found["Threads"]), int(float(tasks[1]))


def _status(process: Process) -> Mapping[str, str]:
    status = Path(f"/proc/{process.pid}/status").read_text()
    return dict(re.findall(r"^(VmRSS|VmHWM|Threads):\s+(\d+)", status, re.MULTILINE))
