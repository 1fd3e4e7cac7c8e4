"""Session events: publishes the start and end of connections, and ``session.alive`` of this replica.

Guarantees: an event that was not confirmed or not routed is published again with the next ``session.alive`` at the
latest; per connection only the last event. So a service that receives ``session.alive`` knows which connections are
open on this replica, except for events in flight. A restarted replica has a new ``incarnation``, even under the same
id.
"""

import asyncio
import contextlib
import secrets
from collections.abc import Callable, Mapping
from typing import Final

from towpath.gateway.sessions.session import Session
from towpath.gateway.settings import GatewaySettings
from towpath.protocol.envelope import make
from towpath.protocol.routes import SESSION_ALIVE, SESSION_ENDED, SESSION_STARTED
from towpath.servicekit.broker.interface import BrokerError, Unroutable
from towpath.servicekit.messaging.lanes import Lanes
from towpath.servicekit.runtime.telemetry import Telemetry
from towpath.servicekit.runtime.time_slices import Turn

#: Maximum number of events that wait to be published again, per connection that may be open.
_UNPUBLISHED_EACH: Final = 2

_Data = Mapping[str, str | int]


class Announcer:
    """Publishes session events. Only :meth:`run` waits.

    Args:
        events: Mandatory lanes: an event whose key no queue is bound to must be returned.
    """

    def __init__(self, events: Lanes, settings: GatewaySettings, telemetry: Telemetry) -> None:
        self._events = events
        #: This run of the gateway.
        self.incarnation: Final = secrets.token_hex(8)
        self._replica = {"gateway_id": settings.gateway_id, "incarnation": self.incarnation}
        self._interval = settings.alive_interval
        self._unpublished: dict[str, tuple[str, _Data]] = {}  # Connection → name and data of the event.
        self._unpublished_max = _UNPUBLISHED_EACH * settings.max_connections
        self._unbound: set[str] = set()  # Names of events that were unroutable at the last attempt.
        self._due = asyncio.Event()
        self._lost = telemetry.counter("session_events_lost", "Session events that are not published again")

    def started(self, session: Session) -> "asyncio.Future[None] | None":
        """Publish that ``session`` is open.

        Returns:
            A future of the confirm; ``None`` if it failed at once. A failed event is published again.
        """
        data = _data_of(session)
        # Without a lost inbox the field is left out (protocol.md, "Session events").
        return self._announce(SESSION_STARTED, {**data, "inbox": session.inbox} if session.inbox else data)

    def ended(self, session: Session, code: int | None) -> None:
        """Publish that ``session`` is closed, with its close code."""
        self._announce(
            SESSION_ENDED, _data_of(session) if code is None else {**_data_of(session), "code": code}
        )

    def announce(self) -> None:
        """Make :meth:`run` publish ``session.alive`` now, after the events that failed before."""
        self._due.set()

    async def run(self) -> None:
        """Announce at once, then periodically until cancelled."""
        while True:
            self._due.clear()
            # Before `session.alive`, which says that all earlier events are published.
            await self._publish_again()
            self._publish(SESSION_ALIVE, {}, lambda _: None)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._interval):
                    await self._due.wait()

    async def _publish_again(self) -> None:
        waiting = self._unbound.copy()
        self._unbound.clear()
        time_slice = Turn()
        # One round: an event that fails again goes to the end.
        for connection in list(self._unpublished):
            if time_slice.is_over():
                await time_slice.next()
            if (event := self._unpublished.pop(connection, None)) is None:
                continue  # a later event of this connection was published meanwhile
            name, data = event
            if name in self._unbound:
                self._keep(connection, name, data)
                continue
            self._announce(name, data)
            if name in waiting:
                # One event of this name shows whether a queue is bound by now; the others follow next time.
                self._unbound.add(name)

    def _announce(self, name: str, data: _Data) -> "asyncio.Future[None] | None":
        connection = str(data["connection_id"])
        # Of a connection only the last event counts.
        self._unpublished.pop(connection, None)

        def on_confirm(error: BaseException | None) -> None:
            if isinstance(error, Unroutable):
                self._unbound.add(name)
            elif error is None:
                self._unbound.discard(name)
            if error is not None:
                self._keep(connection, name, data)

        return self._publish(name, data, on_confirm)

    def _keep(self, connection: str, name: str, data: _Data) -> None:
        if connection in self._unpublished:
            return  # A later event of the same connection waits there: its end, and this is the start.
        if len(self._unpublished) < self._unpublished_max:
            self._unpublished[connection] = (name, data)
        else:
            self._lost.add(1)

    def _publish(
        self, name: str, data: _Data, on_confirm: Callable[[BaseException | None], None]
    ) -> "asyncio.Future[None] | None":
        try:
            confirmed = self._events.send(name, make(name, {**data, **self._replica}).to_json())
        except BrokerError as error:
            on_confirm(error)
            return None
        confirmed.add_done_callback(
            lambda done: on_confirm(asyncio.CancelledError() if done.cancelled() else done.exception())
        )
        return confirmed


def _data_of(session: Session) -> _Data:
    return {"user_id": session.user_id, "connection_id": session.connection_id}
