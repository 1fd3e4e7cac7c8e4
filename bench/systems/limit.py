"""Bare ``websockets``, without a broker: the limit of the Python side."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from bench.systems.interface import Running, Setup, System, launch_module, serving
from towpath.testkit.processes import free_port


@asynccontextmanager
async def start(setup: Setup) -> AsyncIterator[Running]:
    """One process."""
    gateway = launch_module(setup, "bench.peers.limit", "limit", port=free_port())
    await serving(gateway)
    yield Running(
        urls=[f"ws://127.0.0.1:{gateway.settings['TOWPATH_PORT']}/ws"], pids={"gateway": [gateway.pid]}
    )


SYSTEM: Final = System(
    name="limit",
    title="websockets alone",
    dialect="echo",
    works=frozenset({"request", "room", "idle", "connect", "churn", "stalled"}),
    start=start,
    differences=["no broker and no service: the gateway itself sends the answer"],
)
