"""Declarations: exchanges and queues exist, also for an account that may not make them itself.

Guarantees:

* What exists with the same arguments is not changed.
* What the account may not declare counts as declared if it exists: an operator has made it
  (``towpath broker setup``), with its bindings. A passive declaration needs no permission; it does not compare types
  and arguments. https://www.rabbitmq.com/docs/access-control#authorisation
* A queue that an earlier version has declared is used as it is (:attr:`Queue.earlier_dead_letter_exchange`).
* Of both it is remembered (:class:`Existing`) that they are only looked for from then on: RabbitMQ logs an error for
  each declaration that it refuses, and declarations are repeated every few seconds.
"""

import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeVar

import structlog

from towpath.servicekit.broker.interface import Binding, Difference, Exchange, Log, Queue, QueueCounts
from towpath.servicekit.broker.rabbitmq.connection import close_channel, rpc
from towpath.servicekit.broker.rabbitmq.driver import (
    Channel,
    ChannelAccessRefused,
    ChannelNotFoundEntity,
    ChannelPreconditionFailed,
    Driver,
    driver_of,
)
from towpath.servicekit.broker.rabbitmq.refusals import needs

log = structlog.get_logger(__name__)
T = TypeVar("T")

#: inequivalent arg 'x-max-length' for queue 'q' in vhost '/': received '5' but current is '6'
_UNEQUAL: Final = re.compile(r"inequivalent arg '([^']+)' .*?received (.*?) but current is (.*?)$", re.DOTALL)

#: One request on a channel, and its reply.
Request = Callable[[Driver], Awaitable[T]]


@dataclass(frozen=True, slots=True)
class Existing:
    """Names of exchanges and queues that a program looks for and does not declare.

    Attributes:
        foreign: Those that its account may not declare.
        earlier: Queues that have the arguments of an earlier version.
    """

    foreign: set[str] = field(default_factory=set)
    earlier: set[str] = field(default_factory=set)


class Declaring:
    """One round of declarations; to be closed after it.

    Args:
        open_channel: Opens a channel for these requests alone: RabbitMQ closes it with each refusal.
        existing: The names that earlier rounds have found; changed here.
    """

    def __init__(self, open_channel: Callable[[], Awaitable[Channel]], existing: Existing) -> None:
        self._open_channel = open_channel
        self._existing = existing
        self._channel: Channel | None = None

    async def exchange(self, exchange: Exchange) -> None:
        """Make sure that an exchange exists.

        Raises:
            BrokerRefused: It does not exist, and this account may not make it.
        """
        name = exchange.name
        with needs(exchange="configure"):
            await self.declare_or_find(
                name,
                lambda driver: driver.exchange_declare(name, exchange_type=exchange.type.value, durable=True),
                lambda driver: driver.exchange_declare(name, passive=True),
            )

    async def queue(self, queue: Queue) -> int:
        """Make sure that a queue and its bindings exist; returns the number of its consumers.

        Raises:
            BrokerRefused: It does not exist, and this account may not make or bind it.
            ChannelPreconditionFailed: It exists with other arguments.
        """
        reads = "configure" if queue.dead_letter_exchange is None else "configure or read"
        with needs(queue=reads, exchange="write"):
            try:
                consumers = await self._declare_queue(queue)
            except ChannelPreconditionFailed:
                if queue.earlier_dead_letter_exchange is None:
                    raise
                earlier = replace(queue, dead_letter_exchange=queue.earlier_dead_letter_exchange)
                consumers = await self._declare_queue(earlier)
                self._existing.earlier.add(queue.name)
                log.info("queue_of_an_earlier_version", queue=queue.name)
        if queue.name not in self._existing.foreign:
            await bind(await self._driver(), queue.name, queue.bindings)
        return consumers

    async def log(self, source: Log) -> None:
        """Make sure that a log and its bindings exist.

        Raises:
            BrokerRefused: It does not exist, and this account may not make or bind it.
            ChannelPreconditionFailed: It exists with other arguments, or RabbitMQ has no streams.
        """
        with needs(queue="configure"):
            await self.declare_or_find(
                source.name,
                lambda driver: driver.queue_declare(
                    source.name, durable=True, arguments=log_arguments(source)
                ),
                lambda driver: driver.queue_declare(source.name, passive=True),
            )
        if source.name not in self._existing.foreign:
            await bind(await self._driver(), source.name, source.bindings)

    async def exchange_exists(self, name: str) -> bool:
        """Whether there is an exchange of this name."""
        try:
            await self._request(lambda driver: driver.exchange_declare(name, passive=True))
        except ChannelNotFoundEntity:
            return False
        return True

    async def counts(self, name: str) -> QueueCounts | None:
        """The state of a queue; ``None`` if there is none of this name."""
        try:
            found = await self._request(lambda driver: driver.queue_declare(name, passive=True))
        except ChannelNotFoundEntity:
            return None
        return QueueCounts(found.message_count or 0, found.consumer_count or 0)

    async def compare(self, part: Exchange | Queue) -> Difference | None:
        """Declare what exists once more: RabbitMQ changes nothing, and names an argument that differs."""
        name = part.name

        def declare(driver: Driver) -> Awaitable[Any]:
            if isinstance(part, Exchange):
                return driver.exchange_declare(name, exchange_type=part.type.value, durable=True)
            return driver.queue_declare(name, durable=True, arguments=queue_arguments(part))

        try:
            await self._request(declare)
        except ChannelPreconditionFailed as error:
            return Difference(name, _unequal(str(error)), is_known=True)
        except ChannelAccessRefused:
            return Difference(name, "this account may not compare its arguments", is_known=False)
        return None

    async def close(self) -> None:
        """Close the channel of this round."""
        channel, self._channel = self._channel, None
        if channel is not None:
            await close_channel(channel)

    async def declare_or_find(self, name: str, declare: Request[T], find: Request[T]) -> T:
        """The reply to ``declare``, or to ``find`` if this account may not declare ``name``.

        Raises:
            ChannelAccessRefused: This account may not declare it, and it does not exist.
        """
        if name in self._existing.foreign or name in self._existing.earlier:
            try:
                return await self._request(find)
            except ChannelNotFoundEntity:
                # It was deleted meanwhile: declared below, if the account may.
                self._existing.foreign.discard(name)
                self._existing.earlier.discard(name)
        try:
            return await self._request(declare)
        except ChannelAccessRefused as refusal:
            try:
                found = await self._request(find)
            # RabbitMQ 4.3.0 alone needs a permission also to look.
            except (ChannelNotFoundEntity, ChannelAccessRefused):
                raise refusal from None
        self._existing.foreign.add(name)
        return found

    async def _declare_queue(self, queue: Queue) -> int:
        declared = await self.declare_or_find(
            queue.name,
            # Declaring what exists with the same arguments changes nothing, and returns the number of consumers.
            # https://www.rabbitmq.com/docs/queues#property-equivalence
            lambda driver: driver.queue_declare(queue.name, durable=True, arguments=queue_arguments(queue)),
            lambda driver: driver.queue_declare(queue.name, passive=True),
        )
        return declared.consumer_count or 0

    async def _request(self, request: Request[T]) -> T:
        driver = await self._driver()
        try:
            return await rpc(request(driver))
        except BaseException:
            await self.close()
            raise

    async def _driver(self) -> Driver:
        if self._channel is None:
            self._channel = await self._open_channel()
        return await driver_of(self._channel)


def _unequal(text: str) -> str:
    """The argument that differs, in RabbitMQ's refusal."""
    found = _UNEQUAL.search(text)
    return f"{found[1]} is {found[3]}, and this version needs {found[2]}" if found else text


def queue_arguments(queue: Queue) -> dict[str, Any]:
    """The arguments of a queue declaration."""
    arguments: dict[str, Any] = {
        # Replicated, and it counts redeliveries, which the crash probe depends on.
        # https://www.rabbitmq.com/docs/quorum-queues#poison-message-handling
        "x-queue-type": "quorum",
        "x-delivery-limit": queue.delivery_limit,
    }
    if queue.single_active:
        # The order of a partition, also when two replicas consume it:
        # https://www.rabbitmq.com/docs/consumers#single-active-consumer
        arguments["x-single-active-consumer"] = True
    if queue.max_length is not None:
        arguments["x-max-length"] = queue.max_length
    if queue.message_ttl_ms is not None:
        arguments["x-message-ttl"] = queue.message_ttl_ms
    # Publishers learn that the queue is full; the default would drop the oldest message, which was confirmed.
    arguments["x-overflow"] = "reject-publish"
    if queue.dead_letter_exchange is not None:
        arguments["x-dead-letter-exchange"] = queue.dead_letter_exchange
        # At least once needs reject-publish: https://www.rabbitmq.com/docs/quorum-queues#dead-lettering
        arguments["x-dead-letter-strategy"] = "at-least-once"
    return arguments


def log_arguments(source: Log) -> dict[str, Any]:
    """The arguments of a stream's declaration: https://www.rabbitmq.com/docs/streams#declaring"""
    return {
        "x-queue-type": "stream",
        "x-max-length-bytes": source.max_bytes,
        "x-stream-max-segment-size-bytes": source.segment_bytes,
        "x-max-age": f"{source.max_age}D",
    }


async def bind(channel: Driver, queue: str, bindings: Sequence[Binding]) -> None:
    """Bind a queue; existing bindings stay as they are."""
    for binding in bindings:
        with needs(queue="write", exchange="read", topic="read"):
            await rpc(channel.queue_bind(queue, exchange=binding.exchange, routing_key=binding.routing_key))
