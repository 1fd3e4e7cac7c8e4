"""A broker in one process, for tests and for ``towpath dev`` without RabbitMQ.

:class:`MemoryHub` is the broker, shared by its connections; :class:`MemoryBroker` is a connection. They keep
the promises of :mod:`~towpath.servicekit.broker.interface`, with the semantics of quorum queues. Besides:

* Bounded: a hub that holds ``max_bytes`` is blocked, as RabbitMQ is by its memory alarm, until consumers have
  taken enough.
* A publish takes one iteration of the event loop, as its confirm would; callers share the loop fairly.
* Only the timers of queues with a time to live run in the background.

It does not outlive its process.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from towpath.protocol.messages import MESSAGE_MAX_BYTES
from towpath.servicekit.broker.interface import (
    BrokerBlocked,
    BrokerState,
    BrokerUnavailable,
    Difference,
    Found,
    Inbox,
    Log,
    Message,
    OnLoss,
    PublishUnconfirmed,
    Queue,
    Topology,
)
from towpath.servicekit.broker.limits import check
from towpath.servicekit.broker.memory_bindings import MemoryBindings
from towpath.servicekit.broker.memory_message import HeldMessage
from towpath.servicekit.broker.memory_subscription import MemoryQueueBrowser, MemorySubscription, leave_all
from towpath.servicekit.broker.memory_vhost import VirtualHost


class MemoryHub:
    """The broker itself, for the connections of one event loop.

    Args:
        max_bytes: Bytes of waiting and unsettled messages from which the hub is blocked.
        message_max_bytes: The largest body it accepts.
    """

    def __init__(
        self, *, max_bytes: int = 256 * 1024 * 1024, message_max_bytes: int = MESSAGE_MAX_BYTES
    ) -> None:
        self.vhost = VirtualHost()
        self.confirming = True
        self.binding = asyncio.Event()
        self.binding.set()
        self._max_bytes = max_bytes
        self.message_max_bytes = message_max_bytes
        self._connections: list[MemoryBroker] = []
        self._alarm = False
        self._running = asyncio.Event()
        self._running.set()

    @asynccontextmanager
    async def connect(self, *, name: str, publish_timeout: float = 10.0) -> AsyncIterator["MemoryBroker"]:
        """A connection from entry to exit. Entry does not wait; see :meth:`MemoryBroker.until_ready`.

        Args:
            name: The name of the client, for exceptions.
            publish_timeout: Seconds until an unconfirmed publish counts as unknown.
        """
        connection = MemoryBroker(self, name=name, publish_timeout=publish_timeout)
        self._connections.append(connection)
        try:
            yield connection
        finally:
            try:
                await connection.close()
            finally:
                self._connections.remove(connection)

    # Fault injection for tests

    def stop(self) -> None:
        """Go away: every connection drops, inboxes and transient messages are lost."""
        self._running.clear()
        leave_all(
            [subscription for connection in self._connections for subscription in connection.subscriptions]
        )
        for connection in self._connections:
            connection.drop()
        self.vhost.drop_transient()

    def start(self) -> None:
        """Start again: connections and their subscriptions are restored when this returns."""
        if self.running:
            return
        self._running.set()
        for connection in self._connections:
            connection.reconnect()

    def block(self) -> None:
        """Raise an alarm: publishes raise ``BrokerBlocked``, consuming goes on."""
        self._alarm = True

    def unblock(self) -> None:
        self._alarm = False

    def lose_bindings(self, routing_key: str | None = None) -> None:
        """Delete the bindings of inboxes (of that key), as a bug of the broker or an operator's mistake would."""
        self.vhost.unbind_inboxes(routing_key)

    def hold_bindings(self) -> None:
        """Hold changes of bindings: callers wait until :meth:`release_bindings` or their time limit."""
        self.binding.clear()

    def release_bindings(self) -> None:
        self.binding.set()

    def hold_confirms(self) -> None:
        """Accept messages without confirming them: publishes wait, and time out as ``PublishUnconfirmed``."""
        self.confirming = False

    def release_confirms(self) -> None:
        """Send the confirms held back, and those to come at once."""
        self.confirming = True
        for connection in self._connections:
            connection.release_confirms()

    # For connections

    @property
    def running(self) -> bool:
        return self._running.is_set()

    @property
    def blocked(self) -> bool:
        return self._alarm or self.vhost.held_bytes >= self._max_bytes

    async def until_running(self) -> None:
        while not self.running:
            await self._running.wait()


class MemoryBroker:
    """One connection to a :class:`MemoryHub`; see :class:`~towpath.servicekit.broker.interface.Broker`."""

    def __init__(self, hub: MemoryHub, *, name: str, publish_timeout: float) -> None:
        self._hub = hub
        self._name = name
        self._publish_timeout = publish_timeout
        self._closed = False
        self._was_ready = hub.running
        self._drops = 0
        self.reconnects = 0
        self.subscriptions: list[MemorySubscription] = []
        self._browsings: list[MemoryQueueBrowser] = []
        self._unconfirmed: set[asyncio.Future[None]] = set()
        self._rebuilt_callbacks: list[Callable[[], None]] = []

    @property
    def state(self) -> BrokerState:
        if self._closed:
            return BrokerState.CLOSED
        if not self._hub.running:
            return BrokerState.CONNECTING
        return BrokerState.BLOCKED if self._hub.blocked else BrokerState.READY

    async def until_ready(self) -> None:
        if not self._closed:
            await self._hub.until_running()
        if self._closed:
            raise BrokerUnavailable(f"the connection of {self._name} is closed")

    def on_rebuilt(self, callback: Callable[[], None]) -> None:
        self._rebuilt_callbacks.append(callback)

    def on_loss(self, callback: OnLoss) -> None:
        """Does nothing: in this broker no single queue, binding or consumer gets lost."""

    def rebuild(self, reason: str) -> None:
        if not self._closed and self._hub.running:
            self.drop()
            self.reconnect()

    async def declare(self, topology: Topology) -> None:
        await self.until_ready()
        self._hub.vhost.declare(topology)

    async def may_publish(self, exchange: str, routing_key: str) -> bool:
        self._check_takes()
        return True

    async def publish(
        self,
        exchange: str,
        routing_key: str,
        message: Message,
        *,
        mandatory: bool = False,
        timeout: float | None = None,
    ) -> None:
        self._check_takes()
        check(exchange, routing_key, message, self._hub.message_max_bytes)
        drops = self._drops
        problem = self._hub.vhost.publish(
            HeldMessage(
                body=message.body,
                exchange=exchange,
                routing_key=routing_key,
                persistent=message.persistent,
                app_id=message.app_id,
                headers=dict(message.headers),
            ),
            mandatory=mandatory,
        )
        if self._hub.confirming:
            # As a confirm would: the caller's task yields, so one publisher in a loop does not hold the event loop.
            await asyncio.sleep(0)
        else:
            await self._until_confirmed(self._publish_timeout if timeout is None else timeout)
        # The message was routed before: as with RabbitMQ, a publisher that lost its connection does not know.
        if drops != self._drops:
            raise PublishUnconfirmed(f"the connection of {self._name} broke while publishing")
        if problem is not None:
            raise problem

    @asynccontextmanager
    async def subscribe(
        self, *sources: Queue | Inbox | Log, prefetch: int, arrived: asyncio.Event | None = None
    ) -> AsyncIterator["MemorySubscription"]:
        if not sources or prefetch < 1:
            raise ValueError(f"a subscription needs a source and a prefetch of 1 or more, not {prefetch}")
        await self.until_ready()
        subscription = MemorySubscription(self._hub.vhost, sources, prefetch, arrived)
        subscription.start()
        self.subscriptions.append(subscription)
        try:
            yield subscription
        finally:
            self.subscriptions.remove(subscription)
            subscription.end()

    async def consumers(self, *queues: str) -> dict[str, int]:
        await self.until_ready()
        return {name: self._hub.vhost.queue(name).consumers for name in queues}

    async def look(self, topology: Topology) -> Found:
        await self.until_ready()
        return self._hub.vhost.look(topology)

    async def compare(self, topology: Topology) -> list[Difference]:
        await self.until_ready()
        return self._hub.vhost.compare(topology)

    def bindings(self, inbox: Inbox) -> MemoryBindings:
        for subscription in self.subscriptions:
            if (queue := subscription.inbox(inbox)) is not None:
                return MemoryBindings(self._hub.vhost, queue, self._hub.binding)
        raise BrokerUnavailable(f"the inbox {inbox.name!r} does not exist")

    @asynccontextmanager
    async def browse(self, queue: str) -> AsyncIterator["MemoryQueueBrowser"]:
        if self.state in (BrokerState.CLOSED, BrokerState.CONNECTING):
            raise BrokerUnavailable(f"{self._name} has no connection to the memory broker")
        browsing = MemoryQueueBrowser(self._hub.vhost.queue(queue))
        self._browsings.append(browsing)
        try:
            yield browsing
        finally:
            self._browsings.remove(browsing)
            browsing.end()

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        try:
            # Publishes of this iteration of the loop get their confirms in the next one.
            await asyncio.sleep(0)
            if self._unconfirmed:
                await asyncio.wait(self._unconfirmed, timeout=self._publish_timeout)
        finally:
            # Unsettled deliveries are requeued also when the wait above was cancelled.
            self.drop()
            for subscription in self.subscriptions:
                subscription.end()

    # For the hub

    def drop(self) -> None:
        """Lose the connection: the outcome of publishes in flight is unknown, unsettled deliveries are requeued."""
        self._drops += 1
        self.release_confirms()
        for browsing in self._browsings:
            browsing.end()
        leave_all(self.subscriptions)

    def reconnect(self) -> None:
        """Consume again, and call the ``on_rebuilt`` callbacks."""
        if self._closed:
            return
        for subscription in self.subscriptions:
            subscription.start()
        # Not for the first connection: nothing was rebuilt then.
        if self._was_ready:
            self.reconnects += 1
            for callback in self._rebuilt_callbacks:
                callback()
        self._was_ready = True

    def release_confirms(self) -> None:
        for confirm in self._unconfirmed:
            if not confirm.done():
                confirm.set_result(None)

    def _check_takes(self) -> None:
        if self._closed or not self._hub.running:
            raise BrokerUnavailable(f"{self._name} has no connection to the memory broker")
        if self._hub.blocked:
            raise BrokerBlocked("the memory broker accepts no messages for now: it is full, or was blocked")

    async def _until_confirmed(self, timeout: float) -> None:
        confirm = asyncio.get_running_loop().create_future()
        self._unconfirmed.add(confirm)
        try:
            async with asyncio.timeout(timeout):
                await confirm
        except TimeoutError:
            raise PublishUnconfirmed(f"no confirm within {timeout} s") from None
        finally:
            self._unconfirmed.discard(confirm)
