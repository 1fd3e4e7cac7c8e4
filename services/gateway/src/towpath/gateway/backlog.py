"""The backlog: what waits to be written to clients that do not read, or not fast enough.

Guarantees:

* One connection never holds more than ``send_buffer_bytes`` (and one message).
* All together hold no more than ``send_buffer_total_bytes``. Past it, connections that are closing already are
  aborted and then the others closed with 4001, the largest first, until three quarters of it are left. One that is
  closed like that and still does not read is aborted at the next message that does not fit.
* The cost of a message does not depend on how many connections have a backlog: the search for the largest frees so
  much that the next one is far away.
"""

from typing import Protocol

from towpath.gateway.settings import GatewaySettings
from towpath.servicekit.telemetry import Telemetry


class Waiting(Protocol):
    """A connection with something to be written."""

    closing: bool

    def backlog_size(self) -> int:
        """Bytes that wait right now."""
        ...

    def too_slow(self) -> None:
        """Close it with 4001."""
        ...

    def cut_off(self) -> None:
        """Abort it, which frees what waits."""
        ...


class Backlog:
    """The connections of this replica that have something to be written."""

    def __init__(self, settings: GatewaySettings, telemetry: Telemetry) -> None:
        self._each = settings.send_buffer_bytes
        self._limit = settings.send_buffer_total_bytes
        self._sizes: dict[Waiting, int] = {}
        self._total = 0
        self._closed = {
            kind: telemetry.counter(
                "slow_consumers",
                "Connections closed with 4001: too much waited to be written",
                {"limit": kind},
            )
            for kind in ("connection", "total")
        }
        telemetry.gauge("send_backlog_bytes", "Bytes that wait to be written to clients", self._refresh)

    def note(self, socket: Waiting, size: int) -> None:
        """Take note that ``size`` bytes wait for ``socket``; closes what holds too much."""
        self._total += size - self._sizes.get(socket, 0)
        if size:
            self._sizes[socket] = size
        else:
            self._sizes.pop(socket, None)
        if size > self._each:
            if not socket.closing:
                self._closed["connection"].add(1)
                socket.too_slow()
        elif self._total > self._limit and self._refresh() > self._limit:
            self._free()

    def _free(self) -> None:
        excess = self._total - self._limit * 3 // 4
        for one, size in sorted(self._sizes.items(), key=lambda item: (not item[0].closing, -item[1])):
            if excess <= 0:
                return
            excess -= size
            if one.closing:
                one.cut_off()
            else:
                self._closed["total"].add(1)
                one.too_slow()

    def forget(self, socket: Waiting) -> None:
        """The connection is gone."""
        self._total -= self._sizes.pop(socket, 0)

    def _refresh(self) -> int:
        # Sizes are as of the last write; what the kernel took since then is seen only by asking.
        self._sizes = {socket: size for socket in self._sizes if (size := socket.backlog_size())}
        self._total = sum(self._sizes.values())
        return self._total
