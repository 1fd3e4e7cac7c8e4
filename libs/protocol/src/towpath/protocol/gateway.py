"""Payload models of what gateways themselves answer and publish, and the meaning of each code. Documentation as data.

Gateways build these messages without the models; tests check each frame that they send against them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final

from pydantic import Field

from towpath.protocol.close_codes import CloseCode
from towpath.protocol.envelope import PING, PONG
from towpath.protocol.errors import ErrorCode
from towpath.protocol.fields import Empty, Payload
from towpath.protocol.routes import SERVICE_ALIVE, SESSION_ALIVE, SESSION_ENDED, SESSION_STARTED
from towpath.protocol.services import MIN_COST, REFRESH_COST, ServiceAlive
from towpath.protocol.sessions import GatewayAlive, SessionEnded, SessionStarted


class RefreshToken(Payload):
    """``data`` of ``session.refresh``: the connection continues under another token.

    Attributes:
        token: A JWT of the same user, from the same issuer.
    """

    token: str


class Refreshed(Payload):
    """Answer to ``session.refresh``.

    Attributes:
        expires_at: When the new token expires, Unix milliseconds.
    """

    expires_at: int


class Welcome(Payload):
    """``session.welcome``, the first frame of every connection.

    Attributes:
        connection_id: The connection, unique over all gateways.
        user_id: The user of the token.
        gateway_id: The gateway's replica.
        server_time: The gateway's clock, Unix milliseconds.
        heartbeat_ms: After this time without a frame from the client the gateway sends a WebSocket ping.
        max_frame_bytes: The largest frame that it accepts.
        version: Of the protocol.
    """

    connection_id: str
    user_id: str
    gateway_id: str
    server_time: int
    heartbeat_ms: int
    max_frame_bytes: int
    version: str


class Expiring(Payload):
    """``session.expiring``: the token expires soon; refresh it.

    Attributes:
        expires_at: Unix milliseconds.
    """

    expires_at: int


class Resync(Payload):
    """``session.resync``: pushes may have been missed; resume every stream.

    Attributes:
        reason: For people.
    """

    reason: str


class Closing(Payload):
    """``session.closing``, before the gateway closes the connection.

    Attributes:
        code: The close code that follows.
        reason: For people.
        retry_after_ms: When to reconnect, in milliseconds from now; left out where the client should not.
    """

    code: int
    reason: str
    retry_after_ms: int | None = None


class FieldProblem(Payload):
    """One field that was refused.

    Attributes:
        field: Its path, with dots.
        problem: For people.
    """

    field: str
    problem: str


class ErrorData(Payload):
    """``data`` of an ``error``: the final answer of a request that was refused or failed.

    Attributes:
        code: More codes may be added.
        message: For people: the problem and the remedy.
        retryable: Whether the same envelope, resent unchanged, can succeed.
        retry_after_ms: The time to wait before a retry.
        details: Particulars by code; with ``invalid_data`` and ``bad_envelope`` a list of ``fields``.
        trace_id: The id to search for in logs and traces.
    """

    # "x-open": a reader has to expect values that are not listed, so that one more breaks no reader.
    code: Annotated[ErrorCode, Field(json_schema_extra={"x-open": True})]
    message: str
    retryable: bool
    retry_after_ms: int | None = None
    details: dict[str, Any] | None = None
    trace_id: str | None = None


@dataclass(frozen=True, slots=True)
class Answered:
    """A request that gateways answer.

    Attributes:
        answer: The action of the answer.
        cost: In tokens of the sender's rate limit.
    """

    request: type[Payload]
    answer: str
    model: type[Payload]
    cost: float


#: Action → how it is answered.
REQUESTS: Final[Mapping[str, Answered]] = {
    PING: Answered(Empty, PONG, Empty, MIN_COST),
    "session.refresh": Answered(RefreshToken, "session.refresh.ok", Refreshed, REFRESH_COST),
}
#: Frame of a gateway → its ``data``.
PUSHES: Final[Mapping[str, type[Payload]]] = {
    "session.welcome": Welcome,
    "session.expiring": Expiring,
    "session.resync": Resync,
    "session.closing": Closing,
}
#: Event that gateways publish → its ``data``.
EVENTS_OUT: Final[Mapping[str, type[Payload]]] = {
    SESSION_STARTED: SessionStarted,
    SESSION_ALIVE: GatewayAlive,
    SESSION_ENDED: SessionEnded,
}
#: Event that gateways receive → its ``data``.
EVENTS: Final[Mapping[str, type[Payload]]] = {SERVICE_ALIVE: ServiceAlive}

#: The situation of each error code.
ERRORS: Final[Mapping[ErrorCode, str]] = {
    ErrorCode.BAD_ENVELOPE: "not JSON, not an object, or a field is missing or has the wrong form",
    ErrorCode.UNSUPPORTED_VERSION: "another major version",
    ErrorCode.UNKNOWN_ACTION: "no service owns the domain, or the service has no such verb",
    ErrorCode.INVALID_DATA: "`data` does not fit the action",
    ErrorCode.UNAUTHORIZED: "a token given in `session.refresh` is refused",
    ErrorCode.FORBIDDEN: "the user may not use the domain or the thing",
    ErrorCode.NOT_FOUND: "the thing does not exist for this user",
    ErrorCode.CONFLICT: "the state of the thing does not allow it, or another request had the same `msg_id`",
    ErrorCode.PAYLOAD_TOO_LARGE: "reserved",
    ErrorCode.RATE_LIMITED: "over a rate; `retry_after_ms` is the time to wait",
    ErrorCode.BUSY: "a bound is reached: requests in flight, a full queue, a blocked broker",
    ErrorCode.UNAVAILABLE: "the broker cannot be reached; nothing was sent",
    ErrorCode.TIMEOUT: "the outcome is unknown: resend it with the same `msg_id`",
    ErrorCode.INTERNAL: "anything else; it has no effect",
}
#: The situation of each close code.
CLOSES: Final[Mapping[CloseCode, str]] = {
    CloseCode.UNSUPPORTED_DATA: "a binary frame",
    CloseCode.MESSAGE_TOO_BIG: "a frame over the limit",
    CloseCode.SERVICE_RESTART: "this replica restarts: reconnect after `retry_after_ms`",
    CloseCode.TRY_AGAIN_LATER: "reserved for overload",
    CloseCode.SLOW_CONSUMER: "too slow: the backlog of the connection is over its limit; resume",
    CloseCode.HEARTBEAT_LOST: "no answer to a ping",
    CloseCode.TOKEN_EXPIRED: "the token has expired: reconnect with a fresh one",
    CloseCode.RATE_LIMIT_ABUSED: "continued after many `rate_limited`",
    CloseCode.PROTOCOL_VIOLATED: "too many unreadable frames",
    CloseCode.KICKED: "kicked or revoked",
    CloseCode.REPLACED: "too many connections of this user: the oldest is closed",
}
