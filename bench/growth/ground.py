"""The ground an axis is measured on: Towpath's programs, on an empty virtual host and database of their own.

Guarantee: everything that was started ends with the ground, and nothing of it stays on the broker.
"""

import asyncio
import shutil
import sys
import tempfile
import urllib.request
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Final

from bench.databases import Database, Databases
from bench.growth.points import Point
from bench.stage import Stage
from bench.systems.interface import Running
from bench.systems.towpath import SYSTEM
from towpath.testkit.eventually import eventually
from towpath.testkit.processes import Process, Processes, free_port
from towpath.testkit.system import url_of
from towpath.testkit.tokens import AUTH_SETTINGS
from towpath.tools.rabbitmq_node import RabbitNode

_START_SECONDS: Final = 60.0
#: Services of the benchmark's own.
_MODULES: Final = {"echo": "bench.echo", "slow": "bench.slow"}
#: Remaining work is done when every program used less than this share of a core for so many seconds.
_CALM_SHARE: Final = 0.1
_CALM_SECONDS: Final = 0.5
_CALM_PATIENCE: Final = 60.0


@dataclass(frozen=True)
class Scale:
    """How long to measure.

    Attributes:
        quick: Two sizes an axis, a moment each.
    """

    quick: bool = False

    @property
    def warm_up(self) -> float:
        """Seconds of load before the window."""
        return 0.3 if self.quick else 1.0

    @property
    def seconds(self) -> float:
        """Of the window."""
        return 1.0 if self.quick else 3.0


class Ground:
    """Programs that run. Made with :meth:`Field.ground`."""

    def __init__(
        self, amqp_url: str, broker_pid: int, folder: Path, processes: Processes, database: Database
    ) -> None:
        self.amqp_url = amqp_url
        self.gateways: list[Process] = []
        self.services: dict[str, list[Process]] = {}
        self._broker_pid = broker_pid
        self._folder = folder
        self._processes = processes
        self._database = database

    def launch_gateway(self, **settings: Any) -> None:
        """One more replica."""
        chosen = {"port": free_port(), **AUTH_SETTINGS, **settings}
        self.gateways.append(self._processes.launch("towpath-gateway", **(self._usual() | chosen)))

    def launch_service(self, name: str, role: str = "service", **settings: Any) -> None:
        """One more replica of ``echo``, ``slow`` or ``chat``; figures have all replicas together as ``role``."""
        chosen = {**self._usual(), "database_url": self._database.url or f"sqlite:///{self.file(name)}"}
        program = [sys.executable, "-m", _MODULES[name]] if name in _MODULES else [f"towpath-{name}"]
        process = self._processes.launch(*program, name=name, **(chosen | settings))
        self.services.setdefault(role, []).append(process)

    def file(self, name: str) -> Path:
        """Where a service keeps its SQLite database."""
        return self._folder / f"{name}.db"

    async def ready(self) -> None:
        """Wait until all that was launched serves."""
        programs = [*self.gateways, *chain.from_iterable(self.services.values())]
        await asyncio.gather(*(program.ready(timeout=_START_SECONDS) for program in programs))

    def stage(self) -> Stage:
        """The running programs, for a generator to work on."""
        pids = {"gateway": [gateway.pid for gateway in self.gateways]}
        pids |= {role: [one.pid for one in replicas] for role, replicas in self.services.items()}
        return Stage(
            SYSTEM,
            Running([url_of(gateway) for gateway in self.gateways], pids),
            others=lambda: {"database": self._database.pids, "broker": [self._broker_pid]},
            amqp_url=self.amqp_url,
            progress=lambda share: None,
        )

    async def calm(self) -> None:
        """Wait until every program is idle.

        Raises:
            AssertionError: That does not end.
        """
        stage = self.stage()

        async def is_calm() -> bool:
            before = stage.cpu()
            await asyncio.sleep(_CALM_SECONDS)
            after = stage.cpu()
            return all(after[role] - before[role] < _CALM_SHARE * _CALM_SECONDS for role in after)

        await eventually(is_calm, timeout=_CALM_PATIENCE)

    async def metrics(self) -> dict[str, float]:
        """The metrics of all gateways, added up; by name, with labels as Prometheus writes them."""
        added: dict[str, float] = {}
        for gateway in self.gateways:
            for name, value in (await metrics(gateway)).items():
                added[name] = added.get(name, 0.0) + value
        return added

    def _usual(self) -> dict[str, Any]:
        return {"amqp_url": self.amqp_url, "log_level": "warning"}


class Field:
    """Where axes are measured, and what comes of it.

    Args:
        progress: Called at every point.
    """

    def __init__(
        self, broker: RabbitNode, databases: Databases, scale: Scale, progress: Callable[[Point], None]
    ) -> None:
        self.scale = scale
        self.add = progress
        self._broker = broker
        self._databases = databases

    @asynccontextmanager
    async def ground(self, name: str, *, postgres: bool = False) -> AsyncIterator[Ground]:
        """Nothing runs there yet.

        Args:
            name: A word, unique within the run.
            postgres: Whether its service stores in PostgreSQL instead of SQLite.
        """
        vhost = f"growth-{name}"
        folder = Path(tempfile.mkdtemp(prefix="towpath-growth-"))
        broker_pid = int(self._broker.evaluate("os:getpid()").strip('"'))
        try:
            url = await self._broker.add_vhost(vhost)
            async with self._databases.fresh(with_postgres=postgres) as database:
                with Processes() as processes:
                    yield Ground(url, broker_pid, folder, processes, database)
        finally:
            await self._broker.delete_vhost(vhost)
            shutil.rmtree(folder, ignore_errors=True)


async def metrics(program: Process) -> dict[str, float]:
    """The metrics of one program; by name, with labels as Prometheus writes them."""
    return await asyncio.to_thread(_metrics, program)


def _metrics(program: Process) -> dict[str, float]:
    with urllib.request.urlopen(f"{program.admin_url}/metrics", timeout=10) as answer:  # noqa: S310  # our own
        lines = answer.read().decode().splitlines()
    pairs = (line.rsplit(" ", 1) for line in lines if line and not line.startswith("#"))
    return {name: float(value) for name, value in pairs}
