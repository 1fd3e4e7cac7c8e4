"""RabbitMQ (3.10 and 4.x, no plugins) behind the broker interface, on aio-pika.

How it keeps itself alive: one supervisor task opens a :class:`Link` (a connection for publishing and one for
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
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

import structlog
import tenacity
from aiormq.exceptions import (
    AuthenticationError,
    ChannelNotFoundEntity,
    ConnectionNotAllowed,
    DeliveryError,
    ProbableAuthenticationError,
    PublishError,
)
from pamqp.commands import Basic
from yarl import URL

from towpath.servicekit.broker.interface import (
    BrokerBlocked,
    BrokerError,
    BrokerRefused,
    BrokerState,
    BrokerUnavailable,
    Inbox,
    Message,
    PublishRefused,
    PublishUnconfirmed,
    Queue,
    Topology,
    Unroutable,
)
from towpath.servicekit.broker.rabbitmq.link import LOST, Link, reason_of
from towpath.servicekit.broker.rabbitmq.subscription import RabbitSubscription

log = structlog.get_logger(__name__)

HEARTBEAT_SECONDS: Final = 10  # https://www.rabbitmq.com/docs/heartbeats recommends 5 to 20


class RabbitBroker:
    """The :class:`~towpath.servicekit.broker.interface.Broker` over a real RabbitMQ."""

    def __init__(self, url: str, *, name: str, publish_timeout: float, reconnect_max: float) -> None:
        self._url = URL(url).update_query(heartbeat=str(HEARTBEAT_SECONDS))
        self._name = name
        self._publish_timeout = publish_timeout
        self._reconnect_max = reconnect_max
        self._link: Link | None = None
        self._ready = asyncio.Event()
        self._closed = False
        self._refusal: BaseException | None = None
        self._publishes = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._topologies: list[Topology] = []
        self._subscriptions: list[RabbitSubscription] = []
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
            except LOST as error:
                if link is self._link and not link.lost.done():
                    raise BrokerError(f"RabbitMQ did not take the topology: {reason_of(error)}") from error
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
            raise PublishUnconfirmed(f"the connection broke while publishing: {reason_of(error)}") from error
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
    async def subscribe(self, *sources: Queue | Inbox, prefetch: int) -> AsyncIterator["RabbitSubscription"]:
        subscription = RabbitSubscription(sources, prefetch)
        try:
            while subscription not in self._subscriptions:
                link = await self._live_link()
                try:
                    await subscription.start(link)
                except LOST as error:
                    if link is self._link and not link.lost.done():
                        raise BrokerError(f"RabbitMQ refused the subscription: {reason_of(error)}") from error
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

    async def _live_link(self) -> "Link":
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
                "broker_unreachable", url=self._shown_url, error=reason_of(error), retry_in_s=round(wait, 2)
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
                            f"{reason_of(error)}"
                        )
                        self._ready.set()
                        raise self._refusal from None
                    raise

    async def _open(self) -> "Link":
        link = await Link.open(self._url, self._name)
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
