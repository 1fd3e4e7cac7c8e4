"""The inbox probe: a replica sends itself a message through the broker to check that its inbox works.

A connection may look healthy while no message arrives: the inbox is a ghost (known to the cluster, served by no
node), its binding is lost, or its consumer is stuck. Heartbeats do not detect that. A probe to
``connection.<id>.<probe>`` that does not return within the limit does: the link to the broker is rebuilt, with a new
inbox, and clients resume. Before each probe one message is sent over every other route
(:meth:`~towpath.gateway.inbox.routing.Routing.routes`): if the probe returns without one of them, that binding is
lost. This works because RabbitMQ keeps the order of one channel's publishes.

Guarantees: a lost inbox is found within ``probe_interval`` + ``probe_timeout``. These do not count as a loss:

1. A blocked or disconnected broker: the link detects both.
2. A slow broker: while messages arrive, the probe is queued behind them.
3. A late event loop of this replica: the probe may wait to be read. Three times in a row at most, or a replica that
   is always late would never be repaired.
4. One probe that RabbitMQ does not confirm: the broker is slow, paused or cut off, so it proves nothing about the
   inbox. The second in a row counts as a loss of the connection.

A probe is an empty batch under a key of its own, ``probe-`` and a random number being its last word: so a gateway may
be allowed to publish probes, and no push (docs/adr/0026). Replicas of every version ignore it.
"""

import asyncio
import secrets
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Final

import structlog

from towpath.gateway.inbox.routing import Route
from towpath.gateway.settings import GatewaySettings
from towpath.protocol.routes import EVERYONE, PUSH, connection_key
from towpath.servicekit.broker.interface import (
    Broker,
    BrokerBlocked,
    BrokerError,
    BrokerState,
    BrokerUnavailable,
    Lost,
    Message,
    OnLoss,
    Unroutable,
)
from towpath.servicekit.runtime.telemetry import Telemetry

log = structlog.get_logger(__name__)

#: The event loop was late if it was blocked for this share of the limit in total.
_LATE_SHARE: Final = 0.2
#: Probes in a row that a late event loop excuses.
_LATE_MAX: Final = 3
#: Seconds between two ticks that measure how late the event loop is.
_TICK: Final = 0.05
_SLACK: Final = 0.01  # Tolerance of one tick: timers have a resolution of 1 ms.
_EMPTY: Final = Message(body=b"[]", persistent=False)


class Probe:
    """Monitors one inbox: it is notified of arrivals, and sends probes.

    Args:
        routes: Returns the routes into the inbox, built with a word that is not a user or group id.
        found: Called with each loss that is found.
    """

    def __init__(
        self,
        broker: Broker,
        routes: Callable[[str], Sequence[Route]],
        settings: GatewaySettings,
        telemetry: Telemetry,
        found: OnLoss,
    ) -> None:
        self._broker = broker
        self._key = connection_key(settings.gateway_id)
        self._interval = settings.probe_interval
        self._limit = settings.probe_timeout
        self._routes = routes
        self._found = found
        self._unconfirmed = 0
        self._late = 0  # Consecutive probes excused by a late loop.
        self._awaited: set[str] = set()
        self._last = ""
        self._returned = asyncio.Event()
        self._arrived = False
        broker.on_rebuilt(self._forget)
        self._round_trip = telemetry.histogram("probe_round_trip", "Time of a probe through the broker")
        self._lost = telemetry.counter(
            "probes_lost", "Probes that did not return, after which the link was rebuilt"
        )

    def arrived(self) -> None:
        """Record an arrival in the inbox."""
        self._arrived = True

    def received(self, key: str) -> None:
        """Record an arrival that may be a probe: under a key that addresses no connection, or a control key."""
        if key in self._awaited:
            self._awaited.discard(key)
            if key == self._last:
                self._returned.set()

    async def run(self) -> None:
        """Probe periodically until cancelled."""
        while True:
            await asyncio.sleep(self._interval)
            # A broker that cannot be reached is the link's concern, and would make every probe late.
            if self._broker.state is BrokerState.READY:
                await self.once()

    async def once(self) -> None:
        """Probe once; returns when the result is known."""
        word = f"probe-{secrets.token_hex(8)}"
        routes = [*self._routes(word), Route(f"{EVERYONE}.{word}", lambda: True)]
        self._last = f"{self._key}.{word}"
        self._awaited = {*(route.key for route in routes), self._last}
        self._returned.clear()
        self._arrived = False
        started, is_confirmed = perf_counter(), False
        loop_clock = _LoopClock()
        try:
            async with asyncio.timeout(self._limit):
                # RabbitMQ keeps the order of one channel's publishes to one queue, and the probe itself is the last:
                # https://www.rabbitmq.com/docs/semantics#ordering
                for key in (*(route.key for route in routes), self._last):
                    await self._broker.publish(PUSH, key, _EMPTY, mandatory=True)
                self._unconfirmed, is_confirmed = 0, True
                await self._returned.wait()
        except (BrokerBlocked, BrokerUnavailable):
            return  # Case 1.
        except Unroutable:
            self._give_up(Lost.BINDING, "the inbox is bound to nothing")
        except (BrokerError, TimeoutError) as error:
            if self._broker.state is not BrokerState.READY:
                return  # Case 1.
            if loop_clock.late >= _LATE_SHARE * self._limit and self._late < _LATE_MAX:  # Case 3.
                self._late += 1
                log.warning(
                    "probe_inconclusive_loop_late", limit_s=self._limit, late_s=round(loop_clock.late, 3)
                )
                return
            self._unconfirmed += not is_confirmed
            if self._arrived or self._unconfirmed == 1:  # Cases 2 and 4.
                log.info("probe_late", limit_s=self._limit, confirmed=is_confirmed)
            else:
                how = f"the inbox got nothing for {self._limit:g} s ({str(error) or 'confirmed'})"
                self._give_up(Lost.CONSUMER if is_confirmed else Lost.CONNECTION, how)
        else:
            self._late = 0
            # A route that the routing has changed meanwhile proves nothing.
            lost = [route.key for route in routes if route.key in self._awaited and route.holds()]
            if lost:
                self._give_up(Lost.BINDING, f"the inbox gets nothing for {', '.join(lost)}")
            else:
                self._round_trip.record(perf_counter() - started)
        finally:
            loop_clock.stop()

    def _forget(self) -> None:
        # A probe to the old inbox proves nothing about the new one.
        self._awaited.clear()
        self._unconfirmed = 0
        self._returned.set()

    def _give_up(self, what: Lost, reason: str) -> None:
        self._lost.add(1)
        self._found(what, reason)
        self._broker.rebuild(reason)


class _LoopClock:
    """Measures the delay of the event loop, from construction until :meth:`stop`.

    Attributes:
        late: Total seconds by which ticks were late.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.late = 0.0
        self._tick_at(self._loop.time() + _TICK)

    def stop(self) -> None:
        self._timer.cancel()

    def _tick_at(self, due: float) -> None:
        self._timer = self._loop.call_at(due, self._tick, due)

    def _tick(self, due: float) -> None:
        now = self._loop.time()
        if now - due > _SLACK:
            self.late += now - due
        self._tick_at(now + _TICK)
