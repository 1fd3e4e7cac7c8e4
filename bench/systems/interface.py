"""A system under measurement: its start, its addresses, its works.

Each module of this folder has one constant, ``SYSTEM``. It is started afresh for every measurement, on an empty
virtual host, and gone afterwards.
"""

import asyncio
import os
import resource
import socket
import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from towpath.testkit.eventually import eventually
from towpath.testkit.processes import Process, Processes
from towpath.tools.rabbitmq_node import RabbitNode

#: A program of ours prints this, alone on a line, when it serves. :func:`serving` waits for it.
SERVING: Final = "serving"
_START_SECONDS: Final = 60.0


@dataclass(frozen=True)
class Setup:
    """The environment of a system.

    Attributes:
        broker: The node that all share; for what an AMQP URL cannot say, such as plugins.
        amqp_url: An empty virtual host on it.
        vhost: The name of that virtual host.
        folder: Empty, for files.
        processes: Starts programs; they end with the measurement.
        gateways: How many gateways.
        workload: The name of the work (``request``, ``room`` …); a system may start only what it takes.
        database: SQLAlchemy URL of an empty database for the work's service; ``None`` is a file in ``folder``.
    """

    broker: RabbitNode
    amqp_url: str
    vhost: str
    folder: Path
    processes: Processes
    gateways: int = 1
    workload: str = "request"
    database: str | None = None


@dataclass(frozen=True)
class Running:
    """A system that runs.

    Attributes:
        urls: One WebSocket URL a gateway.
        pids: Role (``gateway``, ``service``) → process ids; the broker's is not among them.
    """

    urls: list[str]
    pids: dict[str, list[int]]


@dataclass(frozen=True)
class System:
    """A system that can be started.

    Attributes:
        name: The word on the command line.
        title: Its name on the page.
        dialect: The name of the dialect (:mod:`bench.dialects`) that its clients speak.
        works: The works it can do.
        differences: Differences from the others ("publishes are not confirmed" …); printed beside the figures.
        start: Starts it; all programs are ready on entry.
    """

    name: str
    title: str
    dialect: str
    works: frozenset[str]
    start: Callable[[Setup], AbstractAsyncContextManager[Running]]
    differences: list[str] = field(default_factory=list)


def launch_module(setup: Setup, module: str, name: str, **settings: object) -> Process:
    """Start ``python -m module`` with ``settings`` as ``TOWPATH_*`` variables."""
    return setup.processes.launch(sys.executable, "-m", module, name=name, **settings)


async def serving(*programs: Process) -> None:
    """Wait until each has printed :data:`SERVING`.

    Raises:
        AssertionError: One ended, or is not there in time; with what it printed.
    """
    await asyncio.gather(*(_serving(program) for program in programs))


async def _serving(program: Process) -> None:
    def there() -> bool:
        assert SERVING in program.output.splitlines(), f"{program.name} does not serve:\n{program.output}"
        return True

    def there_or_ended() -> bool:
        return program.status is not None or there()

    await eventually(there_or_ended, timeout=_START_SECONDS)
    there()


def raise_file_limit() -> None:
    """Let this process and those it starts have as many sockets as the machine allows."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def cpu_seconds(pid: int) -> float:
    """CPU time a process has used so far, all of its threads, in user and kernel."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def listens(port: int) -> bool:
    """Whether a server accepts connections on ``port`` of 127.0.0.1."""
    with socket.socket() as trial:
        trial.settimeout(1.0)
        return trial.connect_ex(("127.0.0.1", port)) == 0
