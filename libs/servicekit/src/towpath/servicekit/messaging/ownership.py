"""Ownership: a domain has one owning service.

Two services that are bound to the same commands would both handle each request, and the sender would get two answers.
RabbitMQ does not prevent that, so each service listens to the announcements of the others (``service.alive``).

Guarantees: a service with another
name and the same domain, or with another domain and the same name (and so the same queues), is found at its next
announcement: the conflict is logged once a minute, and neither service is ready until the other is silent for three
intervals.
"""

import time
from collections.abc import Callable
from typing import Final

import structlog
from pydantic import ValidationError

from towpath.protocol.envelope import parse
from towpath.protocol.errors import BadEnvelope
from towpath.protocol.messages import split_batch
from towpath.protocol.routes import EVENTS, SERVICE_ALIVE
from towpath.protocol.services import ServiceAlive
from towpath.servicekit.broker.interface import Binding, Broker, Inbox

log = structlog.get_logger(__name__)

_PREFETCH: Final = 100
_SILENT_INTERVALS: Final = 3
_REPEAT: Final = 60.0


class Owners:
    """Detects other owners of the same domain or name; run :meth:`listen` beside the consumer.

    Args:
        interval: Seconds between two announcements.
    """

    def __init__(
        self, service: str, domain: str, *, interval: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._service = service
        self._domain = domain
        self._silence = _SILENT_INTERVALS * interval
        self._clock = clock
        self._claimed_at = float("-inf")
        self._logged_at = float("-inf")

    def is_sole(self) -> bool:
        """Whether no other service has claimed the same domain or name lately."""
        return self._clock() - self._claimed_at > self._silence

    def announced(self, alive: ServiceAlive) -> None:
        """Process an announcement of any service, including this service's own replicas."""
        same_name, same_domain = alive.service == self._service, alive.domain == self._domain
        if same_name == same_domain:
            return
        self._claimed_at = now = self._clock()
        if now - self._logged_at >= _REPEAT:
            self._logged_at = now
            log.error(
                "domain_has_two_owners" if same_domain else "service_name_taken_twice",
                other_service=alive.service,
                other_domain=alive.domain,
                remedy="stop one of them: requests go to both",
            )

    async def listen(self, broker: Broker) -> None:
        """Consume the announcements of services until cancelled or the broker is closed."""
        inbox = Inbox(name=f"{self._service}.owners", bindings=[Binding(EVENTS, SERVICE_ALIVE)])
        async with broker.subscribe(inbox, prefetch=_PREFETCH) as subscription:
            async for delivery in subscription:
                try:
                    for item in split_batch(delivery.body):
                        self.announced(ServiceAlive.model_validate(parse(item).data))
                except (BadEnvelope, ValidationError, ValueError, RecursionError):
                    pass  # Gateways count and log unreadable announcements.
                finally:
                    delivery.ack()
