"""The plug-in of pytest, for all who test a service; installed with ``towpath-testkit``.

Fixtures:

* ``towpath_stack``: starts Towpath in memory with the test's own services (:class:`~towpath.testkit.stack.Stack`).
* ``towpath_database_url``: a fresh SQLite database.
* ``towpath_rabbitmq``: an empty virtual host of a real RabbitMQ; needs ``towpath-testkit[rabbitmq]``.
* ``towpath_postgresql_url``: a fresh database of a real PostgreSQL; needs ``towpath-testkit[postgresql]``.
* ``towpath_chromium``: the path of Chromium, for Playwright; needs ``towpath-testkit[browser]``.

A program for a test is found in this order: the program of a variable (``TOWPATH_RABBITMQ_SERVER``), a container
where a Docker engine answers and ``towpath-testkit[containers]`` is installed, the installed program, Debian's
package, installed when root. When none can be had the test fails and says why; it is never skipped.

Guarantee: the plug-in changes nothing in a run that uses none of its fixtures, and imports nothing but pytest.
"""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import AsyncExitStack
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pytest
import pytest_asyncio

if TYPE_CHECKING:
    from towpath.servicekit import Service
    from towpath.testkit.postgres import Postgres
    from towpath.testkit.rabbitmq import Rabbit
    from towpath.testkit.stack import Stack
    from towpath.tools.rabbitmq_node import RabbitControl


class StartStack(Protocol):
    """Starts a :class:`~towpath.testkit.stack.Stack` that runs until the end of the test."""

    def __call__(self, *services: "Service[Any]", **options: Any) -> Awaitable["Stack"]: ...


@pytest_asyncio.fixture
async def towpath_stack() -> AsyncIterator[StartStack]:
    """Starts Towpath in memory: ``stack = await towpath_stack(SERVICE)``; options as of ``Stack.running``."""
    from towpath.testkit.stack import Stack

    async with AsyncExitStack() as running:

        async def start(*services: "Service[Any]", **options: Any) -> Stack:
            return await running.enter_async_context(Stack.running(*services, **options))

        yield start


@pytest.fixture
def towpath_database_url(tmp_path: Path) -> str:
    """The SQLAlchemy URL of a fresh SQLite database."""
    return f"sqlite+aiosqlite:///{tmp_path / 'towpath.db'}"


@pytest.fixture(scope="session")
def towpath_rabbitmq_node() -> Iterator["RabbitControl"]:
    """The RabbitMQ that all tests of this run share."""
    with contextlib.ExitStack() as stack:
        with needs_extra("rabbitmq"), failing_clearly():
            from towpath.testkit import rabbitmq

            node = stack.enter_context(rabbitmq.running())
        yield node


@pytest_asyncio.fixture
async def towpath_rabbitmq(towpath_rabbitmq_node: "RabbitControl") -> AsyncIterator["Rabbit"]:
    """An empty virtual host (``url``), and ``stop``, ``start``, ``block`` and ``unblock`` of the broker."""
    from towpath.testkit.rabbitmq import Rabbit

    async with Rabbit.on(towpath_rabbitmq_node) as rabbit:
        yield rabbit


@pytest.fixture(scope="session")
def towpath_postgresql() -> Iterator["Postgres"]:
    """The PostgreSQL that all tests of this run share."""
    with contextlib.ExitStack() as stack:
        with needs_extra("postgresql"), failing_clearly():
            from towpath.testkit import postgres

            server = stack.enter_context(postgres.running())
        yield server


@pytest_asyncio.fixture
async def towpath_postgresql_url(towpath_postgresql: "Postgres") -> AsyncIterator[str]:
    """The SQLAlchemy URL (asyncpg) of a fresh database."""
    async with towpath_postgresql.database() as url:
        yield url


@pytest.fixture(scope="session")
def towpath_chromium() -> Path:
    """The path of Chromium."""
    with needs_extra("browser"), failing_clearly():
        import_module("playwright")  # a path without what drives it is of no use
        from towpath.testkit.chromium import chromium

        return chromium()


@contextlib.contextmanager
def needs_extra(name: str) -> Iterator[None]:
    """Fail with one line that names the extra, where a package of it is not installed."""
    try:
        yield
    except ModuleNotFoundError as missing:
        pytest.fail(
            f"This fixture needs {missing.name}, which is not installed: pip install 'towpath-testkit[{name}]'",
            pytrace=False,
        )


@contextlib.contextmanager
def failing_clearly() -> Iterator[None]:
    """Fail with one line, where a program is missing on this machine."""
    from towpath.tools.packages import ProgramMissing

    try:
        yield
    except ProgramMissing as missing:
        pytest.fail(str(missing), pytrace=False)
