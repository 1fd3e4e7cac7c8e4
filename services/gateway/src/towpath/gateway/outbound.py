"""Outbound: what the broker brings → the connections it is for.

A push arrives once a replica; local tables say whose it is; it is checked and framed once and written to many.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Final

import structlog

from towpath.gateway.connection import text_frame
from towpath.gateway.groups import Members
from towpath.gateway.probe import Probe
from towpath.gateway.sessions import Session
from towpath.protocol.close_codes import CloseCode
from towpath.protocol.envelope import parse
from towpath.protocol.errors import BadEnvelope
from towpath.protocol.messages import Directed, read_correlation, read_directed, split_batch
from towpath.protocol.routes import EVERYONE
from towpath.servicekit.broker.interface import Delivery, undecodable
from towpath.servicekit.telemetry import Telemetry

log = structlog.get_logger(__name__)

_MAX_REASON_BYTES: Final = 120
_KINDS: Final = ("user", "group", "control", "other")


class Outbound:
    """Delivers to the connections of this replica."""

    def __init__(self, members: Members, probe: Probe, telemetry: Telemetry) -> None:
        self._members = members
        self._probe = probe
        self._delivered = telemetry.counter("messages_delivered", "Frames handed to connections")
        self._foreign = {
            kind: telemetry.counter(
                "pushes_for_others", "Deliveries that nobody here is concerned by", {"kind": kind}
            )
            for kind in _KINDS
        }
        self._unreadable = telemetry.counter("pushes_unreadable", "Pushes dropped as no envelopes")

    async def dispatch(self, deliveries: Sequence[Delivery]) -> None:
        """Deliver and ack."""
        self._probe.arrived()
        for delivery in deliveries:
            try:
                if (odd := undecodable(delivery)) is not None:
                    raise BadEnvelope(f"The message cannot be decoded: {odd}.")
                self._deliver(delivery.routing_key, delivery.body)
            except BadEnvelope as error:
                self._drop(delivery.routing_key, error)
            delivery.ack()

    def _deliver(self, key: str, body: bytes) -> None:
        kind = key.partition(".")[0]
        if kind == "connection":
            for item in read_directed(body):
                session = self._members.connection(item.connection_id)
                if session is not None:
                    self._direct(session, item)
                else:
                    self._probe.heard(item.connection_id)
        elif kind == "control":
            self._probe.heard(key)
            if not (sessions := list(self._members.behind(key))):
                self._foreign[kind].add()
            for item in read_directed(body):
                for session in sessions:
                    self._direct(session, item)
        else:
            self._push(key, body, self._members.all() if key == EVERYONE else self._members.behind(key))

    def _push(self, key: str, body: bytes, receivers: Iterable[Session]) -> None:
        receivers = list(receivers)
        if not receivers:
            kind = key.partition(".")[0]
            self._foreign[kind if kind in _KINDS else "other"].add()
            self._probe.heard(key)
            return
        for text in split_batch(body):
            try:
                parse(text)
            except BadEnvelope as error:
                self._drop(key, error)
                continue
            frame = text_frame(text)
            for session in receivers:
                session.send_frame(frame)
            self._delivered.add(len(receivers))

    def _direct(self, session: Session, item: Directed) -> None:
        if item.subscribe:
            self._members.subscribe(session, item.subscribe)
        if item.unsubscribe:
            self._members.unsubscribe(session, item.unsubscribe)
        if (text := bytes(item.envelope)).startswith(b"{"):
            if session.awaiting_accepted:
                # Two connections to the broker: the answer may be read before the confirm. Who answers has it.
                session.accept(read_correlation(text))
            session.send_text(text)
            self._delivered.add(1)
        if item.disconnect is not None:
            code, reason = item.disconnect.code, item.disconnect.reason
            if not 4000 <= code <= 4999 and code not in set(CloseCode):
                code = CloseCode.KICKED
            session.close(code, reason.encode()[:_MAX_REASON_BYTES].decode(errors="ignore"))

    def _drop(self, key: str, error: BadEnvelope) -> None:
        self._unreadable.add(1)
        log.warning("push_dropped", routing_key=key, error=error.message, details=error.details)


def resync(members: Members) -> Callable[[], None]:
    """What to do when the link to the broker was made anew: pushes may have been missed meanwhile."""

    def tell() -> None:
        for session in members.all():
            session.tell("session.resync", {"reason": "the gateway was cut off from the broker"})

    return tell
