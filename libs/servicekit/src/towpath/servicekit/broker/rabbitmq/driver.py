"""The driver: everything that is used of aio-pika, aiormq and pamqp. No other module imports them.

The public names are passed on as they are. The functions below use names that the packages do not document, or
rely on how they work inside, because there is no public way; each has a test in ``tests/test_driver.py`` that says
what breaks without it, and the distribution bounds the versions of the three packages on both sides.

aio-pika's "robust" classes are not used: they retry in lock-step, and restore without time limits. Neither is most of
its layer above aiormq, which costs more than it gives here.
"""

import asyncio
import contextlib
import ssl
from collections.abc import Callable
from typing import Any, Final, cast

import aio_pika
import aiormq
from aiormq.abc import DeliveredMessage
from aiormq.connection import TCPTransportFactory, TLSTransportFactory, TransportFactory
from aiormq.exceptions import (
    AMQPError,
    AuthenticationError,
    ChannelAccessRefused,
    ChannelClosed,
    ChannelInvalidStateError,
    ChannelNotFoundEntity,
    ChannelPreconditionFailed,
    ConnectionNotAllowed,
    DeliveryError,
    ProbableAuthenticationError,
    PublishError,
)
from pamqp.commands import Basic
from yarl import URL

__all__ = [
    "AMQPError",
    "AuthenticationError",
    "Channel",
    "ChannelAccessRefused",
    "ChannelClosed",
    "ChannelNotFoundEntity",
    "ChannelPreconditionFailed",
    "ConnectionNotAllowed",
    "DeliveredMessage",
    "DeliveryError",
    "Driver",
    "DriverConnection",
    "ProbableAuthenticationError",
    "Properties",
    "PublishError",
    "TCPTransportFactory",
    "TLSTransportFactory",
    "TransportFactory",
    "driver_of",
    "guard_writes",
    "is_blocked",
    "new_connection",
    "on_consumer_cancelled",
    "set_heartbeat_timeout",
]

Channel = aio_pika.abc.AbstractChannel
#: The aiormq channel beneath a :data:`Channel`.
Driver = aiormq.Channel
DriverConnection = aio_pika.Connection
Properties = Basic.Properties

_BLOCKED_TIMEOUT: Final = 0.05


def new_connection(
    url: URL, name: str, transports: TransportFactory, tls: ssl.SSLContext | None = None
) -> DriverConnection:
    """A connection that is not open yet.

    Args:
        name: Shown in RabbitMQ's list of connections.
        transports: Opens its socket. aio-pika has no parameter for it, but passes its ``kwargs`` on to aiormq.
        tls: For ``amqps``.
    """
    connection = aio_pika.Connection(url, ssl_context=tls, client_properties={"connection_name": name})
    connection.kwargs["transport_factory"] = transports
    return connection


def set_heartbeat_timeout(connection: DriverConnection, seconds: float) -> None:
    """Close an open connection after ``seconds`` without a frame.

    aiormq derives this time from the interval of heartbeats, and offers no other setting.
    """
    if connection.transport is not None:
        vars(connection.transport.connection)["_Connection__heartbeat_grace_timeout"] = seconds


async def is_blocked(connection: DriverConnection) -> bool:
    """Whether RabbitMQ has sent Connection.Blocked: https://www.rabbitmq.com/docs/connection-blocked

    aiormq reports it only through ``ready()``, which waits meanwhile and returns at once otherwise.
    """
    if connection.transport is None:
        return False
    try:
        async with asyncio.timeout(_BLOCKED_TIMEOUT):
            await connection.transport.ready()
    except TimeoutError:
        return True
    return False


async def driver_of(channel: Channel) -> Driver:
    """The aiormq channel beneath."""
    driver = await channel.get_underlay_channel()
    assert isinstance(driver, Driver)
    return driver


def on_consumer_cancelled(driver: Driver, callback: Callable[[], None]) -> None:
    """Call ``callback`` when RabbitMQ cancels a consumer, because its queue was deleted or its node is down.

    https://www.rabbitmq.com/docs/consumer-cancel
    """
    driver.on_consumer_cancel_callbacks.add(lambda _: callback())


def guard_writes(driver: Driver) -> None:
    """Write nothing on a channel after its Channel.CloseOk.

    When RabbitMQ closes a channel because of one publish, aiormq still writes the publishes that are queued on it,
    and RabbitMQ closes the whole connection for that. Before CloseOk such publishes are harmless.
    """
    driver.write_queue = cast("asyncio.Queue[Any]", _WriteQueueGuard(driver.write_queue))


class _WriteQueueGuard:
    """Replaces a channel's ``write_queue``, which is the queue of its connection."""

    def __init__(self, queue: "asyncio.Queue[Any]") -> None:
        self._queue = queue
        self._passing = 0
        self._close_ok: Any = None

    async def put(self, frame: Any) -> None:
        if self._close_ok is not None:
            raise ChannelInvalidStateError("RabbitMQ closed the channel")
        # `put` waits while the connection's queue is full: CloseOk has to be behind every publish that waits here.
        self._passing += 1
        try:
            await self._queue.put(frame)
        finally:
            self._passing -= 1
            self._close()

    def put_nowait(self, close_ok: Any) -> None:
        """Only CloseOk is written this way; it may have to wait for the frames before it."""
        self._close_ok = close_ok
        self._close()

    def _close(self) -> None:
        if self._close_ok is not None and not self._passing:
            # If the queue is full, RabbitMQ gets no CloseOk: it ignores this channel for ever.
            with contextlib.suppress(asyncio.QueueFull):
                self._queue.put_nowait(self._close_ok)
