"""What becomes of a message that could not be handled: it waits and comes back, or it is parked.

Never requeued as a retry: it is published again with a confirm, into a queue of fixed delay (5 s, 30 s, 2 min,
10 min) that hands it back to where it came from; after the last it is parked in ``<service>.dead``. The original
is acked only after that confirm, so a crash in between repeats, and loses nothing.

Headers: ``x-attempt`` (tries so far), ``x-first-failed-at`` (Unix ms), ``x-error``, ``x-reason``, ``x-queue``,
``x-routing-key``, ``traceparent``.
"""

from collections.abc import Mapping
from typing import Any, Final

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
    Queue,
)
from towpath.servicekit.telemetry import Telemetry

log = structlog.get_logger(__name__)

DELIVERY_LIMIT: Final = 20
ATTEMPT: Final = "x-attempt"
_DELAYS: Final = tuple(RETRY_DELAYS)


def exchanges(service: str) -> list[Exchange]:
    """The fanout exchanges in front of a service's retry and dead queues."""
    names = [dead_queue(service), *(retry_queue(service, delay) for delay in RETRY_DELAYS)]
    return [Exchange(name, ExchangeType.FANOUT) for name in names]


def queues(service: str, max_length: int) -> list[Queue]:
    """A service's retry and dead queues. What leaves a retry queue goes by its routing key, a queue's name."""
    dead = dead_queue(service)
    return [
        Queue(name=dead, bindings=[Binding(dead, "#")], max_length=max_length),
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
    """How often this has failed already."""
    count = headers.get(ATTEMPT, 0)
    return count if isinstance(count, int) else 0


class Failures:
    """Publishes failed items to the retry and dead queues of one service."""

    def __init__(self, broker: Broker, service: str, telemetry: Telemetry) -> None:
        self._broker = broker
        self._service = service
        self._retried = telemetry.counter("messages_retried", "Messages sent to a retry queue")
        self._parked = telemetry.counter("messages_parked", "Messages parked in the dead queue")

    async def retry(
        self, delivery: Delivery, item: bytes, error: BaseException, traceparent: str | None
    ) -> bool:
        """Let ``item`` come back later, or park it after the last delay; true if it was parked.

        Returns once the broker has it in the other queue, however long that takes.
        """
        attempt = attempts(delivery.headers) + 1
        if attempt > len(_DELAYS):
            await self.park(delivery, item, f"failed {attempt} times", error, traceparent)
            return True
        name = retry_queue(self._service, _DELAYS[attempt - 1])
        message = self._message(delivery, item, error, traceparent, {ATTEMPT: attempt})
        await self._publish(name, delivery.queue, message)
        self._retried.add(1)
        log.warning("retry_later", queue=delivery.queue, delay=_DELAYS[attempt - 1], error=repr(error)[:300])
        return False

    async def park(
        self,
        delivery: Delivery,
        item: bytes,
        reason: str,
        error: BaseException,
        traceparent: str | None = None,
    ) -> None:
        """Put ``item`` aside for a person to look at; returns once the broker has it there."""
        name = dead_queue(self._service)
        message = self._message(
            delivery, item, error, traceparent, {ATTEMPT: attempts(delivery.headers), "x-reason": reason}
        )
        await self._publish(name, delivery.queue, message)
        self._parked.add(1)
        log.error("parked", queue=delivery.queue, reason=reason, error=repr(error)[:300])

    async def _publish(self, exchange: str, queue: str, message: Message) -> None:
        async for attempt in tenacity.AsyncRetrying(
            wait=tenacity.wait_random_exponential(multiplier=0.2, max=5),
            retry=tenacity.retry_if_exception_type(BrokerError),
        ):
            with attempt:
                await self._broker.publish(exchange, queue, message, mandatory=True)

    def _message(
        self,
        delivery: Delivery,
        item: bytes,
        error: BaseException,
        traceparent: str | None,
        more: Mapping[str, HeaderValue],
    ) -> Message:
        first = delivery.headers.get("x-first-failed-at")
        headers: dict[str, HeaderValue] = {
            "x-first-failed-at": first if isinstance(first, int) else now_ms(),
            "x-error": f"{type(error).__name__}: {error}"[:500],
            "x-queue": delivery.queue,
            "x-routing-key": str(delivery.headers.get("x-routing-key") or delivery.routing_key),
            **more,
        }
        if traceparent:
            headers["traceparent"] = traceparent
        return Message(body=item, type="failed", app_id=delivery.app_id or "", headers=headers)
