"""The abuse suite: ``make abuse`` runs all of it, plain ``pytest`` the short part (marked ``abuse_short``)."""

import asyncio
import datetime
import os
import platform
import random
import secrets
from collections.abc import AsyncIterator, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from tests.faults.conftest import StartSystem, start_system
from tests.rights.conftest import installation
from towpath.testkit.processes import Processes
from towpath.testkit.rabbitmq import Rabbit
from towpath.testkit.system import System
from towpath.tools.rabbitmq_node import RabbitControl

from .table import Run, Table
from .trial import Trial

__all__ = ["installation", "start_system"]

HERE = Path(__file__).parent
_PAGE = Path("docs/abuse.md")  # where `make abuse` writes it
_TABLE = pytest.StashKey[Table]()
_SEED = pytest.StashKey[str]()
_FACTS = pytest.StashKey[str]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("abuse")
    group.addoption("--abuse", choices=["short", "all"], default="short", help="how much of the abuse suite")
    group.addoption("--abuse-seed", help="repeat what an earlier run left to chance")
    group.addoption("--abuse-page", type=Path, help="write the table of all attacks there")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "abuse_short: the part of the abuse suite that every test run includes"
    )
    config.stash[_TABLE] = Table()
    config.stash[_SEED] = (
        config.getoption("abuse_seed", default=None) or f"{random.SystemRandom().getrandbits(32):08x}"
    )
    config.stash[_FACTS] = ""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    here = f"{HERE}/"
    ours = [item for item in items if str(item.path).startswith(here)]
    for item in ours:
        if item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(240))
    everything = config.getoption("abuse", default="short") == "all"
    left_out = [item for item in ours if not everything and item.get_closest_marker("abuse_short") is None]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        gone = set(left_out)
        items[:] = [item for item in items if item not in gone]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    table, seed = config.stash[_TABLE], config.stash[_SEED]
    if not table.lines:
        return
    terminalreporter.section(f"abuse, seed {seed}")
    terminalreporter.line(table.text())
    path: Path | None = config.getoption("abuse_page", default=None)
    if path is not None:
        day = datetime.datetime.now(datetime.UTC).date().isoformat()
        command = "make abuse" if path == _PAGE else f'make abuse ARGS="--abuse-page {path}"'
        path.write_text(table.page(Run(command, seed, config.stash[_FACTS], day)))


@pytest.fixture
def trial(request: pytest.FixtureRequest) -> Trial:
    """This test's trial; its seed is that of the run."""
    config = request.config
    busy = config.getoption("abuse", default="short") != "all"
    return Trial(request.node.name, config.stash[_SEED], config.stash[_TABLE], busy=busy)


@pytest.fixture(scope="session", autouse=True)
def facts(request: pytest.FixtureRequest, rabbitmq_node: RabbitControl) -> None:
    """The versions and the machine, as the page names them."""
    rabbitmq = rabbitmq_node.evaluate("rabbit_misc:version()").strip('"')
    named = [("RabbitMQ", rabbitmq), ("Python", platform.python_version())]
    named += [(name, version(name)) for name in ("aio-pika", "websockets")]
    versions = ", ".join(f"{name} {number}" for name, number in named)
    request.config.stash[_FACTS] = f"{os.cpu_count()} cores, {versions}"


class Stage:
    """A system that several trials share, one after the other: a new one after a trial that failed."""

    def __init__(self, control: RabbitControl, folder: Path) -> None:
        self._control = control
        self._folder = folder
        self._count = 0
        self._vhost = ""
        self._processes: Processes | None = None
        self._system: System | None = None

    async def system(self) -> System:
        """The one there is, else a new one."""
        if self._system is None:
            self._count += 1
            self._vhost = f"abuse-{secrets.token_hex(4)}"
            rabbitmq = Rabbit(self._control, self._vhost, await self._control.add_vhost(self._vhost))
            folder = self._folder / str(self._count)
            folder.mkdir()
            self._processes = Processes()
            system = System(rabbitmq, self._processes, folder)
            await system.start()
            self._system = system
        return self._system

    async def close(self) -> None:
        """End it; the next trial gets a new one."""
        if self._processes is not None:
            self._processes.__exit__()
            self._processes = self._system = None
            await self._control.delete_vhost(self._vhost)

    def output(self) -> str:
        """The last output of its programs."""
        return "\n".join(f"{one.name}: {one.output[-2000:]}" for one in self._processes or ())


@pytest.fixture(scope="module")
def stage(rabbitmq_node: RabbitControl, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """Where the trials of a module take place that leave nothing behind."""
    made = Stage(rabbitmq_node, tmp_path_factory.mktemp("stage"))
    try:
        yield made
    finally:
        asyncio.run(made.close())


@pytest.fixture
async def system(request: pytest.FixtureRequest, stage: Stage) -> AsyncIterator[System]:
    """RabbitMQ, two gateways, chat and orders; shared with trials that held before."""
    lines = request.config.stash[_TABLE].lines
    before = len(lines)
    yield await stage.system()
    if len(lines) == before or any(line.failures for line in lines[before:]):
        print(stage.output())  # noqa: T201  # pytest shows it when the test failed
        await stage.close()


@pytest.fixture
async def fresh_system(rabbitmq: Rabbit, start_system: StartSystem) -> System:
    """RabbitMQ, two gateways, chat and orders; for a trial that leaves much behind."""
    return await start_system(rabbitmq)


@pytest.fixture
def rates() -> Mapping[str, Any]:
    """The rates at which gateways let clients send: the defaults, since it is they that are tried here."""
    return {}
