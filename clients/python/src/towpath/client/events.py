"""Events of a session: the input of :meth:`towpath.client.session.Session.handle`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from towpath.client.errors import TowpathError

#: The purpose of a token: a new connection, or the open one.
Purpose: TypeAlias = Literal["connect", "refresh"]


@dataclass(frozen=True, slots=True)
class Start:
    """The application wants a connection."""


@dataclass(frozen=True, slots=True)
class Token:
    """A token that was asked for."""

    purpose: Purpose
    token: str


@dataclass(frozen=True, slots=True)
class TokenFailed:
    """No token was available; ``error.retryable`` says whether to ask again."""

    purpose: Purpose
    error: TowpathError


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame of the server, right or wrong."""

    text: str | bytes


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The connection ended, or could not be made.

    Attributes:
        code: Close code; 1006 when there was none.
        reason: For people.
        status: HTTP status of an upgrade that was refused.
        retry_after_ms: Its ``Retry-After``.
    """

    code: int
    reason: str
    status: int | None = None
    retry_after_ms: float | None = None


@dataclass(frozen=True, slots=True)
class Timer:
    """A timer went off."""

    timer: str


@dataclass(frozen=True, slots=True)
class Request:
    """The application asks something.

    Attributes:
        timeout_ms: ``None`` waits without a limit.
        stream: The answer's ``seq`` is the position in this stream.
    """

    msg_id: str
    action: str
    data: Mapping[str, Any] = field(default_factory=dict)
    key: str | None = None
    ack: bool = False
    timeout_ms: float | None = None
    stream: str | None = None


@dataclass(frozen=True, slots=True)
class Abandon:
    """The application gives a request up."""

    msg_id: str
    error: TowpathError


@dataclass(frozen=True, slots=True)
class Track:
    """The application learned a position elsewhere."""

    stream: str
    seq: int


@dataclass(frozen=True, slots=True)
class Forget:
    """The application is done with a stream."""

    stream: str


@dataclass(frozen=True, slots=True)
class Resume:
    """The application asks for what was missed, of one domain or of all."""

    domain: str | None = None


@dataclass(frozen=True, slots=True)
class OpenView:
    """The application opens a view of a stream; ``view`` is its name."""

    view: str
    stream: str


@dataclass(frozen=True, slots=True)
class CloseView:
    """The application is done with a view."""

    view: str


@dataclass(frozen=True, slots=True)
class ReloadView:
    """The application has not taken what the view put out, and wants its state again."""

    view: str


@dataclass(frozen=True, slots=True)
class Loaded:
    """The state of a view is there; it includes the stream up to ``seq``."""

    view: str
    seq: int
    state: Any


@dataclass(frozen=True, slots=True)
class LoadFailed:
    """There is no state; ``error.retryable`` says whether to load again."""

    view: str
    error: TowpathError


@dataclass(frozen=True, slots=True)
class Network:
    """The machine hears that it is back online."""


@dataclass(frozen=True, slots=True)
class Close:
    """The application is done."""


Event: TypeAlias = (
    Start
    | Token
    | TokenFailed
    | Frame
    | Disconnected
    | Timer
    | Request
    | Abandon
    | Track
    | Forget
    | Resume
    | OpenView
    | CloseView
    | ReloadView
    | Loaded
    | LoadFailed
    | Network
    | Close
)
