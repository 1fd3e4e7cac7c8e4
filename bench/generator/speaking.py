"""Rooms in which one member speaks and all hear it.

Guarantees: in each room so many messages are on their way, and the next one leaves when all members have one of them.
For every member it is known what never came, came twice, or came out of order.
"""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

from bench.dialects import PADDING, Dialect, dialect
from bench.generator.clients import Client, clock, names, open_many
from bench.generator.control import Control
from bench.generator.joining import join_all
from bench.generator.ledger import Ledger
from bench.generator.window import Window
from towpath.testkit.eventually import eventually

#: A room's messages are numbered from its place times this.
SPAN: Final = 1_000_000
_FIRST_SECONDS: Final = 60.0
_LAST_SECONDS: Final = 10.0
_AFTER_REFUSAL_SECONDS: Final = 0.01


class Room:
    """One room, and the messages that are on their way to its members.

    Attributes:
        members: Those who listen; the first one speaks.
        left: Message → how many have yet to hear it.
        stopped: Whether nothing more is said.
    """

    def __init__(
        self,
        place: int,
        name: str,
        members: Sequence[Client],
        speaking: Dialect,
        window: Window,
        padding: str = PADDING,
    ) -> None:
        self.left: dict[int, int] = {}
        self.window = window
        self.members = [Member(client, self, speaking, place * SPAN) for client in members]
        self.stopped = False
        self.finished = self.refusals = 0
        self._next = place * SPAN
        self._say = speaking.say(name, members[0].user, padding)
        self._since: dict[int, int] = {}
        self._speaking = speaking
        members[0].receive = partial(self._speaker_receives, members[0].receive)

    def speak(self) -> None:
        """Say the next message."""
        number = self._next
        self._next = number + 1
        self.left[number] = len(self.members)
        self._since[number] = clock()
        self.members[0].client.send(self._say(number))

    def finish(self, number: int) -> None:
        """The last member has heard it: say another."""
        del self.left[number]
        since = self._since.pop(number)
        self.finished += 1
        if self.window.open:
            self.window.times.add((clock() - since) // 1000)
        if not self.stopped:
            self.speak()

    def _speaker_receives(self, listen: Callable[[bytes], None], frame: bytes) -> None:
        # The answer to what was said may hold the text, and must not count as heard.
        if self._speaking.answered(frame) is not None:
            return
        number = self._speaking.refused(frame)
        if number in self.left:
            del self.left[number], self._since[number]
            self.refusals += 1
            asyncio.get_running_loop().call_later(_AFTER_REFUSAL_SECONDS, self.speak)
        else:
            listen(frame)

    @property
    def silent(self) -> bool:
        """Whether every member has received everything."""
        return not self.left

    def faults(self) -> dict[str, int]:
        """The faults of its members, in words."""
        ledgers = [member.ledger for member in self.members]
        return {
            "lost": sum(ledger.lost(self._next) - self.refusals for ledger in ledgers),
            "refused": self.refusals,
            "duplicates": sum(ledger.duplicates for ledger in ledgers),
            "disorder": sum(ledger.disorder for ledger in ledgers),
            "cut_off": sum(member.client.ended for member in self.members),
        }


class Member:
    """One who listens."""

    def __init__(self, client: Client, room: Room, speaking: Dialect, first: int) -> None:
        self.client = client
        self.ledger = Ledger(first)
        client.receive = _listener(self.ledger, room, speaking.heard, client.reply)


def _listener(
    ledger: Ledger, room: Room, heard: Callable[[bytes], int | None], otherwise: Callable[[bytes], None]
) -> Callable[[bytes], None]:
    note, window, left = ledger.hear, room.window, room.left

    def receive(frame: bytes) -> None:
        number = heard(frame)
        if number is None:
            otherwise(frame)
        elif note(number):
            if window.open:
                window.count += 1
            left[number] -= 1
            if not left[number]:
                room.finish(number)

    return receive


async def run(
    control: Control,
    *,
    urls: Sequence[str],
    language: str,
    rooms: int,
    members: int,
    in_flight: int,
    letters: int = len(PADDING),
    stalled: int = 0,
    warm_up: float,
    seconds: float,
) -> dict[str, Any]:
    """Speak for ``warm_up`` seconds, then count deliveries for ``seconds``.

    Marks: ``ready`` when all have joined, ``begin`` and ``end`` of the window. Times run until the last member has a
    message.

    Args:
        control: The runner.
        urls: Where to connect; members of a room are on all of them.
        language: The dialect.
        rooms: How many.
        members: Of each room; each user is in one.
        in_flight: Messages that are on their way in each room.
        letters: The length of a message's text, besides its number.
        stalled: Members of each room who stop reading once they are in it; the others do not wait for them.
    """
    speaking, window = dialect(language), Window()
    clients = await open_many(names("u", rooms * members), urls, speaking)
    inside = {
        room: clients[place * members : (place + 1) * members] for place, room in enumerate(names("r", rooms))
    }
    async with asyncio.TaskGroup() as joining:
        for room, people in inside.items():
            joining.create_task(join_all(people, room, speaking))
    for people in inside.values():
        for client in people[members - stalled :]:
            client.pause()
    talking = [
        Room(place, room, people[: members - stalled], speaking, window, "x" * letters)
        for place, (room, people) in enumerate(inside.items())
    ]
    await control.mark("ready")
    for one in talking:
        for _ in range(in_flight):
            one.speak()
    # Joins may have caused many pushes: the first message is sent after all of them.
    await eventually(lambda: all(one.finished for one in talking), timeout=_FIRST_SECONDS)
    await asyncio.sleep(warm_up)
    result = await window.watch(control, seconds)
    for one in talking:
        one.stopped = True
    with contextlib.suppress(AssertionError):
        await eventually(lambda: all(one.silent for one in talking), timeout=_LAST_SECONDS)
    faults = [one.faults() for one in talking]
    return result | {name: sum(fault[name] for fault in faults) for name in faults[0]}
