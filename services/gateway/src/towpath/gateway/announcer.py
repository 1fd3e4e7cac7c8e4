"""Session events: tells services who came and who went, and that this replica lives.

Guarantee: what the broker did not take is told again, with the next sign of life at the latest; of one connection
only the last. So who hears the signs of life knows who is connected here, but for what is on its way. A replica that
is started anew says so, even under the same id: its ``incarnation`` is another.
"""

import asyncio
import secrets
from collections.abc import Callable, Mapping
from typing import Final

from towpath.gateway.sessions import Session
from towpath.gateway.settings import GatewaySettings
from towpath.protocol.envelope import make
from towpath.protocol.routes import SESSION_ALIVE, SESSION_ENDED, SESSION_STARTED
from towpath.servicekit.broker.interface import BrokerError
from towpath.servicekit.lanes import Lanes
from towpath.servicekit.telemetry import Telemetry

#: Connections whose last event may wait to be told again, for each one that may be open.
_UNTOLD_EACH: Final = 2


class Announcer:
    """Publishes session events. Nothing but :meth:`run` waits."""

    def __init__(self, events: Lanes, settings: GatewaySettings, telemetry: Telemetry) -> None:
        self._events = events
        self._replica = {"gateway_id": settings.gateway_id, "incarnation": secrets.token_hex(8)}
        self._interval = settings.alive_interval
        self._untold: dict[str, tuple[str, Session, int | None]] = {}  # by connection
        self._untold_max = _UNTOLD_EACH * settings.max_connections
        self._lost = telemetry.counter("session_events_lost", "Session events that will not be told again")

    def started(self, session: Session) -> None:
        """Tell that ``session`` is here."""
        self._tell(SESSION_STARTED, session, None)

    def ended(self, session: Session, code: int | None) -> None:
        """Tell that ``session`` is gone, and with which close code."""
        self._tell(SESSION_ENDED, session, code)

    def announce(self) -> None:
        """Tell that this replica lives, after what could not be told before."""
        untold, self._untold = self._untold, {}
        for event in untold.values():
            self._tell(*event)
        self._publish(SESSION_ALIVE, {}, lambda: None)

    async def run(self) -> None:
        """Announce at once, and then again and again."""
        while True:
            self.announce()
            await asyncio.sleep(self._interval)

    def _tell(self, name: str, session: Session, code: int | None) -> None:
        connection = session.connection_id
        self._untold.pop(connection, None)

        def keep() -> None:
            if len(self._untold) < self._untold_max:
                # Unless the end waits there already, and this is the start.
                self._untold.setdefault(connection, (name, session, code))
            else:
                self._lost.add(1)

        data: dict[str, str | int] = {"user_id": session.user_id, "connection_id": connection}
        if code is not None:
            data["code"] = code
        self._publish(name, data, keep)

    def _publish(self, name: str, data: Mapping[str, str | int], failed: Callable[[], None]) -> None:
        def settled(confirmed: "asyncio.Future[None]") -> None:
            if confirmed.exception() is not None:
                failed()

        try:
            confirmed = self._events.send(name, make(name, {**data, **self._replica}).to_json())
        except BrokerError:
            failed()
        else:
            confirmed.add_done_callback(settled)
