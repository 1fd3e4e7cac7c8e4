"""Session events: tells services who came and who went.

A connection whose start could not be told while the broker was away is told when it is back, so that services can
subscribe it to its groups.
"""

import asyncio

from towpath.gateway.groups import Members
from towpath.gateway.sessions import Session
from towpath.gateway.settings import GatewaySettings
from towpath.protocol.envelope import make
from towpath.protocol.routes import SESSION_ENDED, SESSION_STARTED
from towpath.servicekit.broker.interface import BrokerError
from towpath.servicekit.lanes import Lanes
from towpath.servicekit.telemetry import Telemetry


class Announcer:
    """Publishes ``session.started`` and ``session.ended``. Nothing here waits."""

    def __init__(
        self, events: Lanes, members: Members, settings: GatewaySettings, telemetry: Telemetry
    ) -> None:
        self._events = events
        self._members = members
        self._gateway_id = settings.gateway_id
        self._lost = telemetry.counter("session_events_lost", "Session events the broker did not take")

    def started(self, session: Session) -> None:
        """Tell that ``session`` is here."""
        session.announced = True

        def told(confirmed: "asyncio.Future[None]") -> None:
            session.announced = confirmed.exception() is None

        try:
            self._publish(SESSION_STARTED, session, None).add_done_callback(told)
        except BrokerError:
            session.announced = False

    def ended(self, session: Session, code: int | None) -> None:
        """Tell that ``session`` is gone, and with which close code."""
        try:
            self._publish(SESSION_ENDED, session, code).add_done_callback(self._count)
        except BrokerError:
            self._lost.add(1)

    def catch_up(self) -> None:
        """Tell of those whose start could not be told before."""
        for session in self._members.all():
            if not session.announced:
                self.started(session)

    def _publish(self, name: str, session: Session, code: int | None) -> "asyncio.Future[None]":
        data: dict[str, str | int] = {
            "user_id": session.user_id,
            "connection_id": session.connection_id,
            "gateway_id": self._gateway_id,
        }
        if code is not None:
            data["code"] = code
        return self._events.send(name, make(name, data).to_json())

    def _count(self, confirmed: "asyncio.Future[None]") -> None:
        if confirmed.exception() is not None:
            self._lost.add(1)
