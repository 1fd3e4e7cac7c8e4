"""The plainest gateway that keeps its word: ``websockets`` and aio-pika, as their manuals show them.

Requests are persistent and confirmed, and what comes from the broker is acked. Rooms are kept in memory; what is said
in one goes through the worker. Nothing is batched, limited, checked or measured.
"""

import asyncio
import json
import os
import secrets
from collections import defaultdict

import aio_pika
import uvloop
from aio_pika.abc import AbstractIncomingMessage
from websockets.asyncio.server import ServerConnection, broadcast, serve
from websockets.exceptions import ConnectionClosed

GATEWAY = f"g{secrets.token_hex(4)}"

connections: dict[str, ServerConnection] = {}
users: defaultdict[str, set[ServerConnection]] = defaultdict(set)
rooms: defaultdict[str, set[ServerConnection]] = defaultdict(set)


async def deliver(message: AbstractIncomingMessage) -> None:
    """Messages of the worker or another backend → the connections they are for."""
    async with message.process():
        kind, _, name = (message.routing_key or "").partition(".")
        if kind == "gateway":
            directed = json.loads(message.body)
            if socket := connections.get(directed["connection"]):
                await socket.send(json.dumps(directed["envelope"], separators=(",", ":")))
        elif kind == "user":
            broadcast(users[name], message.body.decode())
        else:
            broadcast(rooms[name], message.body.decode())


async def main() -> None:
    """Serve until killed."""
    connection = await aio_pika.connect_robust(os.environ["TOWPATH_AMQP_URL"])
    publishing = await connection.channel(publisher_confirms=True)
    consuming = await connection.channel()
    await consuming.set_qos(prefetch_count=100)
    push = await consuming.declare_exchange("bench.push", aio_pika.ExchangeType.TOPIC, durable=True)
    inbox = await consuming.declare_queue(exclusive=True)
    for key in (f"gateway.{GATEWAY}", "user.*", "room.*"):
        await inbox.bind(push, key)
    await inbox.consume(deliver)

    async def converse(socket: ServerConnection) -> None:
        assert socket.request is not None
        name, user = secrets.token_hex(8), socket.request.headers["X-User"]
        connections[name] = socket
        users[user].add(socket)
        await socket.send('{"action":"session.welcome"}')
        try:
            async for text in socket:
                envelope = json.loads(text)
                room = envelope["data"].get("room")
                if envelope["action"] in ("room.join", "room.leave"):
                    (rooms[room].add if envelope["action"] == "room.join" else rooms[room].discard)(socket)
                    done = {
                        "action": envelope["action"] + ".ok",
                        "data": {"room": room},
                        "correlation_id": envelope["msg_id"],
                    }
                    await socket.send(json.dumps(done, separators=(",", ":")))
                    continue
                request = {"gateway": GATEWAY, "connection": name, "user": user, "envelope": envelope}
                await publishing.default_exchange.publish(
                    aio_pika.Message(
                        json.dumps(request, separators=(",", ":")).encode(),
                        content_type="application/json",
                        delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
                    ),
                    routing_key="bench.work",
                )
        except ConnectionClosed:
            pass
        finally:
            del connections[name]
            users[user].discard(socket)
            for members in rooms.values():
                members.discard(socket)

    async with serve(
        converse, "127.0.0.1", int(os.environ["TOWPATH_PORT"]), compression=None, ping_interval=None
    ):
        print("serving", flush=True)  # noqa: T201  # who started it waits for this line
        await asyncio.Event().wait()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
