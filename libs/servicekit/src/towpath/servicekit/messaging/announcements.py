"""Announcements: a replica of a service says that it runs, and what its actions cost.

Gateways know no action of a service. From these announcements they learn which actions cost more than a plain
message, and charge the sender's rate limit for it.

Guarantees: announced at once, then every ``alive_interval`` seconds, and after the broker link was rebuilt. An
announcement that the broker does not accept is not repeated: the next one has the same content.
"""

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Final

from towpath.protocol.envelope import make
from towpath.protocol.routes import EVENTS, SERVICE_ALIVE
from towpath.protocol.services import MIN_COST, ServiceAlive
from towpath.servicekit.broker.interface import Broker, BrokerError, Message

_TIMEOUT: Final = 5.0


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
