"""Closing handshakes: each runs in a task of its own, with a time limit (RFC 6455, section 7.1.2).

Guarantees: the caller that begins a close does not wait for it. ``close_timeout`` seconds later the connection is
closed, also if its client neither reads nor answers. A close for abuse costs connects of its user.
"""

import asyncio
from typing import Final, Protocol

from towpath.gateway.admission.connect_rates import ConnectRates
from towpath.gateway.admission.credentials import Identity
from towpath.protocol.close_codes import CloseCode

_ABUSE: Final = frozenset({CloseCode.RATE_LIMIT_ABUSED, CloseCode.PROTOCOL_VIOLATED})


class Closable(Protocol):
    """A connection that can be closed."""

    identity: Identity

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Send a close frame, and wait for the client's and for the end of the connection."""
        ...

    def abort(self) -> None:
        """Close at once."""
        ...


class Closing:
    """The closing handshakes of one listener.

    Args:
        timeout: Seconds that one may take.
    """

    def __init__(self, rates: ConnectRates, timeout: float) -> None:
        self._rates = rates
        self._timeout = timeout
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self, socket: Closable, code: int, reason: str) -> None:
        """Begin the closing handshake of ``socket``."""
        if code in _ABUSE:
            # A client that reconnects at once would cost the other clients as much again.
            self._rates.charge_abuse(socket.identity.user_id)
        task = asyncio.create_task(self._close(socket, code, reason), name="connection: close")
        # The loop holds tasks weakly, so the garbage collector could end a close half-way:
        # https://docs.python.org/3/library/asyncio-task.html#asyncio.create_task
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def wait(self) -> None:
        """Wait until all closing handshakes have ended; for a second more than each may take."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=self._timeout + 1)

    async def _close(self, socket: Closable, code: int, reason: str) -> None:
        # websockets waits for space in the write buffer without a limit: a client that does not read is aborted.
        try:
            async with asyncio.timeout(self._timeout):
                await socket.close(code, reason)
        except TimeoutError:
            # RFC 6455, section 7.1.1: an endpoint may close the TCP connection at any time if the handshake does not
            # complete.
            socket.abort()
