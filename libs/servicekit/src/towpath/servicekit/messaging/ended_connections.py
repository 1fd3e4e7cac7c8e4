"""Ended connections, remembered so that no more answers are prepared for them.

Guarantees: bounded in number and age. It is only a hint: a replica that has just started knows no ended connection,
and its answer goes to a gateway that drops it.
"""

import time
from collections.abc import Callable
from typing import Final

import msgspec

from towpath.protocol.messages import Session
from towpath.protocol.routes import EVENTS, SESSION_ENDED
from towpath.servicekit.broker.interface import Binding, Broker, Inbox
from towpath.servicekit.messaging.inboxes import listen

#: Maximum number of remembered ids; the oldest are forgotten first.
_MOST: Final = 50_000
#: Seconds for which an id is remembered. A heavy read that has waited longer runs for nothing: that costs time only.
_SECONDS: Final = 60.0


class _Data(msgspec.Struct):
    connection_id: str = ""


class _Ended(msgspec.Struct):
    data: _Data


_ENDED: Final = msgspec.json.Decoder(_Ended)


class EndedConnections:
    """The connections that ended lately; run :meth:`listen` beside the consumer.

    Args:
        most: Maximum number of remembered connections, the latest.
    """

    def __init__(self, *, most: int = _MOST, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = most
        self._clock = clock
        self._ended_at: dict[str, float] = {}  # Oldest first.

    def is_connected(self, session: Session) -> bool:
        """False if the session's connection is known to have ended."""
        at = self._ended_at.get(session.connection_id)
        return at is None or self._clock() - at > _SECONDS

    def ended(self, connection_id: str) -> None:
        """Record that a connection has ended."""
        self._ended_at.pop(connection_id, None)
        if len(self._ended_at) >= self._most:
            del self._ended_at[next(iter(self._ended_at))]
        self._ended_at[connection_id] = self._clock()

    async def listen(self, broker: Broker, service: str) -> None:
        """Record the connections that gateways report as ended, until cancelled or the broker is closed."""
        # An inbox, as this is only a hint: services that must not miss the event consume it from a durable queue.
        inbox = Inbox(name=f"{service}.departures", bindings=[Binding(EVENTS, SESSION_ENDED)])
        await listen(broker, inbox, lambda item: self.ended(_ENDED.decode(item).data.connection_id))
