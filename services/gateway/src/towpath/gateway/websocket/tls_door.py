"""The TLS door: the TLS handshake of each connection to ``wss``, between its acceptance and its HTTP request.

Guarantees: the :class:`~towpath.gateway.admission.entrance.Entrance` counts a connection from its acceptance on, so
TLS handshakes without an end count as unfinished handshakes, and make way for newer ones. A TLS handshake takes
``open_timeout`` seconds at most. One that fails never reaches the library. It costs its address connects, and an
address that owes some is turned away before its next handshake, since each takes a signature. A client that sends
faster than it may holds some 300 KiB of memory, where the defaults of TLS would allow 700.

So the listener itself is plain, and TLS is started on each accepted connection. A listener with TLS (``ssl=`` of
``create_server``) reports a connection when its handshake has succeeded, which is too late to count it.
"""

import asyncio
import socket
from collections.abc import AsyncIterator, Coroutine, Generator
from contextlib import asynccontextmanager
from typing import Any, Final, Generic, Protocol, TypeVar, cast

from towpath.gateway.admission.connect_rates import ConnectRates
from towpath.gateway.settings import GatewaySettings
from towpath.gateway.websocket.certificate import Certificate
from towpath.servicekit.runtime.loops import failures_of, keep_running
from towpath.servicekit.runtime.sampled_log import SampledLog
from towpath.servicekit.runtime.telemetry import Telemetry

T = TypeVar("T")

#: Bytes that the kernel may hold of one client, and so the bytes of one read: uvloop would read 256 KiB at once.
_RECEIVE_BUFFER: Final = 64 * 1024
#: Bytes that may wait to be decrypted while the connection is paused; then TLS stops reading, until 8 KiB are left. A
#: record may be larger: OpenSSL takes a part of one out of this buffer.
_UNDECRYPTED_MAX: Final = 32 * 1024


class Behind(Protocol):
    """A connection behind the door."""

    peer: str

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """TLS is established, with this transport."""
        ...

    def data_received(self, data: bytes) -> None:
        """Decrypted bytes have arrived."""
        ...

    def never_made(self) -> None:
        """The TLS handshake has failed, or was aborted."""
        ...


class TlsDoor:
    """The TLS handshakes of one listener."""

    def __init__(
        self,
        certificate: Certificate,
        rates: ConnectRates,
        settings: GatewaySettings,
        telemetry: Telemetry,
    ) -> None:
        self._certificate = certificate
        self._rates = rates
        self._open_timeout = settings.open_timeout
        self._close_timeout = settings.close_timeout
        self._tasks: set[asyncio.Task[None]] = set()
        self._watch_failures = failures_of("certificate", telemetry)
        self._failed = SampledLog(
            "tls_handshake_failed",
            telemetry.counter("tls_handshakes_failed", "TLS handshakes that failed, or took too long"),
        )
        self._turned_away = SampledLog(
            "tls_turned_away",
            telemetry.counter(
                "tls_turned_away",
                "Connections closed before TLS, since too many handshakes of the address failed",
            ),
        )

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Keep the certificate up to date from entry to exit, which waits for the last handshakes."""
        watching = asyncio.create_task(
            keep_running("certificate", self._certificate.watch, pause=1.0, failed=self._watch_failures),
            name="gateway: certificate",
        )
        with self._certificate.reloaded_on_sighup():
            try:
                yield
            finally:
                if self._tasks:
                    await asyncio.wait(self._tasks, timeout=self._open_timeout + 1)
                watching.cancel()
                await asyncio.wait([watching])

    def turns_away(self, address: str) -> bool:
        """Whether an address gets no TLS handshake for now."""
        if owes := self._rates.owes(address):
            self._turned_away.add(address=address)
        return owes

    def charge_failure(self, address: str) -> None:
        """Charge an address for a TLS handshake that led nowhere."""
        self._rates.charge_failed_tls(address)

    def begin(self, transport: asyncio.Transport, behind: Behind) -> None:
        """Begin the TLS handshake of a connection that was just accepted; to be called in ``connection_made``."""
        loop, early = asyncio.get_running_loop(), _EarlyBytes()
        accepted = transport.get_extra_info("socket")
        accepted.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
        handshake = _Begun(
            loop.start_tls(
                transport,
                early,  # The connection takes its place when the handshake is done.
                self._certificate.context,
                server_side=True,
                ssl_handshake_timeout=self._open_timeout,
                ssl_shutdown_timeout=self._close_timeout,
            )
        )
        task = loop.create_task(self._finish(handshake, early, behind), name="connection: TLS handshake")
        # The loop holds tasks weakly: https://docs.python.org/3/library/asyncio-task.html#asyncio.create_task
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _finish(
        self, handshake: "_Begun[asyncio.Transport | None]", early: "_EarlyBytes", behind: Behind
    ) -> None:
        try:
            transport = await handshake
        except Exception as error:  # Mostly ssl.SSLError; whatever it is, the entrance must learn of the end.
            self._failed.add(address=behind.peer, reason=str(error))
            # A cycle: the handshake's future holds the error, whose traceback holds this frame, and it the future.
            error.with_traceback(None)
            transport = None
        if transport is None or transport.is_closing():  # The entrance has aborted it.
            behind.never_made()
            return
        # Not documented, but public, in asyncio and in uvloop.
        cast("Any", transport).set_read_buffer_limits(high=_UNDECRYPTED_MAX)
        transport.set_protocol(behind)  # type: ignore[arg-type]  # a protocol of asyncio as well
        behind.connection_made(transport)
        if early.read:
            behind.data_received(bytes(early.read))


class _EarlyBytes(asyncio.Protocol):
    """Keeps the first decrypted bytes: asyncio (not uvloop) reports those of the read that ends the TLS handshake
    before ``start_tls`` returns.
    """

    def __init__(self) -> None:
        self.read = bytearray()

    def data_received(self, data: bytes) -> None:
        self.read += data


class _Begun(Generic[T]):
    """A coroutine that runs its first step now, where a task would run it in the next iteration of the loop.

    Between the two the first bytes may arrive: they would reach a protocol that does not speak TLS, and be lost. From
    Python 3.12 on, a task with ``eager_start`` does the same.
    """

    def __init__(self, work: Coroutine[Any, Any, T]) -> None:
        self._work = work
        self._waits_for = work.send(None)

    def __await__(self) -> Generator[Any, Any, T]:
        try:
            yield self._waits_for
        except BaseException as error:
            self._work.throw(error)
            raise
        return (yield from self._work.__await__())
