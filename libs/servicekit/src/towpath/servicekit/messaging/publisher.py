"""The publisher of a service: answers and pushes to gateways, events to subscribers.

Guarantees: queued messages are published in order, and their callbacks are called when the broker has confirmed them.
An answer whose gateway is absent for a moment is kept and published again, and reported as if the broker had
confirmed it (:mod:`towpath.servicekit.messaging.late_answers`). An unpublishable message is parked or dropped, and
reported in the same way (:mod:`towpath.servicekit.messaging.unpublishable`); the asking client gets an error answer.
"""

import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import structlog

from towpath.protocol.envelope import make_error
from towpath.protocol.errors import TowpathError
from towpath.protocol.messages import Directed, Session, encode, read_correlation, with_trace
from towpath.protocol.routes import EVENTS, PUSH, connection_key, control_key
from towpath.servicekit.broker.interface import Broker, BrokerError, Unpublishable, Unroutable
from towpath.servicekit.messaging import senders
from towpath.servicekit.messaging.dead_letters import DeadLetters
from towpath.servicekit.messaging.lanes import LaneKind, Lanes, OnConfirm
from towpath.servicekit.messaging.late_answers import LateAnswers
from towpath.servicekit.messaging.publication import Publication
from towpath.servicekit.runtime.settings import ServiceSettings
from towpath.servicekit.runtime.telemetry import Telemetry
from towpath.servicekit.runtime.trace_context import trace_id

log = structlog.get_logger(__name__)


class Publisher:
    """Publishes all messages of a service; created with :meth:`open`.

    Attributes:
        dead_letters: The retry and dead queues of the service.
    """

    def __init__(
        self,
        answers: Lanes,
        pushes: Lanes,
        events: Lanes,
        late: LateAnswers,
        dead_letters: DeadLetters,
        telemetry: Telemetry,
    ) -> None:
        self._telemetry = telemetry
        self._answers = answers
        self._lanes = {PUSH: pushes, EVENTS: events}
        self._late = late
        self.dead_letters = dead_letters

    @classmethod
    @asynccontextmanager
    async def open(
        cls, broker: Broker, service: str, settings: ServiceSettings, telemetry: Telemetry
    ) -> AsyncIterator["Publisher"]:
        """A publisher; flushed on exit."""
        # Answers are mandatory, as an absent gateway must be noticed. A push without a receiver is not an error:
        # no gateway may be connected. Both are transient, because an inbox does not survive a restart of the broker.
        answer = LaneKind(app_id=service, persistent=False, mandatory=True)
        push = LaneKind(app_id=service, persistent=False, mandatory=False)
        # Events are persistent: they wait in queues of services, which survive a restart.
        # https://www.rabbitmq.com/docs/publishers#message-properties
        event = LaneKind(app_id=service, persistent=True, mandatory=False, headers={senders.SERVICE: service})
        async with (
            # Opened first and closed last: the lanes below report their unpublishable messages to it while they are
            # flushed.
            DeadLetters.open(broker, service, telemetry) as dead_letters,
            Lanes.open(broker, PUSH, answer, settings, telemetry) as answers,
            Lanes.open(broker, PUSH, push, settings, telemetry) as pushes,
            Lanes.open(broker, EVENTS, event, settings, telemetry) as events,
            LateAnswers.open(answers, settings, telemetry, title=f"{service}: late answers") as late,
        ):
            yield cls(answers, pushes, events, late, dead_letters, telemetry)

    def post(self, outgoing: Publication, on_confirm: OnConfirm, traceparent: str | None = None) -> None:
        """Queue a push or an event; ``on_confirm`` is called later, never within this call.

        Args:
            traceparent: Of the request that causes it. The envelope gets it while the trace is recorded, so that what
                gateways and other services do is of the same trace.

        Raises:
            BrokerError: Nothing was queued.
        """
        item = bytes(outgoing.item)
        if traceparent is not None:
            # Not of the others: each receiver gets a copy, and a repetition has the same bytes.
            if self._telemetry.is_recorded(traceparent):
                item = with_trace(item, traceparent)
            else:
                traceparent = None
        self._post(outgoing.exchange, outgoing.routing_key, item, on_confirm, traceparent)

    def direct(
        self, session: Session, item: Directed, on_confirm: OnConfirm, traceparent: str | None = None
    ) -> None:
        """Queue an item for one connection; an absent gateway is not an error, see above.

        Raises:
            BrokerError: Nothing was queued.
        """
        key, body = connection_key(session.gateway_id), encode(item)

        def confirmed(error: BrokerError | None) -> None:
            # Returned as unroutable: the gateway is reconnecting, and its new inbox is not bound yet. For the caller
            # the answer counts as published, or the whole unit would be published again until that one gateway is
            # back. https://www.rabbitmq.com/docs/publishers#unroutable
            if isinstance(error, Unroutable):
                self._late.keep(key, body)
                error = None
            if isinstance(error, Unpublishable):
                refuse(error)
            else:
                on_confirm(error)

        def refuse(error: Unpublishable) -> None:
            self._answer_with_error(key, item, error, traceparent)
            self.dead_letters.take_unpublishable(PUSH, key, body, error, on_confirm)

        try:
            self._answers.post(key, body, confirmed, traceparent)
        except Unpublishable as error:
            # Refused before it was queued, by this program's own limit: handled as a refusal by the broker.
            refuse(error)

    def _answer_with_error(
        self, key: str, item: Directed, error: Unpublishable, traceparent: str | None
    ) -> None:
        """Answer the asking client with an error instead of the answer; this may fail like any answer."""
        envelope = bytes(item.envelope)
        if item.connection_id is None or not (asked := read_correlation(envelope)):
            return  # A push: no client waits for it.
        trace = trace_id(traceparent)
        log.warning("answer_unpublishable", bytes=len(envelope), error=str(error)[:300], trace_id=trace)
        error_answer = make_error(
            TowpathError("The answer is too large to be sent."), correlation_id=asked, trace_id=trace
        )
        answer = Directed(item.connection_id, msgspec.Raw(error_answer.to_json()))
        # One attempt: without this answer the client reaches its own time limit.
        with contextlib.suppress(BrokerError):
            self._answers.post(key, encode(answer), lambda _: None)

    def control(self, user_id: str, item: Directed, on_confirm: OnConfirm) -> None:
        """Queue an item for all connections of a user, on all replicas.

        Raises:
            BrokerError: Nothing was queued.
        """
        self._post(PUSH, control_key(user_id), encode(item), on_confirm)

    def _post(
        self, exchange: str, key: str, body: bytes, on_confirm: OnConfirm, traceparent: str | None = None
    ) -> None:
        def confirmed(error: BrokerError | None) -> None:
            if isinstance(error, Unpublishable):
                self.dead_letters.take_unpublishable(exchange, key, body, error, on_confirm)
            else:
                on_confirm(error)

        try:
            self._lanes[exchange].post(key, body, confirmed, traceparent)
        except Unpublishable as error:
            self.dead_letters.take_unpublishable(exchange, key, body, error, on_confirm)
