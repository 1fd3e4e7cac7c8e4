"""RabbitMQ (3.10 and 4.x, no plugins) behind the broker interface, on aio-pika and aiormq.

A :class:`~towpath.servicekit.broker.rabbitmq.supervisor.Supervisor` keeps a link open, and on it the topology and the
subscriptions requested here.

The AMQP ``message_id`` is unique per attempt, because it is the only way to match a returned message.
"""

import asyncio
import contextlib
import itertools
import random
import re
import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

from towpath.protocol.messages import MESSAGE_MAX_BYTES
from towpath.servicekit.broker.interface import (
    BrokerBlocked,
    BrokerError,
    BrokerState,
    BrokerUnavailable,
    Difference,
    Found,
    Inbox,
    Log,
    Message,
    OnLoss,
    PublishRefused,
    PublishUnconfirmed,
    Queue,
    Topology,
    Unpublishable,
    Unroutable,
)
from towpath.servicekit.broker.limits import check, too_large
from towpath.servicekit.broker.rabbitmq.bindings import RabbitBindings
from towpath.servicekit.broker.rabbitmq.browsing import RabbitQueueBrowser
from towpath.servicekit.broker.rabbitmq.connection import LOST, abandon, reason_of
from towpath.servicekit.broker.rabbitmq.driver import (
    ChannelAccessRefused,
    ChannelNotFoundEntity,
    ChannelPreconditionFailed,
    DeliveryError,
    Properties,
    PublishError,
)
from towpath.servicekit.broker.rabbitmq.hosts import Hosts
from towpath.servicekit.broker.rabbitmq.link import Link
from towpath.servicekit.broker.rabbitmq.refusals import is_of_account, wrong_account
from towpath.servicekit.broker.rabbitmq.subscription import RabbitSubscription
from towpath.servicekit.broker.rabbitmq.supervisor import Supervisor
from towpath.servicekit.runtime import amqp_url

_LIMIT: Final = re.compile(r"larger than (?:configured )?max(?:imum)? size:? (\d+)")
_TOPIC: Final = re.compile(r"access to topic '(.*)' in exchange", re.DOTALL)

#: Of 406: another program has just declared this stream, and its process is not up yet.
_NOT_STARTED: Final = "does not have a replica on the local node"
#: Seconds that a stream may take to start, and between two looks at it.
_LOG_STARTS_WITHIN: Final = 10.0
_LOG_LOOK_SECONDS: Final = 0.1

#: Seconds that closing waits for confirms in flight; callers that need more wait before they close.
CONFIRMS_TIMEOUT: Final = 1.0


class RabbitBroker:
    """The :class:`~towpath.servicekit.broker.interface.Broker` over a real RabbitMQ."""

    def __init__(
        self,
        url: str,
        *,
        name: str,
        publish_timeout: float,
        reconnect_max: float,
        message_max_bytes: int = MESSAGE_MAX_BYTES,
        user_id: str | None = None,
    ) -> None:
        hosts = Hosts(amqp_url.hosts(url), reconnect_max, random.Random())  # noqa: S311  # jitter
        self._supervisor = Supervisor(hosts, name=name, reconnect_max=reconnect_max)
        self._supervising = asyncio.create_task(self._supervisor.run(), name=f"{name}: broker supervisor")
        self._publish_timeout = publish_timeout
        self._message_max_bytes = message_max_bytes
        self._user_id = user_id
        self._closed = False
        self._publishes = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._message_ids = map(f"{secrets.token_hex(6)}-%d".__mod__, itertools.count(1))

    @classmethod
    @asynccontextmanager
    async def connect(
        cls,
        url: str,
        *,
        name: str,
        publish_timeout: float = 10.0,
        reconnect_max: float = 30.0,
        message_max_bytes: int = MESSAGE_MAX_BYTES,
        user_id: str | None = None,
    ) -> AsyncIterator["RabbitBroker"]:
        """Keep a connection to ``url`` from entry to exit.

        Entry does not wait for the first connection; ``declare``, ``subscribe`` and ``until_ready`` do.

        Args:
            url: May name several hosts, see :mod:`towpath.servicekit.runtime.amqp_url`.
            name: Shown in RabbitMQ's list of connections.
            publish_timeout: Seconds until an unconfirmed publish counts as unknown.
            reconnect_max: Longest wait between two attempts, in seconds.
            message_max_bytes: The largest body that is published.
            user_id: The account that messages name. RabbitMQ compares it with the account of the connection, so
                that readers can believe it: https://www.rabbitmq.com/docs/validated-user-id
        """
        broker = cls(
            url,
            name=name,
            publish_timeout=publish_timeout,
            reconnect_max=reconnect_max,
            message_max_bytes=message_max_bytes,
            user_id=user_id,
        )
        try:
            yield broker
        finally:
            await broker.close()

    @property
    def state(self) -> BrokerState:
        if self._closed:
            return BrokerState.CLOSED
        link = self._supervisor.link
        if link is None or link.lost.done():
            return BrokerState.CONNECTING
        return BrokerState.BLOCKED if link.blocked else BrokerState.READY

    @property
    def reconnects(self) -> int:
        return self._supervisor.reconnects

    async def until_ready(self) -> None:
        while self.state is BrokerState.CONNECTING:
            # Also set by a refusal of every host: then no link will ever come, and the program ends.
            await self._supervisor.decided.wait()
            if self._supervisor.refusal is not None:
                raise self._supervisor.refusal
            await asyncio.sleep(0)
        if self._closed:
            raise BrokerUnavailable("this broker is closed")

    def on_rebuilt(self, callback: Callable[[], None]) -> None:
        self._supervisor.on_rebuilt(callback)

    def on_loss(self, callback: OnLoss) -> None:
        self._supervisor.on_loss(callback)

    def rebuild(self, reason: str) -> None:
        self._supervisor.rebuild(reason)

    async def declare(self, topology: Topology) -> None:
        topologies = self._supervisor.topologies
        while topology not in topologies:
            link = await self._live_link()
            try:
                await link.declare(topology)
                # At the start, not at the first publish: a missing permission then ends the program with one line
                # that names it.
                await asyncio.gather(
                    *(link.check_write_permission(one, self._user_id) for one in topology.writes)
                )
            except LOST as error:
                if not link.lost.done():
                    raise BrokerError(f"RabbitMQ did not take the topology: {reason_of(error)}") from error
            else:
                # If the link was lost meanwhile, the loop declares on the next one: the supervisor restores only what
                # is in `topologies`.
                if not link.lost.done():
                    topologies.append(topology)

    async def publish(
        self,
        exchange: str,
        routing_key: str,
        message: Message,
        *,
        mandatory: bool = False,
        timeout: float | None = None,
    ) -> None:
        link = self._taking_link()
        check(exchange, routing_key, message, self._message_max_bytes)
        self._publishes += 1
        self._idle.clear()
        # One limit for the channel and the confirm. RabbitMQ may confirm late or never (an alarm, a lost leader),
        # and a publish must not wait for ever. https://www.rabbitmq.com/docs/confirms#publisher-confirms-latency
        limit = asyncio.timeout(self._publish_timeout if timeout is None else timeout)
        try:
            async with limit:
                # So that an alarm can shorten it: see `Link.watch_alarm`.
                link.in_flight.add(limit)
                channel = await link.publisher(exchange)
                await channel.basic_publish(
                    message.body,
                    exchange=exchange,
                    routing_key=routing_key,
                    properties=self._properties(message),
                    mandatory=mandatory,
                    wait=False,  # Not for the socket, which would delay heartbeats; the confirm is awaited below.
                )
        except TimeoutError:
            alarm = self.state is BrokerState.BLOCKED
            cause = "RabbitMQ raised an alarm before it confirmed" if alarm else "no confirm from RabbitMQ"
            # Unknown, not failed: the message may be in its queues. The caller decides whether to send it twice.
            raise PublishUnconfirmed(f"{cause}: {exchange}/{routing_key}") from None
        except Exception as error:
            failure = self._failure(error, exchange, routing_key, len(message.body))
            # Not for the other failures: RabbitMQ has closed the channel, and the next publish opens a new one.
            if isinstance(failure, PublishRefused):
                link.refused(exchange)
            raise failure from error
        except asyncio.CancelledError:
            # aiormq fails confirms with CancelledError when the channel closes; this task was not cancelled.
            task = asyncio.current_task()
            # The publish was cancelled by its own caller: passed on.
            if task is not None and task.cancelling():
                raise
            raise PublishUnconfirmed("the connection broke while publishing") from None
        finally:
            link.in_flight.discard(limit)
            self._publishes -= 1
            if not self._publishes:
                self._idle.set()

    async def may_publish(self, exchange: str, routing_key: str) -> bool:
        link = self._taking_link()
        try:
            return await link.may_publish(exchange, routing_key)
        except LOST as error:
            raise BrokerError(f"RabbitMQ did not show this permission: {reason_of(error)}") from error

    def _properties(self, message: Message) -> Properties:
        return Properties(
            content_type="application/json",
            delivery_mode=2 if message.persistent else 1,
            message_id=next(self._message_ids),
            message_type=message.type,
            user_id=self._user_id,
            app_id=message.app_id,
            headers=dict(message.headers) or None,
        )

    def _failure(self, error: Exception, exchange: str, routing_key: str, size: int) -> BrokerError:
        """The error for the publisher.

        RabbitMQ closes the channel of a publish that it refuses, and all publishes in flight on it get the same
        error. Its text identifies the refused one; the outcome of the others is unknown.
        https://www.rabbitmq.com/docs/channels#error-handling
        """
        match error:
            case PublishError():  # Returned, as no queue is bound; before DeliveryError, of which it is one.
                return Unroutable(f"no queue is bound to {routing_key!r} on {exchange!r}")
            case DeliveryError():  # Basic.Nack: https://www.rabbitmq.com/docs/maxlength#overflow-behaviour
                return PublishRefused(f"a queue for {routing_key!r} on {exchange!r} is full")
            case ChannelNotFoundEntity():
                reason = f"there is no exchange {exchange!r}: {error}"
                # If this program declares it, it was deleted: the supervisor declares it again in a moment.
                return BrokerError(reason) if self._is_ours(exchange) else Unpublishable(reason)
            case ChannelAccessRefused():
                return _refused(exchange, routing_key, str(error))
            case ChannelPreconditionFailed() if is_of_account(str(error)):
                # Of one message, of all: each of them names the same account.
                return Unpublishable(wrong_account(str(error)))
            case ChannelPreconditionFailed():
                return _too_large(size, str(error))
            case _:
                return PublishUnconfirmed(f"the connection broke while publishing: {reason_of(error)}")

    @asynccontextmanager
    async def subscribe(
        self, *sources: Queue | Inbox | Log, prefetch: int, arrived: asyncio.Event | None = None
    ) -> AsyncIterator["RabbitSubscription"]:
        subscriptions = self._supervisor.subscriptions
        subscription = RabbitSubscription(sources, prefetch, self._supervisor.subscription_ended, arrived)
        deadline: float | None = None
        try:
            while subscription not in subscriptions:
                link = await self._live_link()
                try:
                    await subscription.start(link)
                except LOST as error:
                    if not link.lost.done():
                        deadline = deadline or time.monotonic() + _LOG_STARTS_WITHIN
                        if _NOT_STARTED not in str(error) or time.monotonic() > deadline:
                            raise BrokerError(
                                f"RabbitMQ refused the subscription: {reason_of(error)}"
                            ) from error
                        await asyncio.sleep(_LOG_LOOK_SECONDS)
                else:
                    if not link.lost.done():
                        subscriptions.append(subscription)
            yield subscription
        finally:
            # Removed before it is closed, or the supervisor would repair it.
            if subscription in subscriptions:
                subscriptions.remove(subscription)
            await subscription.close()

    async def consumers(self, *queues: str) -> dict[str, int]:
        link = self._open_link()
        try:
            return await link.consumers(queues)
        except LOST as error:
            raise BrokerError(f"RabbitMQ did not count consumers: {reason_of(error)}") from error

    async def look(self, topology: Topology) -> Found:
        link = self._open_link()
        try:
            return await link.look(topology)
        except LOST as error:
            raise BrokerError(f"RabbitMQ did not show its queues: {reason_of(error)}") from error

    async def compare(self, topology: Topology) -> list[Difference]:
        link = self._open_link()
        try:
            return await link.compare(topology)
        except LOST as error:
            raise BrokerError(f"RabbitMQ did not compare its queues: {reason_of(error)}") from error

    def bindings(self, inbox: Inbox) -> RabbitBindings:
        for subscription in self._supervisor.subscriptions:
            if (bindings := subscription.bindings(inbox)) is not None:
                return bindings
        raise BrokerUnavailable(f"the inbox {inbox.name!r} does not exist")

    @asynccontextmanager
    async def browse(self, queue: str) -> AsyncIterator["RabbitQueueBrowser"]:
        link = self._open_link()
        async with RabbitQueueBrowser.begin(link, queue) as browsing:
            yield browsing

    async def close(self) -> None:
        if self._closed:
            return
        hopeless = self.state is BrokerState.BLOCKED  # RabbitMQ reads nothing: no confirm will come.
        self._closed = True
        self._supervisor.decided.set()  # Wakes callers that wait for a connection.
        if not hopeless:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CONFIRMS_TIMEOUT):
                    await self._idle.wait()
        # Before the link is dropped, or the supervisor would open a new one.
        abandon(self._supervising)
        await asyncio.wait([self._supervising], timeout=CONFIRMS_TIMEOUT)
        await asyncio.gather(*(subscription.close() for subscription in self._supervisor.subscriptions))
        await self._supervisor.drop()

    def _is_ours(self, exchange: str) -> bool:
        """Whether this program declares the exchange, now and after each reconnect."""
        return any(one.name == exchange for known in self._supervisor.topologies for one in known.exchanges)

    def _open_link(self) -> Link:
        link = self._supervisor.link
        if link is None or link.lost.done() or self._closed:
            raise BrokerUnavailable("there is no connection to RabbitMQ")
        return link

    def _taking_link(self) -> Link:
        link = self._open_link()
        if link.blocked:
            raise BrokerBlocked("RabbitMQ accepts no messages for now (memory or disk alarm)")
        return link

    async def _live_link(self) -> Link:
        """The link, once there is one."""
        while True:
            await self.until_ready()
            link = self._supervisor.link
            if link is not None and not link.lost.done():
                return link


def _refused(exchange: str, routing_key: str, text: str) -> BrokerError:
    """403: write access to the exchange, or to one topic (routing key) of it."""
    topic = _TOPIC.search(text)
    if topic is not None and topic[1] != routing_key:
        return PublishUnconfirmed(f"RabbitMQ closed the channel because of another message: {text}")
    return Unpublishable(f"RabbitMQ does not let us publish to {exchange!r}: {text}")


def _too_large(size: int, text: str) -> BrokerError:
    """406: most often larger than ``max_message_size``."""
    limit = _LIMIT.search(text)
    if limit is None or size <= int(limit[1]):
        return PublishUnconfirmed(f"RabbitMQ closed the channel because of another message: {text}")
    return too_large(size, int(limit[1]))
