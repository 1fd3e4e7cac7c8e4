"""The driver: everything that is used of aio-pika and aiormq. No other module of the publisher imports them.

aio-pika's "robust" connection is not used: it retries in lock-step and without time limits, and restores what a
publisher does not have. Three things below rest on how the packages work inside, as there is no public way; the
distribution bounds their versions on both sides, and ``tests/test_driver.py`` fails if one of them changes:

* the factory of sockets is passed in ``kwargs``, so that a hanging socket can be aborted;
* ``received_at`` is taken where the transport hands over bytes;
* an alarm of RabbitMQ shows only in ``ready()``, which waits meanwhile.
"""

import asyncio
import contextlib
import re
import ssl
from typing import Any, Final

import aio_pika
import aiormq
from aiormq.connection import TCPTransportFactory, TLSTransportFactory, TransportFactory
from aiormq.exceptions import (
    AMQPError,
    AuthenticationError,
    ChannelAccessRefused,
    ChannelClosed,
    ChannelNotFoundEntity,
    ChannelPreconditionFailed,
    ConnectionNotAllowed,
    DeliveryError,
    ProbableAuthenticationError,
    PublishError,
)
from yarl import URL

__all__ = [
    "LOST",
    "ChannelAccessRefused",
    "ChannelClosed",
    "ChannelNotFoundEntity",
    "ChannelPreconditionFailed",
    "Connection",
    "DeliveryError",
    "LoginRefused",
    "Properties",
    "PublishError",
    "PublishingChannel",
]

Properties = aiormq.spec.Basic.Properties
PublishingChannel = aiormq.Channel

#: Errors of the packages when a channel or connection is lost.
LOST: Final = (AMQPError, ConnectionError, OSError, RuntimeError, TimeoutError)


class ClosedByBroker(ConnectionError):
    """RabbitMQ closed the connection before it was open: no such virtual host, or no right to it."""


class Untrusted(ConnectionError):
    """The TLS handshake failed, because one side does not trust the certificate of the other."""


#: RabbitMQ, or its certificate, is there and wrong for this program.
LoginRefused: Final = (
    AuthenticationError,
    ProbableAuthenticationError,
    ConnectionNotAllowed,
    ClosedByBroker,
    Untrusted,
)

#: Class and method of Connection.Close; its code and text follow. https://www.rabbitmq.com/amqp-0-9-1-reference
_CLOSE: Final = b"\x00\x0a\x00\x32"
_NOT_ALLOWED: Final = (403, 530)
#: Conditions that RabbitMQ also reports as "not allowed", and that pass.
_PASSES: Final = re.compile(r"limit .*is reached|is down", re.DOTALL)
_HANDSHAKE_MAX: Final = 64 * 1024

_CLOSE_SECONDS: Final = 1.0
_BLOCKED_SECONDS: Final = 0.05


class Connection:
    """One open connection; made with :meth:`open`.

    Attributes:
        lost: Resolved with the reason when it ends.
    """

    def __init__(self, connection: aio_pika.Connection, socket: "_Socket") -> None:
        self._connection = connection
        self._socket = socket
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        connection.close_callbacks.add(lambda _, error: self.fail(reason_of(error)))

    @classmethod
    async def open(
        cls, url: URL, name: str, *, heartbeat: int, timeout: float, tls: ssl.SSLContext | None
    ) -> "Connection":
        """Connect to one host.

        Args:
            name: Shown in RabbitMQ's list of connections.
            heartbeat: Seconds between heartbeats.
            timeout: Seconds for TCP, TLS and login together.

        Raises:
            LoginRefused, LOST
        """
        socket = _Socket(TLSTransportFactory() if url.scheme == "amqps" else TCPTransportFactory())
        connection = aio_pika.Connection(
            url.update_query(heartbeat=str(heartbeat)),
            ssl_context=tls,
            client_properties={"connection_name": name, "product": "towpath-publisher"},
        )
        connection.kwargs["transport_factory"] = socket
        try:
            await _within(timeout, connection.connect())
        except BaseException as error:
            # Aborted, not closed: a clean close waits for the peer, which may not answer.
            socket.abort()
            if (distrust := _distrust(error)) is not None:
                raise Untrusted(distrust) from None
            if isinstance(error, LOST) and (reason := socket.refusal) is not None:
                raise ClosedByBroker(reason) from None  # aiormq does not report it.
            raise
        socket.is_open = True
        return cls(connection, socket)

    @property
    def silent_for(self) -> float:
        """Seconds since the last bytes from RabbitMQ."""
        return asyncio.get_running_loop().time() - self._socket.received_at

    async def is_blocked(self) -> bool:
        """Whether RabbitMQ has sent Connection.Blocked: https://www.rabbitmq.com/docs/connection-blocked"""
        if self._connection.transport is None:
            return False
        try:
            async with asyncio.timeout(_BLOCKED_SECONDS):
                await self._connection.transport.ready()
        except TimeoutError:
            return True
        return False

    async def channel(self, *, timeout: float) -> PublishingChannel:
        """A new channel with publisher confirms, on which a returned message raises.

        Raises:
            LOST
        """
        channel = self._connection.channel(publisher_confirms=True, on_return_raises=True)
        await _within(timeout, channel.initialize())
        driver = await channel.get_underlay_channel()
        assert isinstance(driver, PublishingChannel)
        return driver

    def fail(self, reason: str) -> None:
        """Mark it as lost."""
        if not self.lost.done():
            self.lost.set_result(reason)

    async def close(self) -> None:
        """Close it cleanly, or abort it after a second."""
        self.fail("closed")
        closing = asyncio.ensure_future(self._connection.close())
        try:
            await asyncio.wait([closing], timeout=_CLOSE_SECONDS)
        finally:
            self._socket.abort()
            _abandon(closing)
        await asyncio.wait([closing], timeout=_CLOSE_SECONDS)


async def close_channel(channel: PublishingChannel) -> None:
    """Close a channel in any state."""
    with contextlib.suppress(*LOST):
        await _within(_CLOSE_SECONDS, channel.close())


def reason_of(error: BaseException | None) -> str:
    """The type and text of an error."""
    if error is None or isinstance(error, asyncio.CancelledError):
        return "closed"
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


class _Socket(TransportFactory):
    """Holds the socket that aiormq opens, and the time of its last bytes."""

    def __init__(self, factory: TransportFactory) -> None:
        self._factory = factory
        self._writer: asyncio.StreamWriter | None = None
        self._handshake = b""
        self.received_at = 0.0
        self.is_open = False

    async def create(self, url: URL, **kwargs: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, self._writer = await self._factory.create(url, **kwargs)
        now, feed = asyncio.get_running_loop().time, reader.feed_data
        self.received_at = now()

        def on_data(data: Any) -> None:
            self.received_at = now()
            if not self.is_open and len(self._handshake) < _HANDSHAKE_MAX:
                self._handshake += data
            feed(data)

        reader.feed_data = on_data  # type: ignore[method-assign]  # The transport calls this.
        return reader, self._writer

    @property
    def refusal(self) -> str | None:
        """The text with which RabbitMQ closed the connection during the handshake for good."""
        _, found, rest = self._handshake.rpartition(_CLOSE)
        if not found or len(rest) < 3 or int.from_bytes(rest[:2], "big") not in _NOT_ALLOWED:
            return None
        text = rest[3 : 3 + rest[2]].decode("utf-8", "replace")
        return None if _PASSES.search(text) else text

    def abort(self) -> None:
        if self._writer is not None:
            self._writer.transport.abort()


def _distrust(error: BaseException) -> str | None:
    """The distrust that caused ``error``; the driver wraps it several times."""
    seen: list[BaseException] = []  # Chains of the driver's errors may be circles.
    cause: BaseException | None = error
    while cause is not None and cause not in seen:
        seen.append(cause)
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"its certificate is not trusted: {cause.verify_message}"
        # With TLS 1.3 RabbitMQ judges our certificate after the handshake.
        if isinstance(cause, ssl.SSLError) and "ALERT" in (cause.reason or ""):
            return f"it does not accept this program's certificate: {cause.reason}"
        cause = cause.__cause__ or cause.__context__
    return None


async def _within(seconds: float, work: Any) -> None:
    # Not asyncio.timeout(): it waits for the cancelled work, which may clean up over a hanging socket.
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait([task], timeout=seconds)
    finally:
        unfinished = not task.done()
        _abandon(task)
    if unfinished:
        raise TimeoutError(f"no answer from RabbitMQ within {seconds:g} s")
    if task.cancelled():
        raise ConnectionError("the connection closed meanwhile")
    task.result()


def _abandon(task: "asyncio.Future[Any]") -> None:
    """Cancel a task and ignore its result."""
    task.cancel()
    task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
