"""Ownership: a domain has one owner, and a service has actions of its own domain only.

Two services that are bound to the same commands would both handle each request, and the sender would get two answers.
RabbitMQ does not mind, so each service listens to what the others say of themselves (``service.alive``).

Guarantees: a service whose table names actions that it would never be asked for does not start. A service of another
name that owns the same domain, or of another domain that has the same name (and so the same queues), is found with
its next sign of life: it is logged once a minute, and neither of them is ready until the other is silent for three
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

#: Gateways answer these by themselves, or refuse them; no service is ever asked.
RESERVED: Final = frozenset({"session", "service"})

_DOMAIN: Final = re.compile(r"[a-z][a-z0-9_]*")
_ACTION: Final = re.compile(ACTION_PATTERN)
_PREFETCH: Final = 100
_SILENT_INTERVALS: Final = 3
_REPEAT: Final = 60.0


class BadService(Exception):
    """A service that cannot be run as it is written; the text says what is wrong."""


def check_domain(service: str, domain: str, actions: Iterable[str]) -> None:
    """Make sure that a service can be asked for all ``actions``.

    Raises:
        BadService
    """
    if not _DOMAIN.fullmatch(domain) or domain in RESERVED:
        raise BadService(f"the service {service!r} cannot own the domain {domain!r}: take another word")
    for action in actions:
        if not _ACTION.fullmatch(action):
            raise BadService(
                f"the service {service!r} has an action {action!r}, which is none: name it {domain}.verb"
            )
        if (named := action.partition(".")[0]) != domain:
            raise BadService(
                f"the service {service!r} owns the domain {domain!r} and would never be asked for its action "
                f"{action!r}: name it {domain}.{action.removeprefix(named).lstrip('.')}, or move it to the "
                f"service that owns {named!r}"
            )


class Owners:
    """Who else claims what is ours; run :meth:`listen` beside the consumer.

    Args:
        interval: Seconds between two signs of life.
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
        """Whether nobody else has claimed what is ours lately."""
        return self._clock() - self._heard_at > self._silence

    def heard(self, alive: ServiceAlive) -> None:
        """Take a sign of life of any service, our own replicas included."""
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
        """Hear what services say of themselves; until cancelled, or the broker is closed."""
        inbox = Inbox(name=f"{self._service}.owners", bindings=[Binding(EVENTS, SERVICE_ALIVE)])
        async with broker.subscribe(inbox, prefetch=_PREFETCH) as subscription:
            async for delivery in subscription:
                try:
                    for item in split_batch(delivery.body):
                        self.heard(ServiceAlive.model_validate(parse(item).data))
                except (BadEnvelope, ValidationError, ValueError, RecursionError):
                    pass  # gateways count and log what cannot be read
                finally:
                    delivery.ack()
