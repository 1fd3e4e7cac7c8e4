"""Dead letters: messages that failed wait in a retry queue, or in the dead queue for an operator.

A retry is never a requeue: the message is published again to a queue with a fixed delay (5 s, 30 s, 2 min, 10 min)
whose messages return to their original queue through ``<service>.again``; after the last delay it is parked in
``<service>.dead``. Its headers are described in :mod:`towpath.servicekit.messaging.failure_headers`.

Guarantees:

* :meth:`DeadLetters.retry` and :meth:`DeadLetters.park` return once the broker has confirmed the copy, however long
  that takes. The caller acks the original after that, so a crash in between repeats a message and never loses it.
* A full retry or dead queue makes them wait, because anything else would lose messages. This is logged once a
  minute, and visible in readiness and metrics.
* Of a body that the broker does not accept, the first KiB is parked.
* A message of this service that no broker accepts is parked as well, or dropped: it blocks no later one
  (:mod:`towpath.servicekit.messaging.unpublishable`).
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Final

import structlog

from towpath.protocol.routes import RETRY_DELAYS, again_exchange, dead_queue, retry_queue
from towpath.servicekit.broker.interface import (
    Binding,
    Broker,
    BrokerError,
    Delivery,
    Exchange,
    ExchangeType,
    HeaderValue,
    Message,
    PublishRefused,
    Queue,
    Unpublishable,
)
from towpath.servicekit.messaging.failure_headers import (
    ATTEMPT,
    EFFECT,
    FAILED,
    NO_EFFECT,
    REASON,
    after_failure,
    attempts,
    of_unpublishable,
)
from towpath.servicekit.messaging.lanes import OnConfirm
from towpath.servicekit.messaging.senders import SENDER
from towpath.servicekit.messaging.unpublishable import Refused, UnpublishableQueue
from towpath.servicekit.runtime import backoff
from towpath.servicekit.runtime.error_text import describe_error
from towpath.servicekit.runtime.telemetry import Telemetry
from towpath.servicekit.runtime.trace_context import trace_id

log = structlog.get_logger(__name__)

DELIVERY_LIMIT: Final = 20
#: Tools that list parked messages receive and requeue them, which must never reach the limit.
UNLIMITED: Final = 1_000_000_000
#: Bytes kept of a body that is too large to be parked.
TRUNCATED_BYTES: Final = 1024

_DELAYS: Final = tuple(RETRY_DELAYS)
_ALARM_SECONDS: Final = 60.0
_COUNT_SECONDS: Final = 15.0


def exchanges(service: str) -> list[Exchange]:
    """The fanout exchanges in front of a service's retry and dead queues, and the one that leads back."""
    names = [dead_queue(service), *(retry_queue(service, delay) for delay in RETRY_DELAYS)]
    return [
        *(Exchange(name, ExchangeType.FANOUT) for name in names),
        Exchange(again_exchange(service), ExchangeType.DIRECT),
    ]


def way_back(service: str, queue: str) -> Binding:
    """The binding by which what is tried again returns to ``queue``: its own name is the key."""
    return Binding(again_exchange(service), queue)


def queues(service: str, max_length: int) -> list[Queue]:
    """A service's retry and dead queues.

    A retry queue dead-letters to ``<service>.again``, which routes by queue name. So a message is published to it
    with the name of its original queue as routing key, and the fanout exchange in front ignores that key.
    https://www.rabbitmq.com/docs/dlx
    Not to the default exchange, which routes by queue name as well: who may make a queue that dead-letters there may
    write to every queue of every service.
    """
    dead = dead_queue(service)
    return [
        # No time to live, and no oldest message that is dropped: parked messages wait for an operator, and a full
        # queue makes the service wait.
        Queue(name=dead, bindings=[Binding(dead, "#")], max_length=max_length, delivery_limit=UNLIMITED),
        *(
            Queue(
                name=retry_queue(service, delay),
                bindings=[Binding(retry_queue(service, delay), "#")],
                max_length=max_length,
                message_ttl_ms=milliseconds,
                # The time to live is the delay: a message that expires is routed on. One delay per queue, because an
                # expired message leaves only from the head of its queue.
                # https://www.rabbitmq.com/docs/ttl
                dead_letter_exchange=again_exchange(service),
                earlier_dead_letter_exchange="",
            )
            for delay, milliseconds in RETRY_DELAYS.items()
        ),
    ]


class DeadLetters:
    """The retry and dead queues of one service; made with :meth:`open`."""

    def __init__(self, broker: Broker, service: str, telemetry: Telemetry) -> None:
        self._broker = broker
        self._service = service
        self._dead = dead_queue(service)
        self._refused: Counter[str] = Counter()  # Exchange → publishes that wait because its queue is full.
        self._alarmed_at: dict[str, float] = {}
        self._parked_now = 0
        self._unpublishable = UnpublishableQueue(self._park_unpublishable, telemetry)
        self._retried = telemetry.counter("messages_retried", "Messages sent to a retry queue")
        self._parked = telemetry.counter("messages_parked", "Messages parked in the dead queue")
        telemetry.gauge(
            "parking_blocked",
            "Messages that cannot be parked or retried because a queue is full: the service waits",
            self._refused.total,
        )
        telemetry.gauge("dead_letters_waiting", "Messages parked in the dead queue", lambda: self._parked_now)

    @classmethod
    @asynccontextmanager
    async def open(cls, broker: Broker, service: str, telemetry: Telemetry) -> AsyncIterator["DeadLetters"]:
        """Dead letters that park unpublishable messages from entry to exit; those left then fail as unpublished."""
        letters = cls(broker, service, telemetry)
        async with letters._unpublishable.running(f"{service}: park unpublishable"):
            yield letters

    @property
    def blocked(self) -> bool:
        """Whether the service waits for room in one of its retry and dead queues."""
        return self._refused.total() > 0

    # Deliveries that cannot be handled

    async def retry(
        self,
        delivery: Delivery,
        item: bytes,
        error: BaseException,
        traceparent: str | None,
        *,
        reason: str = FAILED,
        sender: str | None = None,
    ) -> bool:
        """Publish ``item`` to the next retry queue, or park it after the last delay; true if it was parked.

        Returns once the broker has confirmed it, however long that takes.
        """
        attempt = attempts(delivery.headers) + 1
        # The attempt is a header of the message, so any replica continues the count.
        if attempt <= len(_DELAYS):
            delay = _DELAYS[attempt - 1]
            message = _failed(delivery, item, error, traceparent, sender, {ATTEMPT: attempt})
            with contextlib.suppress(Unpublishable):  # Then it is parked, in part if it is too large.
                # Confirmed before the caller acks the original: a crash in between leaves both, never neither.
                await self._publish(retry_queue(self._service, delay), delivery.queue, message)
                self._retried.add(1)
                log.warning(
                    "retry_later",
                    queue=delivery.queue,
                    delay=delay,
                    attempt=attempt,
                    error=describe_error(error, 300),
                    trace_id=trace_id(traceparent),
                )
                return False
        await self.park(delivery, item, reason, error, traceparent, sender=sender)
        return True

    async def park(
        self,
        delivery: Delivery,
        item: bytes,
        reason: str,
        error: BaseException,
        traceparent: str | None = None,
        *,
        sender: str | None = None,
        without_effect: bool = False,
        quiet: bool = False,
    ) -> None:
        """Publish ``item`` to the dead queue for an operator; returns once the broker has confirmed it.

        Args:
            sender: The publisher of an event, if it is known.
            without_effect: A command whose sender gets the answer that it has no effect.
            quiet: Do not log; the caller does.
        """
        more: dict[str, HeaderValue] = {ATTEMPT: attempts(delivery.headers), REASON: reason}
        if without_effect:
            more[EFFECT] = NO_EFFECT
        message = _failed(delivery, item, error, traceparent, sender, more)
        # However long it takes: the only copy is the unacked original, and a failed park must not lose it.
        kept = await self._park(self._publish, delivery.queue, message)
        if kept < len(item):
            log.error("parked_in_part", queue=delivery.queue, bytes=len(item), kept=kept)
        self._parked.add(1)
        if not quiet:
            log.error(
                "parked",
                queue=delivery.queue,
                reason=reason,
                error=describe_error(error, 300),
                trace_id=trace_id(traceparent),
            )

    async def keep_count(self) -> None:
        """Count the parked messages for the gauge, periodically, until cancelled."""
        while True:
            with contextlib.suppress(BrokerError):
                async with self._broker.browse(self._dead) as parked:
                    self._parked_now = parked.waiting
            await asyncio.sleep(_COUNT_SECONDS)

    # Messages that no broker accepts

    def take_unpublishable(
        self, exchange: str, routing_key: str, body: bytes, error: Unpublishable, on_confirm: OnConfirm
    ) -> None:
        """Park a message that the broker refused for good; ``on_confirm`` is called later, never within this call."""
        kept = body[:TRUNCATED_BYTES] if error.of_content else body
        self._unpublishable.put(Refused(exchange, routing_key, kept, len(body), error, on_confirm))

    async def _park_unpublishable(self, refused: Refused) -> int:
        headers = of_unpublishable(refused.exchange, refused.routing_key, refused.error)
        # Published once: while the dead queue is full, waiting for room would hold up the confirms of later messages.
        return await self._park(
            self._publish_once, self._dead, _message(refused.body, self._service, headers)
        )

    # Both

    async def _park(
        self, publish: Callable[[str, str, Message], Awaitable[None]], routing_key: str, message: Message
    ) -> int:
        """Publish to the dead queue, and if the broker does not accept it, its first KiB; returns the bytes kept."""
        try:
            await publish(self._dead, routing_key, message)
        except Unpublishable:
            # It is not the size (a missing exchange, a permission), and a shorter body would fail as well.
            if len(message.body) <= TRUNCATED_BYTES:
                raise
            message = replace(message, body=message.body[:TRUNCATED_BYTES])
            await publish(self._dead, routing_key, message)
        return len(message.body)

    async def _publish_once(self, exchange: str, routing_key: str, message: Message) -> None:
        # Mandatory: an operator may have deleted the queue, and an unroutable message would be confirmed and lost.
        await self._broker.publish(exchange, routing_key, message, mandatory=True)

    async def _publish(self, exchange: str, routing_key: str, message: Message) -> None:
        """Publish until the broker confirms it.

        Raises:
            Unpublishable: It never will.
        """
        is_refused = False
        try:
            # No time limit: the original stays unacked meanwhile, and to give up would lose it. A copy that was not
            # confirmed may be there twice. Readiness and `parking_blocked` show a full queue to an operator.
            async for _ in backoff.attempts():
                try:
                    return await self._publish_once(exchange, routing_key, message)
                except Unpublishable:
                    # Not a matter of time: the caller shortens the message, or drops it.
                    raise
                except PublishRefused:
                    # Counted once per publish, however often it is refused, as the gauge counts messages.
                    self._refused[exchange] += not is_refused
                    is_refused = True
                    self._raise_alarm(exchange)
                except BrokerError:
                    pass  # No connection, an alarm, or no confirm: this passes.
        finally:
            # Also when cancelled, or readiness would report the queue as full for ever.
            self._refused[exchange] -= is_refused

    def _raise_alarm(self, full: str) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._alarmed_at.get(full, -_ALARM_SECONDS) >= _ALARM_SECONDS:
            self._alarmed_at[full] = now
            log.error(
                "parking_blocked",
                queue=full,
                remedy=f"the service waits until there is room: towpath dead-letters list {self._service}",
            )


def _failed(
    delivery: Delivery,
    item: bytes,
    error: BaseException,
    traceparent: str | None,
    sender: str | None,
    more: dict[str, HeaderValue],
) -> Message:
    headers = after_failure(delivery, error) | more
    if sender:
        headers[SENDER] = sender
    if traceparent and trace_id(traceparent):
        headers["traceparent"] = traceparent
    return _message(item, delivery.app_id or "", headers)


def _message(body: bytes, app_id: str, headers: dict[str, HeaderValue]) -> Message:
    # As received: what has passed a broker once may be parked, also if this service publishes nothing that large.
    return Message(body=body, type="failed", app_id=app_id, headers=headers, as_received=True)
