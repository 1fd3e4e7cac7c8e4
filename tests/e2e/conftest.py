"""Fixtures of what crosses all packages."""

import shutil
import subprocess
from pathlib import Path

import pytest

from towpath.testkit.processes import Processes
from towpath.testkit.rabbitmq import Rabbit
from towpath.testkit.system import System
from towpath.tools.packages import NODE, NPM, find_or_install

NODE_BACKEND = Path(__file__).parent.parent / "node"


@pytest.fixture(scope="session")
def node_backend(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program in Node that publishes one event, with amqplib installed beside it."""
    folder = tmp_path_factory.mktemp("node")
    for name in ("package.json", "package-lock.json", "publish.mjs"):
        shutil.copy(NODE_BACKEND / name, folder)
    find_or_install(NODE)
    npm = find_or_install(NPM)
    subprocess.run(
        [npm, "ci", "--no-audit", "--no-fund"], cwd=folder, check=True, capture_output=True, timeout=120
    )
    return folder / "publish.mjs"


@pytest.fixture
async def system(rabbitmq: Rabbit, processes: Processes, tmp_path: Path) -> System:
    """RabbitMQ, two gateways, chat and orders: real processes, all ready."""
    system = System(rabbitmq, processes, tmp_path)
    await system.start()
    return system
