"""What services send: answers and pushes to gateways, events to whoever listens.

Guarantees: what is queued leaves in order, and who queued it is told when the broker has it.
An answer whose gateway is away for a moment (it makes a new inbox after each reconnect) is kept and tried again
until ``answer_patience`` is over; after that its gateway is taken for dead: its people reconnect elsewhere, and ask
again with the same ``msg_id``.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import structlog

from towpath.protocol.messages import Directed, Session, encode
from towpath.protocol.routes import EVENTS, PUSH, connection_key, control_key
from towpath.servicekit.broker.interface import Broker, BrokerError, Unroutable
from towpath.servicekit.lanes import Lanes, Settle
from towpath.servicekit.loops import failures_of, keep_running
from towpath.servicekit.outcome import Outgoing
from towpath.servicekit.settings import ServiceSettings
from towpath.servicekit.telemetry import Telemetry

log = structlog.get_logger(__name__)

_LATE_PAUSE: Final = 0.5
_LATE_MAX: Final = 10_000

Sending = asyncio.Future[None]


class Publisher:
    """A service's way out; made with :meth:`open`."""

    def __init__(
        self, answers: Lanes, pushes: Lanes, events: Lanes, patience: float, telemetry: Telemetry
    ) -> None:
        self._answers = answers
        self._lanes = {PUSH: pushes, EVENTS: events}
        self._patience = patience
        self._late: deque[tuple[float, str, bytes]] = deque(maxlen=_LATE_MAX)
        self._late_arrived = asyncio.Event()
        self._dropped = telemetry.counter("answers_dropped", "Answers whose gateway did not come back")

    @classmethod
    @asynccontextmanager
    async def open(
        cls, broker: Broker, service: str, settings: ServiceSettings, telemetry: Telemetry
    ) -> AsyncIterator["Publisher"]:
        """A publisher that is flushed on exit."""
        async with (
            Lanes.open(
                broker, PUSH, settings, telemetry, persistent=False, mandatory=True, app_id=service
            ) as answers,
            Lanes.open(
                broker, PUSH, settings, telemetry, persistent=False, mandatory=False, app_id=service
            ) as pushes,
            Lanes.open(
                broker, EVENTS, settings, telemetry, persistent=True, mandatory=False, app_id=service
            ) as events,
        ):
            publisher = cls(answers, pushes, events, settings.answer_patience, telemetry)
            running = keep_running(
                "late answers",
                publisher._deliver_late,
                pause=_LATE_PAUSE,
                failed=failures_of("late answers", telemetry),
            )
            late = asyncio.create_task(running, name=f"{service}: late answers")
            try:
                yield publisher
            finally:
                late.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await late

    def send(self, outgoing: Outgoing) -> Sending:
        """Queue a push or an event.

        Raises:
            BrokerError: Nothing was queued.
        """
        return self._lanes[outgoing.exchange].send(outgoing.routing_key, bytes(outgoing.item))

    def post(self, outgoing: Outgoing, settle: Settle) -> None:
        """:meth:`send` for who does not wait for each.

        Raises:
            BrokerError: Nothing was queued.
        """
        self._lanes[outgoing.exchange].post(outgoing.routing_key, bytes(outgoing.item), settle)

    def direct(
        self, session: Session, item: Directed, settle: Settle, traceparent: str | None = None
    ) -> None:
        """Queue an item for one connection; an absent gateway does not fail it, see above.

        Raises:
            BrokerError: Nothing was queued.
        """
        key, body = connection_key(session.gateway_id), encode(item)

        def settled(error: BrokerError | None) -> None:
            if isinstance(error, Unroutable):
                self._keep(key, body)
                error = None
            settle(error)

        self._answers.post(key, body, settled, traceparent)

    def control(self, user_id: str, item: Directed, settle: Settle) -> None:
        """Queue an item for all connections of a user, on all replicas.

        Raises:
            BrokerError: Nothing was queued.
        """
        self._lanes[PUSH].post(control_key(user_id), encode(item), settle)

    def _keep(self, key: str, body: bytes) -> None:
        if len(self._late) == _LATE_MAX:
            self._dropped.add(1)
        self._late.append((asyncio.get_running_loop().time() + self._patience, key, body))
        self._late_arrived.set()

    async def _deliver_late(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._late_arrived.wait()
            self._late_arrived.clear()
            await asyncio.sleep(_LATE_PAUSE)
            waiting = [self._late.popleft() for _ in range(len(self._late))]
            away: set[str] = set()
            for deadline, key, body in waiting:
                if loop.time() > deadline:
                    self._dropped.add(1)
                    log.warning("answer_dropped", gateway=key, waited_s=self._patience)
                    continue
                try:
                    if key not in away:  # one attempt a gateway and round
                        await self._answers.send(key, body)
                        continue
                except BrokerError:
                    away.add(key)
                self._late.append((deadline, key, body))
                self._late_arrived.set()
