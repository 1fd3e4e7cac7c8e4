"""One connection to RabbitMQ; every step has a time limit.

aio-pika's own limits are not enough: some of its calls have none, and others, when cancelled, clean up over the same
hanging socket. So here a step that exceeds its time is cancelled but not awaited, and closing aborts the socket if
the broker does not respond.
"""

import asyncio
import contextlib
import ssl
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar, cast

from yarl import URL

from towpath.servicekit.broker.rabbitmq.codec import SafeReader
from towpath.servicekit.broker.rabbitmq.driver import (
    AMQPError,
    Channel,
    DriverConnection,
    TCPTransportFactory,
    TLSTransportFactory,
    TransportFactory,
    driver_of,
    guard_writes,
    is_blocked,
    new_connection,
    set_heartbeat_timeout,
)
from towpath.servicekit.broker.rabbitmq.refusals import ClosedByBroker, Untrusted
from towpath.servicekit.runtime.tls import TlsFiles

#: The driver drops a connection after 3 × (8 + 1) s without a frame, and checks every 4 s: 31 s at most. RabbitMQ
#: tolerates two missed heartbeats. https://www.rabbitmq.com/docs/heartbeats recommends 5 to 20.
HEARTBEAT_SECONDS: Final = 8
_LEAST_HEARTBEAT: Final = 2

CONNECT_TIMEOUT: Final = 5.0  # for TCP, TLS and the handshake together
RPC_TIMEOUT: Final = 10.0
CLOSE_TIMEOUT: Final = 1.0
_ABORT_TIMEOUT: Final = 0.5
#: RabbitMQ checks twice per interval, and sends a heartbeat if it has sent nothing since its last check. So a healthy
#: connection receives something at least once per interval; the slack is for a busy machine.
_SILENCE_SLACK: Final = 1.5

#: Exceptions that aio-pika and aiormq raise when a channel or connection is lost.
LOST: Final = (AMQPError, ConnectionError, OSError, RuntimeError, TimeoutError)

T = TypeVar("T")


class Connection:
    """A connection that is open; made with :meth:`open`."""

    def __init__(self, connection: DriverConnection, socket: "_Socket", heartbeat: int) -> None:
        self._connection = connection
        self._socket = socket
        self._heartbeat = heartbeat

    @classmethod
    async def open(cls, url: URL, name: str, *, consumes: bool = False) -> "Connection":
        """Connect to one host.

        Args:
            name: Shown in RabbitMQ's list of connections.
            consumes: Heartbeats are twice as frequent. RabbitMQ closes a connection after two to three intervals
                without a byte, and only then can another replica get the messages of a replica that hangs.

        Raises:
            OSError, AMQPError: The host cannot be reached, does not finish the handshake in time, or refuses.
            BadSetting: A certificate file cannot be used.
        """
        tls = await asyncio.to_thread(_client_context, url) if url.scheme == "amqps" else None
        heartbeat = max(HEARTBEAT_SECONDS // 2, _LEAST_HEARTBEAT) if consumes else HEARTBEAT_SECONDS
        socket = _Socket(TLSTransportFactory() if url.scheme == "amqps" else TCPTransportFactory())
        connection = new_connection(url.update_query(heartbeat=str(heartbeat)), name, socket, tls)
        try:
            await within(CONNECT_TIMEOUT, connection.connect())
        except BaseException as error:
            # Aborted, not closed: a clean close waits for the peer, which may not answer.
            socket.abort()
            if isinstance(error, LOST) and (closed := socket.closed) is not None:
                raise ClosedByBroker(*closed) from None  # aiormq does not report the reason.
            if (untrusted := Untrusted.within(error)) is not None:
                raise untrusted from None
            raise
        # The same timeout for connections with shorter intervals: a RabbitMQ that pauses for 20 s is not lost.
        set_heartbeat_timeout(connection, 3.0 * (HEARTBEAT_SECONDS + 1))
        return cls(connection, socket, heartbeat)

    @property
    def is_silent(self) -> bool:
        """Whether nothing was received for so long that RabbitMQ does not send or its packets do not arrive."""
        silent_for = asyncio.get_running_loop().time() - self._socket.received_at
        return silent_for > self._heartbeat + _SILENCE_SLACK

    def on_closed(self, callback: Callable[[BaseException | None], None]) -> None:
        """Call ``callback`` with the reason when the connection is lost."""
        self._connection.close_callbacks.add(lambda _, error: callback(error))

    async def alarmed(self) -> bool:
        """Whether RabbitMQ accepts no publishes on this connection for now (memory or disk alarm)."""
        return await is_blocked(self._connection)

    async def channel(self, *, confirms: bool) -> Channel:
        """A new channel."""
        channel = self._connection.channel(publisher_confirms=confirms, on_return_raises=confirms)
        await within(RPC_TIMEOUT, channel.initialize())
        # See the driver: one refused publish must not close the whole connection.
        guard_writes(await driver_of(channel))
        return channel

    async def close(self) -> None:
        """Close the connection cleanly, or abort it; takes 1.5 s at most."""
        closing = asyncio.ensure_future(self._connection.close())
        try:
            # A clean close shows in RabbitMQ's log as one; after the limit the socket is cut.
            await asyncio.wait([closing], timeout=CLOSE_TIMEOUT)
        finally:
            self._socket.abort()
            abandon(closing)
        await asyncio.wait([closing], timeout=_ABORT_TIMEOUT)


class _Socket(TransportFactory):
    """Holds the socket that aiormq opens, so that it can be aborted, and makes incoming frames decodable."""

    def __init__(self, factory: TransportFactory) -> None:
        self._factory = factory
        self._writer: asyncio.StreamWriter | None = None
        self._reader: SafeReader | None = None
        self.received_at = 0.0  #: loop time of the last bytes from RabbitMQ

    async def create(self, url: URL, **kwargs: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, self._writer = await self._factory.create(url, **kwargs)
        now, feed = asyncio.get_running_loop().time, reader.feed_data
        self.received_at = now()

        def on_data(data: Any) -> None:
            # For any bytes, not for whole frames: a large frame over a slow line does not count as silence.
            self.received_at = now()
            feed(data)

        reader.feed_data = on_data  # type: ignore[method-assign]  # The transport calls this.
        self._reader = SafeReader(reader)
        return cast("asyncio.StreamReader", self._reader), self._writer

    @property
    def closed(self) -> tuple[int, str] | None:
        """Reply code and text with which RabbitMQ closed the connection, if it did."""
        return self._reader.closed if self._reader is not None else None

    def abort(self) -> None:
        if self._writer is not None:
            self._writer.transport.abort()


def _client_context(url: URL) -> ssl.SSLContext:
    # At each connect: a replaced authority or certificate takes effect with the next one. In a thread, because the
    # system's authorities are read from hundreds of files.
    option = url.query.get
    files = TlsFiles("TOWPATH_AMQP", option("cafile"), option("certfile"), option("keyfile"))
    context = files.client_context()
    if folder := option("capath"):
        context.load_verify_locations(capath=folder)
    return context


async def answers(url: URL, name: str, *, timeout: float) -> bool:
    """Whether a host accepts a new connection right now."""
    try:
        connection = await within(timeout, Connection.open(url, name))
    except LOST:
        return False
    # Only the handshake counts: it shows that RabbitMQ runs, and that packets arrive.
    await connection.close()
    return True


async def within(seconds: float, work: Awaitable[T]) -> T:
    """Wait for ``work``; at the time limit it is cancelled and not awaited.

    Raises:
        TimeoutError: The time limit was reached.
        ConnectionError: The driver cancelled it, as it does when a connection closes; the caller was not cancelled.
    """
    # Not asyncio.timeout() or wait_for(): both wait for the cancelled work, which may clean up over a hanging socket.
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait([task], timeout=seconds)
    finally:
        unfinished = not task.done()
        abandon(task)
    if unfinished:
        raise TimeoutError(f"no answer from RabbitMQ within {seconds:g} s")
    if task.cancelled():
        raise ConnectionError("the connection closed meanwhile")
    return task.result()


async def rpc(work: Awaitable[T]) -> T:
    """One request to the broker, and its reply; see :func:`within`."""
    return await within(RPC_TIMEOUT, work)


async def close_channel(channel: Channel) -> None:
    """Close a channel in any state."""
    with contextlib.suppress(*LOST):
        await within(CLOSE_TIMEOUT, channel.close())


def abandon(task: "asyncio.Future[Any]") -> None:
    """Cancel a task and ignore its result."""
    task.cancel()
    task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())


def reason_of(error: BaseException | None) -> str:
    """The type and text of an error, for logs and messages."""
    if error is None or isinstance(error, asyncio.CancelledError):
        return "closed"
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
