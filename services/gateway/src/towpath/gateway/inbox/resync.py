"""Resync: brings the sessions of a replica up to date after its inbox was recreated.

Pushes and membership changes were lost with the old inbox. So the groups of all sessions are dropped before anything
is read from the new inbox. Then each client gets ``session.resync`` to resume its streams, and services get
``session.started`` again and subscribe the connection to its current groups.

Guarantees: every session that was open when the inbox was recreated gets all of that, in that order. Sessions are
processed in bounded steps, each after the broker has confirmed the previous one, so that neither this replica nor a
service handles all of them at once. If the inbox is recreated meanwhile, the resync starts again with all sessions.
"""

import asyncio
from typing import Final

import structlog

from towpath.gateway.sessions.announcer import Announcer
from towpath.gateway.sessions.members import Members
from towpath.gateway.sessions.session import Session
from towpath.gateway.settings import GatewaySettings
from towpath.servicekit.runtime.telemetry import Telemetry

log = structlog.get_logger(__name__)

_REASON: Final = "the gateway was cut off from the broker"
#: Seconds between two steps: clients resume, and services have other work.
_PAUSE: Final = 0.05


class Resync:
    """Brings sessions up to date; see :meth:`run`."""

    def __init__(
        self, members: Members, announcer: Announcer, settings: GatewaySettings, telemetry: Telemetry
    ) -> None:
        self._members = members
        self._announcer = announcer
        self._step = settings.resync_step
        self._due: list[Session] = []  # The last element is next.
        self._begun = asyncio.Event()
        self._sessions = telemetry.counter(
            "sessions_resynced", "Sessions announced again after the inbox was recreated"
        )
        telemetry.gauge(
            "sessions_to_resync", "Sessions that wait to be announced again", lambda: len(self._due)
        )

    def begin(self) -> None:
        """Start a resync of all sessions that are open now, because the inbox was recreated."""
        self._members.new_inbox()
        # All of them again: the changes of those that are done were lost once more.
        self._due = self._members.all()[::-1]
        self._begun.set()

    async def run(self) -> None:
        """Run a resync each time that :meth:`begin` is called, until cancelled."""
        while True:
            await self._begun.wait()
            self._begun.clear()
            count = len(self._due)
            while self._due:
                step = [self._due.pop() for _ in range(min(self._step, len(self._due)))]
                sent = [confirm for session in step if (confirm := self._one(session)) is not None]
                if sent:
                    # Confirmed or failed: the announcer itself publishes a failed event again.
                    await asyncio.wait(sent)
                await asyncio.sleep(_PAUSE)
            log.info("resynced", sessions=count)

    def _one(self, session: Session) -> "asyncio.Future[None] | None":
        if self._members.connection(session.connection_id) is not session:
            return None  # closed meanwhile
        # First: the event below names the inbox to which services send the complete list.
        session.use_inbox(self._members.inbox)
        session.send_own("session.resync", {"reason": _REASON})
        self._sessions.add(1)
        return self._announcer.started(session)
