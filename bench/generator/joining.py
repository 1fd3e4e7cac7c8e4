"""Joining and leaving rooms, with the system's word that it is done."""

import asyncio
from collections.abc import Sequence
from typing import Final

from bench.dialects import Dialect
from bench.generator.clients import Client

#: Above all numbers of messages.
_FIRST: Final = 9_000_000_000
_SECONDS: Final = 60.0
_AT_ONCE: Final = 50


async def join_all(clients: Sequence[Client], room: str, speaking: Dialect) -> None:
    """Let every client join ``room``.

    Raises:
        TimeoutError: A client is not in it in time.
    """
    gate = asyncio.Semaphore(_AT_ONCE)

    async def join(place: int, client: Client) -> None:
        async with gate:
            number = _FIRST + place
            await asked(client, speaking.join(room, number), number, speaking)

    async with asyncio.timeout(_SECONDS), asyncio.TaskGroup() as tasks:
        for place, client in enumerate(clients):
            tasks.create_task(join(place, client))


async def asked(client: Client, frame: bytes, number: int, speaking: Dialect) -> None:
    """Send a join or leave, and wait until the system says that it is done."""
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def receive(frame: bytes) -> None:
        if speaking.joined(frame) != number:
            client.reply(frame)
        elif not done.done():
            done.set_result(None)

    before, client.receive = client.receive, receive
    try:
        client.send(frame)
        await done
    finally:
        client.receive = before
