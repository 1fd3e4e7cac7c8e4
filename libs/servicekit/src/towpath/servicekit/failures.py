"""What becomes of a message that could not be handled: it waits and comes back, or it is parked.

Never requeued as a retry: it is published again with a confirm, into a queue of fixed delay (5 s, 30 s, 2 min,
10 min) that hands it back to where it came from; after the last it is parked in ``<service>.dead``. The original
is acked only after that confirm, so a crash in between repeats, and loses nothing. A queue that takes no more holds
its service up, for anything else would lose messages; that is logged once a minute, and to be seen from outside.

Headers: ``x-attempt`` (tries so far), ``x-attempts`` (when, why and where the last ones failed),
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
from towpath.servicekit import senders
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
from towpath.servicekit.telemetry import Telemetry, trace_id
from towpath.servicekit.wording import in_words

log = structlog.get_logger(__name__)

DELIVERY_LIMIT: Final = 20
#: Whoever looks at what is parked takes it and gives it back, which must never use it up.
UNLIMITED: Final = 1_000_000_000
ATTEMPT: Final = "x-attempt"
ATTEMPTS: Final = "x-attempts"
FIRST_FAILED_AT: Final = "x-first-failed-at"
ERROR: Final = "x-error"
REASON: Final = "x-reason"
QUEUE: Final = "x-queue"
ROUTING_KEY: Final = "x-routing-key"
REPLAYED: Final = "x-replayed"
#: ``none`` on a command whose sender was answered that it had no effect.
EFFECT: Final = "x-effect"
NO_EFFECT: Final = "none"

#: The word for what failed each time, in ``x-reason``.
FAILED: Final = "failed"

_DELAYS: Final = tuple(RETRY_DELAYS)
_ERROR_LETTERS: Final = 500
_HISTORY: Final = 10
_HISTORY_ERROR_LETTERS: Final = 200
_ALARM_SECONDS: Final = 60.0
_COUNT_SECONDS: Final = 15.0
_REPLAYED_MAX: Final = 1_000_000
_KEY_BYTES: Final = 255
#: What is kept of a body that is too large for the broker to be parked.
KEPT_BYTES: Final = 1024


class Attempt(msgspec.Struct, frozen=True):
    """One failure, as ``x-attempts`` tells of it.

    Attributes:
        at: Unix milliseconds.
        where: The function and line that raised it; empty when no code of ours did.
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
    """A service's retry and dead queues. What leaves a retry queue goes by its routing key, a queue's name."""
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
    """How often this has failed already: a sender may write anything there, so it is between 0 and all delays."""
    return min(number(headers, ATTEMPT), len(_DELAYS))


def number(headers: Mapping[str, Any], name: str) -> int:
    """A header that counts something; 0 where it is no whole number, or below 0."""
    count = headers.get(name)
    return max(count, 0) if isinstance(count, int) and not isinstance(count, bool) else 0


def history(headers: Mapping[str, Any]) -> list[Attempt]:
    """The last failures of this, oldest first; none where the header says nothing that can be read."""
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
            "Messages that cannot be parked or retried, as a queue is full: the service waits",
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
        """Let ``item`` come back later, or park it after the last delay; true if it was parked.

        Returns once the broker has it in the other queue, however long that takes.
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
            error=in_words(error, 300),
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
        """Put ``item`` aside for a person to look at; returns once the broker has it there.

        Args:
            sender: Who published it, where it is an event that is known to be one's.
            without_effect: A command whose sender is answered that it has none.
            quiet: The caller logs it.
        """
        more: dict[str, HeaderValue] = {ATTEMPT: attempts(delivery.headers), REASON: reason}
        if without_effect:
            more[EFFECT] = NO_EFFECT
        message = self._message(delivery, item, error, traceparent, sender, more)
        try:
            await self._publish(dead_queue(self._service), delivery.queue, message)
        except Unpublishable:
            log.error("parked_in_part", queue=delivery.queue, bytes=len(item), kept=KEPT_BYTES)
            message = replace(message, body=item[:KEPT_BYTES])
            await self._publish(dead_queue(self._service), delivery.queue, message)
        self._parked.add(1)
        if quiet:
            return
        log.error(
            "parked",
            queue=delivery.queue,
            reason=reason,
            error=in_words(error, 300),
            trace_id=trace_id(traceparent),
        )

    async def keep_count(self) -> None:
        """Look again and again how much is parked, for the gauge; until cancelled."""
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
                remedy=f"nothing goes on until there is room: towpath dead-letters list {self._service}",
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
        told, now = in_words(error), now_ms()
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
    """A routing key from a header, if it can be one."""
    return told if isinstance(told, str) and len(told.encode("utf-8", "replace")) <= _KEY_BYTES else ""


def _passes(error: BaseException) -> bool:
    """Whether a publish that failed so may succeed later."""
    return isinstance(error, BrokerError) and not isinstance(error, Unpublishable)


def _where(traceback: TracebackType | None) -> str:
    """Where it was raised, as far as that is told in a line."""
    if traceback is None:
        return ""
    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    frame = traceback.tb_frame
    return f"{frame.f_globals.get('__name__', '?')}.{frame.f_code.co_name}:{traceback.tb_lineno}"[:200]
