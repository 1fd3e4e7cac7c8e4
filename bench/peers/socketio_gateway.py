"""The python-socketio peer's gateway: an ``AsyncServer`` on aiohttp, with ``AsyncAioPikaManager`` behind it.

A request becomes a persistent, confirmed message in the queue of :mod:`bench.peers.socketio_worker`. Its
answers arrive through the manager's exchange, which delivers everything to every gateway.
"""

import asyncio
import json
import os
from collections.abc import Mapping
from typing import Any, Final

import aio_pika
import socketio
import uvloop
from aio_pika.abc import AbstractChannel, AbstractExchange, AbstractQueue
from aiohttp import web

from bench.peers.socketio_worker import EMITS, REQUESTS

_BACKLOG: Final = 4096


class Manager(socketio.AsyncAioPikaManager):  # type: ignore[misc]  # python-socketio has no types
    """The manager as it comes, and a way to know that its queue is bound.

    Args:
        prefetch: How many messages it takes from RabbitMQ before it has acked them; as it comes, one.

    Attributes:
        bound: Set once nothing that others emit is missed.
    """

    def __init__(self, url: str, prefetch: int) -> None:
        super().__init__(url, channel=EMITS)
        self.bound = asyncio.Event()
        self._prefetch = prefetch

    async def _queue(self, channel: AbstractChannel, exchange: object) -> AbstractQueue:
        queue: AbstractQueue = await super()._queue(channel, exchange)
        await channel.set_qos(prefetch_count=self._prefetch)  # after its own, and before it consumes
        self.bound.set()
        return queue


class Gateway:
    """The handlers of the server's events."""

    def __init__(self, server: Any, exchange: AbstractExchange) -> None:
        self._server = server
        self._exchange = exchange
        server.on("connect", self.connect)
        server.on("join", self.join)
        server.on("leave", self.leave)
        server.on("*", self.pass_on)

    async def connect(self, sid: str, _: object, auth: Mapping[str, str]) -> None:
        """A user's connections are a room, so that others can reach the user."""
        await self._server.enter_room(sid, auth["user"])

    async def join(self, sid: str, data: Mapping[str, str]) -> None:
        """Returning is what sends the client its acknowledgement."""
        await self._server.enter_room(sid, data["room"])

    async def leave(self, sid: str, data: Mapping[str, str]) -> None:
        """Likewise."""
        await self._server.leave_room(sid, data["room"])

    async def pass_on(self, event: str, sid: str, data: object) -> None:
        """Any other event is the worker's."""
        body = json.dumps({"sid": sid, "event": event, "data": data}).encode()
        message = aio_pika.Message(body, delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
        await self._exchange.publish(message, routing_key=REQUESTS)


async def main() -> None:
    """Serve until killed."""
    url = os.environ["TOWPATH_AMQP_URL"]
    manager = Manager(url, prefetch=int(os.environ["TOWPATH_PREFETCH"]))
    server = socketio.AsyncServer(
        async_mode="aiohttp", client_manager=manager, transports=["websocket"], ping_interval=25
    )
    async with await aio_pika.connect_robust(url) as connection:
        channel = await connection.channel()
        await channel.declare_queue(REQUESTS, durable=True)
        Gateway(server, channel.default_exchange)
        # By itself the server does this for its first client, who may then miss an answer.
        manager.initialize()
        server.manager_initialized = True
        await manager.bound.wait()

        application = web.Application()
        server.attach(application)
        runner = web.AppRunner(application, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", int(os.environ["TOWPATH_PORT"]), backlog=_BACKLOG).start()
        print("serving", flush=True)  # noqa: T201  # the starter waits for this
        await asyncio.Event().wait()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
