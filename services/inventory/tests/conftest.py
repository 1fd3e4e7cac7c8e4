"""The service under test, on SQLite and on PostgreSQL."""

from collections.abc import AsyncIterator

import pytest_asyncio

from towpath.inventory.app import INVENTORY
from towpath.testkit.dispatching import ServiceUnderTest


@pytest_asyncio.fixture
async def inventory(database_url: str) -> AsyncIterator[ServiceUnderTest]:
    async with ServiceUnderTest.running(INVENTORY, database_url) as inventory:
        yield inventory
