"""The twin of ``bare`` in Node: ``ws`` and ``amqplib``."""

import asyncio
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from bench.systems.interface import Running, Setup, System, serving
from towpath.testkit.processes import Process, free_port

_ROOT: Final = Path(__file__).parents[2]
_FOLDER: Final = _ROOT / "bench/peers/node"
_INSTALL_SECONDS: Final = 300.0


@asynccontextmanager
async def start(setup: Setup) -> AsyncIterator[Running]:
    """One worker, and gateways."""
    await asyncio.to_thread(_install)
    node = await asyncio.to_thread(_node)
    worker = _launch(setup, node, "worker", amqp_url=setup.amqp_url)
    await serving(worker)  # it makes the queue that gateways publish to
    gateways = [
        _launch(setup, node, "gateway", amqp_url=setup.amqp_url, port=free_port())
        for _ in range(setup.gateways)
    ]
    await serving(*gateways)
    yield Running(
        urls=[f"ws://127.0.0.1:{gateway.settings['TOWPATH_PORT']}/ws" for gateway in gateways],
        pids={"gateway": [gateway.pid for gateway in gateways], "service": [worker.pid]},
    )


def _launch(setup: Setup, node: str, program: str, **settings: object) -> Process:
    return setup.processes.launch(node, str(_FOLDER / f"{program}.js"), name=f"node {program}", **settings)


def _install() -> None:
    """Put the packages of the lock file beside the programs, unless they are there."""
    installed, lock = _FOLDER / "node_modules/.package-lock.json", _FOLDER / "package-lock.json"
    if not installed.exists() or installed.stat().st_mtime < lock.stat().st_mtime:
        _run("npm", "--prefix", str(_FOLDER), "ci", "--silent")


def _node() -> str:
    # The program itself: `node` on PATH may be one that starts it, with another process id.
    return _run("node", "-p", "process.execPath").strip()


def _run(*command: str) -> str:
    return subprocess.run(  # noqa: S603  # ours
        [str(_ROOT / "scripts/with-node"), *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        encoding="utf-8",
        timeout=_INSTALL_SECONDS,
        check=True,
    ).stdout


SYSTEM: Final = System(
    name="node",
    title="Node: ws + amqplib",
    dialect="plain",
    works=frozenset({"request", "room", "push", "idle", "connect", "churn", "stalled", "death"}),
    start=start,
    differences=[
        "as bare, and a client's next request does not wait for the confirm of the one before",
    ],
)
