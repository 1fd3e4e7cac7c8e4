"""Envelopes that are nearly right: a seed's worth of them, by changes of the values, of the text and of the bytes."""

import json
import random
import string
from collections.abc import Callable, Sequence
from typing import Any, Final

_ACTIONS: Final = (
    "ping", "pong", "accepted", "error", "chat.send", "chat.join", "chat.typing", "chat.history", "chat.resume",
    "order.submit", "order.list", "session.refresh", "nowhere.go", "a.b.c.d", "chat", "Chat.Send", "chat.send.",
    "chat..send", "a.b.c.d.e", "x" * 65 + ".y", "chat.send\n",
)  # fmt: skip
_TEXTS: Final = (
    "", " ", "a", "\0", "\n", "😀", "\u2028", "\ud800", "é" * 64, "x" * 64, "x" * 65, "x" * 5000, "#", "*", "a.b",
    "%00", "NaN", "Infinity", "1.0", "2.0", "1.x", "01.0", "1.99999", "null", "\\", '"', "{}", "chat:room",
    "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "١", "ﬁ", "a\u0301",
)  # fmt: skip
_NUMBERS: Final = (
    0, 1, -1, 2**31, 2**53, 2**63 - 1, 2**63, 2**64, 2**64 + 1, -(2**63) - 1, 10**400, 0.5, 1.0, -0.0, 1e300, 1e-300,
)  # fmt: skip
_RAW_NUMBERS: Final = (
    "1e5", "1E+5", "1.0", "1e400", "-0", "01", "1.", ".5", "+1", "0x10", "NaN", "Infinity", "-Infinity", "1_000",
    "1e99999999999999999999", "9" * 5000, "-", "1e", "0" * 40,
)  # fmt: skip
_FIELDS: Final = (
    "msg_id", "timestamp", "action", "data", "version", "key", "ack", "correlation_id", "stream", "seq",
    "traceparent", "unknown", "session", "envelope", "", "__proto__",
)  # fmt: skip
_TOKENS: Final = (
    b"{", b"}", b"[", b"]", b",", b":", b'"', b"\\", b"null", b"true", b"\xff", b"\xed\xa0\x80", b"\xc0\x80", b"\0",
    b"\xef\xbb\xbf", b" ", b"\t", b"\x0b", b"//", b"/**/", b"'", b"\\u0000", b"\\ud800", b"\\udc00\\ud800", b"\\x",
    b"NaN", b"-Infinity", b"1e999", b"\xe2\x80\xa8",
)  # fmt: skip


class Mutator:
    """Makes envelopes; the same seed makes the same ones."""

    def __init__(self, seed: str) -> None:
        self._chance = random.Random(seed)
        self._count = 0

    def next(self) -> bytes:
        """The next one: one in eight is right, most are wrong in one place, some in many."""
        chance = self._chance
        value = self._right()
        places = chance.choices((0, 1, 2, 5), (1, 4, 2, 1))[0]
        for _ in range(places):
            self._change_value(value)
        raw = json.dumps(value, ensure_ascii=chance.random() < 0.5, separators=self._separators())
        encoded = raw.encode("utf-8", "surrogatepass")
        if places and chance.random() < 0.4:
            for _ in range(chance.choice((1, 1, 2, 8))):
                encoded = chance.choice(_BYTE_CHANGES)(chance, encoded)
        return encoded

    def _right(self) -> dict[str, Any]:
        chance = self._chance
        self._count += 1
        made: dict[str, Any] = {
            "msg_id": f"m-{self._count}",
            "timestamp": 1712048400000,
            "action": chance.choice(_ACTIONS[:12]),
            "data": chance.choice(
                ({}, {"room": "r"}, {"room": "r", "text": "t"}, {"amount": 1.10, "order_id": "O"})
            ),
            "version": "1.0",
        }
        if chance.random() < 0.3:
            made["key"] = "r"
        if chance.random() < 0.2:
            made["ack"] = True
        return made

    def _change_value(self, value: dict[str, Any]) -> None:
        chance = self._chance
        name = chance.choice(_FIELDS)
        match chance.randrange(6):
            case 0:
                value.pop(name, None)
            case 1:
                value[name] = chance.choice(_TEXTS)
            case 2:
                value[name] = chance.choice(_NUMBERS)
            case 3:
                value[name] = self._anything(3)
            case 4:
                value["action"] = chance.choice(_ACTIONS)
            case _:
                data = value.get("data")
                if isinstance(data, dict):
                    data[chance.choice(_TEXTS)] = self._anything(4)

    def _anything(self, depth: int) -> Any:
        chance = self._chance
        match chance.randrange(8 if depth else 5):
            case 0:
                return None
            case 1:
                return chance.random() < 0.5
            case 2:
                return chance.choice(_NUMBERS)
            case 3 | 4:
                return chance.choice(_TEXTS)
            case 5:
                return [self._anything(depth - 1) for _ in range(chance.randrange(4))]
            case 6:
                nested: Any = 1
                for _ in range(chance.choice((1, 10, 100, 300))):
                    nested = [nested] if chance.random() < 0.5 else {"a": nested}
                return nested
            case _:
                return {chance.choice(_TEXTS): self._anything(depth - 1) for _ in range(chance.randrange(4))}

    def _separators(self) -> tuple[str, str]:
        return self._chance.choice(((",", ":"), (", ", ": "), (" ,\n", "\t:\r")))


def _at(chance: random.Random, text: bytes) -> int:
    return chance.randrange(len(text) + 1)


def _insert(chance: random.Random, text: bytes) -> bytes:
    at = _at(chance, text)
    return text[:at] + chance.choice(_TOKENS) + text[at:]


def _delete(chance: random.Random, text: bytes) -> bytes:
    at = _at(chance, text)
    return text[:at] + text[at + chance.choice((1, 1, 2, 10)) :]


def _flip(chance: random.Random, text: bytes) -> bytes:
    if not text:
        return text
    at = chance.randrange(len(text))
    return text[:at] + bytes([text[at] ^ 1 << chance.randrange(8)]) + text[at + 1 :]


def _cut(chance: random.Random, text: bytes) -> bytes:
    return text[: _at(chance, text)]


def _append(chance: random.Random, text: bytes) -> bytes:
    return text + chance.choice((*_TOKENS, b"{}", b"\n", b" \0", text))


def _repeat_field(chance: random.Random, text: bytes) -> bytes:
    """A field a second time: which of the two counts?"""
    name = chance.choice(_FIELDS)
    value = json.dumps(chance.choice((*_TEXTS[1:5], None, 1, {}))).encode("utf-8", "surrogatepass")
    return b'{"' + name.encode() + b'":' + value + b"," + text[1:]


def _replace_number(chance: random.Random, text: bytes) -> bytes:
    return text.replace(b"1712048400000", chance.choice(_RAW_NUMBERS).encode(), 1).replace(
        b"1.1", chance.choice(_RAW_NUMBERS).encode(), 1
    )


def _write_as_escapes(chance: random.Random, text: bytes) -> bytes:
    letter = chance.choice(string.ascii_lowercase)
    return text.replace(letter.encode(), rb"\u%04x" % ord(letter), chance.randrange(1, 4))


_BYTE_CHANGES: Final[Sequence[Callable[[random.Random, bytes], bytes]]] = (
    _insert, _delete, _flip, _cut, _append, _repeat_field, _replace_number, _replace_number, _write_as_escapes,
)  # fmt: skip
