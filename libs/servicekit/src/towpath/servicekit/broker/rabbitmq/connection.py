"""One connection to RabbitMQ, of which every step has a time limit. The only user of aio-pika.

aio-pika's own limits are not enough: some of its calls have none, and others, when they are cancelled, clean up over
the very socket that hangs. So here a step whose time is over is told to end, and not waited for; and closing ends at
the socket, if the broker does not play along.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar, cast

import aio_pika
import aiormq
from aiormq.connection import TCPTransportFactory, TLSTransportFactory, TransportFactory
from aiormq.exceptions import (
    AMQPError,
    ChannelInvalidStateError,
)
from yarl import URL

from towpath.servicekit.broker.rabbitmq.codec import SafeReader
from towpath.servicekit.broker.rabbitmq.refusals import ClosedByBroker

#: The driver gives a connection up after 3 × (8 + 1) s without a frame, and looks every 4 s: 31 s at most. RabbitMQ
#: takes two missed heartbeats. https://www.rabbitmq.com/docs/heartbeats recommends 5 to 20.
HEARTBEAT_SECONDS: Final = 8
_LEAST_HEARTBEAT: Final = 2

CONNECT_TIMEOUT: Final = 5.0  # for TCP, TLS and the handshake together
RPC_TIMEOUT: Final = 10.0
CLOSE_TIMEOUT: Final = 1.0
_ABORT_TIMEOUT: Final = 0.5
#: RabbitMQ looks twice in an interval, and sends a heartbeat when it has sent nothing since it looked last. So from a
#: connection that stands something comes at least every interval; this is for a busy machine.
_SILENCE_SLACK: Final = 1.5
_ALARM_TIMEOUT: Final = 0.05

#: What aio-pika and aiormq raise when a channel or connection goes.
LOST: Final = (AMQPError, ConnectionError, OSError, RuntimeError, TimeoutError)

Channel = aio_pika.abc.AbstractChannel
Driver = aiormq.Channel
T = TypeVar("T")


class Connection:
    """A connection that is open; made with :meth:`open`."""

    def __init__(self, connection: aio_pika.Connection, socket: "_Socket", heartbeat: int) -> None:
        self._connection = connection
        self._socket = socket
        self._heartbeat = heartbeat

    @classmethod
    async def open(cls, url: URL, name: str, *, consumes: bool = False) -> "Connection":
        """Connect to one host.

        Args:
            name: Shown in RabbitMQ's list of connections.
            consumes: Heartbeats are twice as frequent. RabbitMQ closes a connection after two to three intervals
                without a byte, and only then does another replica get the messages of one that hangs.

        Raises:
            OSError, AMQPError: It cannot be reached, or does not finish the handshake in time, or refuses.
        """
        heartbeat = max(HEARTBEAT_SECONDS // 2, _LEAST_HEARTBEAT) if consumes else HEARTBEAT_SECONDS
        socket = _Socket(TLSTransportFactory() if url.scheme == "amqps" else TCPTransportFactory())
        connection = aio_pika.Connection(
            url.update_query(heartbeat=str(heartbeat)), client_properties={"connection_name": name}
        )
        connection.kwargs["transport_factory"] = socket  # goes to aiormq.Connection as it is
        try:
            await within(CONNECT_TIMEOUT, connection.connect())
        except BaseException as error:
            socket.abort()
            if isinstance(error, LOST) and (closed := socket.closed) is not None:
                raise ClosedByBroker(*closed) from None  # aiormq does not say what it was told
            raise
        if connection.transport is not None:
            # The same patience for connections with shorter intervals: a RabbitMQ that stands still for 20 s is not
            # lost. aiormq derives it from the interval, and has no other place for it.
            patience = 3.0 * (HEARTBEAT_SECONDS + 1)
            vars(connection.transport.connection)["_Connection__heartbeat_grace_timeout"] = patience
        return cls(connection, socket, heartbeat)

    @property
    def is_silent(self) -> bool:
        """Whether nothing has come for so long that RabbitMQ does not speak, or is not heard."""
        silent_for = asyncio.get_running_loop().time() - self._socket.heard_at
        return silent_for > self._heartbeat + _SILENCE_SLACK

    def on_closed(self, callback: Callable[[BaseException | None], None]) -> None:
        """Call ``callback`` with the reason when the connection is gone."""
        self._connection.close_callbacks.add(lambda _, error: callback(error))

    async def alarmed(self) -> bool:
        """Whether RabbitMQ takes no publishes on this connection for now (memory or disk alarm)."""
        transport = self._connection.transport
        if transport is None:
            return False
        # aiormq tells of Connection.Blocked only through ready(), which then waits.
        try:
            async with asyncio.timeout(_ALARM_TIMEOUT):
                await transport.ready()
        except TimeoutError:
            return True
        return False

    async def channel(self, *, confirms: bool) -> Channel:
        """A new channel."""
        channel = self._connection.channel(publisher_confirms=confirms, on_return_raises=confirms)
        await within(RPC_TIMEOUT, channel.initialize())
        driver = await driver_of(channel)
        driver.write_queue = cast("asyncio.Queue[Any]", _LastWord(driver.write_queue))
        return channel

    async def close(self) -> None:
        """Say goodbye, or else cut the connection off; takes 1.5 s at most."""
        closing = asyncio.ensure_future(self._connection.close())
        try:
            await asyncio.wait([closing], timeout=CLOSE_TIMEOUT)
        finally:
            self._socket.abort()
            leave(closing)
        await asyncio.wait([closing], timeout=_ABORT_TIMEOUT)


class _Socket(TransportFactory):
    """Keeps hold of the socket that aiormq opens, so that it can be cut off, and makes what comes decodable."""

    def __init__(self, factory: TransportFactory) -> None:
        self._factory = factory
        self._writer: asyncio.StreamWriter | None = None
        self._reader: SafeReader | None = None
        self.heard_at = 0.0  #: loop time of the last bytes from RabbitMQ

    async def create(self, url: URL, **kwargs: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, self._writer = await self._factory.create(url, **kwargs)
        now, feed = asyncio.get_running_loop().time, reader.feed_data
        self.heard_at = now()

        def heard(data: Any) -> None:
            self.heard_at = now()
            feed(data)

        reader.feed_data = heard  # type: ignore[method-assign]  # what the socket calls
        self._reader = SafeReader(reader)
        return cast("asyncio.StreamReader", self._reader), self._writer

    @property
    def closed(self) -> tuple[int, str] | None:
        """Reply code and text with which RabbitMQ closed the connection, if it did."""
        return self._reader.closed if self._reader is not None else None

    def abort(self) -> None:
        if self._writer is not None:
            self._writer.transport.abort()


class _LastWord:
    """What a channel writes to: nothing passes after its Channel.CloseOk.

    aiormq lets publishes pass that wait for their turn when RabbitMQ closes the channel of another one; RabbitMQ
    closes the whole connection for that. Before CloseOk it does not mind them.
    """

    def __init__(self, queue: "asyncio.Queue[Any]") -> None:
        self._queue = queue
        self._passing = 0
        self._close_ok: Any = None

    async def put(self, frame: Any) -> None:
        if self._close_ok is not None:
            raise ChannelInvalidStateError("RabbitMQ closed the channel")
        self._passing += 1
        try:
            await self._queue.put(frame)
        finally:
            self._passing -= 1
            self._close()

    def put_nowait(self, close_ok: Any) -> None:
        """Only CloseOk comes this way; it may have to wait for what is before it."""
        self._close_ok = close_ok
        self._close()

    def _close(self) -> None:
        if self._close_ok is not None and not self._passing:
            # When there is no room, RabbitMQ goes without: it ignores this channel for ever.
            with contextlib.suppress(asyncio.QueueFull):
                self._queue.put_nowait(self._close_ok)


async def answers(url: URL, name: str, *, timeout: float) -> bool:
    """Whether a host lets us in right now."""
    try:
        connection = await within(timeout, Connection.open(url, name))
    except LOST:
        return False
    await connection.close()
    return True


async def within(seconds: float, work: Awaitable[T]) -> T:
    """Wait for ``work``, which is told to end when the time is over, and then left alone.

    Raises:
        TimeoutError: It was not done in time.
        ConnectionError: The driver cancelled it, as it does when a connection closes; nobody cancelled the caller.
    """
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait([task], timeout=seconds)
    finally:
        unfinished = not task.done()
        leave(task)
    if unfinished:
        raise TimeoutError(f"no answer from RabbitMQ within {seconds:g} s")
    if task.cancelled():
        raise ConnectionError("the connection closed meanwhile")
    return task.result()


async def rpc(work: Awaitable[T]) -> T:
    """One question to the broker, and its answer; see :func:`within`."""
    return await within(RPC_TIMEOUT, work)


async def close_channel(channel: Channel) -> None:
    """Close a channel, whatever state it is in."""
    with contextlib.suppress(*LOST):
        await within(CLOSE_TIMEOUT, channel.close())


async def driver_of(channel: Channel) -> Driver:
    """The channel of aiormq beneath: what aio-pika adds costs more than it gives here."""
    driver = await channel.get_underlay_channel()
    assert isinstance(driver, Driver)
    return driver


def leave(task: "asyncio.Future[Any]") -> None:
    """Tell a task to end, and never mind how it does."""
    task.cancel()
    task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())


def reason_of(error: BaseException | None) -> str:
    """An error in words for people."""
    if error is None or isinstance(error, asyncio.CancelledError):
        return "closed"
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
