"""A broker's greeting before the login: the ``connection.start`` of AMQP 0-9-1.

It finds out in milliseconds whether a broker answers, and which, where a client would retry for a long time.
"""

import asyncio
import contextlib
import os
import re
import socket
import struct
from dataclasses import dataclass
from typing import Final

from towpath.tools.trouble import Trouble

# https://www.rabbitmq.com/resources/specs/amqp0-9-1.pdf, sections 4.2.2 and 4.2.3
_PROTOCOL_HEADER: Final = b"AMQP\x00\x00\x09\x01"
_FRAME_HEADER: Final = struct.Struct(">BHL")
_METHOD_FRAME: Final = 1
_CONNECTION_START: Final = struct.pack(">HH", 10, 10)
_LARGEST: Final = 65536


class NoBroker(Trouble):
    """Nothing that speaks AMQP 0-9-1 answers."""


@dataclass(frozen=True, slots=True)
class Greeting:
    """Name and version of a broker, as it gives them."""

    product: str
    version: str

    def __str__(self) -> str:
        return f"{self.product} {self.version}".strip()


async def greet(host: str, port: int, *, timeout: float = 5.0) -> Greeting:
    """Ask the broker at ``host:port`` who it is.

    Raises:
        NoBroker: Nothing answers within ``timeout`` seconds, or the answer is not that of a broker.
    """
    try:
        async with asyncio.timeout(timeout):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                writer.write(_PROTOCOL_HEADER)
                kind, _, size = _FRAME_HEADER.unpack(await reader.readexactly(_FRAME_HEADER.size))
                start = await reader.readexactly(min(size, _LARGEST)) if kind == _METHOD_FRAME else b""
            finally:
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()
    except TimeoutError:
        raise NoBroker(f"nothing answers at {host}:{port} within {timeout:g} s") from None
    except asyncio.IncompleteReadError:
        raise NoBroker(f"the server at {host}:{port} does not speak AMQP 0-9-1") from None
    except OSError as error:
        raise NoBroker(f"nothing answers at {host}:{port} ({_reason(error)})") from None
    if not start.startswith(_CONNECTION_START):
        raise NoBroker(f"the server at {host}:{port} does not speak AMQP 0-9-1")
    return Greeting(_property(start, b"product") or "AMQP broker", _property(start, b"version"))


def _property(start: bytes, name: bytes) -> str:
    """A text of the ``server-properties`` table."""
    found = re.search(re.escape(bytes([len(name)]) + name + b"S") + rb"(.{4})", start, re.DOTALL)
    if found is None:
        return ""
    (length,) = struct.unpack(">L", found[1])
    text = start[found.end() : found.end() + length].decode("utf-8", "replace")
    return "".join(letter for letter in text if letter.isprintable())[:64]


def _reason(error: OSError) -> str:
    if isinstance(error, socket.gaierror) or not error.errno:
        return error.strerror or str(error)
    return os.strerror(error.errno)
