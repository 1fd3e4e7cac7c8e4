"""A client that speaks the wire contract to the letter and keeps all it hears.

It resumes nothing, drops nothing and hides nothing: tests see what a gateway sends. ``docs/reference/`` has the
contract.
"""

import asyncio
import contextlib
import json
import secrets
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, Literal

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Origin, Subprotocol

Frame = dict[str, Any]

_SUBPROTOCOL = Subprotocol("towpath.v1")
#: Iterations of the event loop without a new frame, after which none is on its way through this process.
_TURNS = 10


class ConnectionEnded(Exception):
    """The connection ended while a frame was awaited.

    Attributes:
        code: The close code; 1006 when there was none.
    """

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"The connection ended with {code} {reason!r}.")
        self.code = code


class WireClient:
    """One WebSocket.

    Attributes:
        frames: All frames so far, in the order they came.
        misfits: The problems that ``check`` found in them.
    """

    def __init__(self, socket: ClientConnection, check: Callable[[Frame], str] = lambda _: "") -> None:
        self.frames: list[Frame] = []
        self.misfits: list[str] = []
        self._check = check
        self._socket = socket
        self._next: dict[str, int] = {}  # by action: where `next` goes on
        self._news = asyncio.Condition()
        self._ended = False

    @classmethod
    @contextlib.asynccontextmanager
    async def connect(
        cls,
        url: str,
        *,
        token: str | None = None,
        via: Literal["header", "subprotocol"] = "header",
        origin: str | None = None,
        timeout: float = 30.0,
        check: Callable[[Frame], str] = lambda _: "",
        **options: Any,
    ) -> AsyncIterator["WireClient"]:
        """Open a connection; it is closed at the end.

        Args:
            url: ``ws://host:port/ws``.
            token: The JWT; ``None`` sends none.
            via: Where the token goes: as apps do, or as browsers must.
            origin: The ``Origin`` header, as browsers send it.
            timeout: Seconds for the opening handshake.
            check: Returns the problem of a frame; one with a problem fails the test at the end.
            options: Of :func:`websockets.asyncio.client.connect`.

        Raises:
            websockets.exceptions.InvalidStatus: The gateway refused before the upgrade.
        """
        headers, subprotocols = {}, [_SUBPROTOCOL]
        if token is not None and via == "header":
            headers["Authorization"] = f"Bearer {token}"
        elif token is not None:
            subprotocols.append(Subprotocol(f"towpath.token.{token}"))
        settings: dict[str, Any] = {"compression": None, "max_size": None, "proxy": None, **options}
        async with connect(
            url,
            additional_headers=headers,
            subprotocols=subprotocols,
            origin=None if origin is None else Origin(origin),
            open_timeout=timeout,
            **settings,
        ) as socket:
            client = cls(socket, check)
            listening = asyncio.create_task(client._listen())
            try:
                yield client
            finally:
                await socket.close()
                await listening
            assert not client.misfits, client.misfits[0]

    @property
    def subprotocol(self) -> str | None:
        """The subprotocol that the gateway chose."""
        return self._socket.subprotocol

    async def send(self, action: str, data: Frame | None = None, **fields: Any) -> str:
        """Send one envelope and return its ``msg_id``.

        Args:
            action: The action.
            data: The payload.
            fields: Other fields of the envelope (``key``, ``ack``, ``msg_id`` …); ``None`` leaves one out.
        """
        envelope = {
            "msg_id": secrets.token_hex(12),
            "timestamp": time.time_ns() // 1_000_000,
            "action": action,
            "data": {} if data is None else data,
            "version": "1.0",
            **fields,
        }
        await self.send_raw(
            json.dumps({name: value for name, value in envelope.items() if value is not None})
        )
        return str(envelope["msg_id"])

    async def send_raw(self, frame: str | bytes) -> None:
        """Send a frame as it is, right or wrong: text, or binary for ``bytes``."""
        await self._socket.send(frame)

    async def request(
        self, action: str, data: Frame | None = None, *, timeout: float = 30.0, **fields: Any
    ) -> Frame:
        """Send one envelope and return its final answer, ``<action>.ok`` or ``error``."""
        msg_id = await self.send(action, data, **fields)
        return await self.answer(msg_id, timeout=timeout)

    async def answer(self, msg_id: str, *, timeout: float = 30.0) -> Frame:
        """The first final answer to a request that was sent.

        An ``error`` with code ``timeout`` says that the outcome is unknown: another final answer may follow it.
        """
        return await self.find(
            lambda frame: frame.get("correlation_id") == msg_id and frame["action"] != "accepted",
            timeout=timeout,
            what=f"answer to {msg_id}",
        )

    async def accepted(self, msg_id: str, *, timeout: float = 30.0) -> Frame:
        """The ``accepted`` for a request that was sent with ``ack=True``; after a ``timeout`` none comes."""
        return await self.find(
            lambda frame: frame.get("correlation_id") == msg_id and frame["action"] == "accepted",
            timeout=timeout,
            what=f"accepted for {msg_id}",
        )

    async def next(self, action: str, *, timeout: float = 30.0) -> Frame:
        """The first frame of this action that ``next`` has not given yet."""
        place = await self._find(
            lambda frame: frame["action"] == action, self._next.get(action, 0), timeout, f"further {action}"
        )
        self._next[action] = place + 1
        return self.frames[place]

    def pushes(self, action: str) -> list[Frame]:
        """All pushes of this action so far: frames that answer no request."""
        return [frame for frame in self.frames if frame["action"] == action and "correlation_id" not in frame]

    async def find(
        self, wanted: Callable[[Frame], bool], *, timeout: float = 30.0, what: str = "such frame"
    ) -> Frame:
        """The first frame that is ``wanted``, of those that came or will come.

        Raises:
            AssertionError: None came within ``timeout`` seconds; the message lists what did.
            ConnectionEnded: None came, and none will.
        """
        return self.frames[await self._find(wanted, 0, timeout, what)]

    async def caught_up(self) -> None:
        """Wait until the gateway has read all that was sent, and what it had sent by then is in :attr:`frames`."""
        # Frames and pongs keep their order on both ways.
        with contextlib.suppress(ConnectionClosed):
            await (await self._socket.ping())
        seen, turns = -1, 0
        while turns < _TURNS:
            turns = turns + 1 if seen == len(self.frames) else 0
            seen = len(self.frames)
            await asyncio.sleep(0)

    async def closed(self, *, timeout: float = 30.0) -> int:
        """Wait for the end of the connection and return the close code; 1006 when there was none."""
        async with asyncio.timeout(timeout):
            await self._socket.wait_closed()
        return self._close_code

    async def close(self) -> None:
        """Close the connection properly, with 1000."""
        await self._socket.close()

    def abort(self) -> None:
        """Drop the connection without a word, as a lost network does."""
        self._socket.transport.abort()

    @property
    def _close_code(self) -> int:
        return self._socket.close_code or 1006

    async def _find(self, wanted: Callable[[Frame], bool], place: int, timeout: float, what: str) -> int:
        try:
            async with asyncio.timeout(timeout), self._news:
                while True:
                    while place < len(self.frames):
                        if wanted(self.frames[place]):
                            return place
                        place += 1
                    if self._ended:
                        raise ConnectionEnded(self._close_code, self._socket.close_reason or "")
                    await self._news.wait()
        except TimeoutError:
            came = ", ".join(frame["action"] for frame in self.frames[-20:]) or "nothing"
            raise AssertionError(f"No {what} within {timeout:g} s. The last frames were: {came}.") from None

    async def _listen(self) -> None:
        with contextlib.suppress(ConnectionClosed):
            while True:
                frame = json.loads(await self._socket.recv())
                if problem := self._check(frame):
                    self.misfits.append(problem)
                async with self._news:
                    self.frames.append(frame)
                    self._news.notify_all()
        async with self._news:
            self._ended = True
            self._news.notify_all()
