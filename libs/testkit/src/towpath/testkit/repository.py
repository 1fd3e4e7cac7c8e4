"""The plug-in of this repository's own tests, beside the public one (:mod:`towpath.testkit.plugin`).

Fixtures under short names, Towpath's programs as processes, and how a run of thousands of tests is divided.
"""

import gc
import os
import signal
import sys
from collections.abc import AsyncIterator, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio
from _pytest.unraisableexception import collect_unraisable  # pytest has no public name for it

if TYPE_CHECKING:
    from towpath.testkit.postgres import Postgres
    from towpath.testkit.processes import Processes
    from towpath.testkit.rabbitmq import Rabbit
    from towpath.testkit.rights import Rights
    from towpath.tools.rabbitmq_node import RabbitControl


def pytest_configure(config: pytest.Config) -> None:
    """Make tests independent of how fast the machine is, and of what started them.

    Property-based tests may take as long as a busy machine needs: Hypothesis' own limit is 0.2 s an example. And a
    shell starts what runs in the background with SIGINT ignored, which every program of a test would inherit: one
    that a test interrupts would go on to its end. And containers often set ``PYTHONDONTWRITEBYTECODE``: a run starts
    hundreds of programs, and each would compile a thousand modules, for 2 s instead of 0.7 s.
    """
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    from hypothesis import HealthCheck, settings

    settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("unhurried")
    if config.getoption("numprocesses", default=None) or hasattr(config, "workerinput"):
        from towpath.testkit.parallel import Parallel

        config.pluginmanager.register(Parallel())
    worker = getattr(config, "workerinput", {"workerid": "gw0"})[
        "workerid"
    ]  # all collect the same; one keeps names
    whole = config.args_source is config.ArgsSource.TESTPATHS
    if whole and worker == "gw0" and config.pluginmanager.has_plugin("cacheprovider"):
        from towpath.testkit.narrowing import Narrowing

        config.pluginmanager.register(Narrowing(config))


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of all test runs."""
    parser.getgroup("towpath").addoption(
        "--rights",
        action="store_true",
        help="let each program log in to RabbitMQ under its own account, with the least permissions",
    )


def pytest_collection_finish() -> None:
    """Keep the imported modules out of the collections after each test: they stay to the end."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, None, None]:
    """Let each test answer for its own garbage.

    A socket that it never closed, or a task that it never awaited, would fail whichever test runs when it is found.
    """
    yield
    gc.collect()
    collect_unraisable(item.config)


@pytest.fixture(scope="session")
def rights(request: pytest.FixtureRequest) -> "Rights | None":
    """The accounts of programs on RabbitMQ, with ``--rights``."""
    if not request.config.getoption("rights"):
        return None
    from towpath.testkit.rights import Rights

    return Rights()


@pytest.fixture(scope="session")
def rabbitmq_node(towpath_rabbitmq_node: "RabbitControl") -> "RabbitControl":
    """The RabbitMQ that all tests of this run share."""
    return towpath_rabbitmq_node


@pytest_asyncio.fixture
async def rabbitmq(rabbitmq_node: "RabbitControl", rights: "Rights | None") -> AsyncIterator["Rabbit"]:
    """An empty virtual host (``url``), and ``stop``, ``start``, ``block`` and ``unblock`` of the broker."""
    from towpath.testkit.rabbitmq import Rabbit

    async with Rabbit.on(rabbitmq_node, rights) as rabbit:
        yield rabbit


@pytest.fixture(scope="session")
def postgres(towpath_postgresql: "Postgres") -> "Postgres":
    """The PostgreSQL that all tests of this run share."""
    return towpath_postgresql


@pytest.fixture
def postgres_url(towpath_postgresql_url: str) -> str:
    """The SQLAlchemy URL (asyncpg) of a fresh database."""
    return towpath_postgresql_url


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The SQLAlchemy URL of a fresh database: the test runs on SQLite, and again on PostgreSQL."""
    if request.param == "sqlite":
        return f"sqlite+aiosqlite:///{tmp_path / 'towpath.db'}"
    url: str = request.getfixturevalue("postgres_url")
    return url


@pytest.fixture(scope="session")
def chromium_path(towpath_chromium: Path) -> Path:
    """The path of Chromium."""
    return towpath_chromium


@pytest.fixture
def processes(rights: "Rights | None") -> Iterator["Processes"]:
    """Starts Towpath programs; whatever still runs after the test is killed."""
    from towpath.testkit.processes import Processes

    with Processes(rights) as processes:
        yield processes


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show what the programs of a failed test printed."""
    report = yield
    processes: Processes | None = getattr(item, "funcargs", {}).get("processes")
    if report.failed and report.when != "teardown" and processes is not None:
        report.sections.extend((f"Output of {one.name}", one.output) for one in processes)
    return report
