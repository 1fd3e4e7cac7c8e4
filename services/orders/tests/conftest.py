"""The service under test, on SQLite and on PostgreSQL."""

from collections.abc import AsyncIterator

import pytest_asyncio

from towpath.orders.app import ORDERS
from towpath.testkit.dispatching import ServiceUnderTest


@pytest_asyncio.fixture
async def orders(database_url: str) -> AsyncIterator[ServiceUnderTest]:
    async with ServiceUnderTest.running(ORDERS, database_url) as orders:
        yield orders
