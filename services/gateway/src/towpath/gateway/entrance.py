"""The entrance: limits the number of sockets, and of sockets in their opening handshake.

Guarantees:

* There are never more handshakes than ``handshakes_max`` in total and ``handshakes_max_per_address`` from one address
  (trusted proxies are counted in total only). A socket counts from its acceptance until it is admitted or closed.
* There are never more sockets than descriptors assigned to them: the reserve stays free.
* A socket over a limit is aborted at once, without an answer, and counted.

Past a limit the oldest unfinished handshake is aborted, not the newest: an honest client sends its request within a
round trip, so the oldest is most likely one that never will. If the newest were aborted, a few thousand silent
sockets would lock out every client until ``open_timeout``.
"""

import asyncio
from dataclasses import dataclass
from typing import Any, Protocol, cast

from websockets.asyncio.server import ServerConnection

from towpath.gateway.addresses import UNKNOWN, Proxies, limited_by
from towpath.gateway.settings import GatewaySettings
from towpath.servicekit.runtime.sampled_log import Tally
from towpath.servicekit.runtime.telemetry import Telemetry


@dataclass(frozen=True, slots=True)
class Room:
    """The limits that the descriptors of this process allow.

    Attributes:
        limit: Maximum number of descriptors.
        connections, handshakes, handshakes_per_address: The effective limits.
    """

    limit: int
    connections: int
    handshakes: int
    handshakes_per_address: int


def needed(settings: GatewaySettings) -> int:
    """The number of descriptors that the settings need."""
    return settings.max_connections + settings.handshakes_max + settings.descriptors_reserve


def share(limit: int, settings: GatewaySettings) -> Room:
    """Divide ``limit`` descriptors: first the reserve, then handshakes (a quarter at most), then connections."""
    free = max(4, limit - settings.descriptors_reserve)
    handshakes = min(settings.handshakes_max, free // 4)
    per_address = settings.handshakes_max_per_address * handshakes // settings.handshakes_max
    return Room(
        limit,
        min(settings.max_connections, free - handshakes),
        handshakes,
        max(1, min(per_address, handshakes)),
    )


class Abortable(Protocol):
    """A socket, as the entrance sees it."""

    def abort(self) -> None:
        """Close at once, without an answer."""
        ...


class Entrance:
    """Counts the sockets of one listener."""

    def __init__(self, room: Room, telemetry: Telemetry) -> None:
        self._room = room
        self._sockets_max = room.connections + room.handshakes
        self._unfinished: dict[Abortable, str] = {}  # Socket → address, oldest first.
        self._by_address: dict[str, dict[Abortable, None]] = {}
        self._sockets = 0
        self._aborted = {
            limit: Tally(
                "handshake_aborted",
                telemetry.counter(
                    "handshakes_aborted", "Sockets aborted before they were admitted", {"limit": limit}
                ),
            )
            for limit in ("total", "address", "sockets")
        }
        telemetry.gauge("handshakes_open", "Unfinished opening handshakes", lambda: len(self._unfinished))
        telemetry.gauge(
            "sockets_open", "Sockets of the listener, whatever their state", lambda: self._sockets
        )

    def enter(self, socket: Abortable, address: str | None) -> bool:
        """Count a socket that was accepted; ``False`` if it must be aborted, and then it is not counted.

        Args:
            address: The address it counts for; ``None`` to count it in total only.
        """
        if self._sockets >= self._sockets_max and not self._abort_oldest("sockets", self._unfinished):
            self._aborted["sockets"].add(limit="sockets", address=address)
            return False
        if len(self._unfinished) >= self._room.handshakes:
            self._abort_oldest("total", self._unfinished)
        if address is not None:
            same = self._by_address.setdefault(address, {})
            if len(same) >= self._room.handshakes_per_address:
                self._abort_oldest("address", same, address)
                same = self._by_address.setdefault(address, {})
            same[socket] = None
        self._unfinished[socket] = address or ""
        self._sockets += 1
        return True

    def admitted(self, socket: Abortable) -> None:
        """The handshake is done."""
        address = self._unfinished.pop(socket, None)
        if address and (same := self._by_address.get(address)) is not None:
            same.pop(socket, None)
            if not same:
                del self._by_address[address]

    def gone(self, socket: Abortable) -> None:
        """A counted socket was closed."""
        self.admitted(socket)
        self._sockets -= 1

    def abort_unfinished(self) -> None:
        """Abort all unfinished handshakes."""
        for socket in list(self._unfinished):
            self.admitted(socket)
            socket.abort()

    def _abort_oldest(self, limit: str, among: dict[Abortable, Any], address: str | None = None) -> bool:
        oldest = next(iter(among), None)
        if oldest is None:
            return False
        self.admitted(oldest)
        oldest.abort()
        self._aborted[limit].add(limit=limit, address=address)
        return True


class EnteringConnection(ServerConnection):
    """A connection that is counted by an :class:`Entrance`.

    Attributes:
        peer: The host at the other end of the TCP connection.
        address: The client's address, as limits count it; behind a trusted proxy known once the request is read.
    """

    def __init__(self, *args: Any, entrance: Entrance, proxies: Proxies, **options: Any) -> None:
        super().__init__(*args, **options)
        self._entrance = entrance
        self._proxies = proxies
        self._turned_away = False
        self._is_handshake_over = self._is_lost = False
        self.peer = self.address = UNKNOWN

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        peer = transport.get_extra_info("peername")
        if peer:
            self.peer, self.address = peer[0], limited_by(peer[0])
        self._accepted = transport
        if not self._entrance.enter(self, None if self._proxies.trusts(self.peer) else self.address):
            # No task, no parser: a refused socket must cost next to nothing.
            self._turned_away = True
            self.abort()
            return
        super().connection_made(transport)

    async def handshake(self, *args: Any, **options: Any) -> None:
        try:
            await super().handshake(*args, **options)
        finally:
            self._is_handshake_over = True
            self._break_rings()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._turned_away:
            self._entrance.gone(self)
            super().connection_lost(exc)
            self._is_lost = True
            if self._is_handshake_over:
                self._break_rings()

    def _break_rings(self) -> None:
        """Drop references to errors: their tracebacks refer to this connection, which refers to them.

        Such cycles wait for the garbage collector, which runs rarely: thousands of failed handshakes would hold 60
        MiB for minutes.
        """
        self.protocol.handshake_exc = None
        if (ended := self.protocol.parser_exc) is not None:
            ended.with_traceback(None)
        if self._is_lost:
            self.protocol.parser.close()
            vars(self.protocol).pop("select_subprotocol", None)  # a closure over this connection

    def abort(self) -> None:
        """Close at once, without an answer."""
        # Not checked: uvloop's transports are not instances of asyncio's classes.
        cast("asyncio.WriteTransport", self._accepted).abort()

    def admitted(self) -> None:
        """The handshake is done."""
        self._entrance.admitted(self)

    def locate(self, forwarded: list[str]) -> None:
        """Set :attr:`address` from ``X-Forwarded-For``."""
        self.address = self._proxies.client(self.peer, forwarded)
