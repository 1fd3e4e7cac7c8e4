"""Nothing but ``websockets``: sends back what it gets, and what is said in a room to who joined it.

No broker, no service, no reading of what is sent: what is left for everything else.
"""

import asyncio
import os
from collections import defaultdict

import uvloop
from websockets.asyncio.server import ServerConnection, broadcast, serve
from websockets.exceptions import ConnectionClosed

rooms: defaultdict[str, set[ServerConnection]] = defaultdict(set)


def room_of(text: str) -> str:
    """The room in ``{"room":"…"``, found without reading the JSON."""
    start = text.index('"room":"') + 8
    return text[start : text.index('"', start)]


async def converse(socket: ServerConnection) -> None:
    """One client."""
    await socket.send('{"action":"session.welcome"}')
    joined = set()
    try:
        async for text in socket:
            assert isinstance(text, str)
            if '"action":"room.say"' in text:
                broadcast(rooms[room_of(text)], text)
                continue
            if '"action":"room.join"' in text:
                rooms[room_of(text)].add(socket)
                joined.add(room_of(text))
            elif '"action":"room.leave"' in text:
                rooms[room_of(text)].discard(socket)
            await socket.send(text)
    except ConnectionClosed:
        pass
    finally:
        for room in joined:
            rooms[room].discard(socket)


async def main() -> None:
    """Serve until killed."""
    async with serve(
        converse, "127.0.0.1", int(os.environ["TOWPATH_PORT"]), compression=None, ping_interval=None
    ):
        print("serving", flush=True)  # noqa: T201  # who started it waits for this line
        await asyncio.Event().wait()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
