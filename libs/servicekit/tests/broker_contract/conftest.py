"""Each test of this folder runs on each implementation of the broker."""

from collections.abc import AsyncIterator

import pytest

from towpath.servicekit.broker.interface import Broker

from .contract import BrokerUnderTest, MemoryUnderTest, RabbitUnderTest, connected


@pytest.fixture(params=["memory", "rabbitmq"])
def server(request: pytest.FixtureRequest) -> BrokerUnderTest:
    if request.param == "memory":
        return MemoryUnderTest()
    return RabbitUnderTest(request.getfixturevalue("rabbitmq"))


@pytest.fixture
async def broker(server: BrokerUnderTest) -> AsyncIterator[Broker]:
    async with connected(server, "under test") as broker:
        yield broker


@pytest.fixture
async def other(server: BrokerUnderTest) -> AsyncIterator[Broker]:
    """A second connection."""
    async with connected(server, "other") as broker:
        yield broker
