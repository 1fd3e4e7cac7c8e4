"""How the generator speaks to a system: bytes in, bytes out.

Guarantees: nothing here parses JSON or remembers what it saw, so that what is measured is the system and not the
generator.

Everything sent carries a number, which identifies its answers and pushes. Numbers are given by the generator, are
below 10 ** 10 and are never used twice on one system. They are written with ten digits, so that reading one is a
search for the text before it and one slice.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Final, Protocol

#: Every message carries this much text besides its number, on every system.
PADDING: Final = "x" * 64
DIGITS: Final = 10


@dataclass(frozen=True, slots=True)
class Handshake:
    """The request of a client that opens a WebSocket."""

    headers: Mapping[str, str] = field(default_factory=dict)
    subprotocols: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Publication:
    """One AMQP message, as another backend publishes it: what reaches one user, or one room."""

    exchange: str
    routing_key: str
    body: bytes
    content_type: str = "application/json"


class Dialect(Protocol):
    """One system's language. Users and rooms are words of letters and digits, ``u17`` and ``r3``.

    A method that a system has no use for is there nevertheless; works that would call it are not in its ``works``.
    """

    def handshake(self, user: str) -> Handshake:
        """How ``user`` connects."""

    def opening(self, user: str) -> list[bytes]:
        """Frames to send as soon as the WebSocket is open."""

    def opened(self, frame: bytes) -> bool:
        """Whether this frame says that the connection can be used."""

    def request(self, kind: str, user: str) -> Callable[[int], bytes]:
        """Makes requests of a kind (``echo``, ``order.get`` …): number → frame."""

    def answered(self, frame: bytes) -> int | None:
        """The number of the request that this frame answers with success; called for every frame of ``request``."""

    def refused(self, frame: bytes) -> int | None:
        """The number of the request that this frame refuses; called when :meth:`answered` gives ``None``."""

    def join(self, room: str, number: int) -> bytes:
        """A frame that joins ``room``."""

    def leave(self, room: str, number: int) -> bytes:
        """A frame that leaves ``room``."""

    def joined(self, frame: bytes) -> int | None:
        """The number of the join or leave that this frame says is done. Where a system does not say so by itself,
        its peers' program answers."""

    def say(self, room: str, user: str, padding: str = PADDING) -> Callable[[int], bytes]:
        """Makes messages to ``room``: number → frame. They go through the system's service, as requests do."""

    def heard(self, frame: bytes) -> int | None:
        """The number of the message to a room, or of the push, that this frame brings; called for every frame."""

    def push(self, user: str) -> Callable[[int], Publication]:
        """Makes what another backend publishes to reach ``user`` on whatever gateway: number → publication."""

    def reply(self, frame: bytes) -> bytes | None:
        """The required reply to any other frame (a heartbeat), if any."""


#: Each is a module of this folder, with a constant ``DIALECT``.
NAMES: Final = ("echo", "plain", "towpath", "socketio", "stomp")


def dialect(name: str) -> Dialect:
    """The dialect of this name.

    Raises:
        KeyError: There is none.
    """
    if name not in NAMES:
        raise KeyError(name)
    found: Dialect = import_module(f"bench.dialects.{name}").DIALECT
    return found


def number_after(mark: bytes) -> Callable[[bytes], int | None]:
    """A reader of the number that follows ``mark`` in a frame; ``None`` where there is no such mark.

    ``mark`` may be there once at most. It is looked for first where it was last, as frames of a kind are much alike.
    """
    skip, last = len(mark), 0

    def read(frame: bytes) -> int | None:
        nonlocal last
        if not frame.startswith(mark, last):
            at = frame.find(mark)
            if at < 0:
                return None
            last = at
        return int(frame[last + skip : last + skip + DIGITS])

    return read
