"""Frames from RabbitMQ, made decodable before aiormq reads them.

aiormq ends the connection when pamqp cannot decode a frame, e.g. a timestamp in nanoseconds or a ``message_id`` in
Latin-1. So a :class:`SafeReader` is put between the socket and aiormq: it looks at each frame and replaces what
cannot be decoded. It needs no private API: it is passed to ``aiormq.Connection`` as ``transport_factory``, and the
format it reads, AMQP 0-9-1, is fixed.

Guarantees:

* A frame that leaves here can be decoded by pamqp, whatever a sender put into properties, headers or routing key.
* A decodable frame is passed on unchanged, byte for byte.
* In a content header that cannot be decoded, the decodable properties and headers are kept. The body is not changed.
* The work is linear in the size of a frame.

Content headers (the properties and headers of a message) are read in
:mod:`towpath.servicekit.broker.rabbitmq.content_header`.
"""

import asyncio
import struct
from typing import Final

from towpath.servicekit.broker.rabbitmq.content_header import safe_header

_METHOD: Final = 1
_HEADER: Final = 2
_END: Final = b"\xce"
_HEAD_SIZE: Final = 7
#: Bytes read from the socket at once: most often many frames, so that a frame costs no pass of the event loop.
_READ: Final = 256 * 1024
_MAX_SHORT: Final = 255

#: Methods with text from other programs, and their fields: a number of bytes to skip, or 0 for a short string.
_TEXTS: Final = {
    (60, 60): (
        0,
        9,
        0,
        0,
    ),  # Basic.Deliver: consumer tag, delivery tag and redelivered, exchange, routing key
    (60, 71): (9, 0, 0, 4),  # Basic.GetOk
    (60, 50): (2, 0, 0, 0),  # Basic.Return: code, text, exchange, routing key
    (60, 30): (0, 1),  # Basic.Cancel
    (20, 40): (2, 0, 4),  # Channel.Close: RabbitMQ cuts its text after 255 bytes, also within a letter
    (10, 50): (2, 0, 4),  # Connection.Close
    (10, 60): (0,),  # Connection.Blocked
}
_METHODS: Final = {struct.pack(">HH", *method): fields for method, fields in _TEXTS.items()}
_CONNECTION_CLOSE: Final = struct.pack(">HH", 10, 50)
#: Methods followed by a content header.
_CONTENT: Final = tuple(struct.pack(">HH", *method) for method in ((60, 60), (60, 71), (60, 50)))


class SafeReader:
    """Reads frames from a stream and gives them to aiormq, in place of its ``asyncio.StreamReader``.

    aiormq asks for ``at_eof``, and for 1 byte, 6 bytes and the rest of each frame with ``readexactly``.
    """

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader
        self._read = b""  # The bytes of the last read, possibly many frames.
        self._begin = 0  # Offset of the next frame in it.
        self._frame = b""  # The frame that aiormq is reading now.
        self._at = 0
        self._odd: dict[int, str] = {}
        self.closed: tuple[int, str] | None = None  #: reply code and text of Connection.Close

    def at_eof(self) -> bool:
        return self._at >= len(self._frame) and self._begin >= len(self._read) and self._reader.at_eof()

    async def read(self, n: int = -1) -> bytes:
        """The remaining bytes, unchanged; only called when the peer does not speak AMQP."""
        rest = self._frame[self._at :] + self._read[self._begin :]
        self._frame = self._read = b""
        self._at = self._begin = 0
        return rest or await self._reader.read(n)

    async def readexactly(self, n: int) -> bytes:
        if self._at >= len(self._frame):
            self._frame, self._at = await self._next(), 0
        start, self._at = self._at, self._at + n
        piece = self._frame[start : self._at]
        if len(piece) < n:
            raise asyncio.IncompleteReadError(piece, n)
        return piece

    async def _next(self) -> bytes:
        await self._have(_HEAD_SIZE)
        head = self._read[self._begin : self._begin + _HEAD_SIZE]
        # A server that speaks another version answers with its own protocol header, which is not a frame.
        if head.startswith(b"AMQP"):
            self._begin += _HEAD_SIZE
            return head
        size = int.from_bytes(head[3:], "big")
        end = _HEAD_SIZE + size + 1
        await self._have(end)
        frame = self._read[self._begin : self._begin + end]
        self._begin += end
        kind, payload = frame[0], frame[_HEAD_SIZE:-1]
        if kind == _HEADER:
            channel = int.from_bytes(head[1:3], "big")
            safe = safe_header(payload, self._odd.pop(channel, None) if self._odd else None)
        elif kind == _METHOD:
            safe, reason = safe_method(payload)
            if safe.startswith(_CONNECTION_CLOSE):
                self.closed = int.from_bytes(safe[4:6], "big"), safe[7 : 7 + safe[6]].decode()
            # Kept until the content header of the same channel arrives: the defect belongs to that message. AMQP
            # never interleaves two messages of one channel.
            if reason is not None:
                self._odd[int.from_bytes(head[1:3], "big")] = reason
        else:
            return frame
        # The usual case: not copied, not encoded again.
        return frame if safe is payload else head[:3] + len(safe).to_bytes(4, "big") + safe + frame[-1:]

    async def _have(self, size: int) -> None:
        """Wait until ``size`` bytes of the next frame are here."""
        while len(self._read) - self._begin < size:
            part = await self._reader.read(_READ)
            self._read, self._begin = self._read[self._begin :] + part, 0
            if not part:
                raise asyncio.IncompleteReadError(self._read, size)


def safe_method(payload: bytes) -> tuple[bytes, str | None]:
    """A method frame's payload with valid UTF-8 texts, and the defect found, if a content header follows it."""
    fields = _METHODS.get(payload[:4])
    if fields is None:
        return payload, None
    parts = [payload[:4]]
    wrong: str | None = None
    at = 4
    for field in fields:
        end = at + (field or 1 + payload[at])
        piece = payload[at:end]
        if not field and not piece[1:].isascii():
            try:
                piece[1:].decode()
            except UnicodeDecodeError:
                text = piece[1:].decode("utf-8", "backslashreplace").encode()[:_MAX_SHORT]
                text = text.decode("utf-8", "ignore").encode()
                piece = bytes([len(text)]) + text
                wrong = "exchange or routing key: not UTF-8"
        parts.append(piece)
        at = end
    if wrong is None:
        return payload, None
    return b"".join(parts) + payload[at:], wrong if payload[:4] in _CONTENT else None
