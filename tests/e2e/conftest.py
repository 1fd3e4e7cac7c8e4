"""Fixtures of what crosses all packages."""

from pathlib import Path

import pytest

from towpath.testkit.processes import Processes
from towpath.testkit.rabbitmq import Rabbit
from towpath.testkit.system import System


@pytest.fixture
async def system(rabbitmq: Rabbit, processes: Processes, tmp_path: Path) -> System:
    """RabbitMQ, two gateways, chat and orders: real processes, all ready."""
    system = System(rabbitmq, processes, tmp_path)
    await system.start()
    return system
