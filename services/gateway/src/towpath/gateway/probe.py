"""The probe: a replica asks itself through the broker whether its inbox still gets what is sent to it.

A connection may look well while nothing comes any more: the inbox is a ghost (known to the cluster, served by no
node), its binding is lost, its consumer is stuck. Heartbeats do not see that. What is sent to ``connection.<id>``
and does not come back within the limit does: the link to the broker is made anew, with a fresh inbox, and clients
are told to resume. Before each probe goes one along another way in, a different one each time
(:meth:`~towpath.gateway.routing.Routing.way`): if the second comes back without the first, that binding is lost.
(``everyone`` is everyone's, and not probed.)

Guarantees: a broker that is blocked or away is not taken for a lost inbox, nor is one that is only slow: while
anything arrives, the probe is behind it. A probe is a directed item for a connection that nobody has, which every
replica, of whatever version, passes over.
"""

import asyncio
import secrets
from collections.abc import Callable
from time import perf_counter

import structlog

from towpath.gateway.routing import Way
from towpath.gateway.settings import GatewaySettings
from towpath.protocol.messages import Directed, encode
from towpath.protocol.routes import PUSH, connection_key
from towpath.servicekit.broker.interface import (
    Broker,
    BrokerBlocked,
    BrokerError,
    BrokerState,
    BrokerUnavailable,
    Message,
    Unroutable,
)
from towpath.servicekit.telemetry import Telemetry

log = structlog.get_logger(__name__)


class Probe:
    """Watches over one inbox: told what arrives in it, and sends to it.

    Args:
        way: Gives a way into the inbox, made with a word that is no user's and no group's.
    """

    def __init__(
        self, broker: Broker, way: Callable[[str], Way], settings: GatewaySettings, telemetry: Telemetry
    ) -> None:
        self._broker = broker
        self._key = connection_key(settings.gateway_id)
        self._interval = settings.probe_interval
        self._limit = settings.probe_timeout
        self._way = way
        self._awaited: set[str | None] = set()
        self._last = ""
        self._came_back = asyncio.Event()
        self._arrived = False
        broker.on_rebuilt(self._forget)
        self._round_trip = telemetry.histogram("probe_round_trip", "Time of a probe through the broker")
        self._lost = telemetry.counter("probes_lost", "Probes that did not come back: the link was made anew")

    def arrived(self) -> None:
        """Something arrived in the inbox."""
        self._arrived = True

    def heard(self, whom: str | None) -> None:
        """Something arrived that may be the probe: for a connection or key that nobody here has, or a control key."""
        if whom in self._awaited:
            self._awaited.discard(whom)
            if whom == self._last:
                self._came_back.set()

    async def run(self) -> None:
        """Probe again and again."""
        while True:
            await asyncio.sleep(self._interval)
            if self._broker.state is BrokerState.READY:
                await self.once()

    async def once(self) -> None:
        """Probe now; returns when it is clear how it went."""
        connection_id = f"probe-{secrets.token_hex(8)}"
        way = self._way(connection_id)
        self._awaited, self._last = {way.key, connection_id}, connection_id
        self._came_back.clear()
        self._arrived = False
        message = Message(body=encode(Directed(connection_id=connection_id)), persistent=False)
        started = perf_counter()
        try:
            async with asyncio.timeout(self._limit):
                for key in (way.key, self._key):
                    await self._broker.publish(PUSH, key, message, mandatory=True)
                await self._came_back.wait()
        except (BrokerBlocked, BrokerUnavailable):
            return
        except Unroutable:
            self._give_up("the inbox is bound to nothing")
        except (BrokerError, TimeoutError) as error:
            if self._broker.state is not BrokerState.READY:
                return
            if self._arrived:
                log.info("probe_late", limit_s=self._limit)
            else:
                self._give_up(f"the inbox got nothing for {self._limit:g} s ({str(error) or 'confirmed'})")
        else:
            if self._awaited and way.holds():
                self._give_up(f"the inbox gets nothing for {way.key}")
            else:
                self._round_trip.record(perf_counter() - started)

    def _forget(self) -> None:
        # A probe to the inbox of before has nothing to say of the new one.
        self._awaited.clear()
        self._came_back.set()

    def _give_up(self, reason: str) -> None:
        self._lost.add(1)
        self._broker.rebuild(reason)
