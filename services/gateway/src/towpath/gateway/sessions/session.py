"""A session: one connection's identity, limits and timers.

Guarantees: nothing is sent after ``session.closing``; a session ends when its token expires, and its client is warned
``expiry_notice`` seconds before, in time for ``session.refresh``; ``accepted`` never follows the answer.

It does not depend on WebSockets: :class:`Socket` is the interface that it needs. The gateway stores nothing about a
session after its connection ends.
"""

import asyncio
import secrets
import time
from collections.abc import Mapping
from typing import Any, Final, Protocol

from towpath.gateway.admission.credentials import Identity
from towpath.gateway.sessions.group_versions import GroupVersions
from towpath.gateway.sessions.limits import TOKEN_BYTES, Limits
from towpath.gateway.settings import GatewaySettings
from towpath.protocol import messages
from towpath.protocol.close_codes import CloseCode
from towpath.protocol.envelope import ACCEPTED, VERSION, Envelope, make, now_ms
from towpath.servicekit.runtime.buckets import Bucket, Rate

_VIOLATION_WINDOW: Final = 60.0


class Socket(Protocol):
    """The interface of a WebSocket that a session needs. No method waits."""

    last_seen: float  #: Loop time of the last bytes from the client.
    address: str  #: The client's address.
    closing: bool  #: A close has begun.

    def send_text(self, text: bytes) -> None:
        """Send one text frame; closes with 4001 if too many bytes wait to be written."""
        ...

    def send_frames(self, frames: bytes) -> None:
        """Send one or more frames that :func:`towpath.gateway.websocket.frames.text_frame` built."""
        ...

    def write_frames(self, frames: bytes) -> None:
        """Like :meth:`send_frames`, but written at once and not at the end of the loop iteration; for pushes to
        many."""
        ...

    def backlog_size(self) -> int:
        """Bytes that wait to be written."""
        ...

    def send_ping(self) -> None:
        """Send a ping; the client's answer updates :attr:`last_seen`."""
        ...

    def pause_reading(self, seconds: float) -> bool:
        """Stop reading for ``seconds``; returns whether a pause begins now."""
        ...

    def resume_reading(self) -> None:
        """End the pause early."""
        ...

    def close_with(self, code: int, reason: str) -> None:
        """Begin the closing handshake; idempotent."""
        ...


class Session:
    """One connection of one user."""

    __slots__ = (
        "_expiry",
        "_notice",
        "_settings",
        "_socket",
        "_violations",
        "allowance",
        "awaiting_accepted",
        "command_session",
        "connection_id",
        "expires",
        "groups",
        "groups_of_inbox",
        "identity",
        "inbox",
        "is_over",
        "write_frames",
    )

    def __init__(self, socket: Socket, identity: Identity, settings: GatewaySettings, limits: Limits) -> None:
        self._socket = socket
        #: Not a method that calls it: a push to many connections is the hottest loop.
        self.write_frames = socket.write_frames
        self._settings = settings
        self._violations = Bucket(
            Rate(settings.max_violations / _VIOLATION_WINDOW, settings.max_violations), limits.now()
        )
        self._notice: asyncio.TimerHandle | None = None
        self._expiry: asyncio.TimerHandle | None = None
        self.connection_id = secrets.token_hex(10)
        self.identity = identity
        self.is_over = False
        #: The number of the inbox that services answer to; see :meth:`use_inbox`.
        self.inbox = 0
        #: By service. Managed by :class:`~towpath.gateway.sessions.members.Members`, while that inbox exists.
        self.groups: dict[str, GroupVersions] = {}
        self.groups_of_inbox = 0
        self.allowance = limits.open(identity.user_id, socket.address)
        #: Requests whose ``accepted`` is requested and not sent yet: the answer must not overtake it.
        self.awaiting_accepted: set[str] = set()
        #: The session as each command carries it, encoded once and not per command.
        self.command_session = b""
        self.use_identity(identity)

    @property
    def user_id(self) -> str:
        return self.identity.user_id

    @property
    def last_seen(self) -> float:
        return self._socket.last_seen

    @property
    def backlog_bytes(self) -> int:
        """Bytes that wait to be written to the client."""
        return self._socket.backlog_size()

    @property
    def is_closing(self) -> bool:
        """Whether its close has begun."""
        return self._socket.closing

    def use_identity(self, identity: Identity) -> None:
        """Continue with ``identity``: stamp commands with it, and watch its expiry."""
        self.identity = identity
        self._stamp()
        # The timers of the old token would end the connection in spite of the refresh.
        self.forget_timers()
        loop = asyncio.get_running_loop()
        # The wall clock is read once: if it is set later, the connection still ends after the same time.
        left = identity.expires_at - time.time()
        #: On the monotonic clock; a frame that is handled later is not accepted, see `Inbound.receive`.
        self.expires = time.monotonic() + left
        notice = max(0.0, left - self._settings.expiry_notice)
        self._notice = loop.call_later(notice, self._send_expiring)
        self._expiry = loop.call_later(max(0.0, left), self.expire)

    def use_inbox(self, number: int) -> None:
        """From now on services' answers to this connection arrive in the inbox of this number."""
        if number != self.inbox:
            self.inbox = number
            self._stamp()

    def may_address(self, domain: str) -> bool:
        """Whether the token's scope lets this user address ``domain``."""
        scope = self.identity.scope
        return scope is None or domain in scope.split()

    def welcome(self) -> None:
        """Send the first frame of every connection."""
        self.send_own(
            "session.welcome",
            {
                "connection_id": self.connection_id,
                "user_id": self.user_id,
                "gateway_id": self._settings.gateway_id,
                "server_time": now_ms(),
                "heartbeat_ms": int(self._settings.heartbeat * 1000),
                "max_frame_bytes": self._settings.max_frame_bytes,
                "version": VERSION,
            },
        )

    def send_own(self, action: str, data: Mapping[str, Any], *, correlation_id: str | None = None) -> None:
        """Send an envelope created by the gateway."""
        self.send(make(action, data, correlation_id=correlation_id))

    def send(self, envelope: Envelope) -> None:
        self._socket.send_text(envelope.to_json())

    def send_text(self, text: bytes) -> None:
        self._socket.send_text(text)

    def send_frames(self, frames: bytes) -> None:
        """Send frames unchanged."""
        self._socket.send_frames(frames)

    def accept(self, msg_id: str) -> None:
        """Send ``accepted`` for a confirmed request, if it was requested and is not sent yet."""
        if msg_id in self.awaiting_accepted:
            self.awaiting_accepted.discard(msg_id)
            self.send_own(ACCEPTED, {}, correlation_id=msg_id)

    def ping(self) -> None:
        self._socket.send_ping()

    def count_violation(self) -> None:
        """Count an unreadable frame; too many in a minute close the connection."""
        if self._violations.take(1.0, asyncio.get_running_loop().time()):
            self._end_abuse(CloseCode.PROTOCOL_VIOLATED, "too many unreadable frames")

    def count_strike(self) -> None:
        """Count a frame over a rate limit; too many in a minute close the connection."""
        if self.allowance.strike():
            self._end_abuse(CloseCode.RATE_LIMIT_ABUSED, "too many messages over the rate limit")
        else:
            self.pause_reading()

    def pause_reading(self) -> None:
        """Pause reading for a moment after a refusal."""
        self._socket.pause_reading(self._settings.rate_rest)

    def keep_pace(self) -> None:
        """Pause reading while the user is far ahead of the answers."""
        # The callback only where a pause begins, or each request would leave another one.
        if self.allowance.is_ahead() and self._socket.pause_reading(self._settings.inflight_pause):
            self.allowance.when_not_ahead(self._socket.resume_reading)

    def charge_frame(self, size: int) -> None:
        """Charge a frame that is not a message: a fragment, a ping or a pong."""
        if self.allowance.charge(1.0 + size / TOKEN_BYTES):
            self.count_strike()

    def answer(self, msg_id: str, *, error: str | None = None) -> bool:
        """Record an answer: the request is no longer in flight, and has been accepted.

        Returns whether to send it.
        """
        if self.awaiting_accepted:
            self.accept(msg_id)  # The answer has overtaken the confirm; see Outbound._direct.
        return self.allowance.answer(msg_id, error=error)

    def close(self, code: int, reason: str, *, retry_after: float | None = None) -> None:
        """Announce the close with ``session.closing``, then close; idempotent."""
        if self._socket.closing:
            return
        # A frame and not only the close frame, as browsers cannot read more than a code and 123 bytes of that.
        advice = self._settings.retry_after if retry_after is None else retry_after
        data: dict[str, Any] = {"code": int(code), "reason": reason}
        if (
            code < 4500
        ):  # From 4500 on a reconnect would end the same way, so clients get no advice to try one.
            data["retry_after_ms"] = int(advice * 1000)
        self.send_own("session.closing", data)
        self._socket.close_with(code, reason)

    def _stamp(self) -> None:
        self.command_session = messages.encode(
            messages.Session(
                self.user_id, self.connection_id, self._settings.gateway_id, self.identity.scope, self.inbox
            )
        )

    def _end_abuse(self, code: CloseCode, reason: str) -> None:
        if not self._socket.closing:
            self.allowance.count_abuse(code)
            self.close(code, reason)

    def ended(self) -> None:
        """The connection has ended."""
        self.is_over = True
        self.forget_timers()
        self.allowance.close()

    def forget_timers(self) -> None:
        """Stop watching the token's expiry."""
        for timer in (self._notice, self._expiry):
            if timer is not None:
                timer.cancel()

    def _send_expiring(self) -> None:
        self.send_own("session.expiring", {"expires_at": int(self.identity.expires_at * 1000)})

    def expire(self) -> None:
        """Close because the token is expired; idempotent."""
        # Without a wait: the client needs a fresh token, not a pause.
        self.close(CloseCode.TOKEN_EXPIRED, "the token is expired", retry_after=0)
