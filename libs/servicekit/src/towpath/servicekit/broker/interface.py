"""The broker interface: at-least-once delivery of byte bodies through topic exchanges and queues.

Two implementations, one contract suite (``libs/servicekit/tests/broker_contract``):
:mod:`~towpath.servicekit.broker.rabbitmq` and :mod:`~towpath.servicekit.broker.memory`.

Its shapes and errors are in :mod:`~towpath.servicekit.broker.topology` and :mod:`~towpath.servicekit.broker.errors`,
and are imported from here. Guarantees of both:

* ``publish`` returns only once the broker has the message safely in every queue it was routed to, and raises
  otherwise. :class:`PublishUnconfirmed` means *unknown*: it may have arrived.
* Messages published one after another to one queue are delivered in that order; a redelivery comes before
  the messages that followed it.
* A lost connection is restored without the caller: topology, bindings and subscriptions are created again from the
  desired state, then ``on_rebuilt`` callbacks are called. Unsettled deliveries of the old connection are redelivered.
* Nothing waits for ever: each call has a time limit, except those documented to wait for a connection.
"""

import asyncio
import enum
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from towpath.servicekit.broker.errors import (
    BrokerBlocked,
    BrokerError,
    BrokerRefused,
    BrokerUnavailable,
    PublishRefused,
    PublishUnconfirmed,
    TopologyMismatch,
    Unpublishable,
    Unroutable,
)
from towpath.servicekit.broker.topology import (
    Binding,
    Difference,
    Exchange,
    ExchangeType,
    Found,
    Inbox,
    Log,
    Queue,
    QueueCounts,
    Topology,
)

__all__ = [
    "UNDECODABLE",
    "Binding",
    "Bindings",
    "Broker",
    "BrokerBlocked",
    "BrokerError",
    "BrokerRefused",
    "BrokerState",
    "BrokerUnavailable",
    "Delivery",
    "Difference",
    "Exchange",
    "ExchangeType",
    "Found",
    "HeaderValue",
    "Inbox",
    "Log",
    "Lost",
    "Message",
    "OnLoss",
    "PublishRefused",
    "PublishUnconfirmed",
    "Queue",
    "QueueBrowser",
    "QueueCounts",
    "Subscription",
    "Topology",
    "TopologyMismatch",
    "Unpublishable",
    "Unroutable",
    "undecodable",
]

HeaderValue = str | int | bool

#: The header of a delivery whose properties could not be decoded; its value gives the reason.
UNDECODABLE: Final = "x-undecodable"


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One message to publish.

    Attributes:
        body: UTF-8 JSON.
        persistent: Whether it must survive a restart of the broker.
        type: The kind of content, for people who inspect the broker; informative.
        app_id: The program that sent it.
        headers: AMQP headers, e.g. ``traceparent`` or ``x-attempt``.
        as_received: The body came from the broker unchanged, so it may be larger than ``message_max_bytes``.
    """

    body: bytes
    persistent: bool = True
    type: str | None = None
    app_id: str | None = None
    headers: Mapping[str, HeaderValue] = field(default_factory=dict)
    as_received: bool = False


class Delivery(Protocol):
    """One delivered message. Settle it exactly once; settling a stale one has no effect."""

    @property
    def body(self) -> bytes: ...
    @property
    def exchange(self) -> str: ...
    @property
    def routing_key(self) -> str: ...
    @property
    def queue(self) -> str:
        """The declared name of the queue it was consumed from."""
        ...

    @property
    def redelivered(self) -> bool: ...
    @property
    def app_id(self) -> str | None: ...
    @property
    def user_id(self) -> str | None:
        """The account that published it, if the publisher set it and the broker validated it."""
        ...

    @property
    def headers(self) -> Mapping[str, Any]: ...
    def ack(self) -> None:
        """Settle: the broker deletes it. Never blocks; if the connection is lost it will be redelivered."""
        ...

    def reject(self) -> None:
        """Settle: the broker moves it to the queue's dead-letter exchange (or drops it)."""
        ...

    def requeue(self) -> None:
        """Settle: the broker delivers it again at once. For hand-over at shutdown, never as a retry."""
        ...


class BrokerState(enum.Enum):
    CONNECTING = "connecting"  #: no connection: publishes raise BrokerUnavailable
    READY = "ready"
    BLOCKED = "blocked"  #: an alarm: publishes raise BrokerBlocked, deliveries go on
    CLOSED = "closed"


class Lost(enum.StrEnum):
    """The kind of thing that was lost."""

    QUEUE = "queue"
    BINDING = "binding"
    CONSUMER = "consumer"
    CHANNEL = "channel"
    CONNECTION = "connection"


#: Called with the kind of loss and a description for the log of how it was found.
OnLoss = Callable[[Lost, str], None]


class Subscription(Protocol):
    """A running consumer of one or more queues, as an asynchronous iterator of deliveries.

    Survives reconnects. Leaving its context stops intake and requeues unsettled deliveries in their order. The
    iteration ends at that point, and also when the broker is closed.
    """

    def __aiter__(self) -> AsyncIterator[Delivery]: ...
    async def __anext__(self) -> Delivery: ...
    def take_waiting(self, limit: int) -> list[Delivery]:
        """Deliveries that have arrived already, at most ``limit``, without waiting."""
        ...

    @property
    def unsettled(self) -> int:
        """Number of deliveries handed out and not settled by their holder, stale ones included."""
        ...

    async def settled(self) -> None:
        """Wait until none is :attr:`unsettled`, however long that takes.

        Stale deliveries count: the broker delivers their messages again, but the holder still handles the first
        delivery. So after this returned, the next consumer starts behind everything that was handled here.
        """
        ...

    async def cancel(self) -> None:
        """Stop intake for good. Deliveries that have arrived can still be taken and settled until the context is
        left.

        On a queue with a single active consumer the next consumer starts at once, while deliveries are unsettled
        here.

        Raises:
            BrokerError: The broker did not answer; deliveries may still arrive.
        """
        ...


class Bindings(Protocol):
    """The bindings of one inbox, which may change while the inbox exists.

    An inbox that is created again has its declared bindings, whatever was added or removed before, and a new
    ``Bindings`` object: the old object never affects it.
    """

    async def add(self, binding: Binding, *, timeout: float) -> None:
        """Bind the inbox that exists now; the binding is not restored when the inbox is created again. Idempotent.

        Messages published after this returned reach the inbox; in a cluster, other nodes may be a moment behind.

        Raises:
            BrokerUnavailable: The inbox no longer exists.
            BrokerError: Refused, or no answer within ``timeout`` seconds: it may be bound, or be bound later.
        """
        ...

    async def remove(self, binding: Binding, *, timeout: float) -> None:
        """Undo a binding, declared or added. Idempotent.

        Raises:
            BrokerUnavailable: The inbox no longer exists.
            BrokerError: Refused, or no answer within ``timeout`` seconds: it may be gone, or be gone later.
        """
        ...


class QueueBrowser(Protocol):
    """The messages that wait in a queue, from its head, one at a time, as an asynchronous iterator.

    The caller may settle each message or leave it. Leaving the context requeues unsettled messages and returns once
    the broker has all of them. Requeued messages keep their order, but come after messages that were requeued
    earlier and not yet seen. Messages held by other consumers are not seen. The iteration ends at the end of the
    queue. It does not survive
    its connection: it raises :class:`BrokerUnavailable`, and all unsettled messages are requeued.

    Each message that is seen counts as delivered once: use it only on queues whose ``delivery_limit`` it can never
        reach.
    """

    @property
    def waiting(self) -> int:
        """Number of messages in the queue when the iteration began."""
        ...

    def __aiter__(self) -> AsyncIterator[Delivery]: ...
    async def __anext__(self) -> Delivery: ...


class Broker(Protocol):
    """A connection to a broker that reconnects by itself."""

    @property
    def state(self) -> BrokerState: ...

    @property
    def reconnects(self) -> int:
        """How often a connection was opened after the first one."""
        ...

    async def until_ready(self) -> None:
        """Wait for a connection, however long that takes.

        Raises:
            BrokerRefused: The broker refused user, password or virtual host at the first attempt.
        """
        ...

    def on_rebuilt(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` after each reconnect, once topology, bindings and subscriptions exist again.

        Also called after a subscription was created again on the same connection: in both cases deliveries to an
        inbox may have been lost. A new subscription hands out deliveries only after all callbacks were called.
        """
        ...

    def on_loss(self, callback: OnLoss) -> None:
        """Call ``callback`` each time a loss is found that stops the flow of messages (:class:`Lost`)."""
        ...

    def rebuild(self, reason: str) -> None:
        """Drop the connection and rebuild everything, with new inboxes; for callers that found the connection
        useless.

        Does not wait. Without a connection it does nothing: a reconnect is already in progress.

        Args:
            reason: For the log.
        """
        ...

    async def declare(self, topology: Topology) -> None:
        """Make sure that ``topology`` exists now and after each reconnect. Idempotent; waits for a connection.

        Raises:
            BrokerRefused: See :meth:`until_ready`; or the user lacks the permission to declare it.
            TopologyMismatch: Something exists with other arguments.
            BrokerError: The broker did not answer in time.
        """
        ...

    async def publish(
        self,
        exchange: str,
        routing_key: str,
        message: Message,
        *,
        mandatory: bool = False,
        timeout: float | None = None,
    ) -> None:
        """Publish and wait for the confirm; at most ``timeout`` seconds (default: the broker's setting).

        Raises:
            Unroutable: ``mandatory`` and no queue is bound.
            PublishRefused: A queue is full (other queues of the same routing may have the message).
            Unpublishable: The broker will never accept it: too large, not encodable, or not permitted.
            PublishUnconfirmed: Outcome unknown.
            BrokerUnavailable, BrokerBlocked: Nothing was sent.
        """
        ...

    async def may_publish(self, exchange: str, routing_key: str) -> bool:
        """Whether the broker lets this account publish to ``exchange`` with this key; no queue gets a message.

        For keys that a caller chooses: RabbitMQ closes the channel of a publish that it refuses, and the outcome
        of all others in flight on it is unknown then.

        Raises:
            BrokerUnavailable, BrokerBlocked: It cannot be asked now.
            BrokerError: It did not answer.
        """
        ...

    def subscribe(
        self, *sources: Queue | Inbox | Log, prefetch: int, arrived: asyncio.Event | None = None
    ) -> AbstractAsyncContextManager[Subscription]:
        """Consume from all ``sources`` (declared queues, inboxes made on entry, or logs).

        A log is made on entry if it does not exist, and read from its first message; after each reconnect again from
        the first one. Settling a delivery of a log, in whatever way, makes room for further ones, and nothing else.

        Args:
            prefetch: Maximum of unsettled deliveries per queue.
            arrived: Set with each delivery, for a caller that takes from several subscriptions.
        """
        ...

    async def consumers(self, *queues: str) -> dict[str, int]:
        """The number of consumers of each of these declared queues; with a single active consumer only that one
        counts.

        Raises:
            BrokerError: There is no such queue, no connection, or no answer in time.
        """
        ...

    async def look(self, topology: Topology) -> Found:
        """Which exchanges and queues of ``topology`` exist, whatever their arguments; declares nothing.

        Raises:
            BrokerError: No connection, or no answer in time.
        """
        ...

    async def compare(self, topology: Topology) -> list[Difference]:
        """The parts of ``topology`` that exist with other arguments; bindings are not compared, and nothing changes.

        Args:
            topology: Only what exists (:meth:`look`): what does not is made.

        Raises:
            BrokerError: No connection, or no answer in time.
        """
        ...

    def bindings(self, inbox: Inbox) -> Bindings:
        """The bindings of ``inbox`` (the same object that was passed to :meth:`subscribe`) as it exists now.

        Raises:
            BrokerUnavailable: The inbox does not exist: not subscribed to, or no connection.
        """
        ...

    def browse(self, queue: str) -> AbstractAsyncContextManager[QueueBrowser]:
        """Look at the messages that wait in ``queue``, without consuming them.

        Raises:
            BrokerError: There is no such queue, or no connection.
        """
        ...

    async def close(self) -> None:
        """Wait a moment for confirms in flight, then disconnect; at most 5 s, whatever the broker does."""
        ...


def undecodable(delivery: Delivery) -> str | None:
    """The reason why the driver could not decode a delivery; ``None`` if it could."""
    reason = delivery.headers.get(UNDECODABLE)
    return reason if isinstance(reason, str) else None
