"""The publisher of a service: answers and pushes to gateways, events to subscribers.

Guarantees: queued messages are published in order, and their callbacks are called when the broker has confirmed them.
An answer whose gateway is absent for a moment (it makes a new inbox after each reconnect) is kept and retried for
``answer_patience``; after that the gateway counts as dead: its clients reconnect elsewhere, and repeat their requests
with the same ``msg_id``. An unpublishable message is parked or dropped
(:mod:`towpath.servicekit.messaging.unpublishable`), and reported as if the broker had confirmed it; the asking
client gets an error answer. A long list of groups is published as several items.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

import msgspec
import structlog

from towpath.protocol.envelope import make_error
from towpath.protocol.errors import TowpathError
from towpath.protocol.messages import Directed, Session, encode, read_correlation
from towpath.protocol.routes import EVENTS, PUSH, connection_key, control_key
from towpath.servicekit.broker.interface import Broker, BrokerError, Unpublishable, Unroutable
from towpath.servicekit.messaging import senders
from towpath.servicekit.messaging.lanes import Lanes, OnConfirm, resolve_future
from towpath.servicekit.messaging.publication import Publication
from towpath.servicekit.messaging.unpublishable import UnpublishableParker
from towpath.servicekit.runtime.loops import failures_of, keep_running
from towpath.servicekit.runtime.settings import ServiceSettings
from towpath.servicekit.runtime.telemetry import Telemetry

log = structlog.get_logger(__name__)

_LATE_PAUSE: Final = 0.5
_LATE_MAX: Final = 10_000

Sending = asyncio.Future[None]


class Publisher:
    """Publishes all messages of a service; created with :meth:`open`."""

    def __init__(
        self,
        answers: Lanes,
        pushes: Lanes,
        events: Lanes,
        unpublishable: UnpublishableParker,
        settings: ServiceSettings,
        telemetry: Telemetry,
    ) -> None:
        self._answers = answers
        self._lanes = {PUSH: pushes, EVENTS: events}
        self._unpublishable = unpublishable
        self._patience = settings.answer_patience
        self._late: deque[tuple[float, str, bytes]] = deque()
        self._late_bytes = 0
        self._late_max_bytes = settings.answer_late_max_bytes
        self._late_arrived = asyncio.Event()
        self._dropped = telemetry.counter("answers_dropped", "Answers whose gateway did not come back")

    @classmethod
    @asynccontextmanager
    async def open(
        cls, broker: Broker, service: str, settings: ServiceSettings, telemetry: Telemetry
    ) -> AsyncIterator["Publisher"]:
        """A publisher; flushed on exit."""
        async with (
            UnpublishableParker.open(broker, service, telemetry) as unpublishable,
            Lanes.open(
                broker, PUSH, settings, telemetry, persistent=False, mandatory=True, app_id=service
            ) as answers,
            Lanes.open(
                broker, PUSH, settings, telemetry, persistent=False, mandatory=False, app_id=service
            ) as pushes,
            Lanes.open(
                broker,
                EVENTS,
                settings,
                telemetry,
                persistent=True,
                mandatory=False,
                app_id=service,
                headers={senders.SERVICE: service},
            ) as events,
        ):
            publisher = cls(answers, pushes, events, unpublishable, settings, telemetry)
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

    def send(self, outgoing: Publication) -> Sending:
        """Queue a push or an event.

        Raises:
            BrokerError: Nothing was queued.
        """
        confirmed: Sending = asyncio.get_running_loop().create_future()
        self.post(outgoing, partial(resolve_future, confirmed))
        return confirmed

    def post(self, outgoing: Publication, on_confirm: OnConfirm) -> None:
        """Like :meth:`send`, with a callback instead of a future.

        Raises:
            BrokerError: Nothing was queued.
        """
        self._post(outgoing.exchange, outgoing.routing_key, bytes(outgoing.item), on_confirm)

    def direct(
        self, session: Session, item: Directed, on_confirm: OnConfirm, traceparent: str | None = None
    ) -> None:
        """Queue an item for one connection; an absent gateway is not an error, see above.

        Raises:
            BrokerError: Nothing was queued.
        """
        key, body = connection_key(session.gateway_id), encode(item)

        def settled(error: BrokerError | None) -> None:
            if isinstance(error, Unroutable):
                self._keep(key, body)
                error = None
            if isinstance(error, Unpublishable):
                refuse(error)
            else:
                on_confirm(error)

        def refuse(error: Unpublishable) -> None:
            self._answer_with_error(key, item, error)
            self._unpublishable.take(PUSH, key, body, error, on_confirm)

        try:
            self._answers.post(key, body, settled, traceparent)
        except Unpublishable as error:
            refuse(error)

    def _answer_with_error(self, key: str, item: Directed, error: Unpublishable) -> None:
        """Answer the asking client with an error instead of the unpublishable answer; this may fail like any
        answer."""
        envelope = bytes(item.envelope)
        if item.connection_id is None or not (asked := read_correlation(envelope)):
            return
        log.warning("answer_unpublishable", bytes=len(envelope), error=str(error)[:300])
        error_answer = make_error(TowpathError("The answer is too large to be sent."), correlation_id=asked)
        answer = Directed(item.connection_id, msgspec.Raw(error_answer.to_json()))
        with contextlib.suppress(BrokerError):
            self._answers.post(key, encode(answer), lambda _: None)

    def control(self, user_id: str, item: Directed, on_confirm: OnConfirm) -> None:
        """Queue an item for all connections of a user, on all replicas.

        Raises:
            BrokerError: Nothing was queued.
        """
        self._post(PUSH, control_key(user_id), encode(item), on_confirm)

    def _post(self, exchange: str, key: str, body: bytes, on_confirm: OnConfirm) -> None:
        def settled(error: BrokerError | None) -> None:
            if isinstance(error, Unpublishable):
                self._unpublishable.take(exchange, key, body, error, on_confirm)
            else:
                on_confirm(error)

        try:
            self._lanes[exchange].post(key, body, settled)
        except Unpublishable as error:
            self._unpublishable.take(exchange, key, body, error, on_confirm)

    def _keep(self, key: str, body: bytes) -> None:
        self._keep_until(asyncio.get_running_loop().time() + self._patience, key, body)

    def _keep_until(self, deadline: float, key: str, body: bytes) -> None:
        self._late.append((deadline, key, body))
        self._late_bytes += len(body)
        while len(self._late) > _LATE_MAX or self._late_bytes > self._late_max_bytes:
            self._late_bytes -= len(self._late.popleft()[2])
            self._dropped.add(1)
        self._late_arrived.set()

    async def _deliver_late(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._late_arrived.wait()
            self._late_arrived.clear()
            await asyncio.sleep(_LATE_PAUSE)
            waiting = list(self._late)
            self._late.clear()
            self._late_bytes = 0
            away: set[str] = set()
            for deadline, key, body in waiting:
                if loop.time() > deadline:
                    self._dropped.add(1)
                    log.warning("answer_dropped", gateway=key, waited_s=self._patience)
                    continue
                try:
                    if key not in away:  # One attempt per gateway and round.
                        await self._answers.send(key, body)
                        continue
                except Unpublishable:
                    self._dropped.add(1)
                    log.warning("answer_dropped", gateway=key, bytes=len(body))
                    continue
                except BrokerError:
                    away.add(key)
                self._keep_until(deadline, key, body)
