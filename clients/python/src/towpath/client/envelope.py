"""The envelope as a client sees it: strict about what it sends, lenient about what it hears.

:class:`towpath.protocol.envelope.Envelope` is the strict one of servers. A client that refused a push for an odd
``timestamp`` would miss it for good, so here only ``action`` and ``data`` have to be what they should be.
"""

import json
import re
from collections.abc import Mapping
from typing import Any, Final, NoReturn, NotRequired, TypedDict
from zlib import crc32

import msgspec

from towpath.protocol.envelope import VERSION

_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")
#: JSON's numbers are doubles in most languages: past this they are not exact any more.
_MAX_EXACT: Final = 2**53 - 1


class Envelope(TypedDict):
    """One message, as it is on the wire.

    Attributes:
        timestamp: Unix milliseconds of the sender's clock.
        action: The name of the command, answer or push, such as ``chat.message``.
        data: The payload.
        correlation_id: The ``msg_id`` of the answered request.
        stream, seq: The position of a durable push; ``seq`` grows by exactly 1 per stream.
    """

    msg_id: str
    timestamp: int
    action: str
    data: dict[str, Any]
    version: str
    key: NotRequired[str]
    ack: NotRequired[bool]
    correlation_id: NotRequired[str]
    stream: NotRequired[str]
    seq: NotRequired[int]
    traceparent: NotRequired[str]


def is_id(value: Any) -> bool:
    """Whether ``value`` may stand as ``msg_id`` or ``key``."""
    return isinstance(value, str) and _ID.fullmatch(value) is not None


def key_of(name: str) -> str:
    """An ordering key for any name, such as a room's.

    The name itself if its letters are allowed in a key, else ``crc32:`` and its CRC-32. If two names have the same
    key, their requests are handled in one order; nothing else changes.

    Example:
        >>> key_of("harbour"), key_of("Café am Kai")
        ('harbour', 'crc32:bc014510')
    """
    return name if is_id(name) else f"crc32:{crc32(name.encode()):08x}"


def encode(
    msg_id: str,
    timestamp: int,
    action: str,
    data: Mapping[str, Any],
    key: str | None = None,
    ack: bool = False,
) -> bytes:
    """UTF-8 JSON of one envelope. Dates, UUIDs and the like become strings, exact decimals too.

    Raises:
        ValueError: JSON cannot hold this data; the message says why.
    """
    envelope: dict[str, Any] = {
        "msg_id": msg_id,
        "timestamp": timestamp,
        "action": action,
        "data": data,
        "version": VERSION,
    }
    if key is not None:
        envelope["key"] = key
    if ack:
        envelope["ack"] = True
    try:
        return _ENCODER.encode(envelope)
    except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError) as cause:
        raise ValueError(str(cause)) from cause


def decode(text: Any) -> Envelope | None:
    """Read one frame; ``None`` if it is not an envelope."""
    if not isinstance(text, str):
        return None
    try:
        value = _DECODER.decode(text)
    except (msgspec.DecodeError, RecursionError):
        value = _decode_odd(text)
    if not (
        isinstance(value, dict)
        and isinstance(value.get("action"), str)
        and isinstance(value.get("data"), dict)
    ):
        return None
    envelope: Envelope = value  # type: ignore[assignment]  # checked as far as necessary
    return envelope


def position_of(envelope: Envelope) -> tuple[str, int] | None:
    """Stream and ``seq`` of a durable push; ``None`` for everything else."""
    stream, seq = envelope.get("stream"), whole(envelope.get("seq"))
    return (stream, seq) if isinstance(stream, str) and stream and seq is not None and seq >= 1 else None


def whole(value: Any) -> int | None:
    """``value`` if it is a whole number that every reader of JSON reads alike."""
    if type(value) is float and value.is_integer():
        value = int(value)
    return value if type(value) is int and abs(value) <= _MAX_EXACT else None


_ENCODER = msgspec.json.Encoder(decimal_format="string")
_DECODER = msgspec.json.Decoder()


def _decode_odd(text: str) -> Any:
    # msgspec is fast and refuses lone surrogates and huge exponents. Both are JSON (RFC 8259, sections 6 and 8.2),
    # and a durable push that is refused is a hole that nothing can fill.
    try:
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")
