"""Requests that wait for their final answer, in the order they were made. No I/O.

While there is a connection a request leaves at once. Otherwise it waits, up to a limit; with the next connection
everything unanswered leaves again in the old order, with the same ``msg_id``, so that its effect happens once.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from towpath.client.actions import Accepted, Action, Cancel, Reject, Resolve, Send
from towpath.client.envelope import Envelope
from towpath.client.errors import TowpathError, is_number
from towpath.protocol.envelope import ACCEPTED, ERROR, PING, PONG


@dataclass(slots=True)
class Pending:
    """A request without an answer.

    Attributes:
        timed: Whether a timer ``request:<msg_id>`` belongs to it.
        stream: The stream whose position its answer says.
        sent: How often it left.
    """

    msg_id: str
    action: str
    text: bytes
    timed: bool
    stream: str | None
    sent: int = 0
    accepted: bool = False


class Requests:
    """All requests without an answer.

    Args:
        limit: How many may wait that have never been sent.
        act: Puts an action out.
        settled: Called when a request with the position of a stream has ended: the stream; the answer's value,
            whatever that is (``None``: nothing); and whether the request left more than once, so that the answer may
            be the one of the first time.
    """

    def __init__(
        self, limit: int, act: Callable[[Action], None], settled: Callable[[str, Any, bool], None]
    ) -> None:
        self._limit = limit
        self._act = act
        self._settled = settled
        self._pending: dict[str, Pending] = {}
        self._open = False
        self._max_bytes: float | None = None

    def __contains__(self, msg_id: str) -> bool:
        return msg_id in self._pending

    def add(self, request: Pending) -> None:
        """Take a request, or reject it if too many wait."""
        # A request that left once does not count: it has to leave again, whatever the limit.
        if not self._open and sum(not entry.sent for entry in self._pending.values()) >= self._limit:
            message = (
                f"No connection, and {self._limit} requests wait for one already. Try again once it is open."
            )
            details = {"sent": False, "limit": self._limit}
            self._act(
                Reject(
                    request.msg_id,
                    TowpathError(
                        "queue_full", message, retryable=True, details=details, msg_id=request.msg_id
                    ),
                )
            )
            return
        self._pending[request.msg_id] = request
        if self._open:
            self._send(request)

    def open(self, max_bytes: Any) -> None:
        """A connection is there: send what is unanswered.

        Args:
            max_bytes: The server's largest frame, if it makes sense.
        """
        self._open = True
        self._max_bytes = max_bytes if is_number(max_bytes) and max_bytes > 0 else None
        # A copy: one that is too large for this server is rejected meanwhile.
        for entry in list(self._pending.values()):
            self._send(entry)

    def hold(self) -> None:
        """The connection is gone: keep what is unanswered."""
        self._open = False

    def answer(self, correlation_id: str, envelope: Envelope) -> bool:
        """Take an answer if it is one to a request here; says whether it was."""
        entry = self._pending.get(correlation_id)
        if entry is None:
            return False
        action = envelope["action"]
        if action == ERROR:
            self.reject(entry.msg_id, TowpathError.from_wire(envelope["data"], entry.msg_id))
        elif action == f"{entry.action}.ok" or (entry.action == PING and action == PONG):
            self._take(entry)
            self._act(Resolve(entry.msg_id, envelope["data"]))
            if entry.stream is not None:
                self._settled(entry.stream, envelope["data"].get("seq"), entry.sent > 1)
        elif action == ACCEPTED:
            if not entry.accepted:
                # A request that left twice is accepted twice; the application gets it once.
                self._act(Accepted(entry.msg_id))
            entry.accepted = True
        else:
            return False
        return True

    def time_up(self, msg_id: str, last_attempt: str | None) -> None:
        """The time of a request is up.

        Args:
            msg_id: The request.
            last_attempt: How the last attempt to connect ended, for people.
        """
        entry = self._pending.get(msg_id)
        if entry is None:
            return
        if entry.sent:
            message = (
                f"No answer to {entry.action} in time. "
                "Whether it was done is unknown; ask again with the same id."
            )
        else:
            ended = "" if last_attempt is None else f"; the last attempt: {last_attempt}"
            message = f"No connection in time to send {entry.action}{ended}."
        self.reject(msg_id, TowpathError("timeout", message, retryable=True))

    def reject(self, msg_id: str, error: TowpathError) -> None:
        """End a request without an answer, if it is still here."""
        entry = self._pending.get(msg_id)
        if entry is None:
            return
        self._take(entry)
        if error.msg_id is None:
            error.msg_id = msg_id
        if not entry.sent:
            # It had no effect: the application may make it again under a new id.
            error.details = {**(error.details or {}), "sent": False}
        self._act(Reject(msg_id, error))
        if entry.stream is not None:
            self._settled(entry.stream, None, False)

    def forget(self, stream: str) -> None:
        """Later answers no longer set the position of this stream."""
        for entry in self._pending.values():
            if entry.stream == stream:
                entry.stream = None

    def end(self, reason: TowpathError) -> None:
        """No connection will come any more."""
        for msg_id in list(self._pending):
            # An error of its own for each: it carries the msg_id.
            self.reject(msg_id, TowpathError(reason.code, reason.message, details=reason.details))

    def _send(self, entry: Pending) -> None:
        # The server would close the connection with 1009, and that for good (protocol.md, "Close codes").
        if self._max_bytes is not None and len(entry.text) > self._max_bytes:
            message = (
                f"{entry.action} takes {len(entry.text)} bytes; the server takes {self._max_bytes} a frame."
            )
            self.reject(entry.msg_id, TowpathError("payload_too_large", message))
            return
        entry.sent += 1
        self._act(Send(entry.text))

    def _take(self, entry: Pending) -> None:
        del self._pending[entry.msg_id]
        if entry.timed:
            self._act(Cancel(f"request:{entry.msg_id}"))
