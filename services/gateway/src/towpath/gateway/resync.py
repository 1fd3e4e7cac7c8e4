"""Resync: what a replica does for its sessions after its inbox was made anew.

Pushes, and changes of groups, were lost with the old inbox. So the groups of all sessions are forgotten before
anything of the new inbox is read. Then each session's client is told to resume its streams (``session.resync``), and
services hear of it again (``session.started``) and subscribe it from what is true now.

Guarantees: every session that was open when the inbox was made anew gets all of that, in that order. Sessions take
turns in bounded steps, each after the broker has confirmed the one before, so that neither this replica nor a service
has all of them at once. If the inbox is made anew meanwhile, it begins again with all.
"""

import asyncio
from typing import Final

import structlog

from towpath.gateway.announcer import Announcer
from towpath.gateway.groups import Members
from towpath.gateway.sessions import Session
from towpath.gateway.settings import GatewaySettings
from towpath.servicekit.telemetry import Telemetry

log = structlog.get_logger(__name__)

_REASON: Final = "the gateway was cut off from the broker"
#: Seconds between two steps: clients resume, and services have others to serve.
_PAUSE: Final = 0.05


class Resync:
    """Brings sessions up to date; :meth:`run` does it."""

    def __init__(
        self, members: Members, announcer: Announcer, settings: GatewaySettings, telemetry: Telemetry
    ) -> None:
        self._members = members
        self._announcer = announcer
        self._step = settings.resync_step
        self._due: list[Session] = []  # the next one is the last
        self._begun = asyncio.Event()
        self._sessions = telemetry.counter(
            "sessions_resynced", "Sessions announced again after the inbox was made anew"
        )
        telemetry.gauge(
            "sessions_to_resync", "Sessions that wait to be announced again", lambda: len(self._due)
        )

    def begin(self) -> None:
        """The inbox was made anew: begin with all sessions that are open now."""
        self._members.new_inbox()
        self._due = self._members.all()[::-1]
        self._begun.set()

    async def run(self) -> None:
        """Do it each time that :meth:`begin` is called, until cancelled."""
        while True:
            await self._begun.wait()
            self._begun.clear()
            count = len(self._due)
            while self._due:
                step = [self._due.pop() for _ in range(min(self._step, len(self._due)))]
                sent = [confirm for session in step if (confirm := self._one(session)) is not None]
                if sent:
                    await asyncio.wait(sent)
                await asyncio.sleep(_PAUSE)
            log.info("resynced", sessions=count)

    def _one(self, session: Session) -> "asyncio.Future[None] | None":
        if self._members.connection(session.connection_id) is not session:
            return None  # closed meanwhile
        session.use_inbox(self._members.inbox)
        session.tell("session.resync", {"reason": _REASON})
        self._sessions.add(1)
        return self._announcer.started(session)
