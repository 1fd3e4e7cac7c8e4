"""The barest stack that keeps its word, written by hand: what everything is compared to."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from bench.systems.interface import Running, Setup, System, launch_module, serving
from towpath.testkit.processes import free_port


@asynccontextmanager
async def start(setup: Setup) -> AsyncIterator[Running]:
    """One worker, and gateways."""
    worker = launch_module(setup, "bench.peers.bare_worker", "bare worker", amqp_url=setup.amqp_url)
    await serving(worker)  # it makes the queue that gateways publish to
    gateways = [
        launch_module(
            setup, "bench.peers.bare_gateway", "bare gateway", amqp_url=setup.amqp_url, port=free_port()
        )
        for _ in range(setup.gateways)
    ]
    await serving(*gateways)
    yield Running(
        urls=[f"ws://127.0.0.1:{gateway.settings['TOWPATH_PORT']}/ws" for gateway in gateways],
        pids={"gateway": [gateway.pid for gateway in gateways], "service": [worker.pid]},
    )


SYSTEM: Final = System(
    name="bare",
    title="bare websockets + aio-pika",
    dialect="plain",
    works=frozenset({"request", "room", "push", "idle", "connect", "churn", "stalled", "death"}),
    start=start,
    differences=[
        "no token is checked, nothing is limited, checked or measured",
        "requests go through one classic durable queue; Towpath's through eight quorum queues",
        "rooms are sets in the gateway's memory, and no message is stored",
    ],
)
