"""A running consumer that outlives its link and continues on the next one."""

import asyncio
import contextlib
import secrets
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from towpath.servicekit.broker.arrivals import Arrivals
from towpath.servicekit.broker.interface import BrokerUnavailable, Inbox, Log, Lost, Queue
from towpath.servicekit.broker.rabbitmq.bindings import RabbitBindings
from towpath.servicekit.broker.rabbitmq.connection import (
    CLOSE_TIMEOUT,
    LOST,
    close_channel,
    reason_of,
    rpc,
    within,
)
from towpath.servicekit.broker.rabbitmq.declaring import bind
from towpath.servicekit.broker.rabbitmq.delivery import LogDelivery, RabbitDelivery
from towpath.servicekit.broker.rabbitmq.driver import (
    Channel,
    DeliveredMessage,
    Driver,
    driver_of,
    on_consumer_cancelled,
)
from towpath.servicekit.broker.rabbitmq.link import Link
from towpath.servicekit.broker.rabbitmq.refusals import needs

#: Called when the broker ended a subscription, with the kind of loss and how it was found.
OnEnded = Callable[["RabbitSubscription", Lost, str], None]


#: A log is read from its first message; the default of a stream is what is published from now on.
#: https://www.rabbitmq.com/docs/streams#consuming
_FROM_FIRST: Final[dict[str, Any]] = {"x-stream-offset": "first"}


class RabbitSubscription(Arrivals):
    """See :class:`~towpath.servicekit.broker.interface.Subscription`."""

    def __init__(
        self,
        sources: tuple[Queue | Inbox | Log, ...],
        prefetch: int,
        on_ended: OnEnded,
        arrived: asyncio.Event | None = None,
    ) -> None:
        super().__init__(arrived)
        self._sources = sources
        self._prefetch = prefetch
        self._on_ended = on_ended
        self._started_at = 0.0
        self._channel: Channel | None = None
        self._bindings: list[tuple[Inbox, RabbitBindings]] = []
        self._tags: list[str] = []
        self._cancelled = False
        self._settlements: deque[tuple[int, str]] = deque()
        self._to_settle = asyncio.Event()
        self._settler: asyncio.Task[None] | None = None
        self._starting = False

    @property
    def names(self) -> list[str]:
        """The names of its queues, for logs and for the broker."""
        return [source.name for source in self._sources]

    def started_before(self, seconds: float) -> bool:
        """Whether it has consumed for at least ``seconds``."""
        return self.is_taking and _now() - self._started_at > seconds

    @property
    def is_taking(self) -> bool:
        """Whether it consumes and was not cancelled."""
        return self._channel is not None and not self._cancelled

    def bindings(self, inbox: Inbox) -> RabbitBindings | None:
        """The bindings of one of its inboxes, if that exists."""
        return next((one for source, one in self._bindings if source is inbox and one.exists), None)

    async def start(self, link: Link, *, held: bool = False) -> None:
        """Consume over a new channel; unsettled deliveries of the old one are dropped (the broker redelivers them).

        Args:
            held: Hand out no deliveries before :meth:`hand_out`.
        """
        # The next start is a new channel with new tags: nothing of the old one may remain.
        await self.stop()
        self._is_held = held
        if self._cancelled:  # Its unsettled deliveries were requeued with the old channel.
            return
        channel = await link.consumer_channel()
        driver = await driver_of(channel)
        channel.close_callbacks.add(lambda _, error: self._on_channel_closed(channel, error))
        on_consumer_cancelled(
            driver,
            lambda: self._end(channel, Lost.QUEUE, "the broker cancelled a consumer: its queue is gone"),
        )
        self._channel = channel
        self._starting = True
        self._settler = asyncio.create_task(self._settle(driver), name="subscription: settle")
        try:
            # Holds for each consumer that is started after it: https://www.rabbitmq.com/docs/consumer-prefetch
            await rpc(driver.basic_qos(prefetch_count=self._prefetch))
            for source in self._sources:
                queue = await make_inbox(driver, source) if isinstance(source, Inbox) else source.name
                if isinstance(source, Log):
                    await link.make_log(source)
                arguments = _FROM_FIRST if isinstance(source, Log) else None
                with needs(queue="read"):
                    consuming = await rpc(
                        driver.basic_consume(queue, self._receiver(source, driver), arguments=arguments)
                    )
                self._tags.append(str(consuming.consumer_tag))
                if isinstance(source, Inbox):
                    self._bindings.append((source, RabbitBindings(link, queue)))
        except BaseException:
            await self.stop()
            raise
        finally:
            self._starting = False
        self._started_at = _now()

    async def stop(self) -> None:
        """Drop the channel and all deliveries that came over it."""
        channel, self._channel = self._channel, None
        self._waiting.clear()
        self._tags.clear()
        settler, self._settler = self._settler, None
        if settler is not None:
            # Before the channel is closed: settlements that were not sent are dropped, and the broker redelivers.
            settler.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await settler
        self._settlements.clear()
        bindings, self._bindings = self._bindings, []
        for _, one in bindings:
            await one.close()
        if channel is not None:
            await close_channel(channel)

    async def cancel(self) -> None:
        self._cancelled = True
        channel = self._channel
        if channel is None:
            return
        try:
            driver = await driver_of(channel)
            # `basic.cancel` stops new deliveries; those that are here can still be settled, as the channel stays
            # open. https://www.rabbitmq.com/docs/consumers
            for tag in list(self._tags):
                await rpc(driver.basic_cancel(tag))
        except LOST as error:
            raise BrokerUnavailable(f"RabbitMQ did not end the subscription: {reason_of(error)}") from error

    async def close(self) -> None:
        """Stop intake, send the settlements, requeue the rest."""
        self._end_iteration()
        channel = self._channel
        if channel is not None and not channel.is_closed:
            with contextlib.suppress(*LOST):
                await within(CLOSE_TIMEOUT, self._send_settlements(await driver_of(channel)))
        await self.stop()

    def settle(self, channel: Driver, tag: int, how: str) -> None:
        self._was_settled()
        current = self._channel
        # A delivery tag counts on its own channel only: on another one it would settle another delivery, or close
        # the channel. https://www.rabbitmq.com/docs/confirms#consumer-acks-delivery-tags
        if current is None or current.is_closed or channel.is_closed:
            return  # A stale delivery: the broker redelivers it.
        self._settlements.append((tag, how))
        self._to_settle.set()

    def _receiver(self, source: Queue | Inbox | Log, channel: Driver) -> Callable[[DeliveredMessage], Any]:
        name = source.name
        delivery = LogDelivery if isinstance(source, Log) else RabbitDelivery

        async def receive(message: DeliveredMessage) -> None:
            self._receive(delivery(message, name, self, channel))

        return receive

    async def _settle(self, channel: Driver) -> None:
        # One task sends all settlements in their order, so that ack() never waits for the socket.
        with contextlib.suppress(*LOST):
            while True:
                await self._to_settle.wait()
                self._to_settle.clear()
                await self._send_settlements(channel)

    async def _send_settlements(self, channel: Driver) -> None:
        if self._settlements and all(isinstance(source, Log) for source in self._sources):
            # One ack for all, since it only makes room: a system call for each would double the time that a program
            # needs to read a long log at its start.
            last = max(tag for tag, _ in self._settlements)
            self._settlements.clear()
            await channel.basic_ack(last, multiple=True, wait=False)
        while self._settlements:
            tag, how = self._settlements.popleft()
            if how == "ack":
                await channel.basic_ack(tag, wait=False)
            else:
                await channel.basic_reject(tag, requeue=how == "requeue", wait=False)

    def _on_channel_closed(self, channel: Channel, error: BaseException | None) -> None:
        if not self._starting:  # Else the caller of start() gets the error.
            self._end(channel, Lost.CHANNEL, f"its channel closed: {reason_of(error)}")

    def _end(self, channel: Channel, what: Lost, reason: str) -> None:
        # Both events name their channel: a late one of an old channel must not end the new one.
        if self._channel is channel and not self._ended:  # not closed by ourselves
            for _, bindings in self._bindings:
                bindings.end()
            self._on_ended(self, what, reason)


def _now() -> float:
    return asyncio.get_running_loop().time()


async def make_inbox(channel: Driver, inbox: Inbox) -> str:
    """Declare an inbox under a new unique name; returns the name."""
    # Exclusive: RabbitMQ deletes it with the connection, so a killed program leaves no queue behind. A new name each
    # time, because RabbitMQ may notice the loss of the old connection later than this program did.
    # https://www.rabbitmq.com/docs/queues#exclusive-queues
    name = f"{inbox.name}.{secrets.token_hex(6)}"
    arguments: dict[str, Any] = {
        "x-max-length": inbox.max_length,
        "x-max-length-bytes": inbox.max_bytes,
        "x-message-ttl": inbox.message_ttl_ms,
        # A program that cannot keep up loses its oldest messages: with reject-publish, one full inbox would refuse
        # the publishes to all of them. https://www.rabbitmq.com/docs/maxlength#overflow-behaviour
        "x-overflow": "drop-head",
    }
    with needs(queue="configure"):
        await rpc(
            channel.queue_declare(name, exclusive=True, auto_delete=True, durable=False, arguments=arguments)
        )
    await bind(channel, name, inbox.bindings)
    return name
