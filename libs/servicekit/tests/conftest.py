"""A broker in memory, a telemetry, and a database that has the kit's tables only."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager

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
def open_empty_database(database_url: str) -> Callable[[], AbstractAsyncContextManager[Database]]:
    """Opens the same database as often as it is called; it has the kit's tables of a service ``test``, empty."""
    return lambda: Database.open(database_url, service="test")


@pytest.fixture
async def empty_database(
    open_empty_database: Callable[[], AbstractAsyncContextManager[Database]],
) -> AsyncIterator[Database]:
    """A database that has the kit's tables only, on SQLite and on PostgreSQL."""
    async with open_empty_database() as database:
        yield database
