"""Ownership: a domain has one owning service, and a service has actions of its own domain only.

Two services that are bound to the same commands would both handle each request, and the sender would get two answers.
RabbitMQ does not prevent that, so each service listens to the announcements of the others (``service.alive``).

Guarantees: a service whose table has actions that would never be routed to it does not start. A service with another
name and the same domain, or with another domain and the same name (and so the same queues), is found at its next
announcement: the conflict is logged once a minute, and neither service is ready until the other is silent for three
intervals.
"""

import re
import time
from collections.abc import Callable, Iterable
from typing import Final

import structlog
from pydantic import ValidationError

from towpath.protocol.envelope import ACTION_PATTERN, parse
from towpath.protocol.errors import BadEnvelope
from towpath.protocol.messages import split_batch
from towpath.protocol.routes import EVENTS, SERVICE_ALIVE
from towpath.protocol.services import ServiceAlive
from towpath.servicekit.broker.interface import Binding, Broker, Inbox

log = structlog.get_logger(__name__)

#: Domains that gateways answer or refuse themselves; they are never routed to a service.
RESERVED: Final = frozenset({"session", "service"})

_DOMAIN: Final = re.compile(r"[a-z][a-z0-9_]*")
_ACTION: Final = re.compile(ACTION_PATTERN)
_PREFETCH: Final = 100
_SILENT_INTERVALS: Final = 3
_REPEAT: Final = 60.0


class BadService(Exception):
    """The definition of a service is invalid; the text gives the reason."""


def check_domain(service: str, domain: str, actions: Iterable[str]) -> None:
    """Check that all ``actions`` of a service can be routed to it.

    Raises:
        BadService
    """
    if not _DOMAIN.fullmatch(domain) or domain in RESERVED:
        raise BadService(f"the service {service!r} cannot own the domain {domain!r}: take another word")
    for action in actions:
        if not _ACTION.fullmatch(action):
            raise BadService(
                f"the service {service!r} has an action {action!r}: not a valid name, use {domain}.verb"
            )
        if (named := action.partition(".")[0]) != domain:
            raise BadService(
                f"the service {service!r} owns the domain {domain!r} and would never be asked for its action "
                f"{action!r}: name it {domain}.{action.removeprefix(named).lstrip('.')}, or move it to the "
                f"service that owns {named!r}"
            )


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
        self._heard_at = float("-inf")
        self._told_at = float("-inf")

    def is_sole(self) -> bool:
        """Whether no other service has claimed the same domain or name lately."""
        return self._clock() - self._heard_at > self._silence

    def heard(self, alive: ServiceAlive) -> None:
        """Process an announcement of any service, including this service's own replicas."""
        same_name, same_domain = alive.service == self._service, alive.domain == self._domain
        if same_name == same_domain:
            return
        self._heard_at = now = self._clock()
        if now - self._told_at >= _REPEAT:
            self._told_at = now
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
                        self.heard(ServiceAlive.model_validate(parse(item).data))
                except (BadEnvelope, ValidationError, ValueError, RecursionError):
                    pass  # Gateways count and log unreadable announcements.
                finally:
                    delivery.ack()
