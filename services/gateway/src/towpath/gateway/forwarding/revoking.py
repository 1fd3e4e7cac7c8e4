"""Revoking: reads the log of revocations, and closes the sessions whose tokens it names.

Guarantees: a revocation that the broker has confirmed closes the sessions of this replica with 4502, and refuses
their tokens at each later connect and refresh. :attr:`Revoking.is_current` is false until the whole log has been
read, at the start and after each loss of the connection. Meanwhile the replica takes no new connections, so a token
that was revoked before it started, or while it was disconnected, is refused. An invalid revocation affects only
itself. The event loop serves other tasks every few milliseconds, whatever the number of revocations and sessions.
"""

import asyncio
import contextlib
import time
from collections.abc import Sequence
from typing import Final

import structlog

from towpath.gateway.admission.revocations import Revocations
from towpath.gateway.sessions.members import Members
from towpath.gateway.settings import GatewaySettings
from towpath.protocol import revocations as protocol
from towpath.protocol.close_codes import CloseCode
from towpath.protocol.errors import BadEnvelope
from towpath.protocol.routes import PUSH
from towpath.servicekit.broker.interface import Binding, Broker, Delivery, Log, undecodable
from towpath.servicekit.messaging.log_reader import LogReader
from towpath.servicekit.runtime.sampled_log import SampledLog
from towpath.servicekit.runtime.telemetry import Telemetry
from towpath.servicekit.runtime.time_slices import Turn

log = structlog.get_logger(__name__)

#: Small segments: the broker drops old revocations a segment at a time.
_SEGMENT_BYTES: Final = 1_000_000
#: Seconds between two looks for revocations that have ended.
_EXPIRE_SECONDS: Final = 60.0
REASON: Final = "revoked"

LOG: Final = Log(
    name=protocol.REVOCATIONS,
    bindings=[Binding(PUSH, protocol.REVOKE_ALL)],
    max_bytes=protocol.LOG_BYTES,
    segment_bytes=_SEGMENT_BYTES,
    max_age=protocol.DAYS_MAX,
)
MARKER: Final = Binding(PUSH, protocol.READER)


class Revoking:
    """Applies revocations to the sessions of this replica; see :meth:`run`.

    Args:
        broker: A connection for the log alone, see :class:`~towpath.servicekit.messaging.log_reader.LogReader`.
        revocations: Gets what is read; connects and refreshes are checked against it.
    """

    def __init__(
        self,
        broker: Broker,
        revocations: Revocations,
        members: Members,
        settings: GatewaySettings,
        telemetry: Telemetry,
    ) -> None:
        self._reader = LogReader(broker, LOG, MARKER, self._apply)
        self._revocations = revocations
        self._members = members
        self._most = settings.revocations_max
        self._closed = telemetry.counter(
            "sessions_revoked", "Sessions closed because their token was revoked"
        )
        self._unreadable = SampledLog(
            "revocation_dropped",
            telemetry.counter("revocations_unreadable", "Revocations that cannot be read"),
        )
        self._over = SampledLog(
            "too_many_revocations",
            telemetry.counter(
                "revocations_over_max", "Revocations read while more than the maximum are active"
            ),
        )
        telemetry.gauge("revocations_active", "Revocations in effect", lambda: len(revocations))

    @property
    def is_current(self) -> bool:
        """Whether all revocations are known."""
        return self._reader.is_current

    async def run(self) -> None:
        """Read until cancelled.

        Raises:
            BrokerRefused, TopologyMismatch: There is no log, and this user may not make it; or it is not one.
        """
        expiring = asyncio.create_task(self._expire(), name="revocations: expire")
        try:
            await self._reader.run()
        finally:
            expiring.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await expiring

    async def _apply(self, deliveries: Sequence[Delivery]) -> None:
        turn, added = Turn(), 0
        for delivery in deliveries:
            added += self._add(delivery)
            if turn.is_over():
                await turn.next()
        if not added:
            return
        if len(self._revocations) > self._most:
            self._over.add(added, active=len(self._revocations), most=self._most)
        # One pass for all of them. Sessions that open or refresh during it are checked there.
        for session in self._members.all():
            if self._revocations.refuses(session.identity, time.time()):
                session.close(CloseCode.KICKED, REASON)
                self._closed.add(1)
            if turn.is_over():
                await turn.next()

    def _add(self, delivery: Delivery) -> int:
        """Add the revocations of one message; returns their number."""
        key = delivery.routing_key
        if (kind := protocol.kind_of(key)) is None or (odd := undecodable(delivery)) is not None:
            reason = "an unknown key" if kind is None else f"cannot be decoded: {odd}"
            self._unreadable.add(routing_key=key[:255], error=reason)
            return 0
        added, now = 0, time.time()
        for item in protocol.read(kind, delivery.body):
            if isinstance(item, BadEnvelope):
                self._unreadable.add(routing_key=key, error=item.message[:300])
            else:
                self._revocations.add(kind, item, now)
                added += 1
        return added

    async def _expire(self) -> None:
        while True:
            await asyncio.sleep(_EXPIRE_SECONDS)
            self._revocations.expire(time.time())
