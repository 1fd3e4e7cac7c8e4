"""Announcements (``service.alive``): a replica announces itself, and detects another owner of its domain.

Gateways know no action of a service. From these announcements they learn which actions cost more than a plain
message, and charge the sender's rate limit for it. Services read them too: two services that are bound to the same
commands would both handle each request, and the sender would get two answers. RabbitMQ does not prevent that.

Guarantees:

* Announced at once, then every ``alive_interval`` seconds, and after the broker link was rebuilt. An announcement
  that the broker does not accept is not repeated: the next one has the same content.
* A service with another name and the same domain, or with another domain and the same name (and so the same queues),
  is detected at its next announcement: the conflict is logged once a minute, and neither service is ready until the
  other has been silent for three intervals.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping
from typing import Final

import structlog

from towpath.protocol.envelope import make, parse
from towpath.protocol.routes import EVENTS, SERVICE_ALIVE
from towpath.protocol.services import MIN_COST, ServiceAlive
from towpath.servicekit.broker.interface import Binding, Broker, BrokerError, Inbox, Message
from towpath.servicekit.messaging.inboxes import listen

log = structlog.get_logger(__name__)

_TIMEOUT: Final = 5.0
_SILENT_INTERVALS: Final = 3
_LOG_SECONDS: Final = 60.0


class Announcer:
    """Announces one replica. Run :meth:`step` with :func:`towpath.servicekit.runtime.loops.keep_running`.

    Args:
        costs: Action → the cost of one request; 1 is a plain message.
        interval: Seconds between two announcements.
    """

    def __init__(
        self, broker: Broker, service: str, domain: str, costs: Mapping[str, float], *, interval: float
    ) -> None:
        self._broker = broker
        self._service = service
        self._interval = interval
        self._data = announcement(service, domain, costs).model_dump()
        self._rebuilt = asyncio.Event()
        broker.on_rebuilt(self._rebuilt.set)

    async def step(self) -> None:
        """Announce once, then wait until it is time for the next one."""
        # Cleared before the publish: a rebuild during it makes the wait below end at once.
        self._rebuilt.clear()
        message = Message(
            body=make(SERVICE_ALIVE, self._data).to_json(),
            persistent=False,
            type="envelope",
            app_id=self._service,
        )
        with contextlib.suppress(BrokerError):
            await self._broker.publish(EVENTS, SERVICE_ALIVE, message, timeout=_TIMEOUT)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._interval):
                await self._rebuilt.wait()


def announcement(service: str, domain: str, costs: Mapping[str, float]) -> ServiceAlive:
    """The ``service.alive`` announcement of a service."""
    expensive = {action: cost for action, cost in costs.items() if cost != MIN_COST}
    return ServiceAlive(service=service, domain=domain, costs=expensive)


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
        if same_name == same_domain:  # A replica of this service, or an unrelated service.
            return
        self._claimed_at = now = self._clock()
        if now - self._logged_at >= _LOG_SECONDS:
            self._logged_at = now
            log.error(
                "domain_has_two_owners" if same_domain else "service_name_taken_twice",
                other_service=alive.service,
                other_domain=alive.domain,
                remedy="stop one of them: requests go to both",
            )

    async def listen(self, broker: Broker) -> None:
        """Process the announcements of all services until cancelled or the broker is closed."""
        inbox = Inbox(name=f"{self._service}.owners", bindings=[Binding(EVENTS, SERVICE_ALIVE)])
        await listen(
            broker, inbox, lambda item: self.announced(ServiceAlive.model_validate(parse(item).data))
        )
