"""The undocumented names of ``websockets`` that the gateway needs: a test for each shows what depends on it.

A test that fails after an update of ``websockets`` names the promise that is lost with the name.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import InvalidMessage
from websockets.frames import Frame, Opcode
from websockets.typing import Subprotocol

from towpath.gateway.websocket.library import LibraryConnection
from towpath.testkit.eventually import eventually

REQUEST = (
    b"GET / HTTP/1.1\r\nHost: gateway\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
#: Masked with zeros, which leaves the payload as it is (RFC 6455, section 5.3).
TEXT = b"\x81\x82\x00\x00\x00\x00{}"
PING = b"\x89\x82\x00\x00\x00\x00hi"
PONG = b"\x8a\x02hi"
#: A frame with a reserved opcode.
INVALID = b"\x83\x80\x00\x00\x00\x00"


class Recording(LibraryConnection):
    """A connection that records what passes through its methods, and is parsed byte by byte."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.frames: list[Frame] = []
        self.output: list[bytes] = []
        self.handshakes_over = 0
        self.had_no_request = False
        self.is_lost = False

    def data_received(self, data: bytes) -> None:
        for byte in data:
            self.parse_bytes(bytes([byte]))

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.is_lost = True

    def on_frame(self, frame: Frame) -> None:
        self.frames.append(frame)
        if frame.opcode is Opcode.PING:
            self.handle_control(frame)

    def on_output(self, output: list[bytes]) -> None:
        self.had_no_request |= self.got_no_request()
        self.output += output
        self.transport.writelines([data for data in output if data])
        if b"" in output:
            self.transport.close()

    def on_handshake_over(self) -> None:
        self.handshakes_over += 1


@asynccontextmanager
async def connected(
    *sent: bytes,
) -> AsyncIterator[tuple[Recording, asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection of the library whose client has sent some bytes."""
    accepted: list[Recording] = []

    def create(*args: Any, **options: Any) -> Recording:
        accepted.append(Recording(*args, **options))
        return accepted[-1]

    def select(_: ServerConnection, __: object) -> Subprotocol | None:
        return None

    async with serve(
        lambda connection: connection.wait_closed(),
        "127.0.0.1",
        0,
        create_connection=create,  # type: ignore[arg-type]  # documented: a factory will do
        select_subprotocol=select,
        compression=None,
        ping_interval=None,
        close_timeout=1,
    ) as server:
        port = server.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(b"".join(sent))
            await eventually(lambda: bool(accepted))
            yield accepted[0], reader, writer
        finally:
            writer.transport.abort()


async def test_process_event_gets_each_frame_so_that_none_waits_in_a_queue() -> None:
    async with connected(REQUEST, *[TEXT] * 100) as (connection, _, _):
        await eventually(lambda: len(connection.frames) == 100)
        assert connection.events_parsed == 101  # with the request
        assert {bytes(frame.data) for frame in connection.frames} == {b"{}"}
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await connection.recv()


async def test_send_data_gets_the_librarys_frames_so_that_pongs_are_bounded() -> None:
    async with connected(REQUEST) as (connection, reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(PING)
        assert await reader.readexactly(len(PONG)) == PONG
        assert connection.output[-1] == PONG


async def test_handshake_ends_when_the_connection_is_open_or_refused() -> None:
    async with connected(REQUEST) as (connection, _, _):
        await eventually(lambda: connection.handshakes_over == 1)
    async with connected(b"nonsense\r\n\r\n") as (connection, _, _):
        await eventually(lambda: connection.handshakes_over == 1)


async def test_data_received_takes_bytes_in_any_slices_so_that_parsing_can_be_shared_out() -> None:
    async with connected(REQUEST + TEXT[:3]) as (connection, _, writer):
        await eventually(lambda: connection.handshakes_over == 1)
        assert connection.frames == []
        writer.write(TEXT[3:] + TEXT)
        await eventually(lambda: len(connection.frames) == 2)


async def test_eof_received_ends_the_parser_so_that_bytes_before_the_end_can_be_parsed_first() -> None:
    async with connected(REQUEST, TEXT) as (connection, _, _):
        await eventually(lambda: len(connection.frames) == 1)
        connection.parse_bytes(TEXT)
        assert len(connection.frames) == 2
        connection.parse_end()
        await eventually(lambda: connection.is_lost)
        assert connection.close_code == 1006


@pytest.mark.parametrize(("sent", "is_answered"), [(b"\x16\x03\x01\r\n\r\n", True), (b"GET / HT", False)])
async def test_handshake_exc_separates_bytes_that_are_not_http_from_an_incomplete_request(
    sent: bytes, is_answered: bool
) -> None:
    async with connected(sent) as (connection, _, writer):
        if not is_answered:
            writer.write_eof()
        await eventually(lambda: b"" in connection.output)
        assert isinstance(connection.protocol.handshake_exc, InvalidMessage)
        assert connection.had_no_request is is_answered
        connection.break_cycles(is_lost=False)
        assert connection.protocol.handshake_exc is None


async def test_parser_exc_holds_the_connection_until_its_traceback_is_dropped() -> None:
    async with connected(REQUEST, INVALID) as (connection, _, _):
        await eventually(lambda: connection.protocol.parser_exc is not None)
        error = connection.protocol.parser_exc
        assert error is not None
        assert error.__traceback__ is not None
        connection.break_cycles(is_lost=False)
        assert error.__traceback__ is None


async def test_parser_is_a_generator_that_holds_the_connection_until_it_is_closed() -> None:
    async with connected(REQUEST) as (connection, _, writer):
        writer.transport.abort()
        await eventually(lambda: connection.is_lost)
        parser: Any = connection.protocol.parser
        assert parser.gi_frame is not None
        connection.break_cycles(is_lost=True)
        assert parser.gi_frame is None


async def test_select_subprotocol_holds_the_connection_until_it_is_removed() -> None:
    async with connected(REQUEST) as (connection, _, writer):
        writer.transport.abort()
        await eventually(lambda: connection.is_lost)
        assert "select_subprotocol" in vars(connection.protocol)
        connection.break_cycles(is_lost=True)
        assert "select_subprotocol" not in vars(connection.protocol)
