"""Exchanges, queues and bindings as a program wants them to exist."""

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


class ExchangeType(enum.StrEnum):
    TOPIC = "topic"
    DIRECT = "direct"  #: Routes to the queues bound with exactly the routing key.
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
        delivery_limit: Redeliveries after which the broker dead-letters a message, as a safety net under the retries.
            RabbitMQ puts a requeued message back to its position only if such a limit is set.
        max_length: Number of messages from which publishes to it are refused.
        dead_letter_exchange: Where rejected messages go; ``""`` is the default exchange (routes by queue name).
        earlier_dead_letter_exchange: The dead-letter exchange that an earlier version gave it; RabbitMQ does not let
            arguments of a queue change, so a queue that has it keeps it.
        message_ttl_ms: Milliseconds until a message is dead-lettered.
        verified: Bindings that are verified now and then by publishing an empty batch; no other queue may be bound to
            these keys.
    """

    name: str
    bindings: Sequence[Binding] = ()
    single_active: bool = False
    delivery_limit: int = 20
    max_length: int | None = None
    dead_letter_exchange: str | None = None
    earlier_dead_letter_exchange: str | None = None
    message_ttl_ms: int | None = None
    verified: Sequence[Binding] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Inbox:
    """A transient queue of one subscription: exclusive, a fresh name each time it is made, bounded by drop-head.

    It is deleted with its subscription. Its bindings may change while it exists, see :class:`Bindings`.

    Attributes:
        name: Prefix of the queue's name on the broker; deliveries carry it as ``queue``.
        max_length, max_bytes, message_ttl_ms: Bounds; messages beyond them are dropped, oldest first.
    """

    name: str
    bindings: Sequence[Binding] = ()
    max_length: int = 20_000
    max_bytes: int = 64 * 1024 * 1024
    message_ttl_ms: int = 30_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """A durable stream: every subscription reads it from its first message, and reading takes nothing out of it.

    It is made by its first subscription, if it does not exist. The broker drops its oldest messages, segment by
    segment, past ``max_bytes`` or ``max_age``. https://www.rabbitmq.com/docs/streams#retention

    Attributes:
        name: The same for all programs: they share it.
        segment_bytes: Bytes that are dropped at once; the newest segment is always kept.
        max_age: In days.
    """

    name: str
    bindings: Sequence[Binding] = ()
    max_bytes: int
    segment_bytes: int
    max_age: int


@dataclass(frozen=True, slots=True)
class Topology:
    """The exchanges and queues a service needs; declared at start and after each reconnect.

    Attributes:
        writes: Topic exchanges that it publishes to. The permission is checked at the start.
    """

    exchanges: Sequence[Exchange] = ()
    queues: Sequence[Queue] = ()
    writes: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class QueueCounts:
    """The state of a queue.

    Attributes:
        waiting: Messages that are ready to be delivered; those that consumers hold do not count.
        consumers: With a single active consumer only that one counts.
    """

    waiting: int
    consumers: int


@dataclass(frozen=True, slots=True)
class Found:
    """The part of a topology that exists.

    Attributes:
        exchanges: Their names.
        queues: Name → its state.
    """

    exchanges: frozenset[str]
    queues: Mapping[str, QueueCounts]

    def missing(self, topology: Topology) -> Topology:
        """The part of ``topology`` that does not exist."""
        return Topology(
            [one for one in topology.exchanges if one.name not in self.exchanges],
            [one for one in topology.queues if one.name not in self.queues],
        )


@dataclass(frozen=True, slots=True)
class Difference:
    """An exchange or queue that exists, compared with what is wanted.

    Attributes:
        detail: The difference, or why it cannot be compared.
        is_known: Whether it differs; else the account may not compare it.
    """

    name: str
    detail: str
    is_known: bool
