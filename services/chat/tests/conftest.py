"""The service under test, on SQLite and on PostgreSQL."""

from collections.abc import AsyncIterator

import pytest_asyncio

from towpath.chat.app import CHAT
from towpath.testkit.dispatching import ServiceUnderTest


@pytest_asyncio.fixture
async def chat(database_url: str) -> AsyncIterator[ServiceUnderTest]:
    async with ServiceUnderTest.running(CHAT, database_url) as chat:
        yield chat
