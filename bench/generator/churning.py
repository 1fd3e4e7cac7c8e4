"""Clients that join a room and leave it again, all the time."""

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any, Final

from bench.dialects import Dialect, dialect
from bench.generator.clients import Client, clock, names, open_many
from bench.generator.control import Control
from bench.generator.window import Window
from towpath.testkit.eventually import eventually

_LAST_SECONDS: Final = 10.0


class Restless:
    """One who comes and goes."""

    def __init__(self, client: Client, room: str, speaking: Dialect, window: Window) -> None:
        self.client = client
        self.waiting = self.stopped = False
        self.duplicates = 0
        self._room = room
        self._speaking = speaking
        self._window = window
        self._number = -1
        self._since = 0
        client.receive = self._receive

    def go_on(self) -> None:
        """Join, or leave again."""
        self._number += 1
        move = self._speaking.leave if self._number % 2 else self._speaking.join
        self.waiting, self._since = True, clock()
        self.client.send(move(self._room, self._number))

    def _receive(self, frame: bytes) -> None:
        number = self._speaking.joined(frame)
        if number is None:
            self.client.reply(frame)
            return
        if number != self._number or not self.waiting:
            self.duplicates += 1
            return
        self.waiting = False
        if self._window.open:
            self._window.count += 1
            self._window.times.add((clock() - self._since) // 1000)
        if not self.stopped:
            self.go_on()


async def run(
    control: Control,
    *,
    urls: Sequence[str],
    language: str,
    clients: int,
    rooms: int,
    warm_up: float,
    seconds: float,
) -> dict[str, Any]:
    """Come and go for ``warm_up`` seconds, then count for ``seconds``; marks: ``begin`` and ``end`` of the window."""
    speaking, window = dialect(language), Window()
    places = names("r", rooms)
    connected = await open_many(names("u", clients), urls, speaking)
    people = [
        Restless(client, places[number % rooms], speaking, window) for number, client in enumerate(connected)
    ]
    for person in people:
        person.go_on()
    await asyncio.sleep(warm_up)
    result = await window.watch(control, seconds)
    for person in people:
        person.stopped = True
    with contextlib.suppress(AssertionError):
        await eventually(lambda: not any(person.waiting for person in people), timeout=_LAST_SECONDS)
    return result | {
        "lost": sum(person.waiting for person in people),
        "duplicates": sum(person.duplicates for person in people),
        "cut_off": sum(person.client.ended for person in people),
    }
