"""Problems: every refusal as one JSON document (RFC 9457, ``application/problem+json``).

Guarantees: ``type`` ends with one of :class:`Kind`, which decides the HTTP status; ``detail`` names the value and the
remedy, and never holds a key; ``retryable`` says whether the same request can succeed later.
"""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any, Final

import msgspec
from pydantic import BaseModel, Field

MEDIA_TYPE: Final = "application/problem+json"
_TYPE: Final = "urn:towpath:problem:"


class Kind(StrEnum):
    """The kinds of problems; the end of their ``type``."""

    BAD_REQUEST = "bad-request"
    UNAUTHORIZED = "unauthorized"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not-found"
    METHOD_NOT_ALLOWED = "method-not-allowed"
    TOO_SLOW = "too-slow"
    UNROUTABLE = "unroutable"
    LENGTH_REQUIRED = "length-required"
    TOO_LARGE = "too-large"
    UNSUPPORTED_MEDIA_TYPE = "unsupported-media-type"
    INVALID = "invalid"
    KEY_REUSED = "idempotency-key-reused"
    RATE_LIMITED = "rate-limited"
    HEADERS_TOO_LARGE = "headers-too-large"
    INTERNAL = "internal"
    NOT_IMPLEMENTED = "not-implemented"
    UNAVAILABLE = "unavailable"


#: HTTP status and title of each kind.
KINDS: Final[Mapping[Kind, tuple[int, str]]] = {
    Kind.BAD_REQUEST: (400, "The request cannot be read"),
    Kind.UNAUTHORIZED: (401, "No API key, or none that is known here"),
    Kind.FORBIDDEN: (403, "The API key does not allow this"),
    Kind.NOT_FOUND: (404, "There is no such path"),
    Kind.METHOD_NOT_ALLOWED: (405, "The path does not have this method"),
    Kind.TOO_SLOW: (408, "The request did not arrive in time"),
    Kind.UNROUTABLE: (409, "Nothing receives this now"),
    Kind.LENGTH_REQUIRED: (411, "The request has no Content-Length"),
    Kind.TOO_LARGE: (413, "The request is too large"),
    Kind.UNSUPPORTED_MEDIA_TYPE: (415, "The body is not application/json"),
    Kind.INVALID: (422, "The content is not valid"),
    Kind.KEY_REUSED: (422, "The Idempotency-Key was used for another body"),
    Kind.RATE_LIMITED: (429, "Too many items for this API key"),
    Kind.HEADERS_TOO_LARGE: (431, "The head of the request is too large"),
    Kind.INTERNAL: (500, "The ingress failed"),
    Kind.NOT_IMPLEMENTED: (501, "The transfer coding is not known"),
    Kind.UNAVAILABLE: (503, "Not now: send the same request again"),
}
_RETRYABLE: Final = (Kind.TOO_SLOW, Kind.UNROUTABLE, Kind.RATE_LIMITED, Kind.INTERNAL, Kind.UNAVAILABLE)


class Problem(Exception):
    """A request is refused.

    Args:
        kind: Decides the status.
        detail: The reason, with the value and the remedy.
        retry_after: Seconds until a repetition may succeed.
        results: Of each item, where the items are the reason.
    """

    def __init__(
        self,
        kind: Kind,
        detail: str,
        *,
        retry_after: float | None = None,
        headers: Mapping[str, str] | None = None,
        results: Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        super().__init__(detail)
        self.kind = kind
        self.detail = detail
        self.results = results
        self.headers = dict(headers or {})
        if retry_after is not None:
            # Whole seconds, rounded up: https://www.rfc-editor.org/rfc/rfc9110#section-10.2.3
            self.headers["Retry-After"] = str(max(1, -int(-retry_after // 1)))
        if kind is Kind.UNAUTHORIZED:
            self.headers["WWW-Authenticate"] = 'Bearer realm="towpath"'

    @property
    def status(self) -> int:
        """The HTTP status."""
        return KINDS[self.kind][0]

    @property
    def body(self) -> bytes:
        """The JSON document."""
        status, title = KINDS[self.kind]
        document: dict[str, Any] = {
            "type": f"{_TYPE}{self.kind}",
            "title": title,
            "status": status,
            "detail": self.detail,
            "retryable": self.kind in _RETRYABLE,
        }
        if self.results is not None:
            document["results"] = self.results
        return msgspec.json.encode(document)


class ProblemDocument(BaseModel):
    """A problem as the OpenAPI document describes it."""

    type: str = Field(examples=[f"{_TYPE}{Kind.INVALID}"])
    title: str
    status: int
    detail: str
    retryable: bool
    results: list["Result"] | None = None


class Status(StrEnum):
    """The result of one item."""

    ACCEPTED = "accepted"
    INVALID = "invalid"
    FORBIDDEN = "forbidden"
    UNROUTABLE = "unroutable"
    REFUSED = "refused"
    UNCONFIRMED = "unconfirmed"
    UNAVAILABLE = "unavailable"
    SKIPPED = "skipped"


#: The kind of problem of a request of which all items have this result.
PROBLEM_OF: Final[Mapping[Status, Kind]] = {
    Status.INVALID: Kind.INVALID,
    Status.FORBIDDEN: Kind.FORBIDDEN,
    Status.UNROUTABLE: Kind.UNROUTABLE,
    Status.REFUSED: Kind.UNAVAILABLE,
    Status.UNCONFIRMED: Kind.UNAVAILABLE,
    Status.UNAVAILABLE: Kind.UNAVAILABLE,
    Status.SKIPPED: Kind.UNAVAILABLE,
}


class Result(BaseModel):
    """The result of one item, in the position of the item.

    Attributes:
        status: ``accepted``: RabbitMQ has confirmed it. ``invalid``, ``forbidden``: ``detail`` says why; do not
            repeat it unchanged. ``unroutable``: no service receives this event, or no gateway runs. ``refused``: a
            queue is full. ``unconfirmed``: unknown, it may have arrived. ``unavailable``: RabbitMQ is away.
            ``skipped``: not tried, as one before it failed; repeat all that are not accepted, with their ``msg_id``.
        msg_id: The id it was published under; left out if the item is not valid.
    """

    status: Status
    msg_id: str | None = None
    detail: str | None = None


class Accepted(BaseModel):
    """The answer to a request: one result for each item, in the order of the items."""

    results: list[Result]
