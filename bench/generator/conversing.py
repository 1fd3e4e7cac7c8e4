"""Many rooms, and so many messages a second in all of them together.

Guarantees: messages go to one room after the other, each from another of its members, at a steady rate whatever the
system does; times run from when a message *should* have been sent until its last member has it. For every member it
is known what never came, came twice, or came out of order.
"""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Any, Final

from bench.dialects.towpath import DIALECT
from bench.generator.clients import Client, clock, open_many
from bench.generator.control import Control
from bench.generator.window import Window
from towpath.testkit.eventually import eventually

_TICK_SECONDS: Final = 0.001
_LAST_SECONDS: Final = 10.0
_JOINED_SECONDS: Final = 30.0
_FIRST: Final = 9_000_000_000  # above all numbers of messages


def people(prefix: str, users: int) -> list[str]:
    """Their names."""
    return [f"{prefix}u{place}" for place in range(users)]


def room_name(prefix: str, place: int) -> str:
    """The name of a room."""
    return f"{prefix}r{place}"


def members_of(place: int, members: int, users: int) -> list[int]:
    """The places of those who are in a room: as many as there are, each in about as many rooms as the others."""
    return [(place * members + step) % users for step in range(min(members, users))]


class Talk:
    """All rooms of a run.

    Attributes:
        waiting: Message → when it should have been sent, and the places of those who have yet to hear it.
        heard, size: Messages that were heard within the window by one, and their bytes.
    """

    def __init__(self, prefix: str, clients: Sequence[Client], rooms: int, members: int) -> None:
        self.waiting: dict[int, tuple[int, set[int]]] = {}
        self.window = Window()
        self.duplicates = self.disorder = self.refused = self.heard = self.size = 0
        self._prefix = prefix
        self._clients = clients
        self._rooms = rooms
        self._members = members
        self._latest: dict[tuple[int, int], int] = {}
        self._say: dict[int, Callable[[int], bytes]] = {}
        for place, client in enumerate(clients):
            client.receive = self._listener(place, client)

    def speak(self, number: int, since: int) -> None:
        """Say one message; it should have been said at ``since``."""
        room = number % self._rooms
        listeners = members_of(room, self._members, len(self._clients))
        if room not in self._say:
            self._say[room] = DIALECT.say(room_name(self._prefix, room), "")
        self.waiting[number] = since, set(listeners)
        speaker = listeners[number // self._rooms % len(listeners)]
        self._clients[speaker].send(self._say[room](number))

    def faults(self) -> dict[str, int]:
        """The faults of its members, in words."""
        return {
            "lost": sum(len(left) for _, left in self.waiting.values()),
            "refused": self.refused,
            "duplicates": self.duplicates,
            "disorder": self.disorder,
            "cut_off": sum(client.ended for client in self._clients),
        }

    def _listener(self, place: int, client: Client) -> Callable[[bytes], None]:
        def receive(frame: bytes) -> None:
            number = DIALECT.heard(frame)
            if number is not None:
                self._hear(place, number, len(frame))
            elif DIALECT.answered(frame) is None:
                number = DIALECT.refused(frame)
                if number is None:
                    client.reply(frame)
                elif self.waiting.pop(number, None) is not None:
                    self.refused += 1

        return receive

    def _hear(self, place: int, number: int, size: int) -> None:
        since, left = self.waiting.get(number, (0, set()))
        if place not in left:
            self.duplicates += 1
            return
        room = number % self._rooms
        if number < self._latest.get((place, room), -1):
            self.disorder += 1
        self._latest[place, room] = number
        left.discard(place)
        if self.window.open:
            self.heard += 1
            self.size += size
        if not left:
            del self.waiting[number]
            if self.window.open:
                self.window.count += 1
                self.window.times.add((clock() - since) // 1000)


async def run(
    control: Control,
    *,
    urls: Sequence[str],
    language: str,
    prefix: str,
    users: int,
    rooms: int,
    members: int,
    rate: float,
    warm_up: float,
    seconds: float,
) -> dict[str, Any]:
    """Talk for ``warm_up`` seconds, then count messages for ``seconds``.

    All members are in their rooms (:func:`members_of`) already. Marks: ``joined`` when all receive them; ``begin``
    and ``end`` of the window.

    Args:
        control: The runner.
        urls: Where to connect.
        language: ``towpath``.
        prefix: Of the names of users and rooms.
        users: Connections.
        rooms: How many.
        members: Of each room.
        rate: Messages a second, in all rooms together.
    """
    assert language == "towpath", language
    clients = await open_many(people(prefix, users), urls, DIALECT)
    for place, client in enumerate(clients):
        await _hears(client, room_name(prefix, place % rooms))
    await control.mark("joined")
    talk, stop = Talk(prefix, clients, rooms, members), asyncio.Event()
    talking = asyncio.create_task(_talk(talk, rate, stop))
    await asyncio.sleep(warm_up)
    result = await talk.window.watch(control, seconds)
    stop.set()
    await talking
    with contextlib.suppress(AssertionError):
        await eventually(lambda: not talk.waiting, timeout=_LAST_SECONDS)
    return result | talk.faults() | {"bytes": talk.size / max(talk.heard, 1)}


async def _hears(client: Client, room: str) -> None:
    """Wait until a client hears its rooms: the answer to a resume comes after that."""
    heard: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def receive(frame: bytes) -> None:
        if DIALECT.answered(frame) == _FIRST and not heard.done():
            heard.set_result(None)

    client.receive = receive
    client.send(DIALECT.resume(room, 0, _FIRST))
    await asyncio.wait_for(heard, _JOINED_SECONDS)


async def _talk(talk: Talk, rate: float, stop: asyncio.Event) -> None:
    """A late tick sends all its overdue messages at once, with their due times."""
    start, said, step = clock(), 0, 1e9 / rate
    while not stop.is_set():
        due = int((clock() - start) / step)
        while said < due:
            talk.speak(said, start + int(said * step))
            said += 1
        await asyncio.sleep(_TICK_SECONDS)
