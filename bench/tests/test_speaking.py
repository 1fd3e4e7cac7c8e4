"""For every member of a room it is known what never came, came twice, or came out of order."""

from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed

from bench.dialects import number_after
from bench.generator.speaking import run

from .misbehaving import answer, serving, willing

pytestmark = pytest.mark.usefixtures("capsys")  # the generator speaks to the runner on standard output

_number = number_after(b'"msg_id":"')


class Room:
    """A server with one room; the last member to join gets what :meth:`for_last` says."""

    def __init__(self) -> None:
        self.members: list[ServerConnection] = []

    def for_last(self, place: int, text: str) -> list[str]:
        return [text]

    async def converse(self, socket: ServerConnection) -> None:
        await socket.send('{"action":"session.welcome"}')
        said = 0
        try:
            async for frame in socket:
                assert isinstance(frame, str)
                number = _number(frame.encode())
                assert number is not None
                if "room.join" in frame:
                    self.members.append(socket)
                    await socket.send(answer(number))
                    continue
                # The answer holds the text, as that of some systems does: it is not heard.
                await socket.send(frame[:-1] + f',"done":{answer(number)}}}')
                for member in self.members:
                    for text in self.for_last(said, frame) if member is self.members[-1] else [frame]:
                        await member.send(text)
                said += 1
        except ConnectionClosed:
            pass


async def spoken(room: Room) -> dict[str, Any]:
    async with serving(room.converse) as url:
        return await run(
            willing(),
            urls=[url],
            language="plain",
            rooms=1,
            members=3,
            in_flight=2,
            warm_up=0.0,
            seconds=0.3,
        )


def faults(result: dict[str, Any]) -> dict[str, int]:
    names = ("lost", "duplicates", "disorder", "refused", "cut_off")
    return {name: result[name] for name in names if result[name]}


async def test_a_room_without_lost_messages_has_no_faults() -> None:
    result = await spoken(Room())
    assert faults(result) == {}
    assert result["count"] > 0


async def test_a_message_received_twice_is_a_duplicate() -> None:
    class Twice(Room):
        def for_last(self, place: int, text: str) -> list[str]:
            return [text, text] if place == 4 else [text]

    assert faults(await spoken(Twice())) == {"duplicates": 1}


async def test_a_message_never_received_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.generator.speaking._LAST_SECONDS", 0.2)

    class Deaf(Room):
        def for_last(self, place: int, text: str) -> list[str]:
            return [] if place == 4 else [text]

    assert faults(await spoken(Deaf())) == {"lost": 1}


async def test_a_message_that_overtakes_another_is_out_of_order() -> None:
    class Late(Room):
        kept = ""

        def for_last(self, place: int, text: str) -> list[str]:
            if place == 4:
                self.kept = text
                return []
            return [text, self.kept] if place == 5 else [text]

    assert faults(await spoken(Late())) == {"disorder": 1}
