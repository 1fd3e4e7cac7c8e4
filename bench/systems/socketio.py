"""python-socketio: its server on aiohttp, its manager for RabbitMQ, and a worker that emits from outside."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Final

from bench.systems.interface import Running, Setup, System, launch_module, serving
from towpath.testkit.processes import free_port

WORKS: Final = frozenset({"request", "room", "push", "idle", "connect", "churn", "stalled", "death"})
DIFFERENCES: Final = (
    "every gateway gets every answer, and drops those for others' clients (one fanout exchange)",
    "a frame carries an event's name, a number and the text: no envelope, some 90 bytes less",
    "a request that RabbitMQ refuses gets no answer",
    "the server pings its clients every 25 s",
    "the queue of a dead gateway continues to fill for five minutes",
)


def start(setup: Setup) -> AbstractAsyncContextManager[Running]:
    """One worker, and gateways with the manager as it comes."""
    return started(setup, prefetch=1)


@asynccontextmanager
async def started(setup: Setup, *, prefetch: int) -> AsyncIterator[Running]:
    """One worker, and gateways whose manager has up to ``prefetch`` messages in hand."""
    worker = launch_module(setup, "bench.peers.socketio_worker", "socketio worker", amqp_url=setup.amqp_url)
    gateways = [
        launch_module(
            setup,
            "bench.peers.socketio_gateway",
            "socketio gateway",
            amqp_url=setup.amqp_url,
            port=free_port(),
            prefetch=prefetch,
        )
        for _ in range(setup.gateways)
    ]
    await serving(worker, *gateways)
    yield Running(
        urls=[
            f"ws://127.0.0.1:{gateway.settings['TOWPATH_PORT']}/socket.io/?EIO=4&transport=websocket"
            for gateway in gateways
        ],
        pids={"gateway": [gateway.pid for gateway in gateways], "service": [worker.pid]},
    )


SYSTEM: Final = System(
    name="socketio",
    title="python-socketio",
    dialect="socketio",
    works=WORKS,
    start=start,
    differences=[
        "its manager takes one message at a time from RabbitMQ (prefetch 1), without an option for more",
        *DIFFERENCES,
    ],
)
