"""Errors: one class, and a code that says which error it is.

::

    TowpathError
    ├── from the server             (towpath.protocol.errors.ErrorCode)
    │   ├── bad_envelope            a field of the message is missing or malformed; also a bad msg_id or key here
    │   ├── unsupported_version     the server speaks another major version
    │   ├── unknown_action          no service has this action
    │   ├── invalid_data            the payload fails the model of its action: details["fields"]
    │   ├── unauthorized            the token is missing, invalid or expired
    │   ├── forbidden               the user has no right to the domain, room or order
    │   ├── not_found               there is no such thing, or this user may not see it
    │   ├── conflict                the state of the thing does not allow it; here: that msg_id is under way
    │   ├── payload_too_large       the message is larger than the server accepts
    │   ├── rate_limited (*)        over a limit; retry after retry_after_ms
    │   ├── busy (*)                a bound of the server is reached; retry shortly
    │   ├── unavailable (*)         the server cannot accept requests now
    │   ├── timeout (*)             the outcome is unknown; also no answer in time, see below
    │   └── internal (*)            the server failed, and has logged it
    └── from this side
        ├── queue_full (*)          too many requests wait for a connection; this one was not sent
        ├── closed                  the client is closed, so no answer can come
        ├── aborted                 the caller cancelled the request; no call raises it
        ├── bad_url                 ``connect`` was called with an address that cannot work
        ├── no_token                the ``token`` function failed, took too long, or returned no token
        ├── refused                 the server refused the connection: details["status"] is the HTTP status
        ├── bad_frame               the server sent no envelope, or an answer that does not fit its model
        ├── overrun                 a stream's reader fell too far behind: continue from details["position"]
        ├── bad_storage (*)         positions could not be loaded or saved
        └── load_failed             the ``load`` of a view raised another error, or gave no position

(*) marks codes of which a repetition can succeed; of the server's, ``retryable`` has what the server answered.
After a ``timeout`` the outcome is unknown unless ``details["sent"]`` is false: repeat the request with the same
``msg_id``. ``opened`` raises it if there is no connection in time.

Example:
    >>> error = TowpathError.from_wire({"code": "busy", "message": "Full.", "retryable": True}, msg_id="m-1")
    >>> print(error)
    Full. (busy)
    >>> error.retryable, error.msg_id
    (True, 'm-1')
"""

import math
from collections.abc import Mapping
from typing import Any


class TowpathError(Exception):
    """A failed request, or an error in the background.

    Attributes:
        code: From the server (``forbidden``, ``conflict`` …) or from this side, see the tree above.
        message: The problem and the remedy, in words for people.
        retryable: Whether the same request, with the same ``msg_id``, can succeed later.
        details: Particulars, such as ``{"fields": […]}``. ``{"sent": False}`` means that the request was not sent and
            has no effect.
        retry_after_ms: When to retry, in milliseconds from now.
        trace_id: The trace of the request on the server.
        msg_id: The id of the failed request.

    Example:
        >>> TowpathError("queue_full", "256 requests wait for a connection.", retryable=True).code
        'queue_full'
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        retryable: bool = False,
        details: Mapping[str, Any] | None = None,
        retry_after_ms: float | None = None,
        trace_id: str | None = None,
        msg_id: str | None = None,
    ) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message
        self.retryable = retryable
        self.details = None if details is None else dict(details)
        self.retry_after_ms = retry_after_ms
        self.trace_id = trace_id
        self.msg_id = msg_id

    def __str__(self) -> str:
        return f"{self.message} ({self.code})"

    def copied(self) -> "TowpathError":
        """A copy of the error for another caller, without the earlier traceback."""
        return TowpathError(
            self.code,
            self.message,
            retryable=self.retryable,
            details=self.details,
            retry_after_ms=self.retry_after_ms,
            trace_id=self.trace_id,
            msg_id=self.msg_id,
        )

    @classmethod
    def from_wire(cls, data: Mapping[str, Any], msg_id: str | None = None) -> "TowpathError":
        """Read the ``data`` of an ``error`` envelope, however odd it is."""
        code, message, details = data.get("code"), data.get("message"), data.get("details")
        retry_after_ms, trace_id = data.get("retry_after_ms"), data.get("trace_id")
        return cls(
            code if isinstance(code, str) else "internal",
            message if isinstance(message, str) else "The server reported an error without saying which.",
            retryable=data.get("retryable") is True,
            details=details if isinstance(details, dict) else None,
            retry_after_ms=retry_after_ms if is_number(retry_after_ms) else None,
            trace_id=trace_id if isinstance(trace_id, str) else None,
            msg_id=msg_id,
        )


def is_number(value: Any) -> bool:
    """Whether ``value`` is a finite number of JSON; booleans are none."""
    return type(value) is int or (type(value) is float and math.isfinite(value))
