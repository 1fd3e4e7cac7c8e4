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

from typing import Any, Protocol

from towpath.gateway.admission.descriptor_share import DescriptorShare
from towpath.servicekit.runtime.sampled_log import SampledLog
from towpath.servicekit.runtime.telemetry import Telemetry


class Abortable(Protocol):
    """A socket, as the entrance sees it."""

    def abort(self) -> None:
        """Close at once, without an answer."""
        ...


class Entrance:
    """Counts the sockets of one listener."""

    def __init__(self, share: DescriptorShare, telemetry: Telemetry) -> None:
        self._share = share
        self._sockets_max = share.connections + share.handshakes
        self._unfinished: dict[Abortable, str] = {}  # Socket → address, oldest first.
        self._by_address: dict[str, dict[Abortable, None]] = {}
        self._sockets = 0
        self._aborted = {
            limit: SampledLog(
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
        # Without a descriptor to spare the newest socket is refused, unless an unfinished one can make way.
        if self._sockets >= self._sockets_max and not self._abort_oldest("sockets", self._unfinished):
            self._aborted["sockets"].add(limit="sockets", address=address)
            return False
        if len(self._unfinished) >= self._share.handshakes:
            self._abort_oldest("total", self._unfinished)
        if address is not None:
            same = self._by_address.setdefault(address, {})
            if len(same) >= self._share.handshakes_per_address:
                self._abort_oldest("address", same, address)
                # Emptied and removed, if the oldest was the only one.
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

    def closed(self, socket: Abortable) -> None:
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
