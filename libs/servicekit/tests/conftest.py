"""A broker in memory, a telemetry and a database without tables, for whoever needs one."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from towpath.servicekit.broker.interface import Broker
from towpath.servicekit.broker.memory import MemoryHub
from towpath.servicekit.runtime.settings import TelemetrySettings
from towpath.servicekit.runtime.telemetry import Telemetry
from towpath.servicekit.storage.database import Database


@pytest.fixture
def hub() -> MemoryHub:
    return MemoryHub()


@pytest.fixture
async def broker(hub: MemoryHub) -> AsyncIterator[Broker]:
    async with hub.connect(name="under test") as broker:
        yield broker


@pytest.fixture
async def telemetry() -> AsyncIterator[Telemetry]:
    async with Telemetry.open("test", TelemetrySettings()) as telemetry:
        yield telemetry


@pytest.fixture
def open_empty_database(
    database_url: str, tmp_path: Path
) -> Callable[[], AbstractAsyncContextManager[Database]]:
    """Opens a database that is there, as often as it is wanted; its migrations make nothing."""
    migrations = tmp_path / "no_migrations"
    (migrations / "versions").mkdir(parents=True)
    (migrations / "env.py").write_text("")
    return lambda: Database.open(database_url, migrations=migrations, version_table="test_version")


@pytest.fixture
async def empty_database(
    open_empty_database: Callable[[], AbstractAsyncContextManager[Database]],
) -> AsyncIterator[Database]:
    """A database without tables, on SQLite and on PostgreSQL."""
    async with open_empty_database() as database:
        yield database
