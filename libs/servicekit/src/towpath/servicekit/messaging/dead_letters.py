"""Failed messages: they wait in a retry queue and come back, or they are parked in the dead queue.

A retry is never a requeue: the message is published again with a confirm, to a queue with a fixed delay (5 s, 30 s,
2 min, 10 min) that routes it back to its original queue; after the last delay it is parked in ``<service>.dead``. The
original is acked only after that confirm, so a crash in between repeats the message and never loses it. A full retry
or dead queue blocks the service, because anything else would lose messages; this is logged once a minute and
visible in readiness and metrics.

Headers: ``x-attempt`` (attempts so far), ``x-attempts`` (time, error and code location of the last failures),
``x-first-failed-at`` (Unix ms), ``x-error``, ``x-reason``, ``x-effect``, ``x-sender``, ``x-queue``,
``x-routing-key``, ``x-replayed``, ``traceparent``.
"""

import asyncio
import contextlib
from collections.abc import Mapping
from dataclasses import replace
from types import TracebackType
from typing import Any, Final

import msgspec
import structlog
import tenacity

from towpath.protocol.envelope import now_ms
from towpath.protocol.routes import RETRY_DELAYS, dead_queue, retry_queue
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
from towpath.servicekit.messaging import senders
from towpath.servicekit.runtime.error_text import describe_error
from towpath.servicekit.runtime.telemetry import Telemetry, trace_id

log = structlog.get_logger(__name__)

DELIVERY_LIMIT: Final = 20
#: Tools that list parked messages receive and requeue them, which must never reach the limit.
UNLIMITED: Final = 1_000_000_000
ATTEMPT: Final = "x-attempt"
ATTEMPTS: Final = "x-attempts"
FIRST_FAILED_AT: Final = "x-first-failed-at"
ERROR: Final = "x-error"
REASON: Final = "x-reason"
QUEUE: Final = "x-queue"
ROUTING_KEY: Final = "x-routing-key"
REPLAYED: Final = "x-replayed"
#: ``none`` on a command whose sender got the answer that it had no effect.
EFFECT: Final = "x-effect"
NO_EFFECT: Final = "none"

#: ``x-reason`` of a message whose attempts all failed.
FAILED: Final = "failed"

_DELAYS: Final = tuple(RETRY_DELAYS)
_ERROR_LETTERS: Final = 500
_HISTORY: Final = 10
_HISTORY_ERROR_LETTERS: Final = 200
_ALARM_SECONDS: Final = 60.0
_COUNT_SECONDS: Final = 15.0
_REPLAYED_MAX: Final = 1_000_000
_KEY_BYTES: Final = 255
#: Bytes kept of a body that is too large to be parked.
TRUNCATED_BYTES: Final = 1024


class Attempt(msgspec.Struct, frozen=True):
    """One failure in ``x-attempts``.

    Attributes:
        at: Unix milliseconds.
        where: The function and line that raised it; empty if it was not raised in project code.
    """

    at: int
    error: str
    where: str = ""


_ATTEMPTS: Final = msgspec.json.Decoder(list[Attempt])


def exchanges(service: str) -> list[Exchange]:
    """The fanout exchanges in front of a service's retry and dead queues."""
    names = [dead_queue(service), *(retry_queue(service, delay) for delay in RETRY_DELAYS)]
    return [Exchange(name, ExchangeType.FANOUT) for name in names]


def queues(service: str, max_length: int) -> list[Queue]:
    """A service's retry and dead queues. A retry queue dead-letters by routing key, which is a queue's name."""
    dead = dead_queue(service)
    return [
        Queue(name=dead, bindings=[Binding(dead, "#")], max_length=max_length, delivery_limit=UNLIMITED),
        *(
            Queue(
                name=retry_queue(service, delay),
                bindings=[Binding(retry_queue(service, delay), "#")],
                max_length=max_length,
                message_ttl_ms=milliseconds,
                dead_letter_exchange="",
            )
            for delay, milliseconds in RETRY_DELAYS.items()
        ),
    ]


def attempts(headers: Mapping[str, Any]) -> int:
    """Number of failed attempts, clamped to 0 … number of delays, because a sender may write anything there."""
    return min(number(headers, ATTEMPT), len(_DELAYS))


def number(headers: Mapping[str, Any], name: str) -> int:
    """An integer header; 0 if it is not an integer or is negative."""
    count = headers.get(name)
    return max(count, 0) if isinstance(count, int) and not isinstance(count, bool) else 0


def history(headers: Mapping[str, Any]) -> list[Attempt]:
    """The last failures of a message, oldest first; empty if the header cannot be read."""
    told = headers.get(ATTEMPTS)
    try:
        known = _ATTEMPTS.decode(told) if isinstance(told, str) else []
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        return []
    return [
        Attempt(one.at, one.error[:_HISTORY_ERROR_LETTERS], one.where[:_HISTORY_ERROR_LETTERS])
        for one in known[-_HISTORY:]
    ]


class Failures:
    """Publishes failed items to the retry and dead queues of one service."""

    def __init__(self, broker: Broker, service: str, telemetry: Telemetry) -> None:
        self._broker = broker
        self._service = service
        self._retried = telemetry.counter("messages_retried", "Messages sent to a retry queue")
        self._parked = telemetry.counter("messages_parked", "Messages parked in the dead queue")
        self._refusing: dict[str, int] = {}
        self._alarmed_at: dict[str, float] = {}
        telemetry.gauge(
            "parking_blocked",
            "Messages that cannot be parked or retried because a queue is full: the service waits",
            lambda: sum(self._refusing.values()),
        )
        self._waiting = 0
        telemetry.gauge("dead_letters_waiting", "Messages parked in the dead queue", lambda: self._waiting)

    @property
    def blocked(self) -> bool:
        """Whether the service waits for room in one of its retry and dead queues."""
        return bool(self._refusing)

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
        if attempt > len(_DELAYS):
            await self.park(delivery, item, reason, error, traceparent, sender=sender)
            return True
        delay = _DELAYS[attempt - 1]
        message = self._message(delivery, item, error, traceparent, sender, {ATTEMPT: attempt})
        try:
            await self._publish(retry_queue(self._service, delay), delivery.queue, message)
        except Unpublishable:
            await self.park(delivery, item, reason, error, traceparent, sender=sender)
            return True
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
        message = self._message(delivery, item, error, traceparent, sender, more)
        try:
            await self._publish(dead_queue(self._service), delivery.queue, message)
        except Unpublishable:
            log.error("parked_in_part", queue=delivery.queue, bytes=len(item), kept=TRUNCATED_BYTES)
            message = replace(message, body=item[:TRUNCATED_BYTES])
            await self._publish(dead_queue(self._service), delivery.queue, message)
        self._parked.add(1)
        if quiet:
            return
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
                async with self._broker.browse(dead_queue(self._service)) as parked:
                    self._waiting = parked.waiting
            await asyncio.sleep(_COUNT_SECONDS)

    async def _publish(self, exchange: str, queue: str, message: Message) -> None:
        refused = False
        try:
            async for attempt in tenacity.AsyncRetrying(
                wait=tenacity.wait_random_exponential(multiplier=0.2, max=5),
                retry=tenacity.retry_if_exception(_passes),
            ):
                with attempt:
                    try:
                        await self._broker.publish(exchange, queue, message, mandatory=True)
                    except PublishRefused:
                        if not refused:
                            refused = True
                            self._refusing[exchange] = self._refusing.get(exchange, 0) + 1
                        self._raise_alarm(exchange)
                        raise
        finally:
            if refused:
                self._refusing[exchange] -= 1
                if not self._refusing[exchange]:
                    del self._refusing[exchange]

    def _raise_alarm(self, full: str) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._alarmed_at.get(full, -_ALARM_SECONDS) >= _ALARM_SECONDS:
            self._alarmed_at[full] = now
            log.error(
                "parking_blocked",
                queue=full,
                remedy=f"the service waits until there is room: towpath dead-letters list {self._service}",
            )

    def _message(
        self,
        delivery: Delivery,
        item: bytes,
        error: BaseException,
        traceparent: str | None,
        sender: str | None,
        more: Mapping[str, HeaderValue],
    ) -> Message:
        known = delivery.headers
        first, replayed = number(known, FIRST_FAILED_AT), min(number(known, REPLAYED), _REPLAYED_MAX)
        told, now = describe_error(error), now_ms()
        this = Attempt(now, told[:_HISTORY_ERROR_LETTERS], _where(error.__traceback__))
        headers: dict[str, HeaderValue] = {
            FIRST_FAILED_AT: first if 0 < first <= now else now,
            ERROR: told[:_ERROR_LETTERS],
            ATTEMPTS: msgspec.json.encode([*history(known), this][-_HISTORY:]).decode(),
            QUEUE: delivery.queue,
            ROUTING_KEY: _key(known.get(ROUTING_KEY)) or delivery.routing_key,
            **more,
        }
        if replayed:
            headers[REPLAYED] = replayed
        if sender:
            headers[senders.SENDER] = sender
        if traceparent and trace_id(traceparent):
            headers["traceparent"] = traceparent
        return Message(
            body=item, type="failed", app_id=delivery.app_id or "", headers=headers, as_received=True
        )


def _key(told: Any) -> str:
    """The routing key in a header; empty if it is not a valid key."""
    return told if isinstance(told, str) and len(told.encode("utf-8", "replace")) <= _KEY_BYTES else ""


def _passes(error: BaseException) -> bool:
    """Whether a publish that failed with this error may succeed later."""
    return isinstance(error, BrokerError) and not isinstance(error, Unpublishable)


def _where(traceback: TracebackType | None) -> str:
    """The function and line that raised the error, in one line."""
    if traceback is None:
        return ""
    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    frame = traceback.tb_frame
    return f"{frame.f_globals.get('__name__', '?')}.{frame.f_code.co_name}:{traceback.tb_lineno}"[:200]
