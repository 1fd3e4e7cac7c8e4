"""The WebSocket side: accepts connections, feeds frames in, writes frames out. The only user of ``websockets``.

Guarantees: nothing is read from a connection before it is admitted, and its welcome comes when what is pushed to its
user comes here; what waits to be written to one connection is
bounded in bytes (4001); a write never waits for the receiver; binary frames close with 1003, large ones with 1009.

Frames are written to the transport directly: without compression (it is never negotiated) every receiver's frame is
the same, so that one is built for many. And they are taken as they are read: nothing that is done with one waits, so
that a queue with a task to read from it would only cost time.
"""

import asyncio
import http
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from math import ceil
from typing import Final, cast
from urllib.parse import urlsplit

import structlog
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import InvalidHeader, NegotiationError
from websockets.frames import DATA_OPCODES, Frame, Opcode
from websockets.frames import CloseCode as StandardCode
from websockets.headers import parse_subprotocol
from websockets.http11 import Request, Response
from websockets.protocol import Event, State
from websockets.typing import Subprotocol

from towpath.gateway.addresses import Proxies
from towpath.gateway.admission import SUBPROTOCOL, Admission, Identity, TokenRefused, bearer_token
from towpath.gateway.buckets import Buckets
from towpath.gateway.entrance import EnteringConnection, Entrance
from towpath.gateway.sessions import Session
from towpath.gateway.settings import GatewaySettings
from towpath.protocol.close_codes import CloseCode
from towpath.servicekit.settings import BadSetting
from towpath.servicekit.tally import Tally
from towpath.servicekit.telemetry import Telemetry

log = structlog.get_logger(__name__)

PATH: Final = "/ws"
#: websockets logs each refused handshake as an error; ours are counted, not faults.
_QUIET: Final = logging.getLogger("towpath.gateway.websockets")
_QUIET.setLevel(logging.CRITICAL)
#: Nagle-sized writes are the kernel's business; this is only where websockets would pause its own send().
_WRITE_LIMIT: Final = 64 * 1024
#: Connections that wait for their turn: as many as Linux allows, since after a restart everybody comes at once.
_BACKLOG: Final = 4096
#: Data frames that may come before the session is ready; reading stops there.
_EARLY_FRAMES: Final = 16
#: Frames that one text may come in.
_FRAGMENTS: Final = 1024


def text_frame(text: bytes) -> bytes:
    """One unmasked text frame, ready for any number of connections (RFC 6455, section 5.2)."""
    return Frame(Opcode.TEXT, text).serialize(mask=False)


class _Socket(EnteringConnection):
    """A WebSocket as :class:`towpath.gateway.sessions.Socket` wants it."""

    identity: Identity
    send_buffer_bytes: int
    begin_close: "Callable[[_Socket, int, str], None]"
    last_seen: float = 0.0
    closing: bool = False
    receiver: "Receiver | None" = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._early: list[Frame] = []
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        self.last_seen = self.loop.time()
        super().data_received(data)

    def process_event(self, event: Event) -> None:
        if not isinstance(event, Frame) or event.opcode not in DATA_OPCODES:
            super().process_event(event)
        elif self.receiver is not None:
            self.receiver.take(event)
        else:
            self._early.append(event)
            if len(self._early) == _EARLY_FRAMES:
                self.transport.pause_reading()

    def begin(self, receiver: "Receiver") -> None:
        """Hand each data frame to ``receiver`` from now on, after those that came before."""
        self.receiver = receiver
        for frame in self._early:
            receiver.take(frame)
        if len(self._early) >= _EARLY_FRAMES:
            self.transport.resume_reading()
        self._early.clear()

    def send_text(self, text: bytes) -> None:
        self.send_frame(text_frame(text))

    def send_frame(self, frame: bytes) -> None:
        if self.closing or self.protocol.state is not State.OPEN:
            return
        self.transport.write(frame)
        if self.transport.get_write_buffer_size() > self.send_buffer_bytes:
            log.warning("slow_consumer", user=self.identity.user_id)
            self.close_with(CloseCode.SLOW_CONSUMER, "too slow: reconnect and resume")

    def ping_now(self) -> None:
        if not self.closing and self.protocol.state is State.OPEN:
            self.protocol.send_ping(b"towpath")
            self.send_data()

    def close_with(self, code: int, reason: str) -> None:
        if not self.closing:
            self.closing = True
            self.begin_close(self, code, reason)


class Receiver:
    """Puts the texts of one connection together from frames, which are in the order of RFC 6455 already.

    Args:
        received: Told of each text.
        refuse: Told once, with a close code and a reason, of what no text can be made of; nothing is read after it.
    """

    def __init__(self, received: Callable[[str], None], refuse: Callable[[int, str], None]) -> None:
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
                return
            data = b"".join(self._fragments)
            self._fragments.clear()
        try:
            text = data.decode()
        except UnicodeDecodeError as error:
            self._end(StandardCode.INVALID_DATA, f"not UTF-8: {error.reason} at position {error.start}")
            return
        try:
            self._received(text)
        except Exception:
            log.exception("frame_failed")
            self._end(StandardCode.INTERNAL_ERROR, "something went wrong here")

    def _end(self, code: int, reason: str) -> None:
        self._refused = True
        self._fragments.clear()
        self._refuse(code, reason)


class Listener:
    """Accepts connections while it is open; made with :meth:`open`.

    Args:
        entrance: Counts sockets and handshakes.
        refusing: Why new connections are refused with 503 for now; ``None`` while they are welcome.
        reaching: Inside, pushes to a user come here; every connection is inside for as long as it is here.
    """

    def __init__(
        self,
        admission: Admission,
        entrance: Entrance,
        settings: GatewaySettings,
        telemetry: Telemetry,
        *,
        refusing: Callable[[], str | None],
        reaching: Callable[[str], AbstractAsyncContextManager[None]],
        opened: Callable[[Session], None],
        received: Callable[[Session, str], None],
        closed: Callable[[Session, int | None], None],
    ) -> None:
        self._admission = admission
        self._entrance = entrance
        self._proxies = Proxies(settings.trusted_proxies)
        self._settings = settings
        self._by_user = Buckets(rate=settings.connects_per_user, burst=settings.connects_per_user_burst)
        self._by_address = Buckets(
            rate=settings.connects_per_address, burst=settings.connects_per_address_burst
        )
        self._too_many = {
            by: Tally(
                "connects_refused",
                telemetry.counter("connects_refused", "Handshakes refused with 429", {"by": by}),
            )
            for by in ("user", "address")
        }
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
            BadSetting: The port is taken, or the address is not of this machine.
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
                ping_interval=None,  # towpath.gateway.heartbeat does it, without a task a connection
                close_timeout=settings.close_timeout,
                max_size=settings.max_frame_bytes,
                write_limit=_WRITE_LIMIT,
                backlog=_BACKLOG,
                create_connection=cast(
                    "type[ServerConnection]", partial(_Socket, entrance=self._entrance, proxies=self._proxies)
                ),
                logger=_QUIET,
            )
        except OSError as error:
            raise BadSetting(
                "TOWPATH_PORT", settings.port, f"cannot listen on {settings.host}: {error.strerror}"
            ) from None
        try:
            yield server
        finally:
            server.close(code=CloseCode.SERVICE_RESTART)
            self._entrance.abort_unfinished()
            await server.wait_closed()
            if self._closing:
                await asyncio.wait(self._closing, timeout=settings.close_timeout + 1)

    def _admit(self, socket: ServerConnection, request: Request) -> Response | None:
        """Check one handshake; anything but ``None`` is its refusal."""
        assert isinstance(socket, _Socket)
        socket.locate(request.headers.get_all("X-Forwarded-For"))
        # First of all, and before a signature is checked: nobody may make this replica work as fast as they can.
        if refusal := self._is_too_often(socket, "address", self._by_address, socket.address):
            return refusal
        if urlsplit(request.path).path != PATH:
            return _refusal(socket, 404, f"nothing here; connect to {PATH}")
        origin = request.headers.get("Origin")
        if not self._admission.admits_origin(origin):
            return _refusal(
                socket, 403, f"origin {origin!r} may not connect; it is not in TOWPATH_ALLOWED_ORIGINS"
            )
        if (why := self._refusing()) is not None:
            return _refusal(socket, 503, why, {"Retry-After": str(max(1, round(self._settings.retry_after)))})
        try:
            token = bearer_token(request.headers.get("Authorization"), _offered(request))
            socket.identity = self._admission.identify(token)
        except TokenRefused as error:
            return _refusal(socket, 401, str(error), {"WWW-Authenticate": "Bearer"})
        if refusal := self._is_too_often(socket, "user", self._by_user, socket.identity.user_id):
            return refusal
        socket.admitted()
        return None

    def _is_too_often(self, socket: _Socket, by: str, buckets: Buckets, key: str) -> Response | None:
        wait = buckets.take(key, socket.loop.time())
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
        socket.send_buffer_bytes = self._settings.send_buffer_bytes
        async with self._reaching(socket.identity.user_id):
            session = Session(socket, socket.identity, self._settings)
            session.welcome()
            self._opened(session)
            try:
                socket.begin(Receiver(partial(self._received, session), session.close))
                await socket.wait_closed()
            finally:
                session.forget_timers()
                self._closed(session, socket.close_code)

    def _begin_close(self, socket: _Socket, code: int, reason: str) -> None:
        task = asyncio.create_task(self._close(socket, code, reason), name="connection: close")
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def _close(self, socket: _Socket, code: int, reason: str) -> None:
        # websockets waits for room in the write buffer without a limit: who does not read is cut off.
        try:
            async with asyncio.timeout(self._settings.close_timeout):
                await socket.close(code, reason)
        except TimeoutError:
            socket.transport.abort()


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
