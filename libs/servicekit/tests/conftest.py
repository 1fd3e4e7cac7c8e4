"""A broker in memory and a telemetry, for whoever needs one."""

from collections.abc import AsyncIterator

import pytest

from towpath.servicekit.broker.interface import Broker
from towpath.servicekit.broker.memory import MemoryHub
from towpath.servicekit.settings import TelemetrySettings
from towpath.servicekit.telemetry import Telemetry


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
