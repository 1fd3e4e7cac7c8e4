"""A gateway dies, and all its users connect to another and resume.

Messages during their absence, and during the reconnects, are counted by their position in the stream: none may be
missing. Duplicates they drop, and early pushes they hold, as every client does; both are
counted, too.
"""

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any, Final

from bench.dialects.towpath import DIALECT, Towpath
from bench.generator.clients import Client, ConnectFailed, clock, names, open_many
from bench.generator.control import Control
from bench.generator.joining import join_all
from bench.generator.ledger import Ledger
from bench.generator.window import Window
from towpath.testkit.eventually import eventually

_AT_ONCE: Final = 500
_BEFORE: Final = 3  # messages to each room while all is well,
_AWAY: Final = 3  # and while its people are away
_EVERY_SECONDS: Final = 0.5  # one more to each room during the reconnects
_PATIENCE_SECONDS: Final = 60.0
_CONNECT_SECONDS: Final = 10.0  # as the clients in Python and JavaScript
_LAST_SECONDS: Final = 10.0


class Speaker:
    """Speaks in one room, from a gateway that lives.

    Attributes:
        seq: The place of the last message that is stored.
        unanswered: Messages that have no answer yet.
    """

    def __init__(self, client: Client, room: str) -> None:
        self.room = room
        self.seq = self.unanswered = self._number = 0
        self._client = client
        self._say = DIALECT.say(room, client.user)
        client.receive = self._receive

    def speak(self) -> None:
        """Say one message."""
        self.unanswered += 1
        self._client.send(self._say(self._number))
        self._number += 1

    def _receive(self, frame: bytes) -> None:
        if DIALECT.answered(frame) is not None:
            self.unanswered -= 1
            self.seq = max(self.seq, DIALECT.stored(frame))


class Traveller:
    """One of those whose gateway dies.

    Attributes:
        heard: The received entries of the room's stream.
        position: The last of it.
        resumed: Done when the service has answered that all is there.
    """

    def __init__(self, user: str, room: str, speaking: Towpath) -> None:
        self.user = user
        self.room = room
        self.position = 0
        self.resumed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.client: Client | None = None
        self.heard: Ledger | None = None
        self._speaking = speaking

    def listen(self, client: Client) -> None:
        """Go on with this connection."""
        self.client = client
        client.receive = self._receive

    def resume(self) -> None:
        """Ask for what was missed."""
        assert self.client is not None
        self.client.send(self._speaking.resume(self.room, self.position, 0))

    def _receive(self, frame: bytes) -> None:
        seq = self._speaking.position(frame)
        if seq is not None:
            self.heard = self.heard or Ledger(seq)
            self.heard.hear(seq)
            self.position = max(self.position, seq)
        elif self._speaking.answered(frame) is not None and not self.resumed.done():
            self.resumed.set_result(None)


class Return:
    """Travellers reconnecting, 500 at a time.

    Attributes:
        failed: Connects that failed, and were tried again, as clients do.
    """

    def __init__(self, url: str, window: Window, control: Control) -> None:
        self.failed = 0
        self._url = url
        self._window = window
        self._control = control
        self._gate = asyncio.Semaphore(_AT_ONCE)
        self._deadline = clock() + _PATIENCE_SECONDS * 1e9

    async def of_all(self, travellers: Sequence[Traveller]) -> None:
        """Bring them back; all have resumed when this returns."""
        async with asyncio.TaskGroup() as tasks:
            for traveller in travellers:
                tasks.create_task(self._of(traveller, len(travellers)))

    async def _of(self, traveller: Traveller, of: int) -> None:
        async with self._gate:
            since = clock()
            traveller.listen(await self._connected(traveller.user))
            traveller.resume()
            await asyncio.wait_for(traveller.resumed, _PATIENCE_SECONDS)
            self._window.times.add((clock() - since) // 1000)
        self._window.count += 1
        self._control.progress(self._window.count / of)

    async def _connected(self, user: str) -> Client:
        while True:
            try:
                return await Client.open(self._url, user, DIALECT, seconds=_CONNECT_SECONDS)
            except ConnectFailed:
                self.failed += 1
                if clock() > self._deadline:
                    raise


async def run(
    control: Control, *, urls: Sequence[str], language: str, rooms: int, members: int
) -> dict[str, Any]:
    """Let the first gateway die (mark ``death``), and its users connect to the second.

    Marks ``begin`` and ``end`` are the first reconnect, and the last complete resume.

    Args:
        control: The runner, which kills the gateway at the mark.
        urls: Of two gateways.
        language: ``towpath``; no other system can resume.
        rooms: How many.
        members: Of each room, besides one who speaks.
    """
    assert language == "towpath", language
    dying, living = urls
    places = names("r", rooms)
    speakers = [
        Speaker(client, room)
        for client, room in zip(await _joined(names("s", rooms), living, places), places, strict=True)
    ]
    people = names("u", rooms * members)
    travellers = [Traveller(user, places[number % rooms], DIALECT) for number, user in enumerate(people)]
    connected = await _joined(people, dying, places)
    for traveller, client in zip(travellers, connected, strict=True):
        traveller.listen(client)
    await _say(speakers, _BEFORE)
    await eventually(lambda: _all_at_the_end(travellers, speakers), timeout=_PATIENCE_SECONDS)
    await control.mark("death")
    await eventually(lambda: all(client.ended for client in connected), timeout=_LAST_SECONDS)
    await _say(speakers, _AWAY)

    window = Window()
    going_on = asyncio.create_task(_keep_speaking(speakers))
    coming_back = Return(living, window, control)
    result = await window.during(control, coming_back.of_all(travellers))
    going_on.cancel()
    await _say(speakers, 0)
    with contextlib.suppress(AssertionError):  # missing messages are counted
        await eventually(lambda: _all_at_the_end(travellers, speakers), timeout=_LAST_SECONDS)
    return result | _faults(travellers, speakers) | {"refused": coming_back.failed}


async def _joined(people: Sequence[str], url: str, rooms: Sequence[str]) -> list[Client]:
    clients = await open_many(people, [url], DIALECT)
    async with asyncio.TaskGroup() as tasks:
        for place, room in enumerate(rooms):
            tasks.create_task(join_all(clients[place :: len(rooms)], room, DIALECT))
    return clients


async def _say(speakers: Sequence[Speaker], count: int) -> None:
    """Say so many in each room, and wait until they are stored."""
    for speaker in speakers:
        for _ in range(count):
            speaker.speak()
    await eventually(lambda: not any(speaker.unanswered for speaker in speakers), timeout=_PATIENCE_SECONDS)


async def _keep_speaking(speakers: Sequence[Speaker]) -> None:
    while True:
        for speaker in speakers:
            speaker.speak()
        await asyncio.sleep(_EVERY_SECONDS)


def _all_at_the_end(travellers: Sequence[Traveller], speakers: Sequence[Speaker]) -> bool:
    ends = {speaker.room: speaker.seq for speaker in speakers}
    return all(traveller.position >= ends[traveller.room] for traveller in travellers)


def _faults(travellers: Sequence[Traveller], speakers: Sequence[Speaker]) -> dict[str, Any]:
    ends = {speaker.room: speaker.seq + 1 for speaker in speakers}
    heard = [
        (traveller.heard, ends[traveller.room]) for traveller in travellers if traveller.heard is not None
    ]
    return {
        "lost": sum(ledger.lost(end) for ledger, end in heard),
        "waited": sum(ledger.disorder for ledger, _ in heard),
        "dropped": sum(ledger.duplicates for ledger, _ in heard),
        "cut_off": sum(traveller.client is not None and traveller.client.ended for traveller in travellers),
    }
