"""The virtual host of the memory broker: exchanges, queues and bindings.

Guarantees: a message is in every queue it was routed to, or the publisher gets an error; a declaration never changes
an existing exchange, queue or log; ``held_bytes`` counts every waiting or unsettled message, once per queue, and not
those of logs, which have a bound of their own. Dead letters are added even to a full queue; where no queue is bound
they are dropped, with a warning.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import structlog

from towpath.servicekit.broker.interface import (
    Binding,
    BrokerError,
    Difference,
    Exchange,
    ExchangeType,
    Found,
    Inbox,
    Log,
    PublishRefused,
    Queue,
    QueueCounts,
    Topology,
    TopologyMismatch,
    Unpublishable,
    Unroutable,
)
from towpath.servicekit.broker.memory_log import MemoryLog
from towpath.servicekit.broker.memory_message import DeadLetterReason, HeldMessage
from towpath.servicekit.broker.memory_queue import MemoryQueue
from towpath.servicekit.broker.topics import TopicTable

log = structlog.get_logger(__name__)

#: The end of a route.
Target = MemoryQueue | MemoryLog


class VirtualHost:
    """All exchanges and queues of one memory broker; it knows no connections."""

    def __init__(self) -> None:
        self.held_bytes = 0
        self._exchanges: dict[str, _Exchange] = {}
        self._queues: dict[str, MemoryQueue] = {}
        self._logs: dict[str, MemoryLog] = {}
        self._inboxes_made = itertools.count(1)
        self._bindings: dict[MemoryQueue, dict[Binding, None]] = {}  # of inboxes

    def declare(self, topology: Topology) -> None:
        """See :meth:`towpath.servicekit.broker.interface.Broker.declare`."""
        for exchange in topology.exchanges:
            existing = self._exchanges.setdefault(exchange.name, _Exchange(exchange))
            _must_match(existing.declared, exchange)
        for declared in topology.queues:
            queue = self._queues.get(declared.name)
            if queue is None:
                queue = self._queues[declared.name] = MemoryQueue(declared.name, declared, self)
            _must_match(queue.source, declared)
            self._bind(queue, declared.bindings)

    def look(self, topology: Topology) -> Found:
        """See :meth:`towpath.servicekit.broker.interface.Broker.look`."""
        return Found(
            frozenset(one.name for one in topology.exchanges if one.name in self._exchanges),
            {
                one.name: QueueCounts(len(queue), queue.consumers)
                for one in topology.queues
                if (queue := self._queues.get(one.name)) is not None
            },
        )

    def compare(self, topology: Topology) -> list[Difference]:
        """See :meth:`towpath.servicekit.broker.interface.Broker.compare`."""
        pairs: list[tuple[Exchange | Inbox | Queue, Exchange | Queue]] = []
        pairs += [(self._exchanges[one.name].declared, one) for one in topology.exchanges]
        pairs += [(self._queues[one.name].source, one) for one in topology.queues]
        found = []
        for existing, wanted in pairs:
            try:
                _must_match(existing, wanted)
            except TopologyMismatch as error:
                found.append(Difference(wanted.name, str(error), is_known=True))
        return found

    def queue(self, name: str) -> MemoryQueue:
        """The declared queue of that name, or ``BrokerError``."""
        try:
            return self._queues[name]
        except KeyError:
            raise BrokerError(f"there is no queue {name!r}: declare it before subscribing to it") from None

    @property
    def queues(self) -> Mapping[str, MemoryQueue]:
        """All queues and inboxes by their names on the broker."""
        return self._queues

    def make_log(self, source: Log) -> MemoryLog:
        """The log of that name, made if it does not exist."""
        found = self._logs.get(source.name) or MemoryLog(source)
        _must_match(found.source, source)
        self._bind(found, source.bindings)
        self._logs[source.name] = found
        return found

    def make_inbox(self, inbox: Inbox) -> MemoryQueue:
        """A queue under a name never used before, bound as ``inbox`` says."""
        queue = MemoryQueue(f"{inbox.name}.{next(self._inboxes_made)}", inbox, self)
        self._bind(queue, inbox.bindings)
        self._queues[queue.name] = queue
        self._bindings[queue] = dict.fromkeys(inbox.bindings)
        return queue

    def has_inbox(self, queue: MemoryQueue) -> bool:
        """Whether an inbox exists."""
        return queue in self._bindings

    def bind_inbox(self, queue: MemoryQueue, binding: Binding) -> None:
        """Bind an existing inbox."""
        self._bind(queue, [binding])
        self._bindings[queue][binding] = None

    def unbind_inbox(self, queue: MemoryQueue, binding: Binding) -> None:
        """Remove a binding of an existing inbox."""
        if binding in self._bindings[queue]:
            del self._bindings[queue][binding]
            self._exchanges[binding.exchange].unbind(binding.routing_key, queue)

    def delete_inbox(self, queue: MemoryQueue) -> None:
        """Delete an inbox with its messages and bindings."""
        del self._queues[queue.name]
        for binding in self._bindings.pop(queue):
            self._exchanges[binding.exchange].unbind(binding.routing_key, queue)
        queue.delete()

    def unbind_inboxes(self, routing_key: str | None) -> None:
        """Delete the bindings of all inboxes, or those of one key: fault injection."""
        for queue, bindings in self._bindings.items():
            for binding in list(bindings):
                if routing_key in (None, binding.routing_key):
                    self.unbind_inbox(queue, binding)

    def publish(self, message: HeldMessage, *, mandatory: bool) -> BrokerError | None:
        """Route to the bound queues; returns the error for the publisher, or ``None`` for a confirm."""
        targets = self._route(message.exchange, message.routing_key)
        if targets is None:
            return Unpublishable(f"there is no exchange {message.exchange!r}")
        if not targets and mandatory:
            return Unroutable(f"no queue is bound to {message.routing_key!r} on {message.exchange!r}")
        refusing: list[str] = []
        for queue in targets:
            # The others get it all the same, as in RabbitMQ: the publisher gets a refusal, and a repetition is a
            # duplicate there. https://www.rabbitmq.com/docs/maxlength#overflow-behaviour
            if queue.full:
                refusing.append(queue.name)
            else:
                queue.push(message)
        return PublishRefused(f"full: {', '.join(refusing)}") if refusing else None

    def drop_transient(self) -> None:
        """Forget what does not survive a restart of the broker."""
        for queue in self._queues.values():
            queue.drop_transient()

    def dead_letter(self, queue: MemoryQueue, message: HeldMessage, reason: DeadLetterReason) -> None:
        """Route a dead message to the queue's dead-letter exchange, or drop it."""
        exchange = queue.source.dead_letter_exchange if isinstance(queue.source, Queue) else None
        if exchange is None:
            return
        headers = dict(message.headers)
        headers.setdefault("x-first-death-exchange", message.exchange)
        headers.setdefault("x-first-death-queue", queue.name)
        headers.setdefault("x-first-death-reason", str(reason))
        dead = HeldMessage(
            body=message.body,
            exchange=exchange,
            routing_key=message.routing_key,
            persistent=message.persistent,
            app_id=message.app_id,
            headers=headers,
            dead_lettered_in=frozenset()
            if reason is DeadLetterReason.REJECTED
            else message.dead_lettered_in | {queue.name},
        )
        # A message never returns to a queue that dead-lettered it automatically, or it would cycle for ever.
        # https://www.rabbitmq.com/docs/dlx#routing
        targets = [
            target
            for target in self._route(exchange, dead.routing_key) or ()
            if target.name not in dead.dead_lettered_in
        ]
        if not targets:
            log.warning(
                "dead_letter_lost",
                queue=queue.name,
                exchange=exchange,
                routing_key=dead.routing_key,
                reason=str(reason),
            )
        # Also to a full queue: a dead letter has no publisher that could get a refusal.
        for target in targets:
            target.push(dead)

    def _route(self, exchange: str, routing_key: str) -> tuple[Target, ...] | None:
        # The default exchange routes by queue name. https://www.rabbitmq.com/docs/exchanges
        if not exchange:
            queue = self._queues.get(routing_key, self._logs.get(routing_key))
            return (queue,) if queue is not None else ()
        found = self._exchanges.get(exchange)
        return found.route(routing_key) if found is not None else None

    def _bind(self, queue: Target, bindings: Sequence[Binding]) -> None:
        for binding in bindings:
            if binding.exchange not in self._exchanges:
                raise BrokerError(f"there is no exchange {binding.exchange!r} to bind {queue.name!r} to")
        for binding in bindings:
            self._exchanges[binding.exchange].bind(binding.routing_key, queue)


class _Exchange:
    def __init__(self, declared: Exchange) -> None:
        self.declared = declared
        self._table: TopicTable[Target] = TopicTable()

    def bind(self, routing_key: str, queue: Target) -> None:
        self._table.bind(self._topic(routing_key), queue)

    def unbind(self, routing_key: str, queue: Target) -> None:
        self._table.unbind(self._topic(routing_key), queue)

    def route(self, routing_key: str) -> tuple[Target, ...]:
        return self._table.find(self._topic(routing_key))

    def _topic(self, routing_key: str) -> str:
        """The key as a topic: a fanout exchange ignores it, a direct one compares it as a whole."""
        match self.declared.type:
            case ExchangeType.FANOUT:
                return ""
            case ExchangeType.DIRECT:
                return "=" + routing_key.replace(".", "/")  # One word, and never a wildcard.
            case ExchangeType.TOPIC:
                return routing_key


def _must_match(existing: Any, declared: Exchange | Queue | Log) -> None:
    """Compare everything except the bindings, which are only ever added."""
    differences = [
        f"{field.name} is {getattr(existing, field.name)!r}, not {getattr(declared, field.name)!r}"
        for field in fields(declared)
        if field.name != "bindings" and getattr(existing, field.name) != getattr(declared, field.name)
    ]
    if differences:
        raise TopologyMismatch(
            f"{type(declared).__name__.lower()} {declared.name!r} exists with other arguments: "
            f"{'; '.join(differences)}. Restart the memory broker, or choose another name."
        )
