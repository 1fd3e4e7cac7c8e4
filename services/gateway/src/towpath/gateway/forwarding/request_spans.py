"""Request spans: the span of each sampled request, from its frame to its answer; the root of its trace.

Guarantees: at most :data:`_OPEN_MAX` spans are open, each for :data:`_PATIENCE` seconds at most: one whose answer
never comes ends as ``unanswered``.
"""

import time
from collections import OrderedDict
from typing import Final

from towpath.gateway.sessions.session import Session
from towpath.gateway.settings import GatewaySettings
from towpath.protocol.envelope import Head
from towpath.protocol.errors import ErrorCode
from towpath.servicekit.runtime import conventions
from towpath.servicekit.runtime.telemetry import OpenSpan, Telemetry

_OPEN_MAX: Final = 5_000
_PATIENCE: Final = 60.0
_UNANSWERED: Final = "unanswered"
#: Codes that are the client's affair; all others are ours.
_OF_CLIENTS: Final = frozenset(
    {code.value for code in ErrorCode}
    - {code.value for code in (ErrorCode.INTERNAL, ErrorCode.UNAVAILABLE, ErrorCode.TIMEOUT, ErrorCode.BUSY)}
)


class RequestSpans:
    """The open spans of one replica."""

    def __init__(self, settings: GatewaySettings, telemetry: Telemetry) -> None:
        self._telemetry = telemetry
        self._continues_traces = settings.trace_clients == "continue"
        #: By connection and ``msg_id``, oldest first, with the time of their beginning.
        self._open: OrderedDict[tuple[str, str], tuple[OpenSpan, float]] = OrderedDict()

    @property
    def are_open(self) -> bool:
        """Whether any is."""
        return bool(self._open)

    def begin(self, session: Session, envelope: Head, trace: str) -> str:
        """Begin the span of a request whose trace is recorded; returns the context for all that follows."""
        attributes = {
            conventions.PROTOCOL: "websocket",
            conventions.ACTION: envelope.action,
            conventions.MESSAGE_ID: envelope.msg_id,
            conventions.CONNECTION: session.connection_id,
        }
        span = self._telemetry.begin(
            conventions.REQUEST, trace, conventions.SERVER, attributes, link=envelope.traceparent
        )
        if span is None:
            return trace
        now = time.monotonic()
        self._end_late(now)
        self.end(session, envelope.msg_id, _UNANSWERED)  # The client sends the same request again.
        self._open[session.connection_id, envelope.msg_id] = span, now
        return span.traceparent

    def end(self, session: Session, msg_id: str | None, error: str | None = None) -> None:
        """End the span of a request, if it has one.

        Args:
            error: The code of the error that answers it.
        """
        if self._open and msg_id and (found := self._open.pop((session.connection_id, msg_id), None)):
            found[0].end(error, is_our_fault=error is not None and error not in _OF_CLIENTS)

    def of_push(self, traceparent: str | None) -> str | None:
        """The trace of a push, if its delivery is recorded here.

        Any program with the right may publish a push, so its id has to belong to the share, as that of an event. Not
        where the traces of clients are continued: their ids say nothing about the decision.
        """
        if traceparent is None or not self._telemetry.is_recorded(traceparent):
            return None
        if self._continues_traces or self._telemetry.belongs_to_share(traceparent):
            return traceparent
        return None

    def close(self) -> None:
        """End all spans: the replica stops."""
        while self._open:
            self._end_oldest()

    def _end_late(self, now: float) -> None:
        while self._open:
            _, began = next(iter(self._open.values()))
            if now - began < _PATIENCE and len(self._open) < _OPEN_MAX:
                return
            self._end_oldest()

    def _end_oldest(self) -> None:
        _, (span, _) = self._open.popitem(last=False)
        span.end(_UNANSWERED, is_our_fault=True)
