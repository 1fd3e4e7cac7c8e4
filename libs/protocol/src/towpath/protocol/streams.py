"""Positions in streams, as clients store them, resume from them and receive them.

A durable push carries ``stream`` and ``seq``. :class:`Positions` is the whole rule of a client, without I/O:
drop what it has, take what comes next, and notice a hole.
"""

from collections.abc import Mapping
from enum import Enum
from typing import Annotated

from pydantic import Field

from towpath.protocol.envelope import MAX_STREAM_LENGTH
from towpath.protocol.fields import Payload, Text


class Arrival(Enum):
    """The relation of a push to a known position."""

    NEXT = "next"  #: show it
    DUPLICATE = "duplicate"  #: drop it
    HOLE = "hole"  #: earlier ones are missing: resume


class Positions:
    """The last ``seq`` seen of each stream."""

    def __init__(self, positions: Mapping[str, int] | None = None) -> None:
        self._last: dict[str, int] = dict(positions or {})

    def arrive(self, stream: str, seq: int) -> Arrival:
        """Judge a push, and move on when it is the next one (or the first of its stream)."""
        last = self._last.get(stream)
        if last is not None:
            if seq <= last:
                return Arrival.DUPLICATE
            if seq > last + 1:
                return Arrival.HOLE
        self._last[stream] = seq
        return Arrival.NEXT

    def set(self, stream: str, seq: int) -> None:
        """Set a position that the service sent; it only grows."""
        self._last[stream] = max(seq, self._last.get(stream, 0))

    def restart(self, stream: str, seq: int) -> None:
        """Go on from ``seq`` even if that is behind: what the service answered as not complete."""
        self._last[stream] = seq

    def as_dict(self) -> dict[str, int]:
        """The positions to resume with."""
        return dict(self._last)


class Resume(Payload):
    """``data`` of ``<domain>.resume``."""

    positions: Annotated[
        dict[
            Annotated[Text, Field(min_length=1, max_length=MAX_STREAM_LENGTH)],
            Annotated[int, Field(ge=0, lt=2**63)],
        ],
        Field(max_length=1000),
    ]


class Resumed(Payload):
    """The position of one stream after a resume.

    Attributes:
        seq: The last entry the client has now.
        complete: False when entries the client lacks are not kept any more: load the history instead.
    """

    seq: int
    complete: bool


class ResumeAnswer(Payload):
    """Answer to ``<domain>.resume``."""

    streams: dict[str, Resumed]
