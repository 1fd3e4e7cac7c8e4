"""The plainest worker that keeps its word: aio-pika with confirms, and an ack once the answer is confirmed."""

import asyncio
import json
import os
import time
import uuid
from typing import Any

import aio_pika
import uvloop
from aio_pika.abc import AbstractIncomingMessage


def envelope(action: str, data: dict[str, Any], **more: str) -> dict[str, Any]:
    """The queue of a receiver."""
    return {
        "msg_id": uuid.uuid4().hex,
        "timestamp": time.time_ns() // 1_000_000,
        "action": action,
        "data": data,
        "version": "1.0",
        **more,
    }


async def main() -> None:
    """Serve until killed."""
    connection = await aio_pika.connect_robust(os.environ["TOWPATH_AMQP_URL"])
    channel = await connection.channel(publisher_confirms=True)
    await channel.set_qos(prefetch_count=100)
    push = await channel.declare_exchange("bench.push", aio_pika.ExchangeType.TOPIC, durable=True)
    work = await channel.declare_queue("bench.work", durable=True)

    async def publish(key: str, body: dict[str, Any]) -> None:
        text = json.dumps(body, separators=(",", ":")).encode()
        # Gateways start and stop: there may be no receiver.
        await push.publish(
            aio_pika.Message(text, content_type="application/json"), routing_key=key, mandatory=False
        )

    async def handle(message: AbstractIncomingMessage) -> None:
        async with message.process():
            request = json.loads(message.body)
            asked = request["envelope"]
            if asked["action"] == "room.say":
                said = {**asked["data"], "user": request["user"]}
                await publish(f"room.{asked['data']['room']}", envelope("room.said", said))
            answer = envelope(f"{asked['action']}.ok", asked["data"], correlation_id=asked["msg_id"])
            await publish(
                f"gateway.{request['gateway']}", {"connection": request["connection"], "envelope": answer}
            )

    await work.consume(handle)
    print("serving", flush=True)  # noqa: T201  # who started it waits for this line
    await asyncio.Event().wait()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
