"""The probe: a replica asks itself through the broker whether its inbox still gets what is sent to it.

A connection may look well while nothing comes any more: the inbox is a ghost (known to the cluster, served by no
node), its binding is lost, its consumer is stuck. Heartbeats do not see that. What is sent to ``connection.<id>``
and does not come back within the limit does: the link to the broker is made anew, with a fresh inbox, and clients
are told to resume. Before each probe goes one along each other way in
(:meth:`~towpath.gateway.routing.Routing.ways`): if the last comes back without one of them, that binding is lost.
(``everyone`` is everyone's: what goes along that is an empty batch.)

Guarantees: a lost inbox is found within ``probe_interval`` + ``probe_timeout``. A broker that is blocked or away is
not taken for a lost inbox, nor is one that is only slow: while anything arrives, the probe is behind it. Nor is a
late event loop of this replica: what came back may wait to be read (three times in a row at most). A probe that
RabbitMQ does not even confirm says nothing about the inbox (the broker is slow, paused or cut off, which the link
finds out by itself): only the second in a row is taken for a loss. A probe is a directed item for a connection that
nobody has, which every replica, of whatever version, passes over.
"""

import asyncio
import secrets
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Final

import structlog

from towpath.gateway.routing import Way
from towpath.gateway.settings import GatewaySettings
from towpath.protocol.messages import Directed, encode
from towpath.protocol.routes import EVERYONE, PUSH, connection_key
from towpath.servicekit.broker.deafness import Lost, OnDeaf
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

#: The event loop was late if it was held up for this share of the limit, all in all.
_LATE_SHARE: Final = 0.2
_LATE_MAX: Final = 3
_TICK: Final = 0.05
_SLACK: Final = 0.01  # a tick may be so late: timers have a resolution of 1 ms
_EMPTY: Final = Message(body=b"[]", persistent=False)


class Probe:
    """Watches over one inbox: told what arrives in it, and sends to it.

    Args:
        ways: Gives the ways into the inbox, made with a word that is no user's and no group's.
        found: Called with what was lost.
    """

    def __init__(
        self,
        broker: Broker,
        ways: Callable[[str], Sequence[Way]],
        settings: GatewaySettings,
        telemetry: Telemetry,
        found: OnDeaf,
    ) -> None:
        self._broker = broker
        self._key = connection_key(settings.gateway_id)
        self._interval = settings.probe_interval
        self._limit = settings.probe_timeout
        self._ways = ways
        self._found = found
        self._unconfirmed = 0
        self._late = 0  # probes in a row that a late loop excused
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
        ways = self._ways(connection_id)
        keys = [way.key for way in ways]
        self._awaited, self._last = {*keys, EVERYONE, connection_id}, connection_id
        self._came_back.clear()
        self._arrived = False
        message = Message(body=encode(Directed(connection_id=connection_id)), persistent=False)
        started, is_confirmed = perf_counter(), False
        loop_clock = _LoopClock()
        try:
            async with asyncio.timeout(self._limit):
                await self._broker.publish(PUSH, EVERYONE, _EMPTY, mandatory=True)
                for key in (*keys, self._key):
                    await self._broker.publish(PUSH, key, message, mandatory=True)
                self._unconfirmed, is_confirmed = 0, True
                await self._came_back.wait()
        except (BrokerBlocked, BrokerUnavailable):
            return
        except Unroutable:
            self._give_up(Lost.BINDING, "the inbox is bound to nothing")
        except (BrokerError, TimeoutError) as error:
            if self._broker.state is not BrokerState.READY:
                return
            if loop_clock.late >= _LATE_SHARE * self._limit and self._late < _LATE_MAX:
                self._late += 1
                log.warning("probe_of_late_loop", limit_s=self._limit, late_s=round(loop_clock.late, 3))
                return
            self._unconfirmed += not is_confirmed
            if self._arrived or self._unconfirmed == 1:
                log.info("probe_late", limit_s=self._limit, confirmed=is_confirmed)
            else:
                how = f"the inbox got nothing for {self._limit:g} s ({str(error) or 'confirmed'})"
                self._give_up(Lost.CONSUMER if is_confirmed else Lost.CONNECTION, how)
        else:
            self._late = 0
            lost = [way.key for way in ways if way.key in self._awaited and way.holds()]
            lost += [EVERYONE] if EVERYONE in self._awaited else []
            if lost:
                self._give_up(Lost.BINDING, f"the inbox gets nothing for {', '.join(lost)}")
            else:
                self._round_trip.record(perf_counter() - started)
        finally:
            loop_clock.stop()

    def _forget(self) -> None:
        # A probe to the inbox of before has nothing to say of the new one.
        self._awaited.clear()
        self._unconfirmed = 0
        self._came_back.set()

    def _give_up(self, what: Lost, reason: str) -> None:
        self._lost.add(1)
        self._found(what, reason)
        self._broker.rebuild(reason)


class _LoopClock:
    """Measures by how much the event loop is late, from its making until :meth:`stop`.

    Attributes:
        late: Seconds by which ticks came too late, all in all.
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
