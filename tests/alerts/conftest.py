"""The alerts with real faults: ``make alerts`` runs them. Other test runs leave them out, for they take minutes."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.faults.conftest import StartSystem, broker, own_node, server, start_system
from towpath.testkit.processes import Process, Processes
from towpath.testkit.rabbitmq import Rabbit
from towpath.testkit.system import LOAD_RATES, System
from towpath.tools.packages import ProgramMissing, find_or_install

from .prometheus import FACTOR, PROMETHEUS, Prometheus

__all__ = ["broker", "own_node", "server", "start_system"]

HERE = Path(__file__).parent
#: Seconds until a program must be ready: a limit of hangs, for a busy machine takes its time.
READY = 300.0
Watch = Callable[..., Awaitable[Prometheus]]


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("alerts")
    group.addoption("--alerts", action="store_true", help="cause the faults of alerts")
    group.addoption("--dashboard", type=Path, help="draw the dashboard of the honest load there, as SVG")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    here = f"{HERE}/"
    ours = [item for item in items if str(item.path).startswith(here)]
    if not config.getoption("alerts", default=False) and ours:
        config.hook.pytest_deselected(items=ours)
        gone = set(ours)
        items[:] = [item for item in items if item not in gone]


@pytest.fixture
def rates() -> Mapping[str, Any]:
    """No limit is in the way of the load; a trial of a limit sets its own."""
    return LOAD_RATES


@pytest.fixture
async def system(rabbitmq: Rabbit, start_system: StartSystem) -> System:
    """RabbitMQ, one gateway, chat and orders."""
    return await start_system(rabbitmq, gateways=1)


@pytest.fixture
def parts(rabbitmq: Rabbit, processes: Processes, tmp_path: Path) -> System:
    """RabbitMQ, and no program yet: for a trial that needs one or two of them."""
    return System(rabbitmq, processes, tmp_path, **LOAD_RATES)


@pytest.fixture
async def watch(processes: Processes, tmp_path: Path) -> AsyncIterator[Watch]:
    """Starts a Prometheus that watches programs by the names of their jobs, and waits until it sees all of them.

    ``ages`` is the divisor of ages (see ``faster_rules``), where that of time would make a trial take minutes.
    """
    try:
        program = find_or_install(PROMETHEUS)
    except ProgramMissing as missing:
        pytest.fail(str(missing), pytrace=False)
    started: list[Prometheus] = []

    async def start(*, ages: float = FACTOR, **jobs: Process | Sequence[Process]) -> Prometheus:
        prometheus = await Prometheus.start(program, processes, tmp_path, ages=ages)
        started.append(prometheus)
        for job, them in jobs.items():
            prometheus.watch(f"towpath-{job}", [them] if isinstance(them, Process) else them)
        await prometheus.sees_all()
        return prometheus

    yield start
    for prometheus in started:
        await prometheus.close()
