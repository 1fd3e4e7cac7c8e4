"""The evidence of a trial: requests and pushes of users, and the final state of the services.

Plain values without behaviour, so that the oracle can be a pure function, and tests can forge them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any


class Outcome(Enum):
    """The outcome of an operation, as its sender knows it at the end."""

    DONE = "done"  # the answer says so; for an event: the broker has confirmed it
    REFUSED = "refused"  # an error that is final
    UNKNOWN = "unknown"  # asked again and again, and never answered


@dataclass(frozen=True, slots=True)
class Asked:
    """One operation, however often it was sent.

    Attributes:
        who: The sender: a user, or a backend.
        number: Grows with each operation of ``who``, who asks one after the other.
        action: Such as ``chat.send``; for a backend the event, such as ``order.paid``.
        user: For orders, the owner of the stream.
        about: The room, or the order.
        token: The text that was said; empty for orders.
        line: The ordering key of the operation; empty where it is the subject itself.
        code: Why it was refused.
        answer: The answer's data.
        asked_at, answered_at: Seconds of one clock; ``answered_at`` is when the outcome was known.
        attempts: How often it was sent.
    """

    who: str
    number: int
    action: str
    user: str
    about: str
    token: str
    outcome: Outcome
    msg_id: str = ""
    line: str = ""
    code: str | None = None
    answer: Mapping[str, Any] = field(default_factory=dict)
    asked_at: float = 0.0
    answered_at: float = 0.0
    attempts: int = 1


@dataclass(frozen=True, slots=True)
class Shown:
    """One push that a client handed to its application.

    Attributes:
        device: Which client.
        user: Whose.
        stream, seq: Its place; an empty stream for a passing push.
        at: When, on the clock of :class:`Asked`.
    """

    device: str
    user: str
    action: str
    stream: str
    seq: int
    data: Mapping[str, Any]
    at: float = 0.0


@dataclass(frozen=True, slots=True)
class Followed:
    """One stream that a client follows to the end.

    Attributes:
        since: Its position when it began.
        restarts: The positions where an honest ``complete: false`` sent it.
    """

    device: str
    stream: str
    since: int
    restarts: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class Entry:
    """One stored entry of a stream."""

    stream: str
    seq: int
    action: str
    data: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Message:
    """One row of what was said."""

    room: str
    seq: int
    user: str
    text: str


@dataclass(frozen=True, slots=True)
class Evidence:
    """All there is to judge.

    Attributes:
        shown: For each device in the order it was shown.
        entries: In any order.
        orders: For the user and the id of each order that is stored, its status.
        members: The users who may receive each room.
        passing: For the token of each passing push, the user it was for.
    """

    asked: Sequence[Asked] = ()
    shown: Sequence[Shown] = ()
    followed: Sequence[Followed] = ()
    entries: Sequence[Entry] = ()
    messages: Sequence[Message] = ()
    orders: Mapping[tuple[str, str], str] = field(default_factory=dict)
    members: Mapping[str, frozenset[str]] = field(default_factory=dict)
    passing: Mapping[str, str] = field(default_factory=dict)
