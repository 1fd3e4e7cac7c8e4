"""The service under test, on SQLite and on PostgreSQL."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from towpath.notifications.app import NOTIFICATIONS
from towpath.testkit.dispatching import ServiceUnderTest


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """A database for tests in which no statement is in question."""
    return f"sqlite+aiosqlite:///{tmp_path}/notifications.db"


@pytest_asyncio.fixture
async def notifications(database_url: str) -> AsyncIterator[ServiceUnderTest]:
    async with ServiceUnderTest.running(NOTIFICATIONS, database_url) as notifications:
        yield notifications


@pytest_asyncio.fixture
async def on_sqlite(sqlite_url: str) -> AsyncIterator[ServiceUnderTest]:
    async with ServiceUnderTest.running(NOTIFICATIONS, sqlite_url) as notifications:
        yield notifications
