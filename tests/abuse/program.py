"""A program of this suite in a process of its own: it says ``ready``, waits for a line, and prints one of JSON."""

import asyncio
import contextlib
import json
import os
import shutil
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Final, Self

ROOT: Final = Path(__file__).parent.parent.parent
_LONGEST_LINE: Final = 2**28


def run_as_if_elsewhere(*, hostile: bool) -> None:
    """Share the machine as little as a client on a machine of its own would.

    A hostile one gets the processor only while nothing else wants it; an honest one gets it at once, so that what it
    measures is not its own wait (where this user may raise priorities).
    https://man7.org/linux/man-pages/man7/sched.7.html
    """
    if hostile:
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    else:
        with contextlib.suppress(PermissionError):
            os.nice(-10)


@contextlib.contextmanager
def attacking(*, on_one_core: bool) -> Iterator[None]:
    """Within it this process is the hostile one, where it may take its priority back.

    Args:
        on_one_core: It keeps to the core of the attacked gateway meanwhile.
    """
    if os.geteuid() != 0:
        yield
        return
    cores = os.sched_getaffinity(0)
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    if on_one_core:
        os.sched_setaffinity(0, {min(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def keep_to_a_core(pid: int) -> None:
    """Let a program use one core only: an attacked gateway, which can use no more, and its attackers.

    Work that an attacked gateway has beyond its core's time is a wait of its own users. Without this its threads
    would move to where the other gateway, the services and RabbitMQ run, which are on other machines in production.
    An attacker would move there too: with ``SCHED_IDLE`` it waits for what runs on its own core, but the scheduler
    leaves it a core while others queue for the other one.
    """
    core = min(os.sched_getaffinity(0))
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(ProcessLookupError):
            os.sched_setaffinity(int(thread.name), {core})


class Program:
    """One of ``tests.abuse.*``; it ends with the test."""

    def __init__(self, process: asyncio.subprocess.Process, name: str) -> None:
        self._process = process
        self._name = name

    @classmethod
    @contextlib.asynccontextmanager
    async def start(cls, module: str, plan: dict[str, Any], *, timeout: float = 60.0) -> AsyncIterator[Self]:
        """A program that is ready."""
        setpriv = shutil.which("setpriv")
        process = await asyncio.create_subprocess_exec(
            *([setpriv, "--pdeathsig", "KILL"] if setpriv else []),
            sys.executable,
            "-m",
            f"tests.abuse.{module}",
            json.dumps(plan),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            cwd=ROOT,
            env={name: value for name, value in os.environ.items() if not name.startswith("TOWPATH_")},
            limit=_LONGEST_LINE,
        )
        program = cls(process, module)
        try:
            assert await program._line(timeout) == b"ready\n", f"{module} did not start"
            yield program
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def go(self) -> None:
        """Let it begin, or stop: whatever it waits for."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"\n")

    async def result(self, *, timeout: float = 60.0) -> dict[str, Any]:
        """The report at its end.

        Raises:
            AssertionError: It ended without.
        """
        line = await self._line(timeout)
        assert line, f"{self._name} ended with status {self._process.returncode} and without a result"
        found: dict[str, Any] = json.loads(line)
        return found

    async def _line(self, timeout: float) -> bytes:
        assert self._process.stdout is not None
        async with asyncio.timeout(timeout):
            return await self._process.stdout.readline()
