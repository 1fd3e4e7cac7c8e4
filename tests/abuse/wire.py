"""A WebSocket client without rules: it writes any bytes, ignores closes, and need not read (RFC 6455).

Frames are masked with a key of zeros: they are valid, and their payload can be changed in place.
"""

import asyncio
import base64
import contextlib
import functools
import json
import os
import socket
import ssl
import struct
from collections.abc import Mapping
from typing import Any, Final, Self

from towpath.testkit.client import Frame as Envelope

CONT: Final = 0
TEXT: Final = 1
BINARY: Final = 2
CLOSE: Final = 8
PING: Final = 9
PONG: Final = 10

#: A placeholder in msg_ids of built frames; a sender replaces it with a value of this length.
PLACE: Final = b"@@@@@@@@"
_FIELDS: Final[Mapping[str, Any]] = {"timestamp": 1, "version": "1.0"}


class Refused(Exception):
    """The gateway refused the handshake.

    Attributes:
        status: The HTTP status; 0 when the connection ended without one.
    """

    def __init__(self, status: int) -> None:
        super().__init__(f"refused with {status}")
        self.status = status


def frame(
    opcode: int, payload: bytes = b"", *, fin: bool = True, reserved: int = 0, masked: bool = True
) -> bytes:
    """One frame of a client; ``reserved`` is the three reserved bits, 0 when it keeps to the rules."""
    head = (0x80 if fin else 0) | reserved << 4 | opcode
    mask = 0x80 if masked else 0
    length = len(payload)
    if length < 126:
        start = struct.pack("!BB", head, mask | length)
    elif length < 1 << 16:
        start = struct.pack("!BBH", head, mask | 126, length)
    else:
        start = struct.pack("!BBQ", head, mask | 127, length)
    return start + (b"\0\0\0\0" if masked else b"") + payload


def envelope(action: str, data: Mapping[str, Any] | None = None, **fields: Any) -> bytes:
    """The JSON of an envelope; its msg_id has :data:`PLACE` in it unless one is given."""
    body = {"msg_id": PLACE.decode(), "action": action, "data": data or {}, **_FIELDS, **fields}
    return json.dumps(body, separators=(",", ":")).encode()


def text(action: str, data: Mapping[str, Any] | None = None, **fields: Any) -> bytes:
    """An envelope in one text frame."""
    return frame(TEXT, envelope(action, data, **fields))


@functools.cache
def client_hello() -> bytes:
    """The first message of a TLS handshake (RFC 8446, section 4.1.2), the same each time."""
    sent = ssl.MemoryBIO()
    tls = ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), sent, server_hostname="localhost")
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    return sent.read()


class Wire:
    """One connection to a gateway."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._unread = bytearray()

    @classmethod
    async def open(
        cls,
        port: int,
        token: str,
        *,
        source: str | None = None,
        receive_buffer: int | None = None,
        timeout: float = 20.0,
    ) -> Self:
        """Connect and shake hands.

        Args:
            port: Of a gateway on 127.0.0.1.
            source: The address to come from, one of 127.0.0.0/8.
            receive_buffer: Bytes that the kernel may hold unread.

        Raises:
            Refused: The gateway did not upgrade.
            OSError: It could not be reached.
        """
        wire = await cls.dial(port, source=source, receive_buffer=receive_buffer, timeout=timeout)
        try:
            async with asyncio.timeout(timeout):
                await wire.send(handshake(token))
                await wire._upgraded()
        except BaseException:
            wire.abort()
            raise
        return wire

    @classmethod
    async def dial(
        cls,
        port: int,
        *,
        source: str | None = None,
        receive_buffer: int | None = None,
        timeout: float = 20.0,
    ) -> Self:
        """Connect by TCP alone."""
        connecting = socket.socket()
        try:
            connecting.setblocking(False)
            if receive_buffer is not None:
                connecting.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            if source is not None:
                connecting.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                connecting.bind((source, 0))
            async with asyncio.timeout(timeout):
                await asyncio.get_running_loop().sock_connect(connecting, ("127.0.0.1", port))
        except BaseException:
            connecting.close()
            raise
        return cls(connecting)

    async def send(self, data: bytes) -> None:
        """Write all of ``data``, as fast as the gateway takes it."""
        await asyncio.get_running_loop().sock_sendall(self._socket, data)

    async def receive(self) -> tuple[int, bytes]:
        """The next frame: its opcode and payload.

        Raises:
            EOFError: The connection ended.
        """
        while True:
            if (found := self._take()) is not None:
                return found
            await self._read()

    async def discard(self) -> int | None:
        """Read until the connection ends; returns the code of the close frame, if one came."""
        code: int | None = None
        with contextlib.suppress(EOFError, OSError):
            while True:
                opcode, payload = await self.receive()
                if opcode == CLOSE and len(payload) >= 2:
                    code = int.from_bytes(payload[:2], "big")
        return code

    async def until(self, action: str, *, timeout: float = 20.0) -> dict[str, Any]:
        """The next envelope of this action; all before it are dropped."""
        async with asyncio.timeout(timeout):
            while True:
                opcode, payload = await self.receive()
                if opcode == TEXT:
                    found: dict[str, Any] = json.loads(payload)
                    if found["action"] == action:
                        return found

    async def request(self, action: str, data: Mapping[str, Any] | None = None, **fields: Any) -> Envelope:
        """Send an envelope and return its final answer."""
        msg_id = os.urandom(8).hex()
        await self.send(text(action, data, msg_id=msg_id, **fields))
        async with asyncio.timeout(30):
            while True:
                opcode, payload = await self.receive()
                if opcode == TEXT:
                    found: Envelope = json.loads(payload)
                    if found.get("correlation_id") == msg_id and found["action"] != "accepted":
                        return found

    def abort(self) -> None:
        """Reset the connection."""
        with contextlib.suppress(OSError):
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()

    async def _upgraded(self) -> None:
        while b"\r\n\r\n" not in self._unread:
            try:
                await self._read()
            except EOFError:
                raise Refused(0) from None
        head, _, rest = bytes(self._unread).partition(b"\r\n\r\n")
        self._unread[:] = rest
        status = int(head.split(b" ", 2)[1])
        if status != 101:
            raise Refused(status)

    async def _read(self) -> None:
        data = await asyncio.get_running_loop().sock_recv(self._socket, 1 << 18)
        if not data:
            raise EOFError
        self._unread += data

    def _take(self) -> tuple[int, bytes] | None:
        held = self._unread
        if len(held) < 2:
            return None
        length, start = held[1] & 0x7F, 2
        if length >= 126:
            width = 2 if length == 126 else 8
            if len(held) < 2 + width:
                return None
            length, start = int.from_bytes(held[2 : 2 + width], "big"), 2 + width
        if len(held) < start + length:
            return None
        opcode, payload = held[0] & 0x0F, bytes(held[start : start + length])
        del held[: start + length]
        return opcode, payload


def handshake(token: str) -> bytes:
    """The request of an opening handshake."""
    key = base64.b64encode(os.urandom(16)).decode()
    return (
        f"GET /ws HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: towpath.v1\r\n"
        f"Authorization: Bearer {token}\r\n\r\n"
    ).encode()
