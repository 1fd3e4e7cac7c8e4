"""What every broker gives: at-least-once delivery of byte bodies through topic exchanges and queues.

Two implementations, one contract suite (``libs/servicekit/tests/test_broker_contract.py``):
:mod:`~towpath.servicekit.broker.rabbitmq` and :mod:`~towpath.servicekit.broker.memory`.

Guarantees of both:

* ``publish`` returns only once the broker has the message safely in every queue it was routed to, and raises
  otherwise. :class:`PublishUnconfirmed` means *unknown*: it may have arrived.
* Messages published one after another to one queue are delivered in that order; a redelivery comes before
  what was behind it.
* A broker that goes away comes back by itself: topology, bindings and subscriptions are made anew from the
  desired state, and ``on_rebuilt`` callbacks are told. Deliveries of the time before are redelivered.
* Nothing waits for ever: each call has a time limit but those that wait for a connection, and says so.
"""

import asyncio
import enum
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from towpath.servicekit.broker.deafness import OnDeaf

HeaderValue = str | int | bool

#: The header of a delivery whose properties could not be decoded; its value says what is wrong.
UNDECODABLE: Final = "x-undecodable"


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One message to publish.

    Attributes:
        body: UTF-8 JSON.
        persistent: Whether it must survive a restart of the broker.
        type: What it holds, for people who look at the broker; informative.
        app_id: The program that sent it.
        headers: AMQP headers, e.g. ``traceparent`` or ``x-attempt``.
        as_received: The body came from the broker as it is, so it may be larger than ``message_max_bytes``.
    """

    body: bytes
    persistent: bool = True
    type: str | None = None
    app_id: str | None = None
    headers: Mapping[str, HeaderValue] = field(default_factory=dict)
    as_received: bool = False


class Delivery(Protocol):
    """One message in hand. Settle it exactly once; settling a stale one is harmless."""

    @property
    def body(self) -> bytes: ...
    @property
    def exchange(self) -> str: ...
    @property
    def routing_key(self) -> str: ...
    @property
    def queue(self) -> str:
        """The declared name of the queue it was taken from."""
        ...

    @property
    def redelivered(self) -> bool: ...
    @property
    def app_id(self) -> str | None: ...
    @property
    def user_id(self) -> str | None:
        """The account that published it, where the publisher named it and the broker validated that."""
        ...

    @property
    def headers(self) -> Mapping[str, Any]: ...

    def ack(self) -> None:
        """Settle: the broker may forget it. Never blocks; if the connection is gone it will be redelivered."""
        ...

    def reject(self) -> None:
        """Settle: the broker moves it to the queue's dead-letter exchange (or drops it)."""
        ...

    def requeue(self) -> None:
        """Give it back, to be delivered again at once. For hand-over at shutdown, never as a retry."""
        ...


class ExchangeType(enum.StrEnum):
    TOPIC = "topic"
    FANOUT = "fanout"


@dataclass(frozen=True, slots=True)
class Exchange:
    """A durable exchange."""

    name: str
    type: ExchangeType = ExchangeType.TOPIC


@dataclass(frozen=True, slots=True)
class Binding:
    exchange: str
    routing_key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """A durable quorum queue, shared by the replicas of a service.

    Attributes:
        single_active: Only one consumer at a time gets deliveries (order across replicas).
        delivery_limit: Redeliveries after which the broker dead-letters by itself; the net under the retries. Only
            under such a limit does RabbitMQ give a requeued message its place again.
        max_length: Messages after which publishes to it are refused.
        dead_letter_exchange: Where rejected messages go; ``""`` is the default exchange (routes by queue name).
        message_ttl_ms: How long a message stays before it is dead-lettered.
        proved: Bindings that are proved to stand with an empty batch now and then; nobody else may be bound so.
    """

    name: str
    bindings: Sequence[Binding] = ()
    single_active: bool = False
    delivery_limit: int = 20
    max_length: int | None = None
    dead_letter_exchange: str | None = None
    message_ttl_ms: int | None = None
    proved: Sequence[Binding] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Inbox:
    """A transient queue of one subscription: exclusive, a fresh name each time it is made, bounded by drop-head.

    It is gone with its subscription. What it is bound to may change while it stands, see :class:`Bindings`.

    Attributes:
        name: Prefix of the queue's name on the broker; deliveries carry it as ``queue``.
        max_length, max_bytes, message_ttl_ms: Bounds; what is over or too old is dropped, oldest first.
    """

    name: str
    bindings: Sequence[Binding] = ()
    max_length: int = 20_000
    max_bytes: int = 64 * 1024 * 1024
    message_ttl_ms: int = 30_000


@dataclass(frozen=True, slots=True)
class Topology:
    """The exchanges and queues a service needs; declared at start and after each reconnect.

    Attributes:
        writes: Topic exchanges that it publishes to. At the start it is made sure that it may.
    """

    exchanges: Sequence[Exchange] = ()
    queues: Sequence[Queue] = ()
    writes: Sequence[str] = ()


class BrokerState(enum.Enum):
    CONNECTING = "connecting"  #: no connection: publishes raise BrokerUnavailable
    READY = "ready"
    BLOCKED = "blocked"  #: an alarm: publishes raise BrokerBlocked, deliveries go on
    CLOSED = "closed"


class BrokerError(Exception):
    """A publish or declaration that did not succeed."""


class Unroutable(BrokerError):
    """No queue is bound to the routing key (only for mandatory publishes)."""


class PublishRefused(BrokerError):
    """The broker would not take it: a queue is full."""


class Unpublishable(BrokerError):
    """The broker will never take this message: trying again is of no use.

    Attributes:
        of_content: The reason lies in the body, so that other bodies for the same routing key may be taken.
    """

    def __init__(self, reason: str, *, of_content: bool = False) -> None:
        super().__init__(reason)
        self.of_content = of_content


class PublishUnconfirmed(BrokerError):
    """No confirm in time, an alarm or a broken connection meanwhile: the outcome is unknown."""


class BrokerUnavailable(BrokerError):
    """There is no connection; nothing was sent."""


class BrokerBlocked(BrokerError):
    """The broker takes no publishes for now (memory or disk alarm); nothing was sent."""


class BrokerRefused(BrokerError):
    """The broker answered at the first connect, and refused user, password or virtual host; or a right is missing.

    The text names the setting.
    """


class TopologyMismatch(BrokerError):
    """An exchange or queue exists with other arguments; the message names it and the remedy."""


class Subscription(Protocol):
    """A running consumer of one or more queues, as an asynchronous iterator of deliveries.

    Survives reconnects. Leaving its context stops intake and gives back what is not settled, in its order; the
    iteration ends then, and when the broker is closed.
    """

    def __aiter__(self) -> AsyncIterator[Delivery]: ...
    async def __anext__(self) -> Delivery: ...
    def take_waiting(self, limit: int) -> list[Delivery]:
        """Deliveries that have arrived already, at most ``limit``, without waiting."""
        ...

    async def cancel(self) -> None:
        """Stop intake for good. What has arrived can still be taken and settled, until the context is left.

        The next consumer of a queue with a single active one starts at once, beside what is unsettled here.

        Raises:
            BrokerError: The broker did not answer; deliveries may still arrive.
        """
        ...


class Bindings(Protocol):
    """What leads into one inbox, which may change for as long as that stands.

    An inbox that is made anew is bound as it was declared, whatever was added or removed before, and has new
    ``Bindings``: these never touch it.
    """

    async def add(self, binding: Binding, *, timeout: float) -> None:
        """Bind the inbox, now and not when it is made anew. Idempotent.

        What is published after this returned is in the inbox; in a cluster, other nodes may be a moment behind.

        Raises:
            BrokerUnavailable: The inbox stands no more.
            BrokerError: Refused, or no answer within ``timeout`` seconds: it may be bound, or be bound later.
        """
        ...

    async def remove(self, binding: Binding, *, timeout: float) -> None:
        """Undo a binding, declared or added. Idempotent.

        Raises:
            BrokerUnavailable: The inbox stands no more.
            BrokerError: Refused, or no answer within ``timeout`` seconds: it may be gone, or be gone later.
        """
        ...


class Browsing(Protocol):
    """A look at what waits in a queue, from its head, one message at a time, as an asynchronous iterator.

    Who looks may settle what it sees, or not; leaving gives back what is not settled, and returns once the broker has
    all of it. What is given back keeps its order, but stands behind what was given back before and not looked at.
    What others have in hand is not seen. It ends with the queue, and does not survive its connection: it raises
    :class:`BrokerUnavailable` then, and all that was not settled is back.

    A look counts as a delivery: it belongs on queues whose ``delivery_limit`` it can never reach.
    """

    @property
    def waiting(self) -> int:
        """How many messages waited when it began."""
        ...

    def __aiter__(self) -> AsyncIterator[Delivery]: ...
    async def __anext__(self) -> Delivery: ...


class Broker(Protocol):
    """A connection to a broker that keeps itself alive."""

    @property
    def state(self) -> BrokerState: ...

    async def until_ready(self) -> None:
        """Wait for a connection, however long that takes.

        Raises:
            BrokerRefused: The first attempt was answered with a refusal of user, password or virtual host.
        """
        ...

    def on_rebuilt(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` after each reconnect, once topology, bindings and subscriptions stand again.

        Also after a subscription had to be made anew while the connection stood: either way deliveries to an inbox
        may have been lost. Nothing is handed out of a subscription that was made anew until all were called.
        """
        ...

    def on_deaf(self, callback: OnDeaf) -> None:
        """Call ``callback`` each time that something is found to be lost, without which no messages come."""
        ...

    def rebuild(self, reason: str) -> None:
        """Give up the connection and make everything anew, with fresh inboxes; for who knows that it serves no more.

        Does not wait. Without a connection it does nothing: a new one is on its way.

        Args:
            reason: For the log.
        """
        ...

    async def declare(self, topology: Topology) -> None:
        """Make sure that ``topology`` exists now and after each reconnect. Idempotent; waits for a connection.

        Raises:
            BrokerRefused: See :meth:`until_ready`; or the user may not declare it.
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
            PublishRefused: A queue is full (others it was routed to may have it).
            Unpublishable: The broker will never take it: too large, not encodable, or not permitted.
            PublishUnconfirmed: Outcome unknown.
            BrokerUnavailable, BrokerBlocked: Nothing was sent.
        """
        ...

    def subscribe(
        self, *sources: Queue | Inbox, prefetch: int, arrived: asyncio.Event | None = None
    ) -> AbstractAsyncContextManager[Subscription]:
        """Consume from all ``sources`` (declared queues, or inboxes made on entry).

        Args:
            prefetch: Unsettled deliveries at most, a queue.
            arrived: Set with each delivery, for a caller that takes from several subscriptions.
        """
        ...

    async def consumers(self, *queues: str) -> dict[str, int]:
        """How many consumers each of these declared queues has. Where one is active, the others are not counted.

        Raises:
            BrokerError: There is no such queue, no connection, or no answer in time.
        """
        ...

    def bindings(self, inbox: Inbox) -> Bindings:
        """What leads into ``inbox``, the very object that was subscribed to, as it stands now.

        Raises:
            BrokerUnavailable: It does not stand: not subscribed to, or there is no connection.
        """
        ...

    def browse(self, queue: str) -> AbstractAsyncContextManager[Browsing]:
        """Look at what waits in ``queue``, without consuming it.

        Raises:
            BrokerError: There is no such queue, or no connection.
        """
        ...

    async def close(self) -> None:
        """Wait a moment for confirms in flight, then disconnect; at most 5 s, whatever the broker does."""
        ...


def undecodable(delivery: Delivery) -> str | None:
    """What is wrong with a delivery that the driver could not decode; ``None`` where nothing is."""
    reason = delivery.headers.get(UNDECODABLE)
    return reason if isinstance(reason, str) else None
