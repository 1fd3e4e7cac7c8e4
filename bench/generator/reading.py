"""One client in one room full of messages: how long it takes to add one, to read there, and to resume.

Guarantees: one request at a time, the kinds by turns, so that whatever the machine does meanwhile happens to all of
them; every answer is looked at, and one that does not hold what it should is counted.
"""

import asyncio
import time
from collections.abc import Sequence
from typing import Any, Final

from bench.dialects.plain import envelopes
from bench.dialects.towpath import DIALECT
from bench.generator.clients import Client, clock
from bench.generator.control import Control
from bench.histogram import Histogram

KINDS: Final = ("send", "history", "history_middle", "resume")
_PAGE: Final = 50
_GAP: Final = 100
_PATIENCE_SECONDS: Final = 30.0
_FEW: Final = 5  # before it counts


class Reader:
    """The client.

    Attributes:
        head: The place of the last message in the room's stream.
        wrong: Answers that do not hold what they should.
    """

    def __init__(self, client: Client, room: str, head: int) -> None:
        self.head = head
        self.wrong = 0
        self._middle = head // 2
        self._client = client
        self._room = room
        self._number = 0
        self._say = DIALECT.say(room, client.user)
        self._came: set[int] = set()
        self._answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        client.receive = self._receive

    async def ask(self, kind: str) -> int:
        """One request; returns the nanoseconds until its answer was there.

        Raises:
            TimeoutError: There is no answer.
        """
        frame = self._frame(kind)
        self._came = set()
        self._answer = asyncio.get_running_loop().create_future()
        since = clock()
        self._client.send(frame)
        answer = await asyncio.wait_for(self._answer, _PATIENCE_SECONDS)
        passed = clock() - since
        self.wrong += not self._is_right(kind, answer)
        return passed

    def _frame(self, kind: str) -> bytes:
        self._number += 1
        room = f'"room":"{self._room}","limit":{_PAGE}'
        key = f',"key":"{self._room}"'
        match kind:
            case "send":
                return self._say(self._number)
            case "history":
                return envelopes("chat.history", room, key)(self._number)
            case "history_middle":
                return envelopes("chat.history", f'{room},"before_seq":{self._middle}', key)(self._number)
            case "resume":
                return DIALECT.resume(self._room, self.head - _GAP, self._number)
        raise KeyError(kind)

    def _receive(self, frame: bytes) -> None:
        if (seq := DIALECT.position(frame)) is not None:
            self._came.add(seq)
        elif DIALECT.correlated(frame) == self._number and not self._answer.done():
            self._answer.set_result(frame)
        else:
            self._client.reply(frame)

    def _is_right(self, kind: str, answer: bytes) -> bool:
        if DIALECT.answered(answer) is None:
            return False
        match kind:
            case "send":
                self.head += 1
                return DIALECT.stored(answer) == self.head
            case "resume":
                due = set(range(self.head - _GAP + 1, self.head + 1))
                return due <= self._came and b'"complete":true' in answer
        return answer.count(b'"user":') == _PAGE


async def run(
    control: Control, *, urls: Sequence[str], language: str, room: str, user: str, head: int, count: int
) -> dict[str, Any]:
    """Ask ``count`` times for each of the kinds; marks: ``begin`` and ``end``.

    Args:
        control: The runner.
        urls: Where to connect.
        language: ``towpath``.
        room: A room that ``user`` is in.
        user: The asking user.
        head: The place of the last message there.
        count: Requests of each kind.
    """
    assert language == "towpath", language
    client = await Client.open(urls[0], user, DIALECT)
    reader = Reader(client, room, head)
    for _ in range(_FEW):
        for kind in KINDS:
            await reader.ask(kind)
    times: dict[str, Histogram] = {kind: Histogram() for kind in KINDS}

    await control.mark("begin")
    begin, cpu = clock(), time.process_time()
    for turn in range(count):
        for kind in KINDS:
            times[kind].add(await reader.ask(kind) // 1000)
        control.progress((turn + 1) / count)
    passed, cpu = (clock() - begin) / 1e9, time.process_time() - cpu
    await control.mark("end")
    return {
        "seconds": passed,
        "generator_share": cpu / passed,
        "count": count * len(KINDS),
        "times": Histogram.merged(times.values()).to_json(),
        "kinds": {kind: found.to_json() for kind, found in times.items()},
        "refused": reader.wrong,
        "cut_off": int(client.ended),
    }
