"""Views as an application reads them: a state, and then every later change."""

import asyncio
import gc
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from pydantic import BaseModel

from towpath.client import Change, Client, Reset, TowpathError, View, connect
from towpath.testkit.eventually import eventually

pytestmark = pytest.mark.usefixtures("nothing_is_left")

STREAM = "chat:lobby"


class Room:
    """A service with one stream: it answers loads and resumes, and pushes new entries."""

    def __init__(self) -> None:
        self.seq = 0
        self.resumes: list[dict[str, int]] = []
        self.kept_after = 0
        self.peer: Any = None

    async def serve(self, peer: Any) -> None:
        await peer.welcome()
        self.peer = peer
        while True:
            asked = await peer.hear()
            answer = await self.answer(asked)
            await peer.say(f"{asked['action']}.ok", answer, correlation_id=asked["msg_id"])

    async def answer(self, asked: dict[str, Any]) -> dict[str, Any]:
        match asked["action"]:
            case "chat.resume":
                positions = asked["data"]["positions"]
                self.resumes.append(positions)
                streams = {}
                for stream, seq in positions.items():
                    complete = seq >= self.kept_after
                    if complete:
                        await self.peer.push(stream, *range(seq + 1, self.seq + 1))
                    streams[stream] = {"seq": self.seq, "complete": complete}
                return {"streams": streams}
            case "chat.write":
                self.seq += asked["data"].get("count", 1)
                await self.peer.push(
                    STREAM, *range(self.seq - asked["data"].get("count", 1) + 1, self.seq + 1)
                )
        return {"seq": self.seq, "entries": list(range(1, self.seq + 1))}


@pytest.fixture
def room() -> Room:
    return Room()


def entries_of(update: Reset[dict[str, Any]] | Change) -> list[int] | int:
    """The entries of a state, or the one that a change adds."""
    return update.state["entries"] if isinstance(update, Reset) else update.seq


async def read(view: View[Any], count: int) -> list[Any]:
    async with asyncio.timeout(30):
        return [entries_of(await anext(view)) for _ in range(count)]


def history(client: Client) -> Callable[[], Awaitable[dict[str, Any]]]:
    return lambda: client.request("chat.history", {"room": "lobby"})


async def test_a_view_gives_the_state_and_then_the_changes(a_server: Any, room: Room) -> None:
    room.seq = 2
    async with (
        a_server(room.serve) as server,
        connect(server.url, token="t") as client,
        client.open_view(STREAM, history(client)) as view,
    ):
        assert await read(view, 1) == [[1, 2]]
        await client.request("chat.write", {"count": 2})
        assert await read(view, 2) == [3, 4]
        assert room.resumes == [{STREAM: 2}]


async def test_a_change_has_the_push_and_its_position(a_server: Any, room: Room) -> None:
    async with (
        a_server(room.serve) as server,
        connect(server.url, token="t") as client,
        client.open_view(STREAM, history(client)) as view,
    ):
        async for update in view:
            match update:
                case Reset(state, seq):
                    assert (state["entries"], seq, view.stream) == ([], 0, STREAM)
                    await client.request("chat.write")
                case Change("chat.message", data, seq, envelope):
                    assert (data, seq, envelope["stream"]) == ({"n": 1}, 1, STREAM)
                    break


async def test_views_of_one_stream_have_a_state_each_and_one_subscription(a_server: Any, room: Room) -> None:
    async with a_server(room.serve) as server, connect(server.url, token="t") as client:
        one, two = (client.open_view(STREAM, history(client)) for _ in range(2))
        assert await read(one, 1) == await read(two, 1) == [[]]
        await client.request("chat.write")
        assert await read(one, 1) == await read(two, 1) == [1]
        assert room.resumes == [{STREAM: 0}]
        one.close()
        await client.request("chat.write")
        assert await read(two, 1) == [2]
        two.close()
        assert client.positions == {}


async def test_entries_that_are_not_kept_any_more_are_replaced_by_a_new_state(
    a_server: Any, room: Room
) -> None:
    async with (
        a_server(room.serve) as server,
        connect(server.url, token="t") as client,
        client.open_view(STREAM, history(client)) as view,
    ):
        assert await read(view, 1) == [[]]
        room.seq = room.kept_after = 3
        client.resume()
        assert await read(view, 1) == [[1, 2, 3]]
        await client.request("chat.write")
        assert await read(view, 1) == [4]


async def test_a_slow_reader_gets_a_new_state_instead_of_the_changes(a_server: Any, room: Room) -> None:
    async with a_server(room.serve) as server, connect(server.url, token="t") as client:
        loads = 0

        async def load() -> dict[str, Any]:
            nonlocal loads
            loads += 1
            return await client.request("chat.history")

        view = client.open_view(STREAM, load, limit=2)
        await client.request("chat.write", {"count": 3})
        await client.request("chat.write", {"count": 3})
        assert loads == 1  # the state is loaded when the reader is back, and not before
        assert (await read(view, 1))[0] == [1, 2, 3, 4, 5, 6]
        assert loads == 2
        await client.request("chat.write")
        assert await read(view, 1) == [7]


@pytest.mark.parametrize("late", [False, True])
async def test_a_load_that_may_succeed_later_is_repeated_and_reported(
    a_server: Any, room: Room, late: bool
) -> None:
    async with a_server(room.serve) as server, connect(server.url, token="t") as client:
        reported: list[TowpathError] = []
        client.on_error(reported.append)
        tries = 0

        async def load() -> dict[str, Any]:
            nonlocal tries
            tries += 1
            if tries == 1:
                if late:
                    await asyncio.Event().wait()
                raise TowpathError("timeout", "unknown outcome", retryable=True)
            return await client.request("chat.history")

        view = client.open_view(STREAM, load, timeout=0.05 if late else 60)
        assert await read(view, 1) == [[]]
        assert [(error.code, error.retryable) for error in reported] == [("timeout", True)]
        assert ("within 0.05 s" in reported[0].message) is late


@pytest.mark.parametrize(
    ("raised", "code", "message"),
    [
        (TowpathError("forbidden", "not a member"), "forbidden", "not a member"),
        (KeyError("room"), "load_failed", r"load\(\) of chat:lobby failed: 'room'"),
        (TimeoutError(), "load_failed", r"load\(\) of chat:lobby failed: TimeoutError"),
        (asyncio.CancelledError(), "load_failed", r"load\(\) of chat:lobby failed: it was cancelled"),
    ],
)
async def test_any_other_error_of_a_load_ends_the_view(
    a_server: Any, room: Room, raised: BaseException, code: str, message: str
) -> None:
    async with a_server(room.serve) as server, connect(server.url, token="t") as client:

        async def load() -> dict[str, Any]:
            raise raised

        view = client.open_view(STREAM, load)
        with pytest.raises(TowpathError, match=message) as error:
            await anext(view)
        assert error.value.code == code
        with pytest.raises(StopAsyncIteration):
            await anext(view)
        assert await read(client.open_view(STREAM, history(client)), 1) == [[]]


class Page(BaseModel):
    seq: int


@pytest.mark.parametrize(
    ("state", "seq"),
    [({"seq": 3}, 3), (Page(seq=3), 3), ({}, None), ({"seq": -1}, None), ({"seq": "3"}, None), (None, None)],
)
async def test_a_state_names_its_position_or_the_view_ends(
    a_server: Any, room: Room, state: Any, seq: int | None
) -> None:
    async def load() -> Any:
        return state

    async with a_server(room.serve) as server, connect(server.url, token="t") as client:
        view = client.open_view(STREAM, load)
        if seq is not None:
            assert await anext(view) == Reset(state, seq)
            return
        with pytest.raises(TowpathError, match=r"gave no position of chat:lobby but .* needs a seq") as error:
            await anext(view)
        assert error.value.code == "load_failed"


async def test_a_position_may_stand_elsewhere(a_server: Any, room: Room) -> None:
    async def load() -> list[int]:
        return [9, 7]

    def lowest(seqs: list[int]) -> int:
        return min(seqs)

    async with (
        a_server(room.serve) as server,
        connect(server.url, token="t") as client,
        client.open_view(STREAM, load, position=lowest) as view,
    ):
        assert await anext(view) == Reset([9, 7], 7)


async def test_a_closed_view_ends_its_reader_and_cancels_its_load(a_server: Any, room: Room) -> None:
    async with a_server(room.serve) as server, connect(server.url, token="t") as client:
        cancelled = asyncio.Event()

        async def load() -> dict[str, Any]:
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()
            return {}

        view = client.open_view(STREAM, load)
        reading = asyncio.create_task(anext(view))
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="Two tasks read one view of chat:lobby"):
            await anext(view)
        view.close()
        view.close()
        with pytest.raises(StopAsyncIteration):
            await reading
        async with asyncio.timeout(10):
            await cancelled.wait()


async def test_a_view_that_is_dropped_is_closed(a_server: Any, room: Room) -> None:
    async with a_server(room.serve) as server, connect(server.url, token="t") as client:

        async def leave() -> None:
            async for _ in client.open_view(STREAM, history(client)):
                break

        await leave()
        gc.collect()
        await eventually(lambda: client.positions == {}, timeout=10)


async def test_the_end_of_the_client_ends_its_views(a_server: Any, room: Room) -> None:
    async with a_server(room.serve) as server:
        async with connect(server.url, token="t") as client:
            view = client.open_view(STREAM, history(client))
            assert await read(view, 1) == [[]]
            await client.request("chat.write")
        assert await read(view, 1) == [1]
        for ended in (view, client.open_view(STREAM, history(client))):
            with pytest.raises(TowpathError, match="closed") as error:
                await anext(ended)
            assert error.value.code == "closed"


async def test_a_view_that_has_ended_leaves_nothing_behind(a_server: Any, room: Room) -> None:
    async with a_server(room.serve) as server, connect(server.url, token="t") as client:
        for _ in range(3):
            async with client.open_view(STREAM, history(client)) as view:
                await read(view, 1)
        driver = client._driver
        assert not driver._feeds
        views = driver._session._views
        assert not views._views
        assert not views._by_stream
        assert not views._owned
        assert client.positions == {}


async def test_a_view_needs_a_started_client() -> None:
    with pytest.raises(RuntimeError, match="was not started"):
        connect("ws://127.0.0.1:1/ws", token="t").open_view(STREAM, history(None))  # type: ignore[arg-type]  # never called
