"""A socket: one WebSocket as a :class:`~towpath.gateway.sessions.session.Session` uses it; the outgoing direction.

A connection is three classes, each on top of the one before:
:class:`~towpath.gateway.websocket.counted.CountedConnection` (its opening handshake),
:class:`~towpath.gateway.websocket.reading.ReadingConnection` (what arrives) and :class:`Socket` (what leaves, and the
close). One object and not three, because every read and every write would pay for the calls between them.

Guarantees:

* A write never waits for the client. Bytes that wait to be written are bounded per connection and in total
  (:mod:`~towpath.gateway.websocket.backlog`): a client that does not read is closed with 4001.
* Frames leave in the order in which they were sent, the library's own among them (pongs and the close).
* Nothing is sent after a close has begun, except the close frame: not even a pong.

Frames go to the transport directly, not through the library's ``send``, which would build each frame again for each
receiver, under a lock, and would wait.
"""

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, cast

import structlog
from websockets.frames import Opcode
from websockets.protocol import State

from towpath.gateway.addresses import Proxies
from towpath.gateway.admission.connect_rates import ConnectRates
from towpath.gateway.admission.descriptor_share import DescriptorShare
from towpath.gateway.admission.entrance import Entrance
from towpath.gateway.settings import GatewaySettings
from towpath.gateway.websocket.backlog import Backlog
from towpath.gateway.websocket.certificate import Certificate
from towpath.gateway.websocket.closing import Closing
from towpath.gateway.websocket.frames import text_frame
from towpath.gateway.websocket.parse_turns import ParseTurns
from towpath.gateway.websocket.reading import ReadingConnection
from towpath.gateway.websocket.tls_door import TlsDoor
from towpath.gateway.websocket.writes import Writes
from towpath.protocol.close_codes import CloseCode
from towpath.servicekit.runtime.telemetry import Telemetry

log = structlog.get_logger(__name__)

#: The answer to bytes that are not an HTTP request. websockets would close without an answer.
_NO_REQUEST: Final = (
    b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Type: text/plain; charset=utf-8\r\n"
    b"Content-Length: 30\r\n\r\nthis is not an HTTP/1 request\n"
)
#: The opcode is in the low four bits of a frame's first byte (RFC 6455, section 5.2).
_OPCODE: Final = 0x0F


@dataclass(frozen=True, slots=True)
class Shared:
    """The common parts of the sockets of one listener; built with :meth:`of`."""

    entrance: Entrance
    proxies: Proxies
    parse_turns: ParseTurns
    backlog: Backlog
    writes: Writes
    closing: Closing
    door: TlsDoor | None

    @classmethod
    def of(
        cls, share: DescriptorShare, rates: ConnectRates, settings: GatewaySettings, telemetry: Telemetry
    ) -> "Shared":
        """Build all of it, with its metrics.

        Raises:
            BadSetting: The certificate cannot be used.
        """
        certificate = Certificate.of(settings, telemetry)
        turns = ParseTurns(settings.read_turn, settings.read_share)
        telemetry.gauge("read_waiting", "Connections whose bytes wait to be parsed", lambda: turns.waiting)
        telemetry.gauge(
            "read_deferred", "Times that bytes had to wait for a later loop iteration", lambda: turns.deferred
        )
        return cls(
            Entrance(share, telemetry),
            Proxies(settings.trusted_proxies),
            turns,
            Backlog(settings, telemetry),
            Writes(),
            Closing(rates, settings.close_timeout),
            TlsDoor(certificate, rates, settings, telemetry) if certificate is not None else None,
        )


class Socket(ReadingConnection):
    """One WebSocket; see the head of this module."""

    _is_in_backlog: bool = False

    def __init__(self, *args: Any, shared: Shared, **options: Any) -> None:
        super().__init__(
            *args,
            entrance=shared.entrance,
            proxies=shared.proxies,
            door=shared.door,
            parse_turns=shared.parse_turns,
            **options,
        )
        self._backlog, self._writes, self._closing = shared.backlog, shared.writes, shared.closing
        #: Frames that wait for the end of the loop iteration.
        self._buffered: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._bytes_waiting = _bytes_waiting(
            cast("asyncio.WriteTransport", transport), cast("asyncio.WriteTransport", self._accepted)
        )

    def connection_lost(self, exc: Exception | None) -> None:
        # First: the bytes of a lost connection are free, and must not cost another client its connection.
        self._backlog.forget(self)
        self._buffered.clear()
        super().connection_lost(exc)

    # Frames

    def send_text(self, text: bytes) -> None:
        """Send one text frame."""
        self.send_frames(text_frame(text))

    def send_frames(self, frames: bytes) -> None:
        """Send frames by the end of the loop iteration, in one system call with others."""
        # RFC 6455, section 5.5.1: "The application MUST NOT send any more data frames after sending a Close frame."
        # Section 6.1 also demands the state OPEN: the client may have begun the close.
        if self.closing or self.protocol.state is not State.OPEN:
            return
        self._buffered.append(frames)
        if len(self._buffered) == 1:
            self._writes.add(self)

    def write_frames(self, frames: bytes) -> None:
        """Send frames at once; for a push to many, of whom few get a second frame in the same iteration."""
        # To write now would overtake the buffered frames, and a client relies on the order of answers and pushes.
        if self.closing or self._buffered or self.protocol.state is not State.OPEN:
            self.send_frames(frames)  # behind those that are buffered
        elif not (transport := self.transport).is_closing():
            transport.write(frames)
            # Nothing waits, as a rule, and then nothing is recorded; a connection that was in the backlog has to
            # leave it.
            if (waiting := self._bytes_waiting()) or self._is_in_backlog:
                self._note(waiting)

    def write_out(self) -> None:
        """Write the frames buffered until the end of the loop iteration."""
        buffered, self._buffered = self._buffered, []
        # Empty if the library's output wrote them out earlier in this iteration (`on_output`).
        if not buffered or self.transport.is_closing():
            return
        if len(buffered) == 1:
            self.transport.write(buffered[0])
        else:
            self.transport.writelines(buffered)
        self._check_backlog()

    def send_ping(self) -> None:
        """Send a ping; any bytes from the client count as its answer."""
        if not self.closing and self.protocol.state is State.OPEN:
            # The payload is never compared: section 5.5.3 allows unsolicited pongs, and any bytes show that the
            # client lives.
            self.protocol.send_ping(b"towpath")
            self.send_data()

    def on_output(self, output: list[bytes]) -> None:
        # The library's own frames, mainly pongs, are bounded like ours: a client may send pings and read nothing.
        # Frames keep their order: a close frame of the library must not overtake an answer that was sent before it,
        # since section 5.5.1 forbids data after it.
        if self._buffered:
            self.write_out()
        for data in output:
            if not data:
                if self.got_no_request():
                    self.transport.write(_NO_REQUEST)
                self._end_direction()
            # Section 5.5.2 excuses a pong only after a received close. Ours is sent or on its way, so the pong would
            # be behind it.
            elif not (self.closing and data[0] & _OPCODE == Opcode.PONG):
                self.transport.write(data)
        self._check_backlog()

    def _end_direction(self) -> None:
        # RFC 6455, section 7.1.1: the server ends its direction first.
        if self.transport.can_write_eof():
            # The client may have ended the connection already.
            with contextlib.suppress(RuntimeError, OSError):
                self.transport.write_eof()
        else:
            # TLS has no half-closed connections here: what waits is written, then the alert "close_notify".
            self.transport.close()

    # Bytes that wait to be written

    def _check_backlog(self) -> None:
        if (waiting := self._bytes_waiting()) or self._is_in_backlog:
            self._note(waiting)

    def _note(self, waiting: int) -> None:
        self._is_in_backlog = waiting > 0
        self._backlog.note(self, waiting)

    def backlog_size(self) -> int:
        """Bytes that wait to be written."""
        # An aborted transport frees its bytes in a later iteration; until then they must not be counted as waiting.
        # Of the TCP transport: while TLS closes, its bytes still wait.
        return 0 if self._accepted is None or self._accepted.is_closing() else self._bytes_waiting()

    def close_too_slow(self) -> None:
        """Close with 4001: the client does not read, and too many bytes wait."""
        log.warning("slow_consumer", user=self.owner, connection_id=self.connection_id)
        self.close_with(CloseCode.SLOW_CONSUMER, "too slow: reconnect and resume")

    # Close

    def close_with(self, code: int, reason: str) -> None:
        """Begin the closing handshake; idempotent."""
        if not self.closing:
            # The first reason counts. A backlog or a limit may report the same client many times before it is gone.
            self.closing = True
            self._closing.begin(self, code, reason)

    async def close(self, code: int = 1000, reason: str = "") -> None:
        self.closing = True  # websockets also closes connections itself when its server ends.
        await super().close(code, reason)


def _bytes_waiting(transport: asyncio.WriteTransport, accepted: asyncio.WriteTransport) -> Callable[[], int]:
    """Returns how many bytes of a connection wait to be written."""
    if transport is accepted:
        return transport.get_write_buffer_size
    # TLS counts what it has not given to TCP yet; up to 64 KiB and the last write wait there.
    return lambda: transport.get_write_buffer_size() + accepted.get_write_buffer_size()
