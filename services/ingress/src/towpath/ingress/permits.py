"""Permits: which domains RabbitMQ lets the ingress publish events of.

The account of the ingress may publish events of known domains only, and an API key for all events leaves the domain
to its owner. RabbitMQ closes the channel of a publish that it refuses, with the publishes of all other keys in flight
on it: so the first event of a domain waits for a question on a channel of its own.

Guarantees: one question at a time, however many domains are sent. A domain that RabbitMQ allowed is not asked for
again. At most :data:`REFUSED_MAX` refused domains are remembered, the oldest forgotten first.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Final

from towpath.protocol.routes import EVENTS
from towpath.servicekit.broker.interface import Broker

REFUSED_MAX: Final = 1_000
#: Allowed domains that are remembered; past it they are asked for again.
_ALLOWED_MAX: Final = 1_000


class Permits:
    """The answers of RabbitMQ, each asked for once.

    Args:
        refused_for: Seconds until a refused domain is asked for again.
        clock: Seconds of a clock that never goes back.
    """

    def __init__(
        self, broker: Broker, refused_for: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._broker = broker
        self._refused_for = refused_for
        self._clock = clock
        self._allowed: set[str] = set()
        self._refused: dict[str, float] = {}
        self._asking = asyncio.Lock()

    async def allow(self, action: str) -> bool:
        """Whether RabbitMQ takes events of the domain of ``action``.

        Raises:
            BrokerError: It cannot be asked now.
        """
        domain = action.partition(".")[0]
        if (known := self._known(domain)) is not None:
            return known
        async with self._asking:
            # Another request may have asked meanwhile.
            if (known := self._known(domain)) is not None:
                return known
            if not await self._broker.may_publish(EVENTS, action):
                self._refused.pop(domain, None)
                self._refused[domain] = self._clock() + self._refused_for
                if len(self._refused) > REFUSED_MAX:
                    del self._refused[next(iter(self._refused))]
                return False
            if len(self._allowed) >= _ALLOWED_MAX:
                self._allowed.clear()
            self._allowed.add(domain)
            return True

    def _known(self, domain: str) -> bool | None:
        if domain in self._allowed:
            return True
        return False if self._refused.get(domain, 0.0) > self._clock() else None
