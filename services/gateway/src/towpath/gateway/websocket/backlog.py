"""The backlog: bytes that wait to be written to clients that read slowly or not at all.

Guarantees:

* One connection never holds more than ``send_buffer_bytes`` (and one message).
* All together hold no more than ``send_buffer_total_bytes``. Past it, connections that are already closing are
  aborted, then the others are closed with 4001, the largest first, until three quarters of it are left. A connection
  closed like that which still does not read is aborted at the next message that does not fit.
* The cost of a message does not depend on the number of connections with a backlog: a search for the largest frees so
  many bytes that the next search is far away.
"""

from typing import Protocol

from towpath.gateway.settings import GatewaySettings
from towpath.servicekit.runtime.telemetry import Telemetry


class Waiting(Protocol):
    """A connection with bytes to be written."""

    connection_id: str
    owner: str
    closing: bool

    def backlog_size(self) -> int:
        """Bytes that wait now."""
        ...

    def close_too_slow(self) -> None:
        """Close it with 4001."""
        ...

    def abort(self) -> None:
        """Abort it, which frees its waiting bytes."""
        ...


class Backlog:
    """The connections of this replica with bytes to be written."""

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
        """Record that ``size`` bytes wait for ``socket``; closes connections that hold too much."""
        # The difference: the sum of all sizes is known without a loop over them.
        self._total += size - self._sizes.get(socket, 0)
        if size:
            self._sizes[socket] = size
        else:
            self._sizes.pop(socket, None)
        if size > self._each:
            if not socket.closing:
                self._closed["connection"].add(1)
                socket.close_too_slow()
        # Asked twice: the recorded total is too high while clients read, and only an exact one may cost a client its
        # connection.
        elif self._total > self._limit and self._refresh() > self._limit:
            self._free()

    def _free(self) -> None:
        # To exactly the limit would make the next message search again.
        excess = self._total - self._limit * 3 // 4
        for one, size in sorted(self._sizes.items(), key=lambda item: (not item[0].closing, -item[1])):
            if excess <= 0:
                return
            excess -= size
            if one.closing:
                # It was closed before and still holds bytes: it does not read, so no close frame will reach it.
                one.abort()
            else:
                self._closed["total"].add(1)
                one.close_too_slow()

    def largest(self) -> "list[tuple[Waiting, int]]":
        """The connections with waiting bytes, the largest first."""
        self._refresh()
        return sorted(self._sizes.items(), key=lambda item: -item[1])

    def forget(self, socket: Waiting) -> None:
        """Forget a connection that has ended."""
        self._total -= self._sizes.pop(socket, 0)

    def _refresh(self) -> int:
        # Sizes are as of the last write; bytes that the kernel took since then are only seen by asking.
        self._sizes = {socket: size for socket in self._sizes if (size := socket.backlog_size())}
        self._total = sum(self._sizes.values())
        return self._total
