"""The fault suite: ``make faults`` runs all of it, plain ``pytest`` the short part (marked ``faults_short``)."""

import datetime
import platform
import random
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from towpath.testkit.processes import Processes
from towpath.testkit.rabbitmq import Rabbit
from towpath.testkit.system import LOAD_RATES, System
from towpath.tools.rabbitmq_node import RabbitControl, RabbitNode

from .broker import Broker
from .postgres_server import PostgresServer
from .table import Run, Table
from .trial import Trial

HERE = Path(__file__).parent
_PAGE = Path("docs/reliability.md")  # where `make faults` writes it
_TABLE = pytest.StashKey[Table]()
_SEED = pytest.StashKey[str]()
_VERSIONS = pytest.StashKey[Sequence[tuple[str, str]]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("faults")
    group.addoption("--faults", choices=["short", "all"], default="short", help="how much of the fault suite")
    group.addoption("--seed", help="repeat the load and the moments of an earlier run")
    group.addoption("--page", type=Path, help="write the table of all trials there, of a soak beside it")
    group.addoption("--storms", type=int, default=20, help="how many reconnect storms there are")
    group.addoption(
        "--storms-on-postgresql", type=int, default=3, help="how many of them with chat on PostgreSQL"
    )
    group.addoption("--soak", help="only random faults, for so long: 90s, 30m, 2h")


def pytest_configure(config: pytest.Config) -> None:
    for marker in (
        "faults_short: the part of the fault suite that every test run includes",
        "soak: runs for as long as --soak says, and only with it",
    ):
        config.addinivalue_line("markers", marker)
    config.stash[_TABLE] = Table()
    config.stash[_SEED] = (
        config.getoption("seed", default=None) or f"{random.SystemRandom().getrandbits(32):08x}"
    )
    config.stash[_VERSIONS] = []


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    here = f"{HERE}/"  # not `is_relative_to`: it takes 0.3 s for 5,000 tests
    ours = [item for item in items if str(item.path).startswith(here)]
    for item in ours:
        if item.get_closest_marker("timeout") is None:
            item.add_marker(
                pytest.mark.timeout(240)
            )  # recovery alone may take 90 s until it counts as failed
    left_out = [item for item in ours if not _is_wanted(config, item)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        gone = set(left_out)
        items[:] = [item for item in items if item not in gone]


def _is_wanted(config: pytest.Config, item: pytest.Item) -> bool:
    soak = config.getoption("soak", default=None)
    if item.get_closest_marker("soak"):
        if soak:
            item.add_marker(pytest.mark.timeout(0), append=False)  # it stops by itself
        return bool(soak)
    everything = config.getoption("faults", default="short") == "all"
    return not soak and (everything or item.get_closest_marker("faults_short") is not None)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    table, seed = config.stash[_TABLE], config.stash[_SEED]
    if not table.lines:
        return
    terminalreporter.section(f"faults, seed {seed}")
    terminalreporter.line(table.text())
    path: Path | None = config.getoption("page", default=None)
    if path is None:
        return
    day = datetime.datetime.now(datetime.UTC).date().isoformat()
    versions = ", ".join(f"{name} {version}" for name, version in config.stash[_VERSIONS])
    selection = config.getoption("keyword")
    if selection and path == _PAGE:
        terminalreporter.line(
            f"{path} is of all trials, and these were some: not written; name another --page"
        )
        return
    arguments = f"--page {path}" + (f" -k '{selection}'" if selection else "")
    command = "make faults" if path == _PAGE else f'make faults ARGS="{arguments}"'
    run = Run(command, seed, versions, day)
    if table.soaked is not None:
        path.with_stem(f"{path.stem}-soak").write_text(table.soak_page(run))
    elif not config.getoption("soak", default=None):
        path.write_text(table.page(run))


@pytest.fixture
def trial(request: pytest.FixtureRequest) -> Trial:
    """This test's trial; its seed is that of the run and the test's name."""
    config = request.config
    histories = config.rootpath / "test-results/histories"
    return Trial(request.node.name, f"{config.stash[_SEED]}", config.stash[_TABLE], histories)


@pytest.fixture(scope="session", autouse=True)
def versions(request: pytest.FixtureRequest, rabbitmq_node: RabbitControl) -> None:
    """The versions and the machine, as the page names them."""
    rabbitmq = rabbitmq_node.evaluate("rabbit_misc:version()").strip('"')
    request.config.stash[_VERSIONS] = [
        ("RabbitMQ", rabbitmq),
        ("Python", platform.python_version()),
        ("aio-pika", version("aio-pika")),
        ("websockets", version("websockets")),
    ]


@pytest.fixture
def soak(request: pytest.FixtureRequest) -> str:
    """How long to soak, as it was asked for."""
    return str(request.config.getoption("soak"))


StartSystem = Callable[..., Awaitable[System]]


@pytest.fixture
def rates() -> Mapping[str, Any]:
    """The rates at which gateways let clients send: few clients make all the load of a trial."""
    return LOAD_RATES


@pytest.fixture
def start_system(processes: Processes, tmp_path: Path, rates: Mapping[str, Any]) -> StartSystem:
    """Starts gateways and services on a broker, with settings for all of them: real processes, all ready."""

    async def start(rabbitmq: Rabbit, *, gateways: int = 2, **settings: object) -> System:
        system = System(rabbitmq, processes, tmp_path, **{**rates, **settings})
        await system.start(gateways=gateways)
        return system

    return start


@pytest.fixture
async def system(rabbitmq: Rabbit, start_system: StartSystem) -> System:
    """RabbitMQ, two gateways, chat and orders."""
    return await start_system(rabbitmq)


@pytest.fixture
def broker(rabbitmq_node: RabbitControl, rabbitmq: Rabbit) -> Broker:
    """The broker, as a test damages it."""
    return Broker(rabbitmq_node, rabbitmq.url)


@pytest.fixture
def server() -> Iterator[PostgresServer]:
    """A PostgreSQL that only this test has, on a port of its own."""
    with PostgresServer.running() as server:
        yield server


@pytest.fixture
def own_node(tmp_path: Path) -> Iterator[RabbitNode]:
    """A RabbitMQ that only this test has, to be killed and booted again with what it had stored."""
    node = RabbitNode(tmp_path / "rabbitmq", boot_timeout=180.0)  # a busy machine takes its time
    node.boot()
    try:
        yield node
    finally:
        node.kill()
        node.halt()
