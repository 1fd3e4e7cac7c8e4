"""`towpath rolling` restarts all replicas of each part under load, with the commands of the page."""

import asyncio
import json
import os
import shlex
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest

from towpath.testkit.eventually import eventually
from towpath.testkit.processes import Process, Processes, free_port
from towpath.testkit.rabbitmq import Rabbit
from towpath.testkit.system import System

from ..snippets import ROOT, blocks_of, section
from .onlookers import Onlookers
from .trial import Trial

_ONLOOKERS: Final = 20
_PATIENCE: Final = 120.0
#: Supervisors, as far as a rolling restart needs them: they stop a program, which is then started again.
_SUPERVISORS: Final = {
    "docker": 'kill "$(cat "$REPLICAS/$2")"',
    "systemctl": 'kill "$(cat "$REPLICAS/$2")"',
    "ssh": 'shift; exec "$@"',
}


@dataclass
class Supervisor:
    """Starts each replica again when it has ended.

    Attributes:
        folder: Has a file for each replica, with its process id.
        running: The process of each replica.
        statuses: Of those that ended.
    """

    folder: Path
    running: dict[str, Process] = field(default_factory=dict)
    statuses: list[tuple[str, int | None]] = field(default_factory=list)

    @classmethod
    @asynccontextmanager
    async def of(
        cls, folder: Path, replicas: Mapping[str, Callable[[], Process]]
    ) -> AsyncIterator["Supervisor"]:
        """All of them run and are ready on entry."""
        supervisor = cls(folder)
        for name, launch in replicas.items():
            supervisor._start(name, launch)
        await asyncio.gather(*(one.ready(timeout=_PATIENCE) for one in supervisor.running.values()))
        async with asyncio.TaskGroup() as tasks:
            keeping = [tasks.create_task(supervisor._keep(name, launch)) for name, launch in replicas.items()]
            yield supervisor
            for task in keeping:
                task.cancel()

    def _start(self, name: str, launch: Callable[[], Process]) -> None:
        self.running[name] = launch()
        self.folder.mkdir(exist_ok=True)
        (self.folder / name).write_text(str(self.running[name].pid))

    async def _keep(self, name: str, launch: Callable[[], Process]) -> None:
        while True:
            await eventually(lambda: self.running[name].status is not None, timeout=3600, every=0.1)
            self.statuses.append((name, self.running[name].status))
            self._start(name, launch)


def install_supervisors(folder: Path) -> None:
    folder.mkdir()
    for name, does in _SUPERVISORS.items():
        (folder / name).write_text(f"#!/bin/sh\n{does}\n")
        (folder / name).chmod(0o755)


def commands() -> list[list[str]]:
    """Those of the page."""
    page = (ROOT / "docs/operations/commands.md").read_text()
    [block] = blocks_of(section(page, "Rolling"), "sh")
    return [shlex.split(line, comments=True) for line in block.text.splitlines()]


@pytest.mark.faults_short
@pytest.mark.timeout(400)
async def test_all_replicas_are_restarted_one_after_the_other_and_nothing_is_lost(
    rabbitmq: Rabbit,
    processes: Processes,
    rates: Mapping[str, Any],
    postgres_url: str,
    tmp_path: Path,
    trial: Trial,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    system = System(rabbitmq, processes, tmp_path, **rates)
    install_supervisors(tmp_path / "bin")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("REPLICAS", str(tmp_path / "replicas"))

    def gateway(port: int) -> Callable[[], Process]:
        return lambda: system.launch_gateway(port=port)

    def service(name: str) -> Callable[[], Process]:
        return lambda: system.launch_service(name, database_url=postgres_url.replace("+asyncpg", ""))

    ports = [free_port(), free_port()]
    urls = [f"ws://127.0.0.1:{port}/ws" for port in ports]
    replicas = {f"gateway-{port}": gateway(port) for port in ports}
    replicas |= {f"towpath-orders-{number}": service("orders") for number in (1, 2)}
    replicas |= {f"towpath-chat@{number}": service("chat") for number in (1, 2)}

    async def roll(command: list[str]) -> None:
        program, *arguments = command
        running = processes.launch(
            *(program, *arguments, "--json", "--pause", "0.5"), name=command[2], amqp_url=rabbitmq.url
        )
        assert await running.ended(timeout=_PATIENCE) == 0, running.output
        *steps, last = [json.loads(line) for line in running.output.splitlines()]
        assert last == {"part": command[2], "restarted": 2, "not_restarted": []}
        assert [(step["step"], len(step["ended"]), len(step["started"])) for step in steps] == [
            (1, 1, 1),
            (2, 1, 1),
        ]

    async with Supervisor.of(tmp_path / "replicas", replicas) as supervisor:
        system.chat = supervisor.running["towpath-chat@1"]
        system.orders = supervisor.running["towpath-orders-1"]
        first = dict(supervisor.running)
        async with (
            Onlookers.watch(urls, _ONLOOKERS) as onlookers,
            trial.of("rolling restart of 2 gateways, 2 chat and 2 orders", system, urls=urls) as load,
        ):
            # Each part by itself is restarted one replica at a time.
            await asyncio.gather(*(roll(command) for command in commands()))
            await load.flows(100)
            await eventually(lambda: len(onlookers.at) == _ONLOOKERS)
    assert sorted(supervisor.statuses) == [(name, 0) for name in sorted(replicas)]
    assert all(supervisor.running[name].pid != process.pid for name, process in first.items())
    # Each is closed by the first gateway or by the second, and some by both.
    assert len(onlookers.endings) >= _ONLOOKERS
    assert set(onlookers.endings) == {(1012, True)}
