"""RabbitMQ (3.10 and 4.x, no plugins) behind the broker interface, on aio-pika.

How it keeps itself alive: one supervisor task opens a :class:`_Link` (a connection for publishing and one for
consuming, so that an alarm on the first never stops acks on the second), makes topology and subscriptions from
the desired state, and waits for the link to break. It then reconnects with full jitter. Nothing of aio-pika's
"robust" machinery is used: it retries in lock-step and restores without time limits.

Ids: the AMQP ``message_id`` is unique per attempt, since a returned message is told apart by it alone.
"""

import asyncio
import contextlib
import itertools
import random
import secrets
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

import aio_pika
import structlog
import tenacity
from aiormq.abc import AbstractChannel, DeliveredMessage
from aiormq.exceptions import (
    AMQPError,
    AuthenticationError,
    ChannelNotFoundEntity,
    ChannelPreconditionFailed,
    ConnectionNotAllowed,
    DeliveryError,
    ProbableAuthenticationError,
    PublishError,
)
from pamqp.commands import Basic
from yarl import URL

from towpath.servicekit.broker.interface import (
    Binding,
    BrokerBlocked,
    BrokerError,
    BrokerRefused,
    BrokerState,
    BrokerUnavailable,
    Delivery,
    Inbox,
    Message,
    PublishRefused,
    PublishUnconfirmed,
    Queue,
    Topology,
    TopologyMismatch,
    Unroutable,
)

log = structlog.get_logger(__name__)

HEARTBEAT_SECONDS: Final = 10  # https://www.rabbitmq.com/docs/heartbeats recommends 5 to 20
CONNECT_TIMEOUT: Final = 5.0
RPC_TIMEOUT: Final = 10.0
CLOSE_TIMEOUT: Final = 5.0
BLOCKED_POLL: Final = 0.2

_LOST = (AMQPError, ConnectionError, OSError, RuntimeError, TimeoutError)


class RabbitBroker:
    """The :class:`~towpath.servicekit.broker.interface.Broker` over a real RabbitMQ."""

    def __init__(self, url: str, *, name: str, publish_timeout: float, reconnect_max: float) -> None:
        self._url = URL(url).update_query(heartbeat=str(HEARTBEAT_SECONDS))
        self._name = name
        self._publish_timeout = publish_timeout
        self._reconnect_max = reconnect_max
        self._link: _Link | None = None
        self._ready = asyncio.Event()
        self._closed = False
        self._refusal: BaseException | None = None
        self._publishes = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._topologies: list[Topology] = []
        self._subscriptions: list[_Subscription] = []
        self._rebuilt_callbacks: list[Callable[[], None]] = []
        self._message_ids = (f"{secrets.token_hex(6)}-{n}" for n in itertools.count(1))

    @classmethod
    @asynccontextmanager
    async def connect(
        cls, url: str, *, name: str, publish_timeout: float = 10.0, reconnect_max: float = 30.0
    ) -> AsyncIterator["RabbitBroker"]:
        """Keep a connection to ``url`` from entry to exit.

        Entry does not wait for the first connection; ``declare``, ``subscribe`` and ``until_ready`` do.

        Args:
            name: Shown in RabbitMQ's list of connections.
            publish_timeout: Seconds until an unconfirmed publish counts as unknown.
            reconnect_max: Longest wait between two attempts, in seconds.
        """
        broker = cls(url, name=name, publish_timeout=publish_timeout, reconnect_max=reconnect_max)
        supervisor = asyncio.create_task(broker._supervise(), name=f"{name}: broker supervisor")
        try:
            yield broker
        finally:
            await broker.close()
            supervisor.cancel()
            with contextlib.suppress(asyncio.CancelledError, BrokerRefused):
                await supervisor

    @property
    def state(self) -> BrokerState:
        if self._closed:
            return BrokerState.CLOSED
        if self._link is None or not self._ready.is_set():
            return BrokerState.CONNECTING
        return BrokerState.BLOCKED if self._link.blocked else BrokerState.READY

    async def until_ready(self) -> None:
        await self._ready.wait()
        if self._refusal is not None:
            raise self._refusal
        if self._closed:
            raise BrokerUnavailable("this broker is closed")

    def on_rebuilt(self, callback: Callable[[], None]) -> None:
        self._rebuilt_callbacks.append(callback)

    async def declare(self, topology: Topology) -> None:
        while topology not in self._topologies:
            link = await self._live_link()
            try:
                await link.declare(topology)
            except _LOST as error:
                if link is self._link and not link.lost.done():
                    raise BrokerError(f"RabbitMQ did not take the topology: {_reason(error)}") from error
            else:
                if link is self._link and not link.lost.done():
                    self._topologies.append(topology)

    async def publish(
        self,
        exchange: str,
        routing_key: str,
        message: Message,
        *,
        mandatory: bool = False,
        timeout: float | None = None,
    ) -> None:
        link = self._link
        if link is None or self._closed or not self._ready.is_set():
            raise BrokerUnavailable("there is no connection to RabbitMQ")
        if link.blocked:
            raise BrokerBlocked("RabbitMQ takes no messages for now (memory or disk alarm)")
        properties = Basic.Properties(
            content_type="application/json",
            delivery_mode=2 if message.persistent else 1,
            message_id=next(self._message_ids),
            message_type=message.type,
            app_id=message.app_id,
            headers=dict(message.headers) or None,
        )
        self._publishes += 1
        self._idle.clear()
        try:
            async with asyncio.timeout(self._publish_timeout if timeout is None else timeout):
                channel = await link.publisher()
                await channel.basic_publish(
                    message.body,
                    exchange=exchange,
                    routing_key=routing_key,
                    properties=properties,
                    mandatory=mandatory,
                )
        except TimeoutError:
            raise PublishUnconfirmed(f"no confirm from RabbitMQ for {exchange}/{routing_key}") from None
        except PublishError:
            raise Unroutable(f"no queue is bound to {routing_key!r} on {exchange!r}") from None
        except ChannelNotFoundEntity as error:
            raise BrokerError(f"there is no exchange {exchange!r}: {error}") from None
        except DeliveryError:
            raise PublishRefused(f"a queue for {routing_key!r} on {exchange!r} is full") from None
        except Exception as error:  # aiormq fails what is in flight with whatever closed the channel
            raise PublishUnconfirmed(f"the connection broke while publishing: {_reason(error)}") from error
        except asyncio.CancelledError:
            # aiormq fails confirms with CancelledError when the channel closes; nobody cancelled this task.
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            raise PublishUnconfirmed("the connection broke while publishing") from None
        finally:
            self._publishes -= 1
            if not self._publishes:
                self._idle.set()

    @asynccontextmanager
    async def subscribe(self, *sources: Queue | Inbox, prefetch: int) -> AsyncIterator["_Subscription"]:
        subscription = _Subscription(sources, prefetch)
        try:
            while subscription not in self._subscriptions:
                link = await self._live_link()
                try:
                    await subscription.start(link)
                except _LOST as error:
                    if link is self._link and not link.lost.done():
                        raise BrokerError(f"RabbitMQ refused the subscription: {_reason(error)}") from error
                else:
                    if link is self._link and not link.lost.done():
                        self._subscriptions.append(subscription)
            yield subscription
        finally:
            if subscription in self._subscriptions:
                self._subscriptions.remove(subscription)
            await subscription.close()

    async def close(self) -> None:
        self._closed = True
        self._ready.set()  # whoever waits for a connection is told
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._publish_timeout):
                await self._idle.wait()
        for subscription in self._subscriptions:
            await subscription.close()
        await self._drop_link()

    async def _live_link(self) -> "_Link":
        while True:
            await self.until_ready()
            if self._link is not None:
                return self._link
            await asyncio.sleep(0)

    # The supervisor

    async def _supervise(self) -> None:
        first = True
        while True:
            await self._reconnect(first=first)
            link = self._link
            assert link is not None
            self._ready.set()
            if not first:
                log.info("broker_back", url=self._shown_url)
                for callback in self._rebuilt_callbacks:
                    callback()
            first = False
            reason = await link.watch()
            if self._closed:
                return
            self._ready.clear()
            log.warning("broker_lost", url=self._shown_url, reason=reason)
            await self._drop_link()
            await asyncio.sleep(random.uniform(0, min(1.0, self._reconnect_max)))  # noqa: S311  # jitter

    async def _reconnect(self, *, first: bool) -> None:
        def tell(state: tenacity.RetryCallState) -> None:
            error = state.outcome.exception() if state.outcome else None
            wait = state.next_action.sleep if state.next_action else 0.0
            log.warning(
                "broker_unreachable", url=self._shown_url, error=_reason(error), retry_in_s=round(wait, 2)
            )

        async for attempt in tenacity.AsyncRetrying(
            wait=tenacity.wait_random_exponential(multiplier=1, max=self._reconnect_max),
            retry=tenacity.retry_if_not_exception_type((BrokerRefused, asyncio.CancelledError)),
            before_sleep=tell,
        ):
            with attempt:
                try:
                    self._link = await self._open()
                except (ProbableAuthenticationError, AuthenticationError, ConnectionNotAllowed) as error:
                    if first:
                        self._refusal = BrokerRefused(
                            f"RabbitMQ at {self._shown_url} refused user, password or virtual host: "
                            f"{_reason(error)}"
                        )
                        self._ready.set()
                        raise self._refusal from None
                    raise

    async def _open(self) -> "_Link":
        link = await _Link.open(self._url, self._name)
        try:
            for topology in self._topologies:
                await link.declare(topology)
            for subscription in self._subscriptions:
                await subscription.start(link)
        except BaseException:
            await link.close()
            raise
        return link

    async def _drop_link(self) -> None:
        link, self._link = self._link, None
        for subscription in self._subscriptions:
            await subscription.stop()
        if link is not None:
            await link.close()

    @property
    def _shown_url(self) -> str:
        return str(self._url.with_user(None).with_query(None))


class _Link:
    """Two connections that live and die together."""

    def __init__(
        self, publishing: aio_pika.abc.AbstractConnection, consuming: aio_pika.abc.AbstractConnection
    ) -> None:
        self._publishing = publishing
        self._consuming = consuming
        self._publisher: aio_pika.abc.AbstractChannel | None = None
        self._publisher_lock = asyncio.Lock()
        self.blocked = False
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        for connection in (publishing, consuming):
            connection.close_callbacks.add(self._on_connection_closed)

    @classmethod
    async def open(cls, url: URL, name: str) -> "_Link":
        opened: list[aio_pika.abc.AbstractConnection] = []
        try:
            for purpose in ("publish", "consume"):
                opened.append(
                    await aio_pika.connect(
                        url,
                        timeout=CONNECT_TIMEOUT,
                        client_properties={"connection_name": f"{name} {purpose}"},
                    )
                )
            link = cls(*opened)
            async with asyncio.timeout(RPC_TIMEOUT):
                await link.publisher()
        except BaseException:
            for connection in opened:
                await _close_quietly(connection)
            raise
        return link

    def fail(self, reason: str) -> None:
        """Declare the link lost; the supervisor makes a new one."""
        if not self.lost.done():
            self.lost.set_result(reason)

    def _on_connection_closed(self, _sender: object, error: BaseException | None) -> None:
        self.fail(_reason(error))

    async def watch(self) -> str:
        """Keep :attr:`blocked` up to date until the link is lost; returns why."""
        transport = self._publishing.transport
        assert transport is not None
        while True:
            done, _ = await asyncio.wait([self.lost], timeout=BLOCKED_POLL)
            if done:
                return self.lost.result()
            # aiormq tells of Connection.Blocked only through ready(), which then waits.
            try:
                async with asyncio.timeout(BLOCKED_POLL / 4):
                    await transport.ready()
            except TimeoutError:
                if not self.blocked:
                    log.warning("broker_blocked")
                self.blocked = True
            else:
                if self.blocked:
                    log.info("broker_unblocked")
                self.blocked = False

    async def publisher(self) -> AbstractChannel:
        """The channel to publish on; a fresh one when the broker closed the last (an unknown exchange does)."""
        channel = self._publisher
        if channel is None or channel.is_closed:
            async with self._publisher_lock:
                channel = self._publisher
                if channel is None or channel.is_closed:
                    channel = self._publishing.channel(publisher_confirms=True, on_return_raises=True)
                    await channel.initialize(timeout=RPC_TIMEOUT)
                    self._publisher = channel
        underlay: AbstractChannel = await channel.get_underlay_channel()
        return underlay

    async def consumer_channel(self) -> aio_pika.abc.AbstractChannel:
        channel = self._consuming.channel(publisher_confirms=False)
        await channel.initialize(timeout=RPC_TIMEOUT)
        return channel

    async def declare(self, topology: Topology) -> None:
        channel = await self.consumer_channel()
        try:
            underlay: AbstractChannel = await channel.get_underlay_channel()
            for exchange in topology.exchanges:
                await underlay.exchange_declare(
                    exchange.name, exchange_type=exchange.type.value, durable=True, timeout=RPC_TIMEOUT
                )
            for queue in topology.queues:
                await underlay.queue_declare(
                    queue.name, durable=True, arguments=_queue_arguments(queue), timeout=RPC_TIMEOUT
                )
                await _bind(underlay, queue.name, queue.bindings)
        except ChannelPreconditionFailed as error:
            raise TopologyMismatch(
                f"RabbitMQ has an exchange or queue with other arguments than this version needs: {error}. "
                "Empty and delete it, or point this service to another virtual host."
            ) from None
        finally:
            await _close_quietly(channel)

    async def close(self) -> None:
        self.fail("closed")
        await asyncio.gather(_close_quietly(self._publishing), _close_quietly(self._consuming))


class _Subscription:
    """See :class:`~towpath.servicekit.broker.interface.Subscription`."""

    def __init__(self, sources: tuple[Queue | Inbox, ...], prefetch: int) -> None:
        self._sources = sources
        self._prefetch = prefetch
        self._channel: aio_pika.abc.AbstractChannel | None = None
        self._waiting: deque[_Delivery] = deque()
        self._arrived = asyncio.Event()
        self._settlements: deque[tuple[int, str]] = deque()
        self._to_settle = asyncio.Event()
        self._settler: asyncio.Task[None] | None = None
        self._starting = False
        self._ended = False

    def __aiter__(self) -> "_Subscription":
        return self

    async def __anext__(self) -> Delivery:
        while not self._waiting:
            if self._ended:
                raise StopAsyncIteration
            self._arrived.clear()
            await self._arrived.wait()
        return self._waiting.popleft()

    def take_waiting(self, limit: int) -> list[Delivery]:
        return [self._waiting.popleft() for _ in range(min(limit, len(self._waiting)))]

    async def start(self, link: _Link) -> None:
        """Consume over a new link; what was in hand from an older one is forgotten (it comes again)."""
        await self.stop()
        channel = await link.consumer_channel()
        underlay: AbstractChannel = await channel.get_underlay_channel()
        channel.close_callbacks.add(lambda _, error: self._on_channel_closed(link, channel, error))
        underlay.on_consumer_cancel_callbacks.add(lambda _: link.fail("the broker cancelled a consumer"))
        await underlay.basic_qos(prefetch_count=self._prefetch, timeout=RPC_TIMEOUT)
        self._channel = channel
        self._starting = True
        self._settler = asyncio.create_task(self._settle(underlay), name="subscription: settle")
        try:
            for source in self._sources:
                queue = source.name if isinstance(source, Queue) else await _make_inbox(underlay, source)
                await underlay.basic_consume(
                    queue, self._receiver(source.name, underlay), timeout=RPC_TIMEOUT
                )
        except BaseException:
            await self.stop()
            raise
        finally:
            self._starting = False

    async def stop(self) -> None:
        """Forget the channel and all that came over it."""
        channel, self._channel = self._channel, None
        self._waiting.clear()
        settler, self._settler = self._settler, None
        if settler is not None:
            settler.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await settler
        self._settlements.clear()
        if channel is not None:
            await _close_quietly(channel)

    async def close(self) -> None:
        """Stop intake, send what was settled, give the rest back."""
        self._ended = True
        self._arrived.set()
        channel = self._channel
        if channel is not None and not channel.is_closed:
            with contextlib.suppress(*_LOST, asyncio.TimeoutError):
                async with asyncio.timeout(CLOSE_TIMEOUT):
                    underlay: AbstractChannel = await channel.get_underlay_channel()
                    await self._send_settlements(underlay)
        await self.stop()

    def settle(self, channel: AbstractChannel, tag: int, how: str) -> None:
        current = self._channel
        if current is None or current.is_closed or channel.is_closed:
            return  # A stale delivery: the broker redelivers it.
        self._settlements.append((tag, how))
        self._to_settle.set()

    def _receiver(self, name: str, channel: AbstractChannel) -> Callable[[DeliveredMessage], Any]:
        async def receive(message: DeliveredMessage) -> None:
            self._waiting.append(_Delivery(message, name, self, channel))
            self._arrived.set()

        return receive

    async def _settle(self, channel: AbstractChannel) -> None:
        # One task sends all settlements, so that ack() never waits for the socket.
        with contextlib.suppress(*_LOST):
            while True:
                await self._to_settle.wait()
                self._to_settle.clear()
                await self._send_settlements(channel)

    async def _send_settlements(self, channel: AbstractChannel) -> None:
        while self._settlements:
            tag, how = self._settlements.popleft()
            if how == "ack":
                await channel.basic_ack(tag, wait=False)
            else:
                await channel.basic_reject(tag, requeue=how == "requeue", wait=False)

    def _on_channel_closed(
        self, link: _Link, channel: aio_pika.abc.AbstractChannel, error: BaseException | None
    ) -> None:
        if self._channel is channel and not self._starting:  # not closed by ourselves, nor refused
            link.fail(f"a consuming channel closed: {_reason(error)}")


class _Delivery:
    """See :class:`~towpath.servicekit.broker.interface.Delivery`."""

    __slots__ = ("_channel", "_message", "_subscription", "queue")

    def __init__(
        self, message: DeliveredMessage, queue: str, subscription: _Subscription, channel: AbstractChannel
    ) -> None:
        self._message = message
        self._subscription = subscription
        self._channel = channel
        self.queue = queue

    @property
    def body(self) -> bytes:
        return self._message.body

    @property
    def exchange(self) -> str:
        return self._message.exchange or ""

    @property
    def routing_key(self) -> str:
        return self._message.routing_key or ""

    @property
    def redelivered(self) -> bool:
        return bool(self._message.redelivered)

    @property
    def app_id(self) -> str | None:
        return self._message.header.properties.app_id

    @property
    def headers(self) -> Mapping[str, Any]:
        return self._message.header.properties.headers or {}

    def ack(self) -> None:
        self._settle("ack")

    def reject(self) -> None:
        self._settle("reject")

    def requeue(self) -> None:
        self._settle("requeue")

    def _settle(self, how: str) -> None:
        tag = self._message.delivery_tag
        assert tag is not None
        self._subscription.settle(self._channel, tag, how)


def _queue_arguments(queue: Queue) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "x-queue-type": "quorum",
        "x-delivery-limit": queue.delivery_limit,
    }
    if queue.single_active:
        arguments["x-single-active-consumer"] = True
    if queue.max_length is not None:
        arguments["x-max-length"] = queue.max_length
    if queue.message_ttl_ms is not None:
        arguments["x-message-ttl"] = queue.message_ttl_ms
    arguments["x-overflow"] = "reject-publish"
    if queue.dead_letter_exchange is not None:
        arguments["x-dead-letter-exchange"] = queue.dead_letter_exchange
        # At least once needs reject-publish: https://www.rabbitmq.com/docs/quorum-queues#dead-lettering
        arguments["x-dead-letter-strategy"] = "at-least-once"
    return arguments


async def _make_inbox(channel: AbstractChannel, inbox: Inbox) -> str:
    name = f"{inbox.name}.{secrets.token_hex(6)}"
    await channel.queue_declare(
        name,
        exclusive=True,
        auto_delete=True,
        durable=False,
        arguments={
            "x-max-length": inbox.max_length,
            "x-max-length-bytes": inbox.max_bytes,
            "x-message-ttl": inbox.message_ttl_ms,
            "x-overflow": "drop-head",
        },
        timeout=RPC_TIMEOUT,
    )
    await _bind(channel, name, inbox.bindings)
    return name


async def _bind(channel: AbstractChannel, queue: str, bindings: "tuple[Binding, ...] | Any") -> None:
    for binding in bindings:
        await channel.queue_bind(
            queue, exchange=binding.exchange, routing_key=binding.routing_key, timeout=RPC_TIMEOUT
        )


async def _close_quietly(closable: Any) -> None:
    with contextlib.suppress(*_LOST, asyncio.TimeoutError):
        async with asyncio.timeout(CLOSE_TIMEOUT):
            await closable.close()


def _reason(error: BaseException | None) -> str:
    if error is None or isinstance(error, asyncio.CancelledError):
        return "closed"
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
