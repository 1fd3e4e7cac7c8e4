"""A link: one connection to RabbitMQ, and on it a publishing channel for each exchange.

RabbitMQ closes the channel of a message that it refuses, with all messages in flight on it, and names none of them.
So the error of a shared channel says only that one of them was refused; each is then published again, alone on a
channel, until the refused one is found. https://www.rabbitmq.com/docs/channels#error-handling
"""

import asyncio
from collections.abc import Callable
from typing import Final

from yarl import URL

from towpath.publisher.driver import (
    LOST,
    ChannelAccessRefused,
    ChannelClosed,
    ChannelNotFoundEntity,
    ChannelPreconditionFailed,
    Connection,
    DeliveryError,
    Properties,
    PublishError,
    PublishingChannel,
    close_channel,
    reason_of,
)
from towpath.publisher.message import Message
from towpath.publisher.tls import TlsFiles

_CHANNEL_SECONDS: Final = 10.0
_WATCH_SECONDS: Final = 0.2
#: RabbitMQ sends something at least once in an interval of heartbeats; the rest is for a busy machine.
_SILENCE_SLACK: Final = 1.5
#: Seconds before a channel that answered with nack is replaced: one of RabbitMQ 3.10 keeps to the leader of a quorum
#: queue that it found first.
_CHANNEL_LASTS: Final = 2.0


class Returned(Exception):
    """No queue is bound to the key."""


class Nacked(Exception):
    """A queue is full, or has no leader."""


class NoExchange(Exception):
    """The exchange does not exist."""


class Lost(Exception):
    """The link was lost before the confirm: the outcome is unknown."""


class ChannelRefused(Exception):
    """RabbitMQ refused a message on this channel.

    Attributes:
        is_certain: Whether it was this message: it was alone on the channel.
    """

    def __init__(self, text: str, *, is_certain: bool) -> None:
        super().__init__(text)
        self.is_certain = is_certain


class Link:
    """One connection and its channels; made with :meth:`open`.

    Attributes:
        blocked: Whether RabbitMQ accepts no messages for now, as :meth:`watch` saw it last.
    """

    def __init__(self, connection: Connection, account: str | None, app_id: str, heartbeat: int) -> None:
        self._connection = connection
        self._account = account
        self._app_id = app_id
        self._silence = heartbeat + _SILENCE_SLACK
        self._channels: dict[str, _Channel] = {}
        self._opening = asyncio.Lock()
        self._alone = asyncio.Lock()
        self._sent = 0
        self.blocked = False

    @classmethod
    async def open(
        cls,
        url: URL,
        *,
        app_id: str,
        account: str | None,
        tls: TlsFiles,
        heartbeat: int,
        timeout: float,
    ) -> "Link":
        """Connect to one host; raises as :meth:`Connection.open`, and ``ValueError`` for a certificate file."""
        # In a thread: the system's authorities are read from hundreds of files.
        context = await asyncio.to_thread(tls.context) if url.scheme == "amqps" else None
        connection = await Connection.open(url, app_id, heartbeat=heartbeat, timeout=timeout, tls=context)
        return cls(connection, account, app_id, heartbeat)

    async def watch(self, on_change: Callable[[], None]) -> str:
        """Keep :attr:`blocked` up to date; returns the reason once the link is lost.

        Args:
            on_change: Called after :attr:`blocked` has changed.
        """
        while not self._connection.lost.done():
            # Polled, because the driver has no callback for it.
            blocked = await self._connection.is_blocked()
            if blocked != self.blocked:
                self.blocked = blocked
                on_change()
            if self._connection.silent_for > self._silence:
                self._connection.fail(f"RabbitMQ has sent nothing for {self._silence:g} s")
            await asyncio.wait([self._connection.lost], timeout=_WATCH_SECONDS)
        return self._connection.lost.result()

    async def publish(self, message: Message, *, alone: bool) -> None:
        """Publish, and wait for the confirm for as long as the link lives.

        Args:
            alone: On a channel without other messages.

        Raises:
            Returned, Nacked, NoExchange, ChannelRefused, Lost
        """
        if alone:
            async with self._alone:
                channel = _Channel(await self._new_channel())
                try:
                    await self._publish(message, channel, is_certain=True)
                finally:
                    await close_channel(channel.driver)
            return
        channel = await self._channel(message.exchange)
        channel.in_flight += 1
        try:
            await self._publish(message, channel, is_certain=False)
        except Nacked:
            if channel.age >= _CHANNEL_LASTS and self._channels.get(message.exchange) is channel:
                del self._channels[message.exchange]
            raise
        finally:
            channel.in_flight -= 1
            if not channel.in_flight and self._channels.get(message.exchange) is not channel:
                await close_channel(channel.driver)

    async def close(self) -> None:
        """Close the connection; takes two seconds at most."""
        await self._connection.close()

    async def _publish(self, message: Message, channel: "_Channel", *, is_certain: bool) -> None:
        self._sent += 1
        properties = Properties(
            content_type="application/json",
            delivery_mode=2 if message.persistent else 1,
            # The driver matches returned messages by this id, so it is of the message, not of the event: two
            # messages in flight may hold one event.
            message_id=f"{self._sent}",
            message_type="envelope",
            user_id=self._account,
            app_id=self._app_id,
            headers={"traceparent": message.traceparent} if message.traceparent else None,
        )
        publishing = channel.driver.basic_publish(
            message.body,
            exchange=message.exchange,
            routing_key=message.routing_key,
            properties=properties,
            mandatory=message.mandatory,
            wait=False,
        )
        try:
            await publishing
        except PublishError:  # Before DeliveryError, of which it is one.
            raise Returned from None
        except DeliveryError:
            raise Nacked from None
        except ChannelNotFoundEntity as error:
            raise NoExchange(str(error)) from None
        except (ChannelAccessRefused, ChannelPreconditionFailed, ChannelClosed) as error:
            if self._connection.lost.done() or (type(error) is ChannelClosed and not str(error)):
                raise Lost(reason_of(error)) from None
            raise ChannelRefused(str(error), is_certain=is_certain) from None
        except LOST as error:
            raise Lost(reason_of(error)) from None
        except asyncio.CancelledError as error:
            # The driver cancels what waits on a lost connection. Only a cancellation from outside is passed on.
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            raise Lost(reason_of(error)) from None

    async def _channel(self, exchange: str) -> "_Channel":
        channel = self._channels.get(exchange)
        if channel is None or channel.driver.is_closed:
            # Looked at again under the lock: many publishes notice a closed channel at once, and one opens the next.
            async with self._opening:
                channel = self._channels.get(exchange)
                if channel is None or channel.driver.is_closed:
                    channel = self._channels[exchange] = _Channel(await self._new_channel())
        return channel

    async def _new_channel(self) -> PublishingChannel:
        try:
            return await self._connection.channel(timeout=_CHANNEL_SECONDS)
        except LOST as error:
            # A connection without channels is useless.
            self._connection.fail(reason_of(error))
            raise Lost(reason_of(error)) from None


class _Channel:
    def __init__(self, driver: PublishingChannel) -> None:
        self.driver = driver
        self.in_flight = 0
        self._opened_at = asyncio.get_running_loop().time()

    @property
    def age(self) -> float:
        return asyncio.get_running_loop().time() - self._opened_at
