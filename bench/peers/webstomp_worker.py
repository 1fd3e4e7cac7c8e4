"""The Web-STOMP peer's worker: :mod:`bench.peers.bare_worker` for clients whose gateway is the broker itself.

A request is acknowledged once RabbitMQ has confirmed the answer, to the temporary queue that its sender named.
"""

import asyncio
import json
import os
from typing import Any, Final

import aio_pika
import uvloop
from aio_pika.abc import AbstractExchange, AbstractIncomingMessage

from bench.dialects.plain import PUSHES
from bench.dialects.stomp import REQUESTS, ROOMS
from bench.peers.bare_worker import envelope

#: The plugin writes what it made of ``/temp-queue/…`` as an address for other clients of STOMP.
_REPLY_QUEUE: Final = "/reply-queue/"


async def main() -> None:
    """Serve until killed."""
    connection = await aio_pika.connect_robust(os.environ["TOWPATH_AMQP_URL"])
    channel = await connection.channel(publisher_confirms=True)
    await channel.set_qos(prefetch_count=100)
    rooms = await channel.declare_exchange(ROOMS, aio_pika.ExchangeType.DIRECT, durable=True)
    await channel.declare_exchange(PUSHES, aio_pika.ExchangeType.TOPIC, durable=True)
    work = await channel.declare_queue(REQUESTS, durable=True)

    async def publish(exchange: AbstractExchange, key: str, body: dict[str, Any]) -> None:
        text = json.dumps(body, separators=(",", ":")).encode()
        # Clients connect and disconnect: there may be no receiver.
        await exchange.publish(
            aio_pika.Message(text, content_type="application/json"), routing_key=key, mandatory=False
        )

    async def handle(message: AbstractIncomingMessage) -> None:
        async with message.process():
            asked = json.loads(message.body)
            if asked["action"] == "room.say":
                await publish(rooms, asked["data"]["room"], envelope("room.said", asked["data"]))
            answer = envelope(f"{asked['action']}.ok", asked["data"], correlation_id=asked["msg_id"])
            reply_to = (message.reply_to or "").removeprefix(_REPLY_QUEUE)
            await publish(channel.default_exchange, reply_to, answer)

    await work.consume(handle)
    print("serving", flush=True)  # noqa: T201  # the starter waits for this line
    await asyncio.Event().wait()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
