"""Servers that do what a test says, and a look at what a client leaves behind."""

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from http import HTTPStatus
from typing import Any, Protocol

import pytest
import pytest_asyncio
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from towpath.testkit.eventually import eventually


class Peer:
    """The server's side of one connection."""

    def __init__(self, socket: ServerConnection, number: int) -> None:
        self.socket = socket
        self.number = number

    @property
    def token(self) -> str:
        assert self.socket.request is not None
        return self.socket.request.headers["Authorization"].removeprefix("Bearer ")

    async def welcome(self, **data: Any) -> None:
        await self.say("session.welcome", {"user_id": "ana", "heartbeat_ms": 25_000, **data})

    async def say(self, action: str, data: Any = None, **fields: Any) -> None:
        envelope = {"msg_id": "srv", "timestamp": 0, "action": action, "data": data or {}, "version": "1.0"}
        await self.socket.send(json.dumps({**envelope, **fields}))

    async def push(self, stream: str, *seqs: int) -> None:
        for seq in seqs:
            await self.say("chat.message", {"n": seq}, stream=stream, seq=seq)

    async def hear(self) -> dict[str, Any]:
        """The next envelope of the client."""
        async with asyncio.timeout(10):
            envelope: dict[str, Any] = json.loads(await self.socket.recv())
        return envelope

    async def answer(self, data: Any = None) -> dict[str, Any]:
        """Answer the next envelope of the client, and return it."""
        asked = await self.hear()
        await self.say(f"{asked['action']}.ok", data, correlation_id=asked["msg_id"])
        return asked

    async def until_closed(self) -> int:
        """Wait for the end, and return the close code."""
        async with asyncio.timeout(10):
            await self.socket.wait_closed()
        return self.socket.close_code or 1006


class Server:
    """Where it is, and who came."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.peers: list[Peer] = []
        self.attempts = 0


Behaviour = Callable[[Peer], Awaitable[object]]
Refuse = Callable[[int], tuple[int, dict[str, str]] | None]


class RunServer(Protocol):
    """Runs a server that handles every connection with the given function.

    ``refuse`` answers before the upgrade: a status and headers, or ``None`` to let it pass. ``tls`` makes it ``wss``.
    """

    def __call__(
        self,
        behaviour: Behaviour,
        *,
        refuse: Refuse | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> AbstractAsyncContextManager[Server]: ...


@pytest.fixture
def a_server() -> RunServer:
    return _serving


@contextlib.asynccontextmanager
async def _serving(
    behaviour: Behaviour, *, refuse: Refuse | None = None, tls: ssl.SSLContext | None = None
) -> AsyncIterator[Server]:
    server: Server

    async def handle(socket: ServerConnection) -> None:
        peer = Peer(socket, len(server.peers) + 1)
        server.peers.append(peer)
        with contextlib.suppress(ConnectionClosed):
            await behaviour(peer)

    def admit(socket: ServerConnection, request: Request) -> Response | None:
        server.attempts += 1
        if refuse is None or (refusal := refuse(server.attempts)) is None:
            return None
        status, headers = refusal
        response = socket.respond(HTTPStatus(status), "not today\n")
        for name, value in headers.items():
            response.headers[name] = value
        return response

    async with serve(
        handle,
        "127.0.0.1",
        0,
        process_request=admit,
        select_subprotocol=lambda _, offered: offered[0] if offered else None,
        ping_interval=None,
        close_timeout=1,
        ssl=tls,
    ) as listening:
        port = next(iter(listening.sockets)).getsockname()[1]
        server = Server(f"{'ws' if tls is None else 'wss'}://127.0.0.1:{port}/ws")
        yield server


@pytest_asyncio.fixture
async def nothing_is_left() -> AsyncIterator[None]:
    """Fails a test after which a task still runs, or in which one failed unheard."""
    loop = asyncio.get_running_loop()
    before = asyncio.all_tasks()
    unheard: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: unheard.append(context))
    yield
    me = {asyncio.current_task()}
    await eventually(lambda: not asyncio.all_tasks() - before - me, timeout=10)
    assert unheard == []
