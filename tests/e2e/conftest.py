"""Fixtures of what crosses all packages."""

import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio
from playwright.async_api import Browser, async_playwright

from towpath.testkit.eventually import eventually
from towpath.testkit.processes import Processes, free_port
from towpath.testkit.rabbitmq import Rabbit
from towpath.testkit.rights import Rights
from towpath.testkit.system import System
from towpath.testkit.tokens import SECRET
from towpath.tools.packages import NODE, NPM, find_or_install
from towpath.tools.rabbitmq_node import RabbitControl

CHROMIUM_ARGUMENTS = [
    "--no-sandbox",  # tests may run as root
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
NODE_BACKEND = Path(__file__).parent.parent / "node"
ROOT = Path(__file__).parents[2]
JAVASCRIPT = ROOT / "clients/js"
DRIVERS = Path(__file__).parent / "clients"


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


@pytest.fixture(scope="module")
def drivers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """How to start the driver of each SDK. The JavaScript one is built, and lies there as a package does."""
    folder = tmp_path_factory.mktemp("javascript")
    package = folder / "node_modules/@towpath/client"
    package.mkdir(parents=True)
    shutil.copy(JAVASCRIPT / "package.json", package)
    shutil.copy(DRIVERS / "driver.mjs", folder)
    with_node = str(ROOT / "scripts/with-node")
    build = [
        "npm",
        "exec",
        "--no",
        "--",
        "tsc",
        "-p",
        "tsconfig.build.json",
        "--outDir",
        str(package / "dist"),
    ]
    subprocess.run([with_node, *build], cwd=JAVASCRIPT, check=True, timeout=120)
    version = subprocess.run(
        [with_node, "node", "-p", "parseInt(process.versions.node)"],
        check=True,
        capture_output=True,
        timeout=120,
    )
    # Node has had a WebSocket of its own since 20.10, and without this option since 22.
    options = ["--experimental-websocket"] if int(version.stdout) < 22 else []
    return {
        "javascript": [with_node, "node", *options, str(folder / "driver.mjs")],
        "python": [sys.executable, "-W", "error", str(DRIVERS / "driver.py")],
    }


@pytest.fixture
async def system(rabbitmq: Rabbit, processes: Processes, tmp_path: Path) -> System:
    """RabbitMQ, two gateways, chat and orders: real processes, all ready."""
    system = System(rabbitmq, processes, tmp_path)
    await system.start()
    return system


@pytest.fixture(scope="module")
def shared_processes(rights: Rights | None) -> Iterator[Processes]:
    """Where the tests of one module share a system, its ``processes``."""
    with Processes(rights) as processes:
        yield processes


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_system(
    rabbitmq_node: RabbitControl,
    rights: Rights | None,
    shared_processes: Processes,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[System]:
    """One system for all tests of a module: they use users and rooms of their own."""
    async with Rabbit.on(rabbitmq_node, rights) as rabbitmq:
        system = System(rabbitmq, shared_processes, tmp_path_factory.mktemp("system"))
        await system.start()
        yield system


@pytest.fixture
async def browser(chromium_path: Path) -> AsyncIterator[Browser]:
    """Headless Chromium."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=str(chromium_path), args=CHROMIUM_ARGUMENTS
        )
        yield browser
        await browser.close()


@pytest.fixture
async def page_url(system: System, processes: Processes) -> str:
    """The page, served by ``towpath web``, with both gateways to choose from."""
    port = free_port()
    gateways = [word for url in system.urls for word in ("--gateway", url)]
    processes.launch(
        "towpath", "web", "--port", str(port), "--demo", *gateways,
        amqp_url=system.rabbitmq.url, auth_secret=SECRET,
    )  # fmt: skip
    url = f"http://127.0.0.1:{port}/"

    async def answers() -> bool:
        try:
            async with aiohttp.ClientSession() as http, http.get(url) as response:
                return response.status == 200
        except aiohttp.ClientError:
            return False

    await eventually(answers, timeout=30)
    return url
