"""The stage of a measurement: a running system, and the generator that works on it."""

import asyncio
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bench.histogram import Histogram
from bench.systems.interface import Running, System, cpu_seconds

#: The generator's line, and how long it may say nothing at all.
_LINE_LIMIT: Final = 2**26
_SILENCE_SECONDS: Final = 120.0


class GeneratorFailed(Exception):
    """There is no result; the message says why."""


@dataclass(frozen=True)
class Usage:
    """The CPU of each role so far, in seconds.

    Attributes:
        roles: By role.
        ours: By all that belongs to the measurement.
        machine: By everything; what a hypervisor took away counts as used.
        at: When.
    """

    roles: dict[str, float]
    ours: float
    machine: float
    at: float

    @classmethod
    def now(cls, roles: dict[str, float], *others: int) -> "Usage":
        """At this moment; ``others`` are processes that have no role."""
        ours = sum(roles.values()) + sum(cpu_seconds(pid) for pid in (*others, os.getpid()))
        user, nice, system, _, _, interrupt, soft, steal, *_ = (
            int(ticks) for ticks in Path("/proc/stat").read_text().splitlines()[0].split()[1:]
        )
        busy = user + nice + system + interrupt + soft + steal
        return cls(roles, ours, busy / os.sysconf("SC_CLK_TCK"), time.monotonic())

    def since(self, before: "Usage") -> dict[str, Any]:
        """The CPU used between the two."""
        others = (self.machine - before.machine) - (self.ours - before.ours)
        offered = (self.at - before.at) * (os.cpu_count() or 1)
        return {
            "cpu": {role: used - before.roles[role] for role, used in self.roles.items()},
            "elsewhere": max(others / offered, 0.0),
        }


@dataclass(frozen=True)
class Stage:
    """A system under measurement.

    Attributes:
        others: Gives role → processes of what does not belong to the system, ``broker`` and ``database``, as of now.
        amqp_url: The virtual host of the system.
        progress: Called with the finished share of a script (0–1).
    """

    system: System
    running: Running
    others: Callable[[], dict[str, list[int]]]
    amqp_url: str
    progress: Callable[[float], None]

    @property
    def pids(self) -> dict[str, list[int]]:
        """Role → processes, whosever they are."""
        return self.running.pids | self.others()

    def cpu(self) -> dict[str, float]:
        """Role → seconds of CPU used so far."""
        return {role: sum(cpu_seconds(pid) for pid in pids) for role, pids in self.pids.items() if pids}

    async def generate(
        self,
        script: str,
        *,
        at: Mapping[str, Callable[[dict[str, Any]], Awaitable[None]]] | None = None,
        **parameters: Any,
    ) -> dict[str, Any]:
        """Run a script of the generator on this system, and return what came out.

        Between its marks ``begin`` and ``end`` the CPU is measured; the result has ``cpu`` (role → seconds) and
        ``elsewhere``, the share of the machine that other programs took.

        Args:
            script: Its name.
            at: Mark → what to do there; the script waits for it.
            parameters: Of the script, besides ``urls`` and ``language``.

        Raises:
            GeneratorFailed: It has no result.
        """
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "bench.generator",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=_LINE_LIMIT,
        )
        try:
            parameters = {"urls": self.running.urls, "language": self.system.dialect, **parameters}
            return await self._converse(process, {"script": script, **parameters}, at or {})
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()

    async def _converse(
        self,
        process: asyncio.subprocess.Process,
        wanted: dict[str, Any],
        at: Mapping[str, Callable[[dict[str, Any]], Awaitable[None]]],
    ) -> dict[str, Any]:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        usage: dict[str, Usage] = {}
        process.stdin.write(json.dumps(wanted).encode() + b"\n")
        while line := await asyncio.wait_for(process.stdout.readline(), _SILENCE_SECONDS):
            said = json.loads(line)
            if "progress" in said:
                self.progress(said["progress"])
            elif "mark" in said:
                name = said["mark"]
                usage[name] = Usage.now(self.cpu(), process.pid)
                if name in at:
                    await at[name](said)
                process.stdin.write(b"go\n")
            elif "failure" in said:
                raise GeneratorFailed(said["failure"])
            else:
                result: dict[str, Any] = said["result"]
                if "begin" in usage and "end" in usage:
                    result |= usage["end"].since(usage["begin"])
                return result
        said_last = (await process.stderr.read()).decode(errors="replace").strip().splitlines()
        raise GeneratorFailed(said_last[-1] if said_last else "the generator ended without a word")


#: Fields of a generator's result that a measurement takes unchanged.
_COUNTED: Final = ("lost", "duplicates", "disorder", "refused", "cut_off", "generator_share", "elsewhere")


def counted(result: Mapping[str, Any]) -> dict[str, Any]:
    """The faults, and the trustworthiness of the result: fields of a :class:`~bench.measurement.Measurement`."""
    return {name: result[name] for name in _COUNTED if name in result}


def measured(result: Mapping[str, Any]) -> dict[str, Any]:
    """All fields of a :class:`~bench.measurement.Measurement` that a script with a window fills."""
    used = {**result["cpu"], "generator": result["generator_share"] * result["seconds"]}
    return counted(result) | {
        "rate": result["count"] / result["seconds"],
        "times": Histogram.from_json(result["times"]),
        "cpu": {role: seconds * 1e6 / result["count"] for role, seconds in used.items() if result["count"]},
    }
