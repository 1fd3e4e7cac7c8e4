"""Actions of a session for its driver: the output of :meth:`towpath.client.session.Session.handle`."""

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from towpath.client.envelope import Envelope
from towpath.client.errors import TowpathError
from towpath.client.events import Purpose

#: The state for the application; ``recovering`` was open and will be again.
StateName: TypeAlias = Literal["connecting", "open", "recovering", "closed"]


@dataclass(frozen=True, slots=True)
class FetchToken:
    """Fetch a token and report it."""

    purpose: Purpose


@dataclass(frozen=True, slots=True)
class Connect:
    """Open a connection."""

    url: str
    token: str


@dataclass(frozen=True, slots=True)
class Disconnect:
    """Close the connection; from now on nothing must be heard of it."""

    code: int
    reason: str


@dataclass(frozen=True, slots=True)
class Send:
    """Send one text frame, UTF-8."""

    text: bytes


@dataclass(frozen=True, slots=True)
class Timer:
    """Set or reset a timer; the time is drawn evenly from the range, in milliseconds."""

    timer: str
    min_ms: float
    max_ms: float


@dataclass(frozen=True, slots=True)
class Cancel:
    """Stop a timer that is set."""

    timer: str


@dataclass(frozen=True, slots=True)
class Resolve:
    """A request has its answer."""

    msg_id: str
    data: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Reject:
    """A request has failed."""

    msg_id: str
    error: TowpathError


@dataclass(frozen=True, slots=True)
class Accepted:
    """The broker has a request safely."""

    msg_id: str


@dataclass(frozen=True, slots=True)
class Push:
    """Something for the application."""

    envelope: Envelope


@dataclass(frozen=True, slots=True)
class Incomplete:
    """Missed pushes that the service no longer stores: load the stream's history.

    Attributes:
        stream: The name of the stream.
        seq: Its last ``seq``, if the service answered it.

    Example:
        >>> Incomplete("chat:lobby", seq=812).stream
        'chat:lobby'
    """

    stream: str
    seq: int | None


@dataclass(frozen=True, slots=True)
class Load:
    """Load the state of a view and report it."""

    view: str


@dataclass(frozen=True, slots=True)
class Reset:
    """The state of a view; it replaces all that the view had before.

    Attributes:
        seq: The position that ``state`` includes.
    """

    view: str
    seq: int
    state: Any


@dataclass(frozen=True, slots=True)
class Change:
    """The next push of a view's stream."""

    view: str
    envelope: Envelope


@dataclass(frozen=True, slots=True)
class ViewFailed:
    """A view has ended."""

    view: str
    error: TowpathError


@dataclass(frozen=True, slots=True)
class Welcome:
    """The gateway's data about the connection that has just opened."""

    data: dict[str, Any]


@dataclass(frozen=True, slots=True)
class State:
    """The state for the application has changed; ``error`` is the reason if it is closed."""

    state: StateName
    error: TowpathError | None = None


@dataclass(frozen=True, slots=True)
class Retry:
    """There will be another attempt; follows the timer ``reconnect``.

    Attributes:
        attempt: 1 for the first.
        code: Close code of the last connection; ``None`` when there was no token to connect with.
        reason: For people.
    """

    attempt: int
    code: int | None
    reason: str


@dataclass(frozen=True, slots=True)
class Report:
    """Something went wrong in the background."""

    error: TowpathError


Action: TypeAlias = (
    FetchToken
    | Connect
    | Disconnect
    | Send
    | Timer
    | Cancel
    | Resolve
    | Reject
    | Accepted
    | Push
    | Incomplete
    | Load
    | Reset
    | Change
    | ViewFailed
    | Welcome
    | State
    | Retry
    | Report
)
