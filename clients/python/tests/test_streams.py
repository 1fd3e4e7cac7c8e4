"""Reading a stream: in order, each once, and nothing left out silently."""

import asyncio
import gc
from typing import Any

import pytest

from towpath.client import Envelope, MemoryStorage, StreamReader, TowpathError, connect
from towpath.client.streams import Readers
from towpath.testkit.eventually import eventually

pytestmark = pytest.mark.usefixtures("nothing_is_left")

STREAM = "chat:lobby"


async def serve_pushes(peer: Any) -> None:
    """Pushes what is asked for; answers when all of it is out."""
    await peer.welcome()
    while True:
        asked = await peer.hear()
        await peer.push(asked["data"].get("stream", STREAM), *asked["data"].get("seqs", []))
        await peer.say(f"{asked['action']}.ok", correlation_id=asked["msg_id"])


async def seqs_of(reader: StreamReader, count: int) -> list[int]:
    async with asyncio.timeout(30):
        return [(await anext(reader))["seq"] for _ in range(count)]


async def test_a_reader_gets_pushes_from_its_creation_on(a_server: Any) -> None:
    async with a_server(serve_pushes) as server, connect(server.url, token="t") as client:
        await client.request("chat.push", {"seqs": [1]})
        reader, other = client.stream(STREAM), client.stream("chat:den")
        await client.request("chat.push", {"seqs": [2, 2, 1, 3]})
        await client.request("chat.push", {"seqs": [1], "stream": "chat:den"})
        later = client.stream(STREAM)
        await client.request("chat.push", {"seqs": [4]})
        assert await seqs_of(reader, 3) == [2, 3, 4]
        assert await seqs_of(later, 1) == [4]
        assert await seqs_of(other, 1) == [1]


async def test_a_reader_waits_for_the_next_push(a_server: Any) -> None:
    async with a_server(serve_pushes) as server, connect(server.url, token="t") as client:
        seen: list[Envelope] = []

        async def read() -> None:
            async for push in client.stream(STREAM):
                seen.append(push)
                if push["seq"] == 3:
                    return

        reading = asyncio.create_task(read())
        await asyncio.sleep(0)
        await client.request("chat.push", {"seqs": [1, 2, 3, 4]})
        await reading
        assert [(push["action"], push["data"]) for push in seen] == [
            ("chat.message", {"n": n}) for n in (1, 2, 3)
        ]


async def test_a_cancelled_wait_loses_no_push(a_server: Any) -> None:
    async with a_server(serve_pushes) as server, connect(server.url, token="t") as client:
        reader = client.stream(STREAM)
        waiting = asyncio.create_task(anext(reader))
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="Two tasks read chat:lobby"):
            await anext(reader)
        waiting.cancel()
        await client.request("chat.push", {"seqs": [1]})
        assert await seqs_of(reader, 1) == [1]
        assert waiting.cancelled()


async def test_a_slow_reader_gets_the_kept_pushes_and_then_the_position(a_server: Any) -> None:
    async with a_server(serve_pushes) as server, connect(server.url, token="t") as client:
        reader = client.stream(STREAM, limit=2)
        await client.request("chat.push", {"seqs": [1, 2, 3, 4]})
        assert await seqs_of(reader, 2) == [1, 2]
        with pytest.raises(TowpathError, match=r"2 pushes behind\. Go on from 2") as raised:
            await anext(reader)
        assert (raised.value.code, raised.value.details) == ("overrun", {"stream": STREAM, "position": 2})
        with pytest.raises(StopAsyncIteration):
            await anext(reader)


async def test_closing_ends_readers_after_their_kept_pushes(a_server: Any) -> None:
    async with a_server(serve_pushes) as server:
        async with connect(server.url, token="t") as client:
            kept, waits = client.stream(STREAM), client.stream("chat:den")
            waiting = asyncio.create_task(anext(waits))
            await client.request("chat.push", {"seqs": [1, 2]})
        assert await seqs_of(kept, 2) == [1, 2]
        for ended in (anext(kept), waiting, anext(client.stream(STREAM))):
            with pytest.raises(TowpathError, match="The client was closed") as raised:
                await ended
            assert raised.value.code == "closed"


async def test_a_closed_reader_ends(a_server: Any) -> None:
    async with a_server(serve_pushes) as server, connect(server.url, token="t") as client:
        reader = client.stream(STREAM)
        waiting = asyncio.create_task(anext(reader))
        await asyncio.sleep(0)
        reader.close()
        for ended in (waiting, anext(reader)):
            with pytest.raises(StopAsyncIteration):
                await ended


async def test_an_abandoned_reader_keeps_no_pushes(a_server: Any) -> None:
    async with a_server(serve_pushes) as server, connect(server.url, token="t") as client:

        async def leave() -> None:
            async for _ in client.stream(STREAM):
                break

        leaving = asyncio.create_task(leave())
        await asyncio.sleep(0)
        await client.request("chat.push", {"seqs": [1, 2, 3]})
        await leaving
        gc.collect()
        boxes = client._driver.readers._boxes[STREAM]
        assert [(box.is_left, len(box._kept)) for box in boxes] == [(True, 0)]


def push(seq: int) -> Envelope:
    return {
        "msg_id": "srv",
        "timestamp": 0,
        "action": "chat.message",
        "data": {},
        "version": "1.0",
        "stream": STREAM,
        "seq": seq,
    }


async def test_a_position_waits_for_its_readers() -> None:
    moves: list[int] = []
    readers = Readers(lambda: moves.append(1))
    reader = readers.open(STREAM, 10)
    slow = readers.open(STREAM, 1)

    def saved() -> int:
        return readers.hold_back({STREAM: 4, "chat:den": 1})[STREAM]

    for seq in (2, 3, 4):
        readers.put(push(seq))
    assert saved() == 1
    assert await seqs_of(slow, 1) == [2]
    assert await seqs_of(reader, 1) == [2]
    assert saved() == 1, "it is in hand, not done"
    assert await seqs_of(reader, 2) == [3, 4]
    assert saved() == 1, "the slow one has 2 in hand"
    with pytest.raises(TowpathError, match="Go on from 2"):
        await anext(slow)
    assert saved() == 2, "and missed 3"
    slow.close()
    assert saved() == 3
    del reader
    gc.collect()
    assert saved() == 3, "a reader that left in the middle of 4 has not finished it"
    readers.open(STREAM, 10)
    assert saved() == 4, "another reader has taken over"
    assert moves


async def test_pushes_unread_at_a_crash_are_resumed(a_server: Any) -> None:
    storage = MemoryStorage()
    async with a_server(serve_pushes) as server:

        async def crash() -> None:
            async with connect(server.url, token="t", storage=storage) as client:
                reader = client.stream(STREAM)
                await client.request("chat.push", {"seqs": [1, 2, 3]})
                async for envelope in reader:
                    if envelope["seq"] == 2:
                        raise OSError("the disk is full")

        with pytest.raises(OSError, match="disk"):
            await crash()
        await eventually(lambda: storage.positions == {STREAM: 1})
