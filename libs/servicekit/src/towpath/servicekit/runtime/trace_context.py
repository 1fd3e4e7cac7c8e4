"""W3C trace context: reading what others send.

Guarantees, each by a rule of https://www.w3.org/TR/trace-context-2/:

* :func:`read_traceparent` takes version 00 exactly, and later versions by their first four fields (section 3.2.4). It
  refuses version ff, ids of zeros, and every letter that is not a lower-case hexadecimal digit. It
  returns version 00, with the flags that this version knows.
* :func:`read_tracestate` takes at most 32 members with well-formed keys and values (section 3.3.1.3), or nothing: a
  list with one bad member is dropped whole. Of members with one key it keeps the first.
* Neither raises, whatever the text is.
"""

import re
from typing import Final, NamedTuple

SAMPLED: Final = 0x01
#: The right-most 7 bytes of the trace id are random (section 3.2.2.5.2); it goes on with the id.
RANDOM: Final = 0x02

_TRACEPARENT: Final = re.compile(
    r"(?!ff)(?P<version>[0-9a-f]{2})"
    r"-(?!0{32})(?P<trace>[0-9a-f]{32})"
    r"-(?!0{16})(?P<parent>[0-9a-f]{16})"
    r"-(?P<flags>[0-9a-f]{2})"
    r"(?P<rest>-.*)?"
)
_VERSION_00: Final = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_MAX_MEMBERS: Final = 32
#: Every participant should pass on this many letters (section 3.3.1.5); a longer list is dropped.
TRACESTATE_MAX: Final = 512
#: A value has no comma and no equals sign, and does not end with a space.
_MEMBER: Final = re.compile(
    r"(?P<key>[a-z0-9][a-z0-9_\-*/@]{0,255})=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]"
)


class TraceParent(NamedTuple):
    """A ``traceparent``.

    Attributes:
        trace_id: 32 hexadecimal digits.
        parent_id: The span that is above; 16 hexadecimal digits.
        flags: :data:`SAMPLED` and :data:`RANDOM`, or neither.
    """

    trace_id: str
    parent_id: str
    flags: int

    def __str__(self) -> str:
        return f"00-{self.trace_id}-{self.parent_id}-{self.flags:02x}"

    @property
    def is_sampled(self) -> bool:
        """Whether its sender records it."""
        return bool(self.flags & SAMPLED)

    def with_sampled(self, sampled: bool) -> "TraceParent":
        """The same with another decision."""
        return self._replace(flags=self.flags & RANDOM | (SAMPLED if sampled else 0))


def read_traceparent(text: str | None) -> TraceParent | None:
    """``text`` as a ``traceparent``; ``None`` for what is none.

    Example:
        >>> str(read_traceparent("cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-09-later"))
        '00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01'
        >>> read_traceparent("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-later") is None
        True
    """
    match = _TRACEPARENT.fullmatch(text) if text else None
    if match is None or (match["rest"] and match["version"] == "00"):
        return None
    return TraceParent(match["trace"], match["parent"], int(match["flags"], 16) & (SAMPLED | RANDOM))


def read_tracestate(text: str | None) -> str | None:
    """``text`` as a ``tracestate`` without its empty members and spaces; ``None`` if there is nothing to pass on.

    Example:
        >>> read_tracestate("rojo=00f067aa0ba902b7 , ,congo=t61rcWkgMzE")
        'rojo=00f067aa0ba902b7,congo=t61rcWkgMzE'
        >>> read_tracestate("rojo=1,Congo=2") is None
        True
    """
    if not text or len(text) > TRACESTATE_MAX:
        return None
    members: dict[str, str] = {}
    count = 0
    for part in text.split(","):
        # Spaces in front of a value belong to it, those around a member do not.
        if not (member := part.strip(" \t")):
            continue
        match = _MEMBER.fullmatch(member)
        count += 1
        if match is None or count > _MAX_MEMBERS:
            return None
        members.setdefault(match["key"], member)
    return ",".join(members.values()) or None


def is_version_00(text: str) -> bool:
    """Whether ``text`` can go on as it is; four times as fast as reading it."""
    return _VERSION_00.fullmatch(text) is not None


def trace_id(traceparent: str | None) -> str | None:
    """The trace id in a ``traceparent``, for logs and ``error.data.trace_id``."""
    found = read_traceparent(traceparent)
    return found.trace_id if found else None
