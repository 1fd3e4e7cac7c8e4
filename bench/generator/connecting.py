"""A storm of connects."""

import asyncio
from collections.abc import Sequence
from typing import Any, Final

from bench.dialects import dialect
from bench.generator.clients import Client, ConnectFailed, clock, names
from bench.generator.control import Control
from bench.generator.window import Window

_AT_ONCE: Final = 500


async def run(control: Control, *, urls: Sequence[str], language: str, clients: int) -> dict[str, Any]:
    """Connect all, 500 at a time; marks: ``begin`` and ``end``. Times run until a connection can be used."""
    speaking, window = dialect(language), Window()
    people = names("u", clients)
    handshakes = {user: speaking.handshake(user) for user in people}
    gate = asyncio.Semaphore(_AT_ONCE)
    connected: list[Client] = []

    async def connect(place: int, user: str) -> None:
        async with gate:
            since = clock()
            try:
                client = await Client.open(urls[place % len(urls)], user, speaking, handshakes[user])
            except ConnectFailed:
                return
            window.times.add((clock() - since) // 1000)
            window.count += 1
            connected.append(client)
            control.progress(len(connected) / clients)

    result = await window.during(
        control, asyncio.gather(*(connect(place, user) for place, user in enumerate(people)))
    )
    return result | {
        "refused": clients - len(connected),
        "cut_off": sum(client.ended for client in connected),
    }
