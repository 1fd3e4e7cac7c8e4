"""Messages of attackers: kinds of messages, as blocks of frames that are built before the attack."""

from collections.abc import Callable, Mapping
from typing import Final

from .wire import CONT, PING, PONG, TEXT, envelope, frame, text

ROOM: Final = "hostile"  # attackers' own
FULL_ROOM: Final = "full"  # with 5,000 entries of 4 KB
_FRAGMENTS: Final = 1000  # of one text; a gateway takes 1,024


def _in_fragments(payload: bytes) -> bytes:
    first, *between, last = (payload[at : at + 1] for at in range(len(payload)))
    return b"".join(
        [frame(TEXT, first, fin=False), *(frame(CONT, one, fin=False) for one in between), frame(CONT, last)]
    )


def _endless() -> bytes:
    return frame(TEXT, b"", fin=False) + frame(CONT, b"", fin=False) * _FRAGMENTS + frame(CONT, b"")


def _numbered(message: bytes, count: int) -> bytes:
    """The same message under ``count`` ids; four of the eight digits of each are left to the sender."""
    return b"".join(message.replace(b"@@@@@@@@", b"@@@@%04x" % number) for number in range(count))


def _same(message: bytes) -> Callable[[int], bytes]:
    return lambda count: message * count


def _each(message: bytes) -> Callable[[int], bytes]:
    return lambda count: _numbered(message, count)


_TYPING: Final = {"room": ROOM}
_BIG: Final = "x" * 60_000

#: Kind → how a block of so many messages is made.
KINDS: Final[Mapping[str, Callable[[int], bytes]]] = {
    "unreadable": _same(frame(TEXT, b"x")),
    "empty": _same(frame(TEXT, b"")),
    "nested": _same(frame(TEXT, b"[" * 30_000)),
    "ping": _each(text("ping")),
    "pong": _each(text("pong")),
    "unknown session": _each(text("session.nothing")),
    "refresh": _each(text("session.refresh", {"token": f"eyJhbGciOiJIUzI1NiJ9.{'A' * 2000}.{'A' * 43}"})),
    "protocol ping": _same(frame(PING, b"x" * 125)),
    "protocol pong": _same(frame(PONG, b"x" * 125)),
    "fragments": _each(_in_fragments(envelope("ping"))),
    "empty fragments": _same(_endless()),
    "typing": _each(text("chat.typing", _TYPING, key=ROOM)),
    "read": _each(text("chat.read", {"room": ROOM, "seq": 1}, key=ROOM)),
    "orders": _each(text("order.list", {"limit": 200})),
    "unknown domain": _each(text("nowhere.go")),
    "unknown verb": _each(text("chat.nothing")),
    "big field": _each(text("chat.typing", _TYPING, key=ROOM, unknown=_BIG)),
    "big ping": _each(text("ping", {"unknown": _BIG})),
    "send": _each(text("chat.send", {"room": ROOM, "text": "x" * 4000}, key=ROOM)),
    "join": _each(text("chat.join", {"room": "r@@@@@@@@"})),
    "create": _each(text("chat.create", {"room": "p@@@@@@@@", "private": True})),
    "invite": _each(text("chat.invite", {"room": "p@@@@@@@@", "user": "victim"})),
    "resume": _each(text("chat.resume", {"positions": {f"chat:{FULL_ROOM}": 1}})),
    "history": _each(text("chat.history", {"room": FULL_ROOM, "limit": 200})),
}


def block(kind: str, size: int) -> tuple[bytes, int]:
    """Frames of ``kind`` of ``size`` bytes or so, and how many messages that is; at most 65,536."""
    count = max(1, min(65_536, size // len(KINDS[kind](1))))
    return KINDS[kind](count), count
