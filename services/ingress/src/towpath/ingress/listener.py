"""The listener: uvicorn's HTTP/1.1 server, with the limits that it does not have.

Guarantees:

* A connection past ``max_connections`` is answered 503 and closed.
* The head of a request is there within ``header_timeout``, and within ``header_max_bytes``; a request is answered,
  and its answer taken, within ``request_timeout``. No client holds a connection longer by being slow.
* Bytes that are not HTTP are answered with a problem, too.

It uses names of uvicorn that are not documented for others (:class:`H11Protocol`, :class:`uvicorn.Server`'s
``startup``); the distribution bounds uvicorn's version, and ``tests/test_listener.py`` says what breaks without them.
"""

import asyncio
import contextlib
import ssl
import sys
from collections.abc import AsyncIterator, Generator
from typing import Final, cast

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle
from uvicorn.server import ServerState

from towpath.ingress.problems import MEDIA_TYPE, Kind, Problem
from towpath.ingress.settings import IngressSettings
from towpath.servicekit.runtime.listening import LISTEN_ERRORS, cannot_listen
from towpath.servicekit.runtime.telemetry import Telemetry
from towpath.servicekit.runtime.tls import TlsFiles

#: Seconds for a client to take the last bytes before its connection is dropped.
_LINGER: Final = 2.0
_BACKLOG: Final = 512
_STATUS_KINDS: Final = {431: Kind.HEADERS_TOO_LARGE, 501: Kind.NOT_IMPLEMENTED}


class BoundedProtocol(H11Protocol):
    """One connection."""

    def __init__(self, settings: IngressSettings, config: uvicorn.Config, state: ServerState) -> None:
        super().__init__(config, state, {})
        self.settings = settings
        self._deadline: asyncio.TimerHandle | None = None
        self._awaits: str | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        super().connection_made(transport)
        if len(self.connections) > self.settings.max_connections:
            self._refuse(
                Problem(Kind.UNAVAILABLE, "Too many connections.", retry_after=self.settings.retry_after)
            )
            return
        self._await("head", self.settings.header_timeout)

    def connection_lost(self, exc: Exception | None) -> None:
        self._await(None)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        super().data_received(data)
        self._look()

    def on_response_complete(self) -> None:
        self._await(None)  # A request that follows has its own time.
        super().on_response_complete()
        if not self.transport.is_closing():
            self._look()

    def shutdown(self) -> None:
        if not self.transport.is_closing():
            super().shutdown()

    def send_400_response(self, msg: str) -> None:
        # uvicorn calls this while it handles the error, and does not pass it on.
        error = sys.exc_info()[1]
        status = error.error_status_hint if isinstance(error, h11.RemoteProtocolError) else 400
        kind = _STATUS_KINDS.get(status, Kind.BAD_REQUEST)
        limit = self.settings.header_max_bytes
        detail = (
            f"The head of the request has more than {limit} bytes."
            if kind is Kind.HEADERS_TOO_LARGE
            else f"This is not HTTP/1.1: {error}."
        )
        self._refuse(Problem(kind, detail))

    @property
    def _cycle(self) -> RequestResponseCycle | None:
        """The last request; uvicorn's annotation leaves out that there may be none yet."""
        return cast("RequestResponseCycle | None", self.cycle)

    def _look(self) -> None:
        """Set the time limit of the state that the connection is in."""
        cycle = self._cycle
        if cycle is not None and not cycle.response_complete:
            self._await("answer", self.settings.request_timeout)
        elif self.conn.their_state is h11.SEND_BODY:
            # It was answered before its body had come: the rest is read, so that the client sees the answer.
            self._await("rest", self.settings.body_timeout)
        elif cycle is None or self.conn.trailing_data[0]:
            self._await("head", self.settings.header_timeout)
        else:
            self._await("idle", self.settings.keep_alive)

    def _await(self, what: str | None, seconds: float = 0.0) -> None:
        if what == self._awaits:
            return  # The limit runs from the first byte, not from the last.
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        self._awaits = what
        if what is not None:
            self._deadline = self.loop.call_later(seconds, self._late, what)

    def _late(self, what: str) -> None:
        if what == "head":
            limit = self.settings.header_timeout
            self._refuse(Problem(Kind.TOO_SLOW, f"The head of the request did not come within {limit:g} s."))
        elif what == "idle":
            self.transport.close()
        else:
            self.transport.abort()

    def _refuse(self, problem: Problem) -> None:
        """Answer outside of the application, and close."""
        if (cycle := self._cycle) is not None and not cycle.response_complete:
            # Its application waits for a body that will not come.
            cycle.disconnected = True
            cycle.message_event.set()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            headers = {
                "Content-Type": MEDIA_TYPE,
                "Content-Length": str(len(problem.body)),
                "Connection": "close",
                **problem.headers,
            }
            for event in (
                h11.Response(
                    status_code=problem.status,
                    headers=list(headers.items()),
                    reason=problem.kind.encode(),
                ),
                h11.Data(data=problem.body),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()
        # A client that takes nothing would keep it open.
        self.loop.call_later(_LINGER, self.transport.abort)


class _Server(uvicorn.Server):
    """uvicorn's server, which leaves signals to the program, and raises what listening raises.

    Attributes:
        listening: Set once it listens.
    """

    def __init__(self, config: uvicorn.Config, settings: IngressSettings, tls: ssl.SSLContext | None) -> None:
        super().__init__(config)
        self._settings = settings
        self._tls = tls
        self.listening = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        yield

    async def startup(self, sockets: object = None) -> None:
        settings = self._settings
        # uvicorn passes no time limit of the TLS handshake on, and asyncio's own is a minute.
        limit = settings.header_timeout if self._tls is not None else None
        server = await asyncio.get_running_loop().create_server(
            lambda: BoundedProtocol(settings, self.config, self.server_state),
            settings.host,
            settings.port,
            ssl=self._tls,
            backlog=_BACKLOG,
            ssl_handshake_timeout=limit,
        )
        self.servers = [server]
        self.started = True
        self.listening.set()


@contextlib.asynccontextmanager
async def listening(app: ASGIApp, settings: IngressSettings, telemetry: Telemetry) -> AsyncIterator[None]:
    """Serve ``app`` from entry to exit; then no new connection is taken, and requests in hand are answered.

    Raises:
        BadSetting: The port is in use, the host is not an address of this machine, or the certificate is not usable.
    """
    files = TlsFiles("TOWPATH_TLS", certificate=settings.tls_certificate, key=settings.tls_key)
    config = uvicorn.Config(
        app,
        http="h11",
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        log_level="error",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=settings.keep_alive,  # type: ignore[arg-type]  # a number of seconds
        timeout_graceful_shutdown=settings.request_timeout,  # type: ignore[arg-type]  # as above
        h11_max_incomplete_event_size=settings.header_max_bytes,
    )
    server = _Server(config, settings, files.server_context() if files.named else None)
    telemetry.gauge(
        "ingress_connections", "Open connections", lambda: float(len(server.server_state.connections))
    )
    serving = asyncio.create_task(server.serve(), name="ingress: listen")
    try:
        started = asyncio.create_task(server.listening.wait(), name="ingress: start")
        await asyncio.wait([serving, started], return_when=asyncio.FIRST_COMPLETED)
        started.cancel()
        try:
            if serving.done():
                serving.result()
        except LISTEN_ERRORS as error:
            raise cannot_listen(
                error, settings.host, settings.port, host_setting="TOWPATH_HOST", port_setting="TOWPATH_PORT"
            ) from None
        yield
    finally:
        server.should_exit = True
        await asyncio.gather(serving, return_exceptions=True)
