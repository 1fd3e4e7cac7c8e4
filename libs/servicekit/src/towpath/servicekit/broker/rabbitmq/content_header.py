"""The content header of a message (its properties and headers), made decodable.

Guarantees:

* A header that pamqp can decode is returned unchanged, byte for byte.
* Of any other, the decodable properties and headers are kept, and the header
  :data:`~towpath.servicekit.broker.interface.UNDECODABLE` gives the reason for what is left out.
* The work is linear in the size of the header: the depth and number of values in a field table are bounded.

Pure functions over the bytes of a frame's payload. The format is that of AMQP 0-9-1, with RabbitMQ's types of values:
https://www.rabbitmq.com/amqp-0-9-1-errata
"""

import struct
from typing import Final

from towpath.servicekit.broker.interface import UNDECODABLE

#: Maximum number of values in all field tables of one message, and their maximum nesting depth.
_MAX_VALUES: Final = 1_000
_MAX_DEPTH: Final = 16
#: pamqp reads larger values as milliseconds; Python's last year is 9999.
_LAST_SECOND: Final = 0xFFFFFFFF
_LAST_MILLISECOND: Final = 253_402_300_799_000

#: The properties in their order: name, flag and type.
_PROPERTIES: Final = (
    ("content_type", 1 << 15, "text"),
    ("content_encoding", 1 << 14, "text"),
    ("headers", 1 << 13, "table"),
    ("delivery_mode", 1 << 12, "octet"),
    ("priority", 1 << 11, "octet"),
    ("correlation_id", 1 << 10, "text"),
    ("reply_to", 1 << 9, "text"),
    ("expiration", 1 << 8, "text"),
    ("message_id", 1 << 7, "text"),
    ("timestamp", 1 << 6, "time"),
    ("type", 1 << 5, "text"),
    ("user_id", 1 << 4, "text"),
    ("app_id", 1 << 3, "text"),
    ("cluster_id", 1 << 2, "text"),
)
_HEADERS_FLAG: Final = 1 << 13
_FIXED: Final = {
    code: size
    for size, codes in ((0, b"V\x00"), (1, b"tbB"), (2, b"su"), (4, b"Iif"), (5, b"D"), (8, b"lLd"))
    for code in codes
}
_TIME: Final = ord("T")
_LONG: Final = ord("S")
_BYTES: Final = ord("x")
_ARRAY: Final = ord("A")
_TABLE: Final = ord("F")


class _Undecodable(Exception):
    """A value cannot be decoded; the text gives the reason."""


class _Unreadable(_Undecodable):
    """Nothing after it can be read either: a length or a type is wrong."""


def safe_header(payload: bytes, odd: str | None = None) -> bytes:
    """A content header's payload that can be decoded.

    Args:
        odd: A defect of the preceding method frame, which makes the message undecodable as well.
    """
    try:
        if odd is None:
            _check(payload)
            return payload
    except (_Undecodable, IndexError, struct.error):
        pass
    return _decodable_part(payload, odd)


def _check(payload: bytes) -> None:
    flags = int.from_bytes(payload[12:14], "big")
    # Bit 0 announces a second word of flags, and no property of AMQP 0-9-1 needs one; bit 1 is unused.
    if flags & 0b11:
        raise _Unreadable("flags: not of AMQP 0-9-1")
    at = 14
    for _, flag, kind in _PROPERTIES:
        if flags & flag:
            at = _property(payload, at, kind)


def _property(payload: bytes, at: int, kind: str) -> int:
    """The end of the property that begins at ``at``.

    Raises:
        _Undecodable: It cannot be decoded.
    """
    if kind == "text":
        end = at + 1 + payload[at]
        if end > len(payload):
            raise _Unreadable("cut off")
        text = payload[at + 1 : end]
        if not text.isascii():
            _utf8(text)
        return end
    if kind == "table":
        end = at + 4 + int.from_bytes(payload[at : at + 4], "big", signed=True)
        if not at + 4 <= end <= len(payload):
            raise _Unreadable("cut off")
        _entries(payload, at + 4, end, [0], 0)
        return end
    end = at + (8 if kind == "time" else 1)
    if end > len(payload):
        raise _Unreadable("cut off")
    if kind == "time":
        _time(payload[at:end])
    return end


def _entries(payload: bytes, at: int, end: int, count: list[int], depth: int) -> None:
    while at < end:
        at = _entry(payload, at, end, count, depth)


def _entry(payload: bytes, at: int, end: int, count: list[int], depth: int) -> int:
    """The end of the name and value that begin at ``at``."""
    name_end = at + 1 + payload[at]
    if name_end >= end:
        raise _Unreadable("a header's name is cut off")
    name = payload[at + 1 : name_end]
    if not name.isascii():
        _utf8(name)
    return _value(payload, name_end, end, count, depth)


def _value(payload: bytes, at: int, end: int, count: list[int], depth: int) -> int:
    count[0] += 1
    # Bounded over all tables of a message: a header of many tiny tables would hold the event loop.
    if count[0] > _MAX_VALUES:
        raise _Undecodable(f"more than {_MAX_VALUES} values")
    stop = _value_end(payload, at, end)
    code = payload[at]
    if code == _TIME:
        _time(payload[at + 1 : stop])
    elif code in (_ARRAY, _TABLE):
        if depth >= _MAX_DEPTH:
            raise _Undecodable(f"deeper than {_MAX_DEPTH}")
        if code == _TABLE:
            _entries(payload, at + 5, stop, count, depth + 1)
        else:
            inner = at + 5
            while inner < stop:
                inner = _value(payload, inner, stop, count, depth + 1)
    return stop


def _value_end(payload: bytes, at: int, end: int) -> int:
    """The end of a value, whatever its content."""
    code = payload[at]
    size = _FIXED.get(code)
    if size is not None:
        stop = at + 1 + size
    elif code == _TIME:
        stop = at + 9
    elif code in (_LONG, _BYTES, _ARRAY, _TABLE):
        if at + 5 > end:
            raise _Unreadable("a header is cut off")
        stop = at + 5 + int.from_bytes(payload[at + 1 : at + 5], "big", signed=True)
    else:
        raise _Unreadable(f"unknown type {payload[at : at + 1]!r}")
    if not at < stop <= end:
        raise _Unreadable("a header is cut off")
    return stop


def _utf8(text: bytes) -> None:
    try:
        text.decode()
    except UnicodeDecodeError:
        raise _Undecodable("not UTF-8") from None


def _time(value: bytes) -> None:
    seconds = int.from_bytes(value, "big")
    if seconds > _LAST_SECOND and seconds > _LAST_MILLISECOND:
        raise _Undecodable("not a time in seconds")


def _decodable_part(payload: bytes, odd: str | None) -> bytes:
    """The decodable part of a content header, with the reason for each part that is left out."""
    reasons = [odd] if odd else []
    flags, kept, headers = 0, [], b""
    present = int.from_bytes(payload[12:14], "big")
    at = 14
    if present & 0b11:
        present, reasons = 0, [*reasons, "flags: not of AMQP 0-9-1"]
    for name, flag, kind in _PROPERTIES:
        if not present & flag:
            continue
        try:
            end = _end_of(payload, at, kind)
        except (_Undecodable, IndexError) as error:
            reasons.append(f"{name}: {error}")
            break  # The start of the next one is unknown.
        try:
            if kind == "table":
                headers, wrong = _decodable_headers(payload, at + 4, end)
                reasons += wrong
            else:
                _property(payload, at, kind)
                flags |= flag
                kept.append((flag, payload[at:end]))
        except _Undecodable as error:
            reasons.append(f"{name}: {error}")
        at = end
    reason = "; ".join(reasons).encode()[:400]
    headers += _text_entry(UNDECODABLE.encode(), reason.decode("utf-8", "ignore").encode() or b"odd")
    kept.append((_HEADERS_FLAG, len(headers).to_bytes(4, "big") + headers))
    values = b"".join(value for _, value in sorted(kept, key=lambda one: -one[0]))
    return payload[:12] + struct.pack(">H", flags | _HEADERS_FLAG) + values


def _end_of(payload: bytes, at: int, kind: str) -> int:
    if kind == "text":
        end = at + 1 + payload[at]
    elif kind == "table":
        size = int.from_bytes(payload[at : at + 4], "big", signed=True)
        end = at + 4 + size if size >= 0 else len(payload) + 1
    else:
        end = at + (8 if kind == "time" else 1)
    if end > len(payload):
        raise _Unreadable("cut off")
    return end


def _decodable_headers(payload: bytes, at: int, end: int) -> tuple[bytes, list[str]]:
    kept: list[bytes] = []
    wrong: list[str] = []
    count = [0]
    ours = UNDECODABLE.encode()
    while at < end:
        name = payload[at + 1 : at + 1 + payload[at]]
        try:
            after = _value_end(payload, at + 1 + len(name), end)
        except (_Undecodable, IndexError) as error:
            wrong.append(f"header {name[:40].decode('utf-8', 'backslashreplace')}: {error}")
            break
        try:
            _entry(payload, at, end, count, 0)
            if name != ours:
                kept.append(payload[at:after])
        except (_Undecodable, IndexError) as error:
            # Reasons are for an operator: a header of a thousand defects needs no thousand lines.
            if len(wrong) < 5:
                wrong.append(f"header {name[:40].decode('utf-8', 'backslashreplace')}: {error}")
        if count[0] > _MAX_VALUES:
            break
        at = after
    return b"".join(kept), wrong


def _text_entry(name: bytes, text: bytes) -> bytes:
    return bytes([len(name)]) + name + b"S" + len(text).to_bytes(4, "big") + text
