"""Clients: WebSocket connections that cost the generator as little as can be.

Guarantees: a client counts as connected when its system's dialect says so; a client that is cut off is counted;
frames go to ``receive`` as they come, one after the other.
"""

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from typing import Final

from picows import WSCloseCode, WSError, WSFrame, WSListener, WSMsgType, WSTransport, ws_connect

from bench.dialects import Dialect, Handshake

_TEXT: Final = WSMsgType.TEXT
_CLOSE: Final = WSMsgType.CLOSE
_OPEN_SECONDS: Final = 30.0

clock: Final = time.monotonic_ns


class ConnectFailed(Exception):
    """A client could not connect."""


class Client(WSListener):
    """One connection.

    Attributes:
        receive: Takes the frames; set by the user of the client.
        ended: Whether the connection is over.
        close_code: The system's code when it closed the connection.
    """

    def __init__(self, user: str, dialect: Dialect) -> None:
        self.user = user
        self.ended = False
        self.close_code: WSCloseCode | None = None
        self.receive: Callable[[bytes], None] = self._while_opening
        self._dialect = dialect
        self._opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._transport: WSTransport | None = None

    @classmethod
    async def open(
        cls,
        url: str,
        user: str,
        dialect: Dialect,
        handshake: Handshake | None = None,
        seconds: float = _OPEN_SECONDS,
    ) -> "Client":
        """Connect within so many seconds; ``handshake`` is that of the user, where it has been made already.

        Raises:
            ConnectFailed: The system refused, or did not say in time that the connection can be used.
        """
        handshake = handshake or dialect.handshake(user)
        headers = dict(handshake.headers)
        if handshake.subprotocols:
            headers["Sec-WebSocket-Protocol"] = ", ".join(handshake.subprotocols)
        client = cls(user, dialect)
        try:
            async with asyncio.timeout(seconds):
                await ws_connect(
                    lambda: client,
                    url,
                    extra_headers=headers,
                    websocket_handshake_timeout=None,
                    read_buffer_init_size=1024,
                    proxy=None,
                    use_aiofastnet=False,  # measured here: uvloop's own transports cost a little less
                )
                await client._opened
        except (WSError, OSError, TimeoutError) as error:
            client.drop()
            raise ConnectFailed(f"{user} could not connect to {url}: {error!r}") from None
        return client

    def send(self, frame: bytes) -> None:
        """Send one text frame; nothing when the connection is over."""
        if self._transport is not None:
            self._transport.send(_TEXT, frame)

    def reply(self, frame: bytes) -> None:
        """Answer a frame that means nothing to a script, where its system wants an answer."""
        if (answer := self._dialect.reply(frame)) is not None:
            self.send(answer)

    def drop(self) -> None:
        """End the connection without a word."""
        if self._transport is not None:
            self._transport.disconnect(graceful=False)

    def pause(self) -> None:
        """Read nothing more from the socket."""
        assert self._transport is not None
        self._transport.underlying_transport.pause_reading()

    # Called by picows

    def on_ws_connected(self, transport: WSTransport) -> None:
        self._transport = transport
        for frame in self._dialect.opening(self.user):
            self.send(frame)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        kind = frame.msg_type
        if kind is _TEXT:
            self.receive(frame.get_payload_as_bytes())
        elif kind is _CLOSE:
            self.close_code = frame.get_close_code()
            transport.send_close(frame.get_close_code())
            transport.disconnect()

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        self.ended = True
        self._transport = None
        if not self._opened.done():
            self._opened.set_exception(OSError(f"closed with {self.close_code} while opening"))

    def _while_opening(self, frame: bytes) -> None:
        if self._dialect.opened(frame):
            self.receive = self.reply
            if not self._opened.done():
                self._opened.set_result(None)
        else:
            self.reply(frame)


async def open_many(
    users: Sequence[str],
    urls: Sequence[str],
    dialect: Dialect,
    *,
    at_once: int = 50,
    progress: Callable[[float], None] = lambda share: None,
) -> list[Client]:
    """Connect all users, by turns to each of ``urls``.

    Raises:
        ConnectFailed: One of them could not.
    """
    gate = asyncio.Semaphore(at_once)
    clients: dict[int, Client] = {}

    async def connect(place: int, user: str) -> None:
        async with gate:
            clients[place] = await Client.open(urls[place % len(urls)], user, dialect)
        progress(len(clients) / len(users))

    try:
        async with asyncio.TaskGroup() as tasks:
            for place, user in enumerate(users):
                tasks.create_task(connect(place, user))
    except BaseExceptionGroup as group:
        raise group.exceptions[0] from None
    return [clients[place] for place in range(len(users))]


def names(kind: str, count: int) -> list[str]:
    """Names of users or rooms, such as ``p417u0``. Every generator has others: systems remember who asked what."""
    return [f"p{os.getpid()}{kind}{number}" for number in range(count)]
