"""WebSocket close codes (RFC 6455, section 7.4; 4000-4999 are private use).

Old clients obey new codes by range: 4000-4499 reconnect with backoff and full jitter, 4500-4999 don't.
"""

from enum import IntEnum


class CloseCode(IntEnum):
    """Codes the gateway closes with."""

    UNSUPPORTED_DATA = 1003  #: a binary frame
    MESSAGE_TOO_BIG = 1009  #: a frame over the limit
    SERVICE_RESTART = 1012  #: this replica restarts: reconnect after ``retry_after_ms``
    TRY_AGAIN_LATER = 1013  #: overloaded
    SLOW_CONSUMER = 4001  #: the send queue is full: reconnect and resume
    HEARTBEAT_LOST = 4002  #: no pong in time
    TOKEN_EXPIRED = 4003  #: reconnect with a fresh token
    RATE_LIMIT_ABUSED = 4005
    PROTOCOL_VIOLATED = 4500  #: again and again
    KICKED = 4502  #: kicked or revoked
    REPLACED = 4503  #: too many connections of this user, the oldest goes


def should_reconnect(code: int | None) -> bool:
    """Whether a client that was closed with ``code`` should reconnect.

    ``None`` and 1006 mean the connection broke without a close frame.
    """
    if code is None:
        return True
    if 4000 <= code <= 4999:
        return code < 4500
    return code not in (1000, CloseCode.UNSUPPORTED_DATA, CloseCode.MESSAGE_TOO_BIG)
