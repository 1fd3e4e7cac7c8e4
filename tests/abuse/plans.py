"""The task of an attacker process, and its report."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from .messages import ROOM

BLOCK: Final = 64 * 1024
#: How long clients flood, or connect and disconnect.
SECONDS: Final = 15.0


@dataclass(frozen=True, slots=True)
class Flood:
    """Connections that send one kind of message.

    Attributes:
        kind: Of :data:`tests.abuse.messages.KINDS`.
        seconds: How long; a closed client connects again at once.
        users, connections: How many users, with how many connections each.
        addresses: From how many addresses of 127.0.0.0/8 they come.
        reads: Whether it reads; one that does not has a small receive buffer, and its answers wait in the gateway.
        count: Messages a connection sends and then waits; 0 for no end.
        pause: Seconds between two messages, 0 for as fast as the gateway takes them.
        joins: The room they join first; none when empty.
        size: Bytes of a block that is written at once.
    """

    kind: str
    seconds: float = SECONDS
    users: int = 1
    connections: int = 1
    addresses: int = 1
    reads: bool = True
    count: int = 0
    pause: float = 0.0
    joins: str = ROOM
    size: int = BLOCK


@dataclass(frozen=True, slots=True)
class HalfOpen:
    """Handshakes that are begun and not finished; each that the gateway ends is begun again.

    Attributes:
        count: How many at a time.
        manner: ``silent``: not a byte; ``headers``: all but the last line; ``drip``: a byte each 0.2 s;
            ``hello``: the first message of a TLS handshake.
    """

    count: int
    manner: str
    seconds: float = 8.0
    addresses: int = 1


@dataclass(frozen=True, slots=True)
class Storm:
    """Connect, disconnect, and connect again, as fast as it goes.

    Attributes:
        parallel: How many at a time.
    """

    users: int = 1
    parallel: int = 10
    seconds: float = SECONDS
    addresses: int = 1


@dataclass(slots=True)
class Loot:
    """The load of an attacker.

    Attributes:
        closes: By close code, or HTTP status of a refusal, how often.
        processor: Share of one core that it used.
    """

    messages: int = 0
    bytes: int = 0
    connections: int = 0
    closes: Counter[str] = field(default_factory=Counter)
    processor: float = 0.0
    seconds: float = 0.0
