"""A counted connection: the first step of a socket, from its acceptance to the end of its opening handshake.

Guarantees: the :class:`~towpath.gateway.admission.entrance.Entrance` counts a socket from its acceptance on; a socket
over a limit costs no task and no parser. A failed handshake leaves no garbage behind that waits for the collector.
"""

import asyncio
from typing import Any, cast

from towpath.gateway.addresses import UNKNOWN, Proxies, limited_by
from towpath.gateway.admission.entrance import Entrance
from towpath.gateway.websocket.library import LibraryConnection


class CountedConnection(LibraryConnection):
    """A connection that an :class:`Entrance` counts.

    Attributes:
        peer: The host at the other end of the TCP connection.
        address: The client's address, as limits count it; behind a trusted proxy known once the request is read.
    """

    def __init__(self, *args: Any, entrance: Entrance, proxies: Proxies, **options: Any) -> None:
        super().__init__(*args, **options)
        self._entrance = entrance
        self._proxies = proxies
        self._is_turned_away = False
        self._is_handshake_over = self._is_lost = False
        self.peer = self.address = UNKNOWN

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        peer = transport.get_extra_info("peername")
        if peer:
            self.peer, self.address = peer[0], limited_by(peer[0])
        # Kept apart from the library's own attribute: `abort` must also work for a socket that never gets that far.
        self._accepted = transport
        # A trusted proxy counts in total only: all its clients come from its one address.
        if not self._entrance.enter(self, None if self._proxies.trusts(self.peer) else self.address):
            # No task, no parser: a refused socket must cost next to nothing.
            self._is_turned_away = True
            self.abort()
            return
        super().connection_made(transport)

    def on_handshake_over(self) -> None:
        self._is_handshake_over = True
        self.break_cycles(is_lost=self._is_lost)

    def connection_lost(self, exc: Exception | None) -> None:
        # A refused socket was never counted, and the library never saw it begin.
        if not self._is_turned_away:
            # First: its place is free for the next client, whatever the library still does with this connection.
            self._entrance.closed(self)
            super().connection_lost(exc)
            self._is_lost = True
            # The handshake's task still runs after the loss and may use the parser, so the later of both cleans up.
            if self._is_handshake_over:
                self.break_cycles(is_lost=True)

    def abort(self) -> None:
        """Close at once, without an answer, which also frees the bytes that wait to be written."""
        # Not checked: uvloop's transports are not instances of asyncio's classes.
        cast("asyncio.WriteTransport", self._accepted).abort()

    def admitted(self) -> None:
        """The handshake is done."""
        self._entrance.admitted(self)

    def locate(self, forwarded: list[str]) -> None:
        """Set :attr:`address` from ``X-Forwarded-For``."""
        self.address = self._proxies.client(self.peer, forwarded)
