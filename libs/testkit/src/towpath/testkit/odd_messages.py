"""Odd AMQP messages: what a careless backend publishes, made from a seed, and published as raw bytes.

No AMQP library can send most of this, so the frames are built by hand here and written to a socket.

Guarantees:

* The same seed gives the same messages, whatever the machine.
* :class:`RawPublisher` waits for the broker's answer to each message, and opens its channel or connection again when
  the broker closed it for a message. So a run ends, and :attr:`RawPublisher.taken` says how many were really queued.

Use::

    targets = [("towpath.push", b"user.ann"), ("towpath.events", b"order.paid")]
    bodies = [b'{"v":1,"action":"order.paid","msg_id":"m-1","data":{}}']
    async with RawPublisher.open(rabbit.url) as publisher:
        for odd in odd_messages(seed=1, targets=targets, bodies=bodies):
            await publisher.publish(odd)
            if publisher.taken == 10_000:
                break

A single message with one chosen oddity: :func:`message` with :func:`properties` and :func:`table`, e.g.
``message("towpath.push", b"user.ann", properties(timestamp=u64(1_700_000_000 * 10**9)), b"{}")``.
"""

import asyncio
import contextlib
import itertools
import random
import struct
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote, urlsplit

_METHOD: Final = 1
_HEADER: Final = 2
_BODY: Final = 3
_END: Final = b"\xce"
_PIECE: Final = 100_000
_ANSWER_SECONDS: Final = 20.0
_NOW: Final = 1_764_300_000

#: The bit of each property in the flags of a content header, in the order in which they are written.
_FLAGS: Final = {
    "content_type": 15,
    "content_encoding": 14,
    "headers": 13,
    "delivery_mode": 12,
    "priority": 11,
    "correlation_id": 10,
    "reply_to": 9,
    "expiration": 8,
    "message_id": 7,
    "timestamp": 6,
    "type": 5,
    "user_id": 4,
    "app_id": 3,
    "cluster_id": 2,
}
#: Headers that Towpath or RabbitMQ sets, and that a sender may forge.
FORGED: Final = (
    b"x-attempt",
    b"x-attempts",
    b"x-first-failed-at",
    b"x-error",
    b"x-reason",
    b"x-queue",
    b"x-routing-key",
    b"x-exchange",
    b"x-replayed",
    b"x-undecodable",
    b"x-delivery-count",
    b"x-acquired-count",
    b"x-death",
    b"x-first-death-queue",
    b"x-first-death-reason",
    b"traceparent",
)


@dataclass(frozen=True, slots=True)
class OddMessage:
    """One message as bytes.

    Attributes:
        properties: The flags and values of the content header, as on the wire.
        what: The oddity, for the report of a failed run.
    """

    exchange: bytes
    routing_key: bytes
    properties: bytes
    body: bytes
    what: str


# Building


def short(value: bytes) -> bytes:
    """A short string; cut at 255 bytes."""
    return bytes([len(value[:255])]) + value[:255]


def long(value: bytes) -> bytes:
    """A long string, without its type code."""
    return struct.pack(">I", len(value)) + value


def u64(value: int) -> bytes:
    """Eight bytes, also of a negative number."""
    return struct.pack(">Q", value % 2**64)


def table(entries: Mapping[bytes, bytes]) -> bytes:
    """A field table; each value is its type code and its bytes, e.g. ``b"T" + u64(-1)``."""
    return long(b"".join(short(name) + value for name, value in entries.items()))


def properties(**values: bytes) -> bytes:
    """The flags and the given properties, as raw bytes in the order of the specification."""
    flags = sum(1 << _FLAGS[name] for name in values)
    return struct.pack(">H", flags) + b"".join(values[name] for name in _FLAGS if name in values)


def message(exchange: str, routing_key: bytes, properties: bytes, body: bytes, what: str = "") -> OddMessage:
    """One message to publish."""
    return OddMessage(exchange.encode(), routing_key, properties, body, what)


# The corpus


def odd_messages(
    *,
    seed: int,
    targets: Sequence[tuple[str, bytes]],
    bodies: Sequence[bytes],
    count: int | None = None,
    refusable: float = 0.05,
) -> Iterator[OddMessage]:
    """``count`` messages, each with one to three oddities; without end if it is ``None``.

    Args:
        refusable: The share of messages that RabbitMQ may refuse, so that no consumer receives them: an
            unknown type or a wrong length in a header, NaN, a ``user_id`` or an ``expiration`` that is not valid.
        targets: Exchanges and honest routing keys; one message in eight has an odd key instead.
        bodies: Honest bodies; one message in two has an odd one instead.
    """
    chance = random.Random(seed)
    for number in itertools.count() if count is None else range(count):
        oddities = _Oddities(chance, refusable=chance.random() < refusable)
        exchange, key = chance.choice(list(targets))
        values: dict[str, bytes] = {
            "content_type": short(b"application/json"),
            "delivery_mode": b"\x02",
            "message_id": short(f"odd-{seed}-{number}".encode()),
            "app_id": short(b"odd-backend"),
        }
        what: list[str] = []
        for _ in range(chance.randint(1, 3)):
            name = oddities.name()
            values[name] = oddities.property(name)
            what.append(name)
        if chance.random() < 0.5:
            values["headers"] = oddities.forged_headers()
            what.append("forged headers")
        if chance.random() < 0.125:
            key = key.rpartition(b".")[0] + b"." + _odd_text(chance)[:200]
            what.append("routing key")
        body = chance.choice(list(bodies))
        if chance.random() < 0.5:
            body = odd_body(chance, body)
            what.append("body")
        yield message(exchange, key, properties(**values), body, f"{seed}/{number}: {', '.join(what)}")


def odd_body(chance: random.Random, honest: bytes) -> bytes:
    """A body that is not what a reader expects."""
    makers: Sequence[Callable[[], bytes]] = (
        lambda: b"",
        lambda: b"\x00" * chance.randint(1, 100),
        lambda: b"\xef\xbb\xbf" + honest,
        lambda: honest[: chance.randint(0, max(0, len(honest) - 1))],
        lambda: honest + honest,
        lambda: b"[" + b",".join([b"{}"] * chance.choice([1, 100, 3_000])) + b"]",
        lambda: b"[" + b",".join([honest, b"{}", b"7", b"null", honest]) + b"]",
        lambda: b"[" * chance.choice([10, 1_000, 20_000]),
        lambda: b'{"a":' * chance.choice([10, 1_000, 20_000]),
        lambda: b"[" * 900 + b"]" * 900,
        lambda: b'{"action":"\\ud800","msg_id":"\\udfff","data":{"\\ud800":1}}',
        lambda: b'{"v":1,"action":"order.paid","msg_id":"m","data":{"amount":1e999999999}}',
        lambda: b'{"v":' + b"9" * 5_000 + b"}",
        lambda: '{"action":"café"}'.encode("latin-1"),
        lambda: chance.randbytes(chance.randint(1, 2_000)),
        lambda: _flipped(chance, honest),
        lambda: chance.choice([b"null", b"true", b'"text"', b"[]", b"{}", b"[[]]", b"[null]", b" ", b"NaN"]),
        lambda: b'{"connection_id":7,"subscribe":[""],"envelope":"no"}',
        lambda: b'{"subscribe":["' + b"g" * 300 + b'"],"unsubscribe":{},"disconnect":{"code":1}}',
    )
    return chance.choice(makers)()


def _odd_text(chance: random.Random) -> bytes:
    makers: Sequence[Callable[[], bytes]] = (
        lambda: "café".encode("latin-1"),
        lambda: "Jürgen Groß".encode("latin-1"),
        lambda: b"",
        lambda: b"x" * 255,
        lambda: b"a\x00b",
        lambda: b"a\r\nb",
        lambda: "🚂".encode() * 40,
        lambda: "🚂".encode()[:3],
        lambda: b"\xed\xa0\x80",
        lambda: b"\xc0\xaf",
        lambda: chance.randbytes(chance.randint(1, 60)),
        lambda: b"#",
        lambda: b"user.*.#",
    )
    return chance.choice(makers)()


def _odd_number(chance: random.Random) -> int:
    return chance.choice(
        [
            0,
            1,
            -1,
            -5,
            _NOW,
            _NOW * 10**3,
            _NOW * 10**6,
            _NOW * 10**9,
            -_NOW,
            2**31,
            2**32,
            2**63 - 1,
            2**63,
            253_402_300_800,  # the year 10000, in seconds
            253_402_300_800_000,
            chance.getrandbits(64),
        ]
    )


class _Oddities:
    """Makes what is odd in one message.

    Args:
        refusable: Whether it may be what RabbitMQ refuses.
    """

    def __init__(self, chance: random.Random, *, refusable: bool) -> None:
        self._chance = chance
        self._refusable = refusable

    def name(self) -> str:
        """A property to be odd. RabbitMQ refuses every ``user_id`` but the sender's own."""
        return self._chance.choice([name for name in _FLAGS if self._refusable or name != "user_id"])

    def property(self, name: str) -> bytes:
        """An odd value for it."""
        chance = self._chance
        if name == "headers":
            return table({_odd_text(chance): self._value() for _ in range(chance.randint(1, 4))})
        if name == "timestamp":
            return u64(_odd_number(chance))
        if name == "priority":
            return bytes([chance.choice([0, 1, 2, 3, 9, 255])])
        if name == "delivery_mode":
            return bytes([chance.choice([0, 1, 2, 3, 9, 255] if self._refusable else [1, 2])])
        if name == "expiration":
            refused = [b"-1", b"soon", b"\xe9", b"9" * 40] if self._refusable else []
            return short(chance.choice([b"60000", b"00060000", *refused]))
        return short(_odd_text(chance))

    def forged_headers(self) -> bytes:
        """Odd values under names that Towpath or RabbitMQ sets."""
        names = self._chance.sample(FORGED, self._chance.randint(1, 5))
        return table({name: self._value() for name in names})

    def _value(self, depth: int = 0) -> bytes:
        """A field value: its type code and bytes."""
        chance = self._chance
        makers: list[Callable[[], bytes]] = [
            lambda: b"t" + bytes([chance.choice([0, 1, 2])]),
            lambda: b"b" + chance.randbytes(1),
            lambda: b"B" + chance.randbytes(1),
            lambda: b"s" + chance.randbytes(2),
            lambda: b"u" + chance.randbytes(2),
            lambda: b"I" + struct.pack(">i", chance.choice([0, 1, -1, -5, 2**31 - 1, -(2**31)])),
            lambda: b"i" + chance.randbytes(4),
            lambda: b"l" + u64(_odd_number(chance)),
            lambda: b"f" + struct.pack(">f", chance.choice([0.1, -0.0, 3e38, 1e-45])),
            lambda: b"d" + struct.pack(">d", chance.choice([0.1, -0.0, 1e308, 5e-324])),
            lambda: b"D" + bytes([chance.choice([0, 2, 255])]) + chance.randbytes(4),
            lambda: b"S" + long(_odd_text(chance)),
            lambda: b"S" + long(chance.randbytes(chance.choice([1, 1_000, 20_000]))),
            lambda: b"S" + long(b'[{"at":1,"error":"' + b"e" * 5_000 + b'"}]'),
            lambda: b"T" + u64(_odd_number(chance)),
            lambda: b"V",
            lambda: b"x" + long(chance.randbytes(10)),
            lambda: b"A" + long(b"V" * chance.choice([1, 100, 20_000])),
            lambda: b"A" + long(b"".join(b"I" + struct.pack(">i", n) for n in range(50))),
            lambda: _nested(chance.choice([2, 10, 100, 1_000])),
        ]
        if self._refusable:
            # RabbitMQ does not know these types, or finds the lengths wrong, or cannot hold the number; it closes
            # the connection of the sender.
            makers += [
                lambda: chance.choice([b"Z", b"\xff", b"Q"]) + chance.randbytes(4),
                lambda: b"S" + struct.pack(">I", 1_000_000) + b"short",
                lambda: b"f" + chance.choice([chance.randbytes(4), struct.pack(">f", float("nan"))]),
                lambda: b"d" + chance.choice([chance.randbytes(8), struct.pack(">d", float("inf"))]),
            ]
        if depth < 3:
            makers += [
                lambda: b"F" + table({_odd_text(chance): self._value(depth + 1) for _ in range(3)}),
                lambda: b"A" + long(b"".join(self._value(depth + 1) for _ in range(3))),
            ]
        return chance.choice(makers)()


def _nested(depth: int) -> bytes:
    value = b"V"
    for _ in range(depth):
        value = b"A" + long(value)
    return value


def _flipped(chance: random.Random, honest: bytes) -> bytes:
    if not honest:
        return b"\xff"
    at = chance.randrange(len(honest))
    return honest[:at] + chance.randbytes(1) + honest[at + 1 :]


# Publishing


class _Closed(Exception):
    """The broker closed the channel or the connection."""


class RawPublisher:
    """Publishes raw messages with confirms, over a socket of its own; made with :meth:`open`.

    Attributes:
        taken: Messages the broker confirmed.
        refused: Messages for which it closed the channel, or the connection.
        last_reason: Why it closed the last one.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._host = parts.hostname or "127.0.0.1"
        self._port = parts.port or 5672
        self._login = f"\0{unquote(parts.username or 'guest')}\0{unquote(parts.password or 'guest')}".encode()
        self._vhost = unquote(parts.path[1:]).encode() or b"/"
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._channel_open = False
        self.taken = 0
        self.refused = 0
        self.last_reason = ""

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str) -> AsyncIterator["RawPublisher"]:
        publisher = cls(url)
        try:
            await publisher._connect()
            yield publisher
        finally:
            publisher._disconnect()

    async def publish(self, odd: OddMessage) -> bool:
        """Publish and wait for the answer; whether the broker confirmed it."""
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                await self._ready()
                self._send(
                    _METHOD,
                    struct.pack(">HHH", 60, 40, 0) + short(odd.exchange) + short(odd.routing_key) + b"\0",
                )
                self._send(_HEADER, struct.pack(">HHQ", 60, 0, len(odd.body)) + odd.properties)
                for start in range(0, len(odd.body), _PIECE):
                    self._send(_BODY, odd.body[start : start + _PIECE])
                await self._until((60, 80), (60, 120))
        except (_Closed, OSError, asyncio.IncompleteReadError) as error:
            self.last_reason = str(error) or self.last_reason
            self.refused += 1
            return False
        self.taken += 1
        return True

    async def _ready(self) -> None:
        if self._writer is None:
            await self._connect()
        elif not self._channel_open:
            await self._open_channel()

    async def _connect(self) -> None:
        self._disconnect()
        self._reader, self._writer = await asyncio.open_connection(self._host, self._port)
        self._writer.write(b"AMQP\x00\x00\x09\x01")
        await self._until((10, 10))
        start_ok = (
            struct.pack(">HH", 10, 11) + table({}) + short(b"PLAIN") + long(self._login) + short(b"en_US")
        )
        self._send(_METHOD, start_ok, channel=0)
        await self._until((10, 30))
        self._send(_METHOD, struct.pack(">HHHIH", 10, 31, 2047, 131_072, 0), channel=0)
        self._send(_METHOD, struct.pack(">HH", 10, 40) + short(self._vhost) + b"\0\0", channel=0)
        await self._until((10, 41))
        await self._open_channel()

    async def _open_channel(self) -> None:
        self._send(_METHOD, struct.pack(">HH", 20, 10) + b"\0")
        await self._until((20, 11))
        self._send(_METHOD, struct.pack(">HH", 85, 10) + b"\0")
        await self._until((85, 11))
        self._channel_open = True

    def _disconnect(self) -> None:
        if self._writer is not None:
            with contextlib.suppress(OSError):
                self._writer.close()
        self._writer = self._reader = None
        self._channel_open = False

    def _send(self, kind: int, payload: bytes, *, channel: int = 1) -> None:
        if self._writer is None:
            raise _Closed(self.last_reason)
        self._writer.write(struct.pack(">BHI", kind, channel, len(payload)) + payload + _END)

    async def _until(self, *wanted: tuple[int, int]) -> None:
        """Read until one of these methods arrives."""
        assert self._reader is not None
        while True:
            try:
                kind, _, size = struct.unpack(">BHI", await self._reader.readexactly(7))
                payload = (await self._reader.readexactly(size + 1))[:-1]
            except (OSError, asyncio.IncompleteReadError):
                self._disconnect()
                raise
            if kind != _METHOD:
                continue
            method = struct.unpack(">HH", payload[:4])
            if method in wanted:
                return
            if method == (20, 40):
                self._send(_METHOD, struct.pack(">HH", 20, 41))
                self._channel_open = False
                raise _Closed(_reason(payload))
            if method == (10, 50):
                with contextlib.suppress(_Closed):
                    self._send(_METHOD, struct.pack(">HH", 10, 51), channel=0)
                self._disconnect()
                raise _Closed(_reason(payload))


def _reason(close: bytes) -> str:
    code, length = struct.unpack(">HB", close[4:7])
    return f"{code} {close[7 : 7 + length].decode('utf-8', 'backslashreplace')}"
