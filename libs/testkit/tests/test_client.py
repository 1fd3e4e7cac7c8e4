"""The wire client, against a small server that plays the gateway."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection, serve

from towpath.testkit.client import ConnectionEnded, WireClient

Play = Callable[[ServerConnection], Awaitable[None]]


@contextlib.asynccontextmanager
async def a_gateway(play: Play) -> AsyncIterator[str]:
    async with serve(play, "127.0.0.1", 0, subprotocols=["towpath.v1"]) as server:  # type: ignore[list-item]
        yield f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/ws"


async def tell(socket: ServerConnection, action: str, **fields: Any) -> None:
    await socket.send(json.dumps({"action": action, "data": {}, **fields}))


async def take(socket: ServerConnection) -> dict[str, Any]:
    envelope: dict[str, Any] = json.loads(await socket.recv())
    return envelope


async def test_a_request_gets_its_answer_and_accepted_separately() -> None:
    async def play(socket: ServerConnection) -> None:
        asked = await take(socket)
        await tell(socket, "order.updated", stream="order:ana", seq=1)
        await tell(socket, "chat.send.ok", correlation_id="another")
        await tell(socket, "accepted", correlation_id=asked["msg_id"])
        await tell(socket, f"{asked['action']}.ok", correlation_id=asked["msg_id"], data=asked["data"])
        await socket.wait_closed()

    async with a_gateway(play) as url, WireClient.connect(url) as client:
        answer = await client.request("order.submit", {"order_id": "O1"}, ack=True, msg_id="m-1")
        assert (answer["action"], answer["data"]) == ("order.submit.ok", {"order_id": "O1"})
        assert (await client.accepted("m-1"))["action"] == "accepted"
        assert [frame["action"] for frame in client.pushes("order.updated")] == ["order.updated"]
        assert client.pushes("chat.send.ok") == []


async def test_an_error_is_an_answer_like_any_other() -> None:
    async def play(socket: ServerConnection) -> None:
        asked = await take(socket)
        await tell(socket, "error", correlation_id=asked["msg_id"], data={"code": "not_found"})

    async with a_gateway(play) as url, WireClient.connect(url) as client:
        assert (await client.request("order.get", {"order_id": "O1"}))["data"] == {"code": "not_found"}


async def test_next_gives_each_frame_once_and_in_order() -> None:
    async def play(socket: ServerConnection) -> None:
        for seq in (1, 2):
            await tell(socket, "chat.message", seq=seq)
            await tell(socket, "chat.typing")
        await take(socket)
        await tell(socket, "chat.message", seq=3)
        await socket.wait_closed()

    async with a_gateway(play) as url, WireClient.connect(url) as client:
        assert [(await client.next("chat.message"))["seq"] for _ in range(2)] == [1, 2]
        await client.send("chat.send")
        assert (await client.next("chat.message"))["seq"] == 3
        with pytest.raises(AssertionError, match=r"No further chat\.message within 0\.05 s\. .*chat\.typing"):
            await client.next("chat.message", timeout=0.05)
        assert (await client.next("chat.typing"))["action"] == "chat.typing"


@pytest.mark.parametrize("via", ["header", "subprotocol"])
async def test_the_token_is_sent_in_a_header_or_a_subprotocol(via: Any) -> None:
    seen: dict[str, str | None] = {}

    async def play(socket: ServerConnection) -> None:
        assert socket.request is not None
        headers = socket.request.headers
        seen.update(
            {name: headers.get(name) for name in ("Authorization", "Sec-WebSocket-Protocol", "Origin")}
        )

    async with (
        a_gateway(play) as url,
        WireClient.connect(url, token="t.o.k", via=via, origin="https://towpath.example") as client,
    ):
        assert client.subprotocol == "towpath.v1"
        assert await client.closed() == 1000
    assert seen["Origin"] == "https://towpath.example"
    if via == "header":
        assert (seen["Authorization"], seen["Sec-WebSocket-Protocol"]) == ("Bearer t.o.k", "towpath.v1")
    else:
        assert (seen["Authorization"], seen["Sec-WebSocket-Protocol"]) == (
            None,
            "towpath.v1, towpath.token.t.o.k",
        )


async def test_a_waiting_request_gets_the_close_code() -> None:
    async def play(socket: ServerConnection) -> None:
        await take(socket)
        await socket.close(4003, "token expired")

    async with a_gateway(play) as url, WireClient.connect(url) as client:
        with pytest.raises(ConnectionEnded, match="4003 'token expired'") as ended:
            await client.request("chat.rooms")
        assert ended.value.code == await client.closed() == 4003


async def test_an_aborted_connection_ends_without_a_code() -> None:
    async def play(socket: ServerConnection) -> None:
        await socket.wait_closed()

    async with a_gateway(play) as url, WireClient.connect(url) as client:
        client.abort()
        assert await client.closed() == 1006


async def test_raw_frames_go_as_they_are() -> None:
    heard: asyncio.Queue[str | bytes] = asyncio.Queue()

    async def play(socket: ServerConnection) -> None:
        async for frame in socket:
            heard.put_nowait(frame)

    async with a_gateway(play) as url, WireClient.connect(url) as client:
        await client.send_raw("not json")
        await client.send_raw(b"\x00")
        await client.send("chat.send", version=None)
        assert [await heard.get(), await heard.get()] == ["not json", b"\x00"]
        assert json.loads(await heard.get()).keys() == {"msg_id", "timestamp", "action", "data"}
