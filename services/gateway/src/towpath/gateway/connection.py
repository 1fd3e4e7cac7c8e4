"""The WebSocket side: accepts connections, feeds frames in, writes frames out. The only user of ``websockets``.

Guarantees: nothing is read from a connection before it is admitted; its welcome is sent once pushes to its user are
routed to this replica; bytes that wait to be written to one connection are bounded (4001); a write never waits for
the receiver; binary frames close with 1003, large ones with 1009.

Frames are written to the transport directly: without compression (it is never negotiated) the frame is the same for
every receiver, so that one frame is built for many. Incoming frames are handled as they are read: no handling waits,
so a queue and a task per connection would only cost time.
"""

import asyncio
import contextlib
import http
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from math import ceil
from typing import Any, Final
from urllib.parse import urlsplit

import structlog
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import InvalidHeader, InvalidMessage, NegotiationError
from websockets.frames import DATA_OPCODES, Frame, Opcode
from websockets.frames import CloseCode as StandardCode
from websockets.headers import parse_subprotocol
from websockets.http11 import Request, Response
from websockets.protocol import Event, State
from websockets.typing import Subprotocol

from towpath.gateway.addresses import Proxies
from towpath.gateway.admission import SUBPROTOCOL, Admission, Identity, TokenRefused, bearer_token
from towpath.gateway.backlog import Backlog
from towpath.gateway.entrance import EnteringConnection, Entrance
from towpath.gateway.limits import Limits
from towpath.gateway.parse_turns import ParseTurns
from towpath.gateway.sessions import Session
from towpath.gateway.settings import GatewaySettings
from towpath.gateway.writes import Writes
from towpath.protocol.close_codes import CloseCode
from towpath.servicekit.runtime.buckets import Buckets, Rate
from towpath.servicekit.runtime.listening import LISTEN_ERRORS, cannot_listen
from towpath.servicekit.runtime.sampled_log import Tally
from towpath.servicekit.runtime.telemetry import Telemetry

log = structlog.get_logger(__name__)

PATH: Final = "/ws"
#: websockets logs each refused handshake as an error; ours are counted, not faults.
_QUIET: Final = logging.getLogger("towpath.gateway.websockets")
_QUIET.setLevel(logging.CRITICAL)
#: The limit at which websockets would pause its own send(); small writes are left to the kernel.
_WRITE_LIMIT: Final = 64 * 1024
#: The listen backlog: the maximum of Linux, because after a restart all clients connect at once.
_BACKLOG: Final = 4096
#: Data frames that may arrive before the session is ready; then reading stops.
_EARLY_FRAMES: Final = 16
#: Bytes parsed at once: about 150 of the smallest frames. Slices of a large frame grow until it ends.
_SLICE: Final = 1024
_LARGEST_SLICE: Final = 64 * 1024
#: Bytes that may arrive after a close has begun: an honest client's bytes in flight, including its close frame.
_AFTER_CLOSE_BYTES: Final = 128 * 1024
#: The same in frames: small frames cost more than their bytes.
_AFTER_CLOSE_FRAMES: Final = 512
#: Seconds until a client that sends more than that is aborted.
_LAST_SECONDS: Final = 1.0
#: Control frames, which cost the gateway an answer or at least a check.
_COUNTED: Final = frozenset({Opcode.PING, Opcode.PONG})
_ABUSE: Final = frozenset({CloseCode.RATE_LIMIT_ABUSED, CloseCode.PROTOCOL_VIOLATED})
#: Headers that must not be repeated, because it would be ambiguous which one counts.
_ONCE: Final = ("Origin", "Authorization", "Host")
#: The answer to bytes that are not an HTTP request. websockets would close without an answer.
_NO_REQUEST: Final = (
    b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Type: text/plain; charset=utf-8\r\n"
    b"Content-Length: 26\r\n\r\nthis is no HTTP/1 request\n"
)
#: Maximum number of frames of one text message.
_FRAGMENTS: Final = 1024

#: The first byte of a text frame that is the last of its message.
_TEXT: Final = b"\x81"


def text_frame(text: bytes) -> bytes:
    """One unmasked text frame, ready for any number of connections (RFC 6455, section 5.2)."""
    size = len(text)
    if size < 126:
        return _TEXT + size.to_bytes(1, "big") + text
    if size < 1 << 16:
        return _TEXT + b"\x7e" + size.to_bytes(2, "big") + text
    return _TEXT + b"\x7f" + size.to_bytes(8, "big") + text


class _Socket(EnteringConnection):
    """A WebSocket as :class:`towpath.gateway.sessions.Socket` wants it.

    Attributes:
        turns, backlog, writes: Shared by the connections of this replica.
    """

    identity: Identity
    turns: ParseTurns
    backlog: Backlog
    writes: Writes
    begin_close: "Callable[[_Socket, int, str], None]"
    last_seen: float = 0.0
    closing: bool = False
    receiver: "Receiver | None" = None
    charge_frame: Callable[[int], None] | None = None
    whose: str = ""
    _since_close: int = 0
    _frames_since_close: int = 0
    _is_paused: bool = False
    _is_cut_off: bool = False
    _is_noted: bool = False  # The backlog has recorded bytes of this connection.
    _rest: asyncio.Handle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._early: list[Frame] = []
        self._kept: list[bytes] = []
        self._unparsed = memoryview(b"")
        self._at_end = False
        self._slice = _SLICE
        super().connection_made(transport)
        self.whose = self.address

    # Incoming

    def data_received(self, data: bytes) -> None:
        self.last_seen = self.loop.time()
        if self.closing:
            self._since_close += len(data)
            if self._since_close > _AFTER_CLOSE_BYTES:
                self._stop_reading()
                return
        if self._unparsed or self._rest:  # read before the transport had paused
            self._unparsed = memoryview(b"".join((self._unparsed, data)))
            return
        if len(data) <= _SLICE and (began := self.turns.begin_small()):
            super().data_received(data)  # The usual case of an honest client.
            self.turns.end_small(began)
            return
        self._unparsed = memoryview(data)
        if self.turns.take(self):
            self._pause()

    def parse_slice(self) -> bool:
        """Parse a part of the bytes read: at most some tens of frames, or a piece of a large one."""
        if self._rest or not self._unparsed:  # it rests, or the connection was lost meanwhile
            return False
        part = self._unparsed[: self._slice]
        self._unparsed = self._unparsed[self._slice :]
        before = self._events
        super().data_received(bytes(part))
        # A slice in which no frame ends is cheap, so a large frame is read in larger slices.
        self._slice = min(2 * self._slice, _LARGEST_SLICE) if self._events == before else _SLICE
        if self._rest:
            return False
        if self._unparsed:
            return True
        self._parsed_all()
        return False

    def _parsed_all(self) -> None:
        if self._at_end:
            super().eof_received()
        elif self._is_paused and not self._is_held:
            self._is_paused = False
            self.transport.resume_reading()

    def _pause(self) -> None:
        if not self._is_paused:
            self._is_paused = True
            self.transport.pause_reading()

    def rest(self, seconds: float) -> bool:
        """Stop reading and parsing for a moment: the TCP window then slows down the sender."""
        if self._rest is not None or self.closing:
            return False
        self._rest = self.loop.call_later(seconds, self._rested)
        self._pause()
        return True

    def go_on(self) -> None:
        """Resume reading soon. Not at once: the caller may be writing an answer."""
        if self._rest is not None and not self._is_cut_off:
            self._rest.cancel()
            self._rest = self.loop.call_soon(self._rested)

    def _stop_reading(self) -> None:
        """Stop reading for good. The client has a moment to read the close frame, which a reset could discard."""
        if not self._is_cut_off:
            self._is_cut_off = True
            if self._rest is not None:
                self._rest.cancel()
            self._rest = self.loop.call_later(_LAST_SECONDS, self.transport.abort)
            self._pause()
        self._unparsed = memoryview(b"")

    def _rested(self) -> None:
        self._rest = None
        if self.transport.is_closing():
            return
        if not self._unparsed:
            self._parsed_all()
        else:
            self.turns.take(self)

    def eof_received(self) -> None:
        if self._unparsed or self._rest:
            self._at_end = True  # after what came before it
        else:
            super().eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._rest is not None:
            self._rest.cancel()
        self.turns.forget(self)
        self.backlog.forget(self)
        self._unparsed = memoryview(b"")
        self._kept.clear()
        super().connection_lost(exc)

    _events = 0

    @property
    def _is_held(self) -> bool:
        """Whether early frames wait for the session, so that reading is paused."""
        return self.receiver is None and len(self._early) >= _EARLY_FRAMES

    def process_event(self, event: Event) -> None:
        self._events += 1
        if not isinstance(event, Frame):
            super().process_event(event)
        elif self.closing:
            # After a close has begun only the client's close frame is read.
            self._frames_since_close += 1
            if self._frames_since_close > _AFTER_CLOSE_FRAMES:
                self._stop_reading()
        elif event.opcode not in DATA_OPCODES:
            if event.opcode in _COUNTED and self.charge_frame is not None:
                self.charge_frame(len(event.data))
            super().process_event(event)
        elif self.receiver is not None:
            self.receiver.take(event)
        else:
            self._early.append(event)
            if len(self._early) == _EARLY_FRAMES:
                self.transport.pause_reading()

    def begin(self, receiver: "Receiver") -> None:
        """Pass each data frame to ``receiver`` from now on, starting with the early frames."""
        was_held = self._is_held
        self.receiver = receiver
        for frame in self._early:
            if not self.closing:
                receiver.take(frame)
        if was_held and not self._unparsed and not self._rest:
            self.transport.resume_reading()
        self._early.clear()

    # Outgoing

    def send_data(self) -> None:
        # Frames that websockets writes itself, mainly pongs, are bounded as well.
        if not (waiting := self.protocol.data_to_send()):
            return
        if self._kept:
            self.write_out()
        for data in waiting:
            if not data:
                if self._got_no_request():
                    self.transport.write(_NO_REQUEST)
                with contextlib.suppress(RuntimeError, OSError):
                    self.transport.write_eof()
            elif not (self.closing and data[0] & 0x0F == Opcode.PONG):
                self.transport.write(data)
        self._check_backlog()

    def _got_no_request(self) -> bool:
        """Whether the bytes received are not an HTTP request, and not merely an incomplete one."""
        error = self.protocol.handshake_exc
        return (
            isinstance(error, InvalidMessage)
            and not isinstance(error.__cause__, EOFError)
            and self.request is None
        )

    def send_text(self, text: bytes) -> None:
        self.send_frames(text_frame(text))

    def write_frames(self, frames: bytes) -> None:
        if self.closing or self._kept or self.protocol.state is not State.OPEN:
            self.send_frames(frames)
        elif not (transport := self.transport).is_closing():
            transport.write(frames)
            if (waiting := transport.get_write_buffer_size()) or self._is_noted:
                self._note(waiting)

    def send_frames(self, frames: bytes) -> None:
        if self.closing or self.protocol.state is not State.OPEN:
            return
        self._kept.append(frames)
        if len(self._kept) == 1:
            self.writes.add(self)

    def write_out(self) -> None:
        """Write the frames buffered until the end of the loop iteration."""
        kept, self._kept = self._kept, []
        if not kept or self.transport.is_closing():
            return
        if len(kept) == 1:
            self.transport.write(kept[0])
        else:
            self.transport.writelines(kept)
        self._check_backlog()

    def _check_backlog(self) -> None:
        if (waiting := self.transport.get_write_buffer_size()) or self._is_noted:
            self._note(waiting)

    def _note(self, waiting: int) -> None:
        self._is_noted = waiting > 0
        self.backlog.note(self, waiting)

    def too_slow(self) -> None:
        """Close with 4001: the client does not read, and too many bytes wait."""
        log.warning("slow_consumer", user=self.whose)
        self.close_with(CloseCode.SLOW_CONSUMER, "too slow: reconnect and resume")

    def cut_off(self) -> None:
        """Abort the connection, which frees its waiting bytes at once."""
        self.transport.abort()

    def backlog_size(self) -> int:
        """Bytes that wait to be written."""
        return 0 if self.transport.is_closing() else self.transport.get_write_buffer_size()

    def ping_now(self) -> None:
        if not self.closing and self.protocol.state is State.OPEN:
            self.protocol.send_ping(b"towpath")
            self.send_data()

    def close_with(self, code: int, reason: str) -> None:
        if not self.closing:
            self.closing = True
            self.begin_close(self, code, reason)

    async def close(self, code: int = 1000, reason: str = "") -> None:
        self.closing = True  # websockets also closes connections itself when its server ends.
        await super().close(code, reason)


class Receiver:
    """Assembles the text messages of one connection from its data frames, whose order RFC 6455 guarantees.

    Args:
        received: Called with each text.
        charge: Called with the size of each fragment but the last.
        refuse: Called once with a close code and a reason if the frames are not a valid text; nothing is read after
        it.
    """

    def __init__(
        self,
        received: Callable[[bytes], None],
        refuse: Callable[[int, str], None],
        charge: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._charge = charge
        self._received = received
        self._refuse = refuse
        self._fragments: list[bytes] = []
        self._refused = False

    def take(self, frame: Frame) -> None:
        """Take the next data frame."""
        if self._refused:
            return
        if frame.opcode is Opcode.BINARY:
            self._end(CloseCode.UNSUPPORTED_DATA, "send text frames, one JSON object each")
            return
        data = bytes(frame.data)
        if self._fragments or not frame.fin:
            self._fragments.append(data)
            if len(self._fragments) > _FRAGMENTS:
                self._end(CloseCode.MESSAGE_TOO_BIG, "too many fragments")
                return
            if not frame.fin:
                self._charge(len(data))
                return
            data = b"".join(self._fragments)
            self._fragments.clear()
        try:
            data.decode()
        except UnicodeDecodeError as error:
            self._end(StandardCode.INVALID_DATA, f"not UTF-8: {error.reason} at position {error.start}")
            return
        try:
            self._received(data)
        except Exception:
            log.exception("frame_failed")
            self._end(StandardCode.INTERNAL_ERROR, "something went wrong here")

    def _end(self, code: int, reason: str) -> None:
        self._refused = True
        self._fragments.clear()
        self._refuse(code, reason)


class Listener:
    """Accepts connections while it is open; created with :meth:`open`.

    Args:
        entrance: Counts sockets and handshakes.
        refusing: Returns why new connections are refused with 503 for now; ``None`` while they are accepted.
        reaching: Context in which pushes to a user are routed to this replica; held for the life of each connection.
    """

    def __init__(
        self,
        admission: Admission,
        entrance: Entrance,
        settings: GatewaySettings,
        telemetry: Telemetry,
        *,
        turns: ParseTurns,
        limits: Limits,
        backlog: Backlog,
        refusing: Callable[[], str | None],
        reaching: Callable[[str], AbstractAsyncContextManager[None]],
        opened: Callable[[Session], None],
        received: Callable[[Session, bytes], None],
        closed: Callable[[Session, int | None], None],
    ) -> None:
        self._admission = admission
        self._entrance = entrance
        self._proxies = Proxies(settings.trusted_proxies)
        self._settings = settings
        self._by_user: Buckets[str] = Buckets(
            Rate(settings.connects_per_user, settings.connects_per_user_burst)
        )
        self._by_address: Buckets[str] = Buckets(
            Rate(settings.connects_per_address, settings.connects_per_address_burst)
        )
        self._too_many = {
            by: Tally(
                "connects_refused",
                telemetry.counter("connects_refused", "Handshakes refused with 429", {"by": by}),
            )
            for by in ("user", "address")
        }
        self._turns = turns
        self._limits = limits
        self._backlog = backlog
        self._writes = Writes()
        self._refusing = refusing
        self._reaching = reaching
        self._opened = opened
        self._received = received
        self._closed = closed
        self._closing: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Server]:
        """Serve ``/ws`` from entry to exit.

        Raises:
            BadSetting: The port is in use, or the host is not an address of this machine.
        """
        settings = self._settings
        try:
            server = await serve(
                self._handle,
                settings.host,
                settings.port,
                select_subprotocol=_select_subprotocol,
                compression=None,
                process_request=self._admit,
                server_header=None,
                open_timeout=settings.open_timeout,
                ping_interval=None,  # towpath.gateway.heartbeat pings, without a task per connection
                close_timeout=settings.close_timeout,
                max_size=settings.max_frame_bytes,
                write_limit=_WRITE_LIMIT,
                backlog=_BACKLOG,
                create_connection=self._socket,  # type: ignore[arg-type]  # documented: a factory will do
                logger=_QUIET,
            )
        except LISTEN_ERRORS as error:
            raise cannot_listen(
                error, settings.host, settings.port, host_setting="TOWPATH_HOST", port_setting="TOWPATH_PORT"
            ) from None
        try:
            yield server
        finally:
            server.close(code=CloseCode.SERVICE_RESTART)
            self._entrance.abort_unfinished()
            await server.wait_closed()
            if self._closing:
                await asyncio.wait(self._closing, timeout=settings.close_timeout + 1)

    def _socket(self, *args: Any, **options: Any) -> "_Socket":
        """Create a connection with the shared objects of this listener."""
        socket = _Socket(*args, entrance=self._entrance, proxies=self._proxies, **options)
        socket.turns, socket.backlog, socket.writes = self._turns, self._backlog, self._writes
        return socket

    async def _admit(self, socket: ServerConnection, request: Request) -> Response | None:
        """Check one handshake; returns the refusal, or ``None``."""
        assert isinstance(socket, _Socket)
        refusal = self._refuse(socket, request)
        if refusal is not None and refusal.status_code == http.HTTPStatus.TOO_MANY_REQUESTS:
            # Slows down clients that reconnect at once; a delayed refusal counts as a handshake.
            await asyncio.sleep(self._settings.refusal_delay)
        return refusal

    def _refuse(self, socket: _Socket, request: Request) -> Response | None:
        headers = request.headers
        socket.locate(headers.get_all("X-Forwarded-For"))
        # First, before a signature is checked: a client must not make this replica work as fast as it can send.
        if refusal := self._is_too_often(socket, "address", self._by_address, socket.address):
            return refusal
        if _path_of(request.path) != PATH:
            return _refusal(socket, 404, f"nothing here; connect to {PATH}")
        for name in _ONCE:
            if len(headers.get_all(name)) > 1:
                return _refusal(socket, 400, f"the header {name} stands there more than once")
        origin = headers.get("Origin")
        if not self._admission.admits_origin(origin):
            return _refusal(
                socket, 403, f"origin {origin!r} may not connect; it is not in TOWPATH_ALLOWED_ORIGINS"
            )
        if (why := self._refusing()) is not None:
            return _refusal(socket, 503, why, {"Retry-After": str(max(1, round(self._settings.retry_after)))})
        try:
            token = bearer_token(headers.get("Authorization"), _offered(request))
            socket.identity = self._admission.identify(token)
        except TokenRefused as error:
            return _refusal(socket, 401, str(error), {"WWW-Authenticate": "Bearer"})
        if refusal := self._is_too_often(socket, "user", self._by_user, socket.identity.user_id):
            return refusal
        socket.admitted()
        return None

    def _is_too_often(self, socket: _Socket, by: str, buckets: Buckets[str], key: str) -> Response | None:
        now = socket.loop.time()
        wait = buckets.of(key, now).take(1, now)
        if not wait:
            return None
        self._too_many[by].add(by=by, key=key)
        return _refusal(
            socket, 429, f"too many connects of this {by}; try again", {"Retry-After": str(ceil(wait))}
        )

    async def _handle(self, connection: ServerConnection) -> None:
        assert isinstance(connection, _Socket)
        socket = connection
        socket.begin_close = self._begin_close
        socket.whose = socket.identity.user_id
        async with self._reaching(socket.identity.user_id):
            session = Session(socket, socket.identity, self._settings, self._limits)
            session.welcome()
            self._opened(session)
            try:
                socket.charge_frame = session.charge_frame
                socket.begin(Receiver(partial(self._received, session), session.close, session.charge_frame))
                await socket.wait_closed()
            finally:
                socket.receiver = socket.charge_frame = (
                    None  # a ring: they hold the session, which holds the socket
                )
                session.ended()
                self._closed(session, socket.close_code)

    def _begin_close(self, socket: _Socket, code: int, reason: str) -> None:
        if code in _ABUSE:
            # A client that reconnects at once would cost the other clients as much again.
            now = socket.loop.time()
            self._by_user.of(socket.identity.user_id, now).spend(self._settings.connects_after_abuse, now)
        task = asyncio.create_task(self._close(socket, code, reason), name="connection: close")
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def _close(self, socket: _Socket, code: int, reason: str) -> None:
        # websockets waits for room in the write buffer without a limit: a client that does not read is aborted.
        try:
            async with asyncio.timeout(self._settings.close_timeout):
                await socket.close(code, reason)
        except TimeoutError:
            socket.transport.abort()


def _path_of(target: str) -> str | None:
    """The path of a request target (RFC 9112, section 3.2); ``None`` if it cannot be parsed."""
    if not target.startswith("/"):
        try:
            target = urlsplit(target).path
        except ValueError:
            return None
    return target.partition("?")[0].partition("#")[0]


def _refusal(socket: _Socket, status: int, text: str, headers: Mapping[str, str] | None = None) -> Response:
    response = socket.respond(http.HTTPStatus(status), text + "\n")
    for name, value in (headers or {}).items():
        response.headers[name] = value
    return response


def _offered(request: Request) -> list[str]:
    try:
        return [
            subprotocol
            for header in request.headers.get_all("Sec-WebSocket-Protocol")
            for subprotocol in parse_subprotocol(header)
        ]
    except InvalidHeader:
        return []


def _select_subprotocol(_: ServerConnection, offered: Sequence[Subprotocol]) -> Subprotocol | None:
    if not offered:
        return None
    if SUBPROTOCOL in offered:
        return Subprotocol(SUBPROTOCOL)
    raise NegotiationError(f"offer the subprotocol {SUBPROTOCOL}")
