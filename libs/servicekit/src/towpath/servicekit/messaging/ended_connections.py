"""Ended connections, remembered so that no more answers are prepared for them.

Guarantees: bounded in number and age. It is only a hint: a replica that has just started knows no ended connection,
and its answer goes to a gateway that drops it.
"""

import time
from collections.abc import Callable
from typing import Final

import msgspec

from towpath.protocol.errors import BadEnvelope
from towpath.protocol.messages import Session, split_batch
from towpath.protocol.routes import EVENTS, SESSION_ENDED
from towpath.servicekit.broker.interface import Binding, Broker, Inbox

_MOST: Final = 50_000
_SECONDS: Final = 60.0
_PREFETCH: Final = 100


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
        self._gone: dict[str, float] = {}  # Oldest first.

    def is_connected(self, session: Session) -> bool:
        """False if the session's connection is known to have ended."""
        at = self._gone.get(session.connection_id)
        return at is None or self._clock() - at > _SECONDS

    def ended(self, connection_id: str) -> None:
        """Record that a connection has ended."""
        self._gone.pop(connection_id, None)
        if len(self._gone) >= self._most:
            del self._gone[next(iter(self._gone))]
        self._gone[connection_id] = self._clock()

    async def listen(self, broker: Broker, service: str) -> None:
        """Record the connections that gateways report as ended, until cancelled or the broker is closed."""
        inbox = Inbox(name=f"{service}.departures", bindings=[Binding(EVENTS, SESSION_ENDED)])
        async with broker.subscribe(inbox, prefetch=_PREFETCH) as subscription:
            async for delivery in subscription:
                try:
                    for item in split_batch(delivery.body):
                        self.ended(_ENDED.decode(item).data.connection_id)
                except (BadEnvelope, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                    pass  # Only a hint: events that must not be missed have a durable queue.
                finally:
                    delivery.ack()
