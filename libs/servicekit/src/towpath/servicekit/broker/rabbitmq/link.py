"""A link: two connections to RabbitMQ with one lifetime, and the operations on them.

One publishes and one consumes, so that an alarm, which blocks the first, never blocks acks on the second
(https://www.rabbitmq.com/docs/alarms). Each exchange has a publishing channel of its own: RabbitMQ closes the channel
of a publish that it refuses, with all publishes in flight on it.
"""

import asyncio
import contextlib
import re
from collections.abc import Sequence
from typing import Final

import structlog
from yarl import URL

from towpath.servicekit.broker.interface import (
    Binding,
    BrokerRefused,
    Difference,
    Exchange,
    Found,
    Log,
    Queue,
    Topology,
    TopologyMismatch,
)
from towpath.servicekit.broker.rabbitmq.connection import (
    CLOSE_TIMEOUT,
    LOST,
    Connection,
    close_channel,
    reason_of,
    rpc,
    within,
)
from towpath.servicekit.broker.rabbitmq.declaring import Declaring, Existing
from towpath.servicekit.broker.rabbitmq.driver import (
    Channel,
    ChannelAccessRefused,
    ChannelClosed,
    ChannelPreconditionFailed,
    DeliveryError,
    Driver,
    Properties,
    PublishError,
    driver_of,
)
from towpath.servicekit.broker.rabbitmq.refusals import is_of_account, needs, wrong_account

log = structlog.get_logger(__name__)

#: Consumers handle it as a batch without items.
_EMPTY_BATCH: Final = b"[]"
#: A key that no queue is bound to, for the check of permissions.
_UNBOUND_KEY: Final = "proof"
_PERMISSION_CHECK_SECONDS: Final = 1.0
_ALARM_CHECK_SECONDS: Final = 0.2
#: Seconds that publishes in flight at an alarm may still be confirmed. RabbitMQ reads no more, so a confirm is
#: unlikely.
_CONFIRM_TIMEOUT_AT_ALARM: Final = 0.5
#: Minimum age in seconds before a publishing channel is replaced, and how long a replaced one is kept for its
#: confirms.
_CHANNEL_LASTS: Final = 2.0
_CONFIRMS_LAST: Final = 15.0
#: Of 406: a queue of this name has other arguments, or this RabbitMQ has no streams. Other reasons pass, such as a
#: replica of the stream that is not started yet.
_OTHER_ARGUMENTS: Final = re.compile(r"inequivalent arg|invalid arg")


class Link:
    """Two connections with one lifetime.

    Attributes:
        blocked: Whether RabbitMQ accepts no publishes for now, as :meth:`watch_alarm` saw it last.
        lost: Resolved with the reason when the link is lost.
        in_flight: The time limits of publishes that wait for their confirm.
    """

    def __init__(self, publishing: Connection, consuming: Connection, existing: Existing) -> None:
        self._publishing = publishing
        self._consuming = consuming
        self._existing = existing
        self._publishers: dict[str, Channel] = {}
        self._opened_at: dict[str, float] = {}
        self._replaced: list[tuple[float, Channel]] = []
        self._opening = asyncio.Lock()
        self.blocked = False
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.in_flight: set[asyncio.Timeout] = set()
        for connection in (publishing, consuming):
            connection.on_closed(lambda error: self.fail(reason_of(error)))

    @classmethod
    async def open(cls, url: URL, name: str, existing: Existing) -> "Link":
        """Connect twice to one host; raises what :meth:`Connection.open` does.

        Args:
            existing: Names that earlier links have found.
        """
        opening = [
            asyncio.ensure_future(Connection.open(url, f"{name} {purpose}", consumes=purpose == "consume"))
            for purpose in ("publish", "consume")
        ]
        try:
            publishing, consuming = await asyncio.gather(*opening)
        except BaseException:
            for one in opening:
                one.cancel()
            # Half a link is closed: the other connection would stay open on RabbitMQ, without a use.
            done = await asyncio.gather(*opening, return_exceptions=True)
            await asyncio.gather(*(one.close() for one in done if isinstance(one, Connection)))
            raise
        link = cls(publishing, consuming, existing)
        try:
            await link.publisher("")  # A link that cannot publish is useless.
        except BaseException:
            await link.close()
            raise
        return link

    def silent(self) -> str | None:
        """The name of the connection that receives nothing any more, if any."""
        if self._publishing.is_silent:
            return "publishing"
        return "consuming" if self._consuming.is_silent else None

    def fail(self, reason: str) -> None:
        """Mark the link as lost; the supervisor opens a new one."""
        if not self.lost.done():
            self.lost.set_result(reason)

    async def watch_alarm(self) -> None:
        """Keep :attr:`blocked` up to date until cancelled."""
        while True:
            # Polled, because aiormq offers no callback. Connection.Blocked arrives only after this connection has
            # published during the alarm. https://www.rabbitmq.com/docs/connection-blocked
            blocked, before = await self._publishing.alarmed(), self.blocked
            self.blocked = blocked
            if blocked and not before:
                log.warning("broker_blocked", in_flight=len(self.in_flight))
                self._shorten_time_limits()
            elif before and not blocked:
                log.info("broker_unblocked")
            await asyncio.sleep(_ALARM_CHECK_SECONDS)

    def _shorten_time_limits(self) -> None:
        soon = asyncio.get_running_loop().time() + _CONFIRM_TIMEOUT_AT_ALARM
        for limit in self.in_flight:
            if not limit.expired():
                # Shorter only, never longer: a publish keeps the limit that its caller gave.
                limit.reschedule(min(soon, limit.when() or soon))

    async def publisher(self, exchange: str) -> Driver:
        """The channel that publishes to ``exchange``; a new one if the broker closed the last."""
        channel = self._publishers.get(exchange)
        if channel is None or channel.is_closed:
            # Looked at again under the lock: many lanes notice a closed channel at once, and one of them opens it.
            async with self._opening:
                channel = self._publishers.get(exchange)
                if channel is None or channel.is_closed:
                    channel = await self._publishing.channel(confirms=True)
                    channel.close_callbacks.add(lambda _, error: _log_closed(exchange, error))
                    self._publishers[exchange] = channel
                    self._opened_at[exchange] = asyncio.get_running_loop().time()
                    await self._close_replaced()
        return await driver_of(channel)

    def refused(self, exchange: str) -> None:
        """RabbitMQ refused a publish: use a new channel from now on, unless the current one is new.

        Most often a queue is full, and a new channel does not help. But a channel of RabbitMQ 3.10 keeps using the
        quorum queue leader of its first publish, and refuses for as long as that node is down.
        """
        now = asyncio.get_running_loop().time()
        if exchange in self._publishers and now - self._opened_at[exchange] >= _CHANNEL_LASTS:
            # Kept open for a while: publishes on it still wait for their confirms.
            self._replaced.append((now, self._publishers.pop(exchange)))

    async def _close_replaced(self) -> None:
        now = asyncio.get_running_loop().time()
        while self._replaced and now - self._replaced[0][0] >= _CONFIRMS_LAST:
            await close_channel(self._replaced.pop(0)[1])

    async def consumer_channel(self) -> Channel:
        """A new channel on the consuming connection, also for other requests."""
        return await self._consuming.channel(confirms=False)

    async def declare(self, topology: Topology) -> dict[str, int]:
        """Make sure that ``topology`` exists; returns how many consumers each of its queues has.

        Raises:
            TopologyMismatch: Something exists with other arguments.
            BrokerRefused: Something does not exist, and a permission to make it is missing.
            LOST: See :data:`~towpath.servicekit.broker.rabbitmq.connection.LOST`.
        """
        # On the consuming connection, because an alarm blocks the other one.
        declaring = Declaring(self.consumer_channel, self._existing)
        try:
            for exchange in topology.exchanges:
                await declaring.exchange(exchange)
            return {queue.name: await declaring.queue(queue) for queue in topology.queues}
        except ChannelPreconditionFailed as error:
            raise TopologyMismatch(
                f"RabbitMQ has an exchange or queue with other arguments than this version needs: {error}. "
                "Empty and delete it, or point this service to another virtual host."
            ) from None
        finally:
            await declaring.close()

    async def make_log(self, source: Log) -> None:
        """Make sure that a log exists.

        Raises:
            TopologyMismatch: A queue of this name has other arguments, or this RabbitMQ has no streams.
            BrokerRefused: It does not exist, and a permission to make it is missing.
            LOST: See :data:`~towpath.servicekit.broker.rabbitmq.connection.LOST`.
        """
        declaring = Declaring(self.consumer_channel, self._existing)
        try:
            await declaring.log(source)
        except ChannelPreconditionFailed as error:
            if not _OTHER_ARGUMENTS.search(str(error)):
                raise
            raise TopologyMismatch(
                f"RabbitMQ has no stream {source.name!r} as this version needs it: {error}. "
                "Delete the queue of this name, or use a RabbitMQ with streams (3.9 or later)."
            ) from None
        finally:
            await declaring.close()

    async def consumers(self, queues: Sequence[str]) -> dict[str, int]:
        """The number of consumers of each of these queues.

        Raises:
            LOST: See :data:`~towpath.servicekit.broker.rabbitmq.connection.LOST`.
        """
        channel = await self.consumer_channel()
        try:
            driver = await driver_of(channel)
            return {
                name: (await rpc(driver.queue_declare(name, passive=True))).consumer_count or 0
                for name in queues
            }
        finally:
            await close_channel(channel)

    async def look(self, topology: Topology) -> Found:
        """The part of ``topology`` that exists.

        Raises:
            LOST: See :data:`~towpath.servicekit.broker.rabbitmq.connection.LOST`.
        """
        # On the consuming connection, because an alarm blocks the other one.
        declaring = Declaring(self.consumer_channel, self._existing)
        try:
            names = [one.name for one in topology.exchanges]
            exchanges = frozenset([name for name in names if await declaring.exchange_exists(name)])
            counts = {one.name: await declaring.counts(one.name) for one in topology.queues}
        finally:
            await declaring.close()
        return Found(exchanges, {name: found for name, found in counts.items() if found is not None})

    async def compare(self, topology: Topology) -> list[Difference]:
        """The parts of ``topology`` that exist with other arguments.

        Raises:
            LOST: See :data:`~towpath.servicekit.broker.rabbitmq.connection.LOST`.
        """
        declaring = Declaring(self.consumer_channel, Existing())
        parts: list[Exchange | Queue] = [*topology.exchanges, *topology.queues]
        try:
            compared = [await declaring.compare(part) for part in parts]
        finally:
            await declaring.close()
        return [one for one in compared if one is not None]

    async def unbound(self, topology: Topology) -> list[Binding]:
        """Bindings that ``topology`` wants verified and that are missing: an empty batch is returned as unroutable.

        Raises:
            LOST: See :data:`~towpath.servicekit.broker.rabbitmq.connection.LOST`.
        """
        lost = []
        for binding in (binding for queue in topology.queues for binding in queue.verified):
            driver = await self.publisher(binding.exchange)
            try:
                await rpc(
                    driver.basic_publish(
                        _EMPTY_BATCH,
                        exchange=binding.exchange,
                        routing_key=binding.routing_key,
                        # If the binding exists, the queue takes it, and its consumer handles a batch without items.
                        # https://www.rabbitmq.com/docs/publishers#unroutable
                        mandatory=True,
                        wait=False,
                    )
                )
            except PublishError:  # Returned as unroutable.
                lost.append(binding)
            except DeliveryError:
                pass  # The queue is full, so the binding exists.
        return lost

    async def check_write_permission(self, exchange: str, user_id: str | None) -> None:
        """Check the permission to publish to ``exchange`` in the name of ``user_id``, with an empty batch whose key
        no queue is bound to.

        The check is inconclusive if RabbitMQ does not answer soon (an alarm), or if the user's permissions depend on
        the routing key.

        Raises:
            BrokerRefused: The permission is missing, or the account of the connection is another one.
        """
        driver = await self.publisher(exchange)
        publishing = driver.basic_publish(
            _EMPTY_BATCH,
            exchange=exchange,
            routing_key=_UNBOUND_KEY,
            properties=Properties(user_id=user_id),
            wait=False,
        )
        with contextlib.suppress(TimeoutError, DeliveryError), needs(exchange="write"):
            try:
                await within(_PERMISSION_CHECK_SECONDS, publishing)
            except ChannelAccessRefused as error:
                # Topic permissions: this key may be forbidden, and the real ones allowed.
                if "access to topic" not in str(error):
                    raise
            except ChannelPreconditionFailed as error:
                if is_of_account(str(error)):
                    raise BrokerRefused(wrong_account(str(error))) from None
                raise

    async def may_publish(self, exchange: str, routing_key: str) -> bool:
        """Whether this account may publish to ``exchange`` with ``routing_key``.

        Asked in a transaction that is rolled back: RabbitMQ checks a publish when it comes, and routes it at the
        commit. https://www.rabbitmq.com/docs/semantics#tx

        Raises:
            LOST: See :data:`~towpath.servicekit.broker.rabbitmq.connection.LOST`.
        """
        channel = await self._publishing.channel(confirms=False)
        closed: asyncio.Future[BaseException | None] = asyncio.get_running_loop().create_future()
        channel.close_callbacks.add(lambda _, error: None if closed.done() else closed.set_result(error))
        try:
            driver = await driver_of(channel)
            await rpc(driver.tx_select())
            await rpc(
                driver.basic_publish(_EMPTY_BATCH, exchange=exchange, routing_key=routing_key, wait=False)
            )
            await rpc(driver.tx_rollback())
        except LOST as error:
            # A request on a channel that is closed by then does not say why it is.
            is_said = isinstance(error, ChannelAccessRefused)
            reason = error if is_said else await within(CLOSE_TIMEOUT, closed)
            if not isinstance(reason, ChannelAccessRefused):
                raise
            return False
        finally:
            await close_channel(channel)
        return True

    async def close(self) -> None:
        """Close both connections; takes 1.5 s at most."""
        self.fail("closed")
        await asyncio.gather(self._publishing.close(), self._consuming.close())


def _log_closed(exchange: str, error: BaseException | None) -> None:
    if isinstance(error, ChannelClosed):
        log.warning("publish_channel_closed", exchange=exchange, reason=reason_of(error))
