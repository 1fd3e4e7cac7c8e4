"""A counted connection: the first step of a socket, from its acceptance to the end of its opening handshake.

Guarantees: the :class:`~towpath.gateway.admission.entrance.Entrance` counts a socket from its acceptance on, with TLS
from before its TLS handshake; a socket over a limit costs no task and no parser. A failed handshake leaves no garbage
behind that waits for the collector.
"""

import asyncio
from typing import Any, cast

from towpath.gateway.addresses import UNKNOWN, Proxies, limited_by
from towpath.gateway.admission.entrance import Entrance
from towpath.gateway.websocket.library import LibraryConnection
from towpath.gateway.websocket.tls_door import TlsDoor


class CountedConnection(LibraryConnection):
    """A connection that an :class:`Entrance` counts.

    Args:
        door: Where it begins with a TLS handshake.

    Attributes:
        peer: The host at the other end of the TCP connection.
        address: The client's address, as limits count it; behind a trusted proxy known once the request is read.
    """

    def __init__(
        self, *args: Any, entrance: Entrance, proxies: Proxies, door: TlsDoor | None = None, **options: Any
    ) -> None:
        super().__init__(*args, **options)
        self._door = door
        #: The TCP transport, also beneath TLS; apart from the library's own attribute, which is set later.
        self._accepted: asyncio.Transport | None = None
        self._entrance = entrance
        self._proxies = proxies
        self._is_turned_away = False
        self._is_handshake_over = self._is_lost = False
        self.peer = self.address = UNKNOWN

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if self._accepted is None:
            # Not checked: uvloop's transports are not instances of asyncio's classes.
            accepted = cast("asyncio.Transport", transport)
            if not self._accept(accepted):
                return
            if self._door is not None:
                self._door.begin(accepted, self)  # It calls this method again.
                return
        super().connection_made(transport)

    def _accept(self, transport: asyncio.Transport) -> bool:
        peer = transport.get_extra_info("peername")
        if peer:
            self.peer, self.address = peer[0], limited_by(peer[0])
        self._accepted = transport
        address = self._limited_address()
        turns_away = self._door is not None and address is not None and self._door.turns_away(address)
        if turns_away or not self._entrance.enter(self, address):
            # No task, no parser: a refused socket must cost next to nothing.
            self._is_turned_away = True
            self.abort()
            return False
        return True

    def never_made(self) -> None:
        """The TLS handshake has failed: the library has not seen the connection, and never will."""
        self.abort()
        self._entrance.closed(self)
        if self._door is not None and (address := self._limited_address()) is not None:
            self._door.charge_failure(address)
        self.break_cycles(is_lost=True)

    def _limited_address(self) -> str | None:
        # A trusted proxy counts in total only: all its clients come from its one address.
        return None if self._proxies.trusts(self.peer) else self.address

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
        # Of the TCP transport: that of TLS would be there after the TLS handshake only.
        if self._accepted is not None:
            self._accepted.abort()

    def admitted(self) -> None:
        """The handshake is done."""
        self._entrance.admitted(self)

    def locate(self, forwarded: list[str]) -> None:
        """Set :attr:`address` from ``X-Forwarded-For``."""
        self.address = self._proxies.client(self.peer, forwarded)
