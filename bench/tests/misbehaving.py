"""Servers that do something wrong, exactly so often: the generator has to find it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from bench.dialects import number_after
from bench.generator.control import Control

#: Sends one frame to the client that asked.
Send = Callable[[str], Awaitable[None]]
#: The handling of the request of this place (0, 1 …) and number.
Treat = Callable[[int, int, Send], Awaitable[None]]

_number = number_after(b'"msg_id":"')


def willing() -> Control:
    """The generator's end of a runner that lets it go on at every mark."""
    lines = asyncio.StreamReader()
    lines.feed_data(b"go\n" * 20)
    return Control(lines)


def answer(number: int) -> str:
    """The answer to a request, in the dialect ``plain``."""
    return f'{{"action":"echo.say.ok","correlation_id":"{number:010d}"}}'


def refusal(number: int) -> str:
    """The refusal of a request, in the dialect ``plain``."""
    return f'{{"action":"error","correlation_id":"{number:010d}"}}'


@contextlib.asynccontextmanager
async def answering(treat: Treat) -> AsyncIterator[str]:
    """A server that treats each client's requests one after the other; gives its URL."""

    async def handle(socket: ServerConnection) -> None:
        await socket.send('{"action":"session.welcome"}')
        place = 0
        with contextlib.suppress(ConnectionClosed):
            async for text in socket:
                assert isinstance(text, str)
                number = _number(text.encode())
                assert number is not None
                await treat(place, number, socket.send)
                place += 1

    async with serving(handle) as url:
        yield url


@contextlib.asynccontextmanager
async def serving(handle: Callable[[ServerConnection], Awaitable[None]]) -> AsyncIterator[str]:
    """A WebSocket server; gives its URL."""
    async with serve(handle, "127.0.0.1", 0, compression=None) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        yield f"ws://127.0.0.1:{port}/ws"
