"""Inbound: one frame → envelope check → limits → lane of ``(domain, partition)``.

The client's JSON is forwarded unchanged, wrapped with the session data of the gateway. Every request gets an answer:
from the service, or from the gateway if the broker did not confirm it.
"""

import math
import time
from functools import partial
from typing import Final

from towpath.gateway.admission.credentials import Admission
from towpath.gateway.forwarding.costs import Costs
from towpath.gateway.forwarding.refresh import REFRESH, Refresh
from towpath.gateway.forwarding.request_spans import RequestSpans
from towpath.gateway.sessions.limits import IN_FLIGHT_BYTES, TOKEN_BYTES
from towpath.gateway.sessions.session import Session
from towpath.gateway.settings import GatewaySettings
from towpath.protocol.envelope import BARE_ACTIONS, PING, PONG, Head, head, make_error
from towpath.protocol.errors import (
    BadEnvelope,
    Busy,
    ErrorCode,
    Forbidden,
    OutcomeUnknown,
    RateLimited,
    TowpathError,
    Unavailable,
    UnknownAction,
)
from towpath.protocol.messages import wrap_command
from towpath.protocol.routes import command_key
from towpath.protocol.services import REFRESH_COST
from towpath.servicekit.broker.interface import (
    BrokerBlocked,
    BrokerError,
    BrokerUnavailable,
    PublishRefused,
    PublishUnconfirmed,
    Unroutable,
)
from towpath.servicekit.messaging.lanes import LaneFull, Lanes
from towpath.servicekit.runtime.telemetry import Telemetry
from towpath.servicekit.runtime.trace_context import read_tracestate, trace_id

#: Advice for errors that pass: a broker's alarm, a full lane, a reconnect.
_RETRY_AFTER_MS: Final = 1000


class Inbound:
    """Handles the frames of all sessions. No method waits."""

    def __init__(
        self,
        commands: Lanes,
        admission: Admission,
        costs: Costs,
        settings: GatewaySettings,
        telemetry: Telemetry,
        spans: RequestSpans,
    ) -> None:
        self._costs = costs
        self._commands = commands
        self._refresh = Refresh(admission, self._answer)
        self._domain_absence = settings.domain_absence
        self._continues_traces = settings.trace_clients == "continue"
        self._telemetry = telemetry
        self._spans = spans
        #: Domain → time when the broker last confirmed a request for it.
        self._served_at: dict[str, float] = {}
        self._received = telemetry.counter("messages_received", "Frames from clients")
        self._refused = {
            code: telemetry.counter(
                "requests_refused", "Frames answered with an error by the gateway", {"code": code.value}
            )
            for code in ErrorCode
        }

    def receive(self, session: Session, text: bytes) -> None:
        """Handle one text frame."""
        # A loop that is busy calls timers late, and frames that arrived before them would pass.
        if session.expires <= time.monotonic():
            session.expire()
            return
        self._received.add(1)
        try:
            envelope = head(text)
        except BadEnvelope as error:
            self._unreadable(session, text, error)
            return
        try:
            action = envelope.action
            domain = action.partition(".")[0]
            # Charged before anything else is done for it, so that work is never free, also not for what is refused.
            cost = REFRESH_COST if action == REFRESH else self._costs.of(domain, action)
            weight = _charge(session, cost, text)
            if action in BARE_ACTIONS:
                self._bare(session, envelope)
            elif domain == "session":
                self._session(session, envelope, text)
            else:
                self._command(session, envelope, domain, text, weight)
        except TowpathError as error:
            self._answer(session, envelope.msg_id, error)

    def _unreadable(self, session: Session, text: bytes, error: BadEnvelope) -> None:
        try:
            _charge(session, 1.0, text)
        except RateLimited as limited:
            # Only one error per frame: a client that floods learns that it floods.
            self._answer(session, error.msg_id, limited)
        else:
            self._answer(session, error.msg_id, error)
        # After the answer: nothing is sent once this has closed the connection.
        session.count_violation()

    def _bare(self, session: Session, envelope: Head) -> None:
        if envelope.action != PING:
            raise UnknownAction(f"Only the server sends {envelope.action!r}.")
        session.send_own(PONG, {}, correlation_id=envelope.msg_id)

    def _session(self, session: Session, envelope: Head, text: bytes) -> None:
        if envelope.action != REFRESH:
            raise UnknownAction(f"There is no action {envelope.action!r}; the gateway knows {REFRESH}.")
        self._refresh.handle(session, envelope, text)

    def _command(self, session: Session, envelope: Head, domain: str, text: bytes, weight: float) -> None:
        trace, is_continued = self._trace_of(envelope)
        if self._telemetry.is_recorded(trace):
            trace = self._spans.begin(session, envelope, trace)
        try:
            _admit(session, envelope, domain, weight)
            item = _wrapped(session, envelope, text, trace, is_continued=is_continued)
            self._post(session, envelope, domain, trace, item)
        except TowpathError as error:
            self._answer(session, envelope.msg_id, error, trace)

    def _post(self, session: Session, envelope: Head, domain: str, trace: str, item: bytes) -> None:
        # Requests of one key go to one partition and stay in order; without a key those of one user do.
        key = command_key(domain, envelope.key or session.user_id)
        try:
            self._commands.post(key, item, partial(self._on_confirm, session, envelope, domain, trace), trace)
        except BrokerError as error:
            # Nothing was sent, so no service's answer will end it.
            session.allowance.end(envelope.msg_id)
            raise _error_of(error, domain) from None
        session.keep_pace()
        # The confirm comes in a later loop iteration at the earliest, so this is not too late.
        if envelope.ack:
            session.awaiting_accepted.add(envelope.msg_id)

    def _trace_of(self, envelope: Head) -> tuple[str, bool]:
        """The trace of a command, and whether it is the client's, continued."""
        if self._continues_traces and (theirs := envelope.traceparent) and trace_id(theirs):
            return self._telemetry.client_trace(theirs), True
        return self._telemetry.new_trace(), False

    def _on_confirm(
        self, session: Session, envelope: Head, domain: str, trace: str, error: BrokerError | None
    ) -> None:
        if error is None:
            # Confirmed by the broker, not answered: the request counts as in flight until the service's answer.
            self._served_at[domain] = time.monotonic()
            if envelope.ack:
                session.accept(envelope.msg_id)
            return
        session.allowance.end(envelope.msg_id)
        # The error is the final answer, which `accepted` must not follow (protocol.md, "Answers, errors,
        # repetitions").
        session.awaiting_accepted.discard(envelope.msg_id)
        answer = _error_of(error, domain)
        if isinstance(error, Unroutable) and self._was_served(domain):
            # A cluster may lose a queue with its node. "unknown_action" would stop clients from retrying.
            answer = Unavailable(
                "The service has lost its queue for a moment.", retry_after_ms=_RETRY_AFTER_MS
            )
        self._answer(session, envelope.msg_id, answer, trace)

    def _was_served(self, domain: str) -> bool:
        """Whether the broker confirmed a request for this domain lately."""
        return time.monotonic() - self._served_at.get(domain, -math.inf) < self._domain_absence

    def _answer(
        self, session: Session, msg_id: str | None, error: TowpathError, trace: str | None = None
    ) -> None:
        self._refused[error.code].add(1)
        if self._telemetry.records:
            self._spans.end(session, msg_id, error.code.value)
        session.send(make_error(error, correlation_id=msg_id, trace_id=trace_id(trace)))


def _admit(session: Session, envelope: Head, domain: str, weight: float) -> None:
    """Count a request as in flight.

    Raises:
        Forbidden, Busy
    """
    # Before it counts: no service will answer it.
    if not session.may_address(domain):
        raise Forbidden(f"Your token's scope does not name the domain {domain!r}.")
    if (limit := session.allowance.begin(envelope.msg_id, weight, domain)) is not None:
        # A refusal costs the gateway as much as a request, so it must be slow
        # (docs/adr/0014-limits-that-are-fair.md).
        session.pause_reading()
        raise Busy(f"Too many requests of this {limit} are not answered yet.", retry_after_ms=_RETRY_AFTER_MS)


def _wrapped(session: Session, envelope: Head, text: bytes, trace: str, *, is_continued: bool) -> bytes:
    """A command with its session and its trace."""
    if envelope.traceparent is None:
        # Written into the text, which ends with the object's brace: parsing and building it would cost more than
        # all else that is done for a request here.
        text = text.rstrip()[:-1] + b',"traceparent":"' + trace.encode() + b'"}'
        return wrap_command(session.command_session, text)
    # The client's stays in its envelope, and the span of the request links to it. The one that is obeyed is beside
    # the envelope: a client could else have every request of it recorded, or choose the id under which operators
    # find another one's (ADR 27).
    state = read_tracestate(envelope.tracestate) if is_continued else None
    return wrap_command(session.command_session, text, trace, state)


def _charge(session: Session, weight: float, text: bytes) -> float:
    """Charge a message; returns its weight while it is in flight, which is 1 for a small one.

    Raises:
        RateLimited
    """
    size = len(text)
    # Bytes cost as well as actions: a large message is work for every program that it passes.
    if wait := session.allowance.charge(weight + size / TOKEN_BYTES):
        session.count_strike()
        raise RateLimited(
            "You send more than the rate limit allows: slow down.",
            retry_after_ms=math.ceil(wait * 1000),
        )
    # Rounded down, unlike the charge: a small request weighs what its action costs. Its bytes weigh more than they
    # cost, because programs hold them until they are handled.
    return weight + size // IN_FLIGHT_BYTES


def _error_of(error: BaseException, domain: str) -> TowpathError:
    """The error answer to a request that the broker did not confirm."""
    match error:
        # Commands are mandatory: RabbitMQ returns one that no queue is bound to,
        # https://www.rabbitmq.com/docs/publishers#unroutable
        case Unroutable():
            return UnknownAction(f"There is no service for the domain {domain!r}.")
        case LaneFull() | PublishRefused() | BrokerBlocked():
            return Busy("The broker accepts no more messages for now.", retry_after_ms=_RETRY_AFTER_MS)
        case BrokerUnavailable():
            return Unavailable("The broker cannot be reached.", retry_after_ms=_RETRY_AFTER_MS)
        # Not `unavailable`, which promises that nothing was sent: the broker may have it. The same msg_id makes a
        # repetition safe.
        case PublishUnconfirmed():
            return OutcomeUnknown(
                "The broker did not confirm in time: send it again with the same msg_id.",
                retry_after_ms=_RETRY_AFTER_MS,
            )
        case _:
            return TowpathError("The gateway could not handle this. Try again later.")
