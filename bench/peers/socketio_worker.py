"""The python-socketio peer's worker: takes requests from RabbitMQ, and answers through a write-only manager.

A request is acknowledged once RabbitMQ has confirmed what the worker emitted for it.
"""

import asyncio
import json
import os
from typing import Final

import aio_pika
import socketio
import uvloop
from aio_pika.abc import AbstractIncomingMessage

#: The queue of requests: ``{"sid", "event", "data"}``.
REQUESTS: Final = "bench.work"
#: The manager's channel, which is the name of its exchange.
EMITS: Final = "bench.emits"
_PREFETCH: Final = 100


class Worker:
    """The handling of each request."""

    def __init__(self, url: str) -> None:
        self._manager = socketio.AsyncAioPikaManager(url, channel=EMITS, write_only=True)

    async def connect(self) -> None:
        """Connect the manager.

        Otherwise its first message does, and of those that come meanwhile some are lost: each sees a connection that
        has no exchange yet, tries twice, and gives up (5.18.1).
        """
        await self._manager.emit("hello", {}, room="nobody")

    async def take(self, delivery: AbstractIncomingMessage) -> None:
        """Handle one request."""
        async with delivery.process():
            request = json.loads(delivery.body)
            data = request["data"]
            if request["event"] == "say":
                await self._manager.emit("said", {"text": data["text"]}, room=data["room"])
                data = {"number": data["number"]}
            await self._manager.emit("answer", data, room=request["sid"])


async def main() -> None:
    """Serve until killed."""
    url = os.environ["TOWPATH_AMQP_URL"]
    async with await aio_pika.connect_robust(url) as connection:
        channel = await connection.channel()
        await channel.set_qos(prefetch_count=_PREFETCH)
        queue = await channel.declare_queue(REQUESTS, durable=True)
        worker = Worker(url)
        await worker.connect()
        await queue.consume(worker.take)
        print("serving", flush=True)  # noqa: T201  # the starter waits for this
        await asyncio.Event().wait()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
