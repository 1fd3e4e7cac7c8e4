"""Error codes of the wire contract, and the exceptions that carry them.

An error that a person or program may act upon is data with a code, not a stack trace. Domain code raises a
:class:`TowpathError` (or a subclass named for the situation); the dispatcher or the gateway turns it into one
``error`` envelope. Whether a retry can help is a property of the code, stated once, here.

::

    TowpathError                internal: anything that has no code of its own (*)
    ├── BadEnvelope             bad_envelope: not JSON, not an object, or a field is missing or malformed
    │   ├── UnsupportedVersion  unsupported_version: another major version
    │   └── TooManyItems        bad_envelope: a body with too many items (towpath.protocol.messages)
    ├── UnknownAction           unknown_action: no service has this action
    ├── InvalidData             invalid_data: the payload fails the model of its action
    ├── Forbidden               forbidden: the session has no right to the domain, room or order
    ├── NotFound                not_found: there is no such thing, or this session may not see it
    ├── Conflict                conflict: the state of the thing does not allow the request
    ├── RateLimited             rate_limited: over a limit; retry after retry_after_ms (*)
    ├── Busy                    busy: a bound is reached; retry shortly (*)
    ├── Unavailable             unavailable: no broker; nothing was accepted (*)
    └── OutcomeUnknown          timeout: no confirm in time; repeat with the same msg_id (*)

The word before the colon is the code on the wire. (*) marks codes of which a repetition can succeed. Without a class:
``unauthorized`` and ``payload_too_large``, which only the gateway uses.

Example:
    >>> class OrderNotFound(NotFound):
    ...     pass
    >>> error = OrderNotFound("There is no order 'o-1'.")
    >>> error.data()
    {'code': 'not_found', 'message': "There is no order 'o-1'.", 'retryable': False}
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any


class ErrorCode(StrEnum):
    """Codes in ``data.code`` of an ``error`` envelope."""

    BAD_ENVELOPE = "bad_envelope"
    UNSUPPORTED_VERSION = "unsupported_version"
    UNKNOWN_ACTION = "unknown_action"
    INVALID_DATA = "invalid_data"
    UNAUTHORIZED = "unauthorized"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not_found"
    CONFLICT = "conflict"
    PAYLOAD_TOO_LARGE = "payload_too_large"
    RATE_LIMITED = "rate_limited"
    BUSY = "busy"
    UNAVAILABLE = "unavailable"
    TIMEOUT = "timeout"
    INTERNAL = "internal"

    @property
    def retryable(self) -> bool:
        """Whether sending the same envelope again, unchanged, can succeed."""
        return self in _RETRYABLE


_RETRYABLE = frozenset(
    {ErrorCode.RATE_LIMITED, ErrorCode.BUSY, ErrorCode.UNAVAILABLE, ErrorCode.TIMEOUT, ErrorCode.INTERNAL}
)


class TowpathError(Exception):
    """A situation that has a code on the wire.

    Subclasses set :attr:`code`; raise this class itself only where no subclass says more.

    Args:
        message: The problem, the value and the remedy; shown to people.
        code: Only for a code without a class.
        details: Machine-readable particulars, e.g. ``{"fields": [...]}``.
        retry_after_ms: When to retry, in milliseconds from now.

    Example:
        >>> error = Busy("Too many requests wait.", retry_after_ms=250)
        >>> error.code.retryable, error.data()["retry_after_ms"]
        (True, 250)
    """

    code: ErrorCode = ErrorCode.INTERNAL

    def __init__(
        self,
        message: str,
        *,
        code: ErrorCode | None = None,
        details: Mapping[str, Any] | None = None,
        retry_after_ms: int | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        if code is not None:
            self.code = code
        self.details = details
        self.retry_after_ms = retry_after_ms

    def data(self, *, trace_id: str | None = None) -> dict[str, Any]:
        """The ``data`` object of the ``error`` envelope.

        Args:
            trace_id: 32 hexadecimal digits, by which operators find the request in their traces.
        """
        data: dict[str, Any] = {
            "code": self.code.value,
            "message": self.message,
            "retryable": self.code.retryable,
        }
        if self.retry_after_ms is not None:
            data["retry_after_ms"] = self.retry_after_ms
        if self.details:
            data["details"] = dict(self.details)
        if trace_id:
            data["trace_id"] = trace_id
        return data


class BadEnvelope(TowpathError):
    """The text is not an envelope: not JSON, not an object, or a field is missing or malformed.

    Attributes:
        msg_id: The sender's id, if it could be read; then it is the ``correlation_id`` of the ``error``.
    """

    code = ErrorCode.BAD_ENVELOPE

    def __init__(
        self, message: str, *, msg_id: str | None = None, details: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(message, details=details)
        self.msg_id = msg_id


class UnsupportedVersion(BadEnvelope):
    """The envelope has another major version than this side speaks."""

    code = ErrorCode.UNSUPPORTED_VERSION


class UnknownAction(TowpathError):
    """No service is bound to the domain, or the service has no such verb."""

    code = ErrorCode.UNKNOWN_ACTION


class InvalidData(TowpathError):
    """``data`` fails the model of its action; ``details["fields"]`` names what."""

    code = ErrorCode.INVALID_DATA


class Forbidden(TowpathError):
    """The session has no right to the domain, room or order."""

    code = ErrorCode.FORBIDDEN


class NotFound(TowpathError):
    """The thing does not exist, or this session may not see it."""

    code = ErrorCode.NOT_FOUND


class Conflict(TowpathError):
    """The state of the thing does not allow the request."""

    code = ErrorCode.CONFLICT


class RateLimited(TowpathError):
    """Over a limit of this connection, user or address: retry after ``retry_after_ms``."""

    code = ErrorCode.RATE_LIMITED


class Busy(TowpathError):
    """A bound is reached (broker blocked, in-flight window or lane full): retry shortly."""

    code = ErrorCode.BUSY


class Unavailable(TowpathError):
    """The broker cannot be reached; nothing was accepted."""

    code = ErrorCode.UNAVAILABLE


class OutcomeUnknown(TowpathError):
    """The broker did not confirm in time, so the outcome is unknown: repeat with the same ``msg_id``."""

    code = ErrorCode.TIMEOUT
