"""How trials cause faults, and look at the alerts meanwhile."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import aio_pika

from towpath.testkit.processes import Process
from towpath.testkit.system import System

from .conftest import READY, Watch
from .prometheus import Prometheus


async def watched(watch: Watch, system: System) -> Prometheus:
    """Prometheus, which sees all programs, and in which no alert fires."""
    prometheus = await watch(gateway=system.gateways, chat=system.chat, orders=system.orders)
    assert await prometheus.ever_fired() == set()
    return prometheus


async def gateway_and_chat(parts: System, **settings: Any) -> Process:
    """Start a gateway, and chat with these settings; returns chat."""
    parts.gateways, parts.chat = [parts.launch_gateway()], parts.launch_service("chat", **settings)
    await ready(*parts.gateways, parts.chat)
    return parts.chat


async def ready(*programs: Process) -> None:
    """Wait until all of them are ready."""
    await asyncio.gather(*(program.ready(timeout=READY) for program in programs))


@contextlib.asynccontextmanager
async def again_and_again(act: Callable[[], Awaitable[Any]]) -> AsyncIterator[None]:
    """Repeat something from entry to exit."""

    async def repeat() -> None:
        while True:
            await act()

    task = asyncio.create_task(repeat())
    try:
        yield
        assert not task.done(), task
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def publish(amqp_url: str, exchange: str, key: str, body: bytes, *, times: int = 1) -> None:
    """Publish as another backend does."""
    connection = await aio_pika.connect(amqp_url)
    async with connection:
        channel = await connection.channel()
        to = await channel.get_exchange(exchange, ensure=False)
        for _ in range(times):
            await to.publish(aio_pika.Message(body, delivery_mode=2), routing_key=key)
