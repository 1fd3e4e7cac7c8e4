"""The envelope: one message shape on every hop.

Guarantees:

* :func:`parse` accepts exactly the JSON texts that are version 1 envelopes, and refuses all others with an error that
  names the fields. Accepted texts are strict JSON (RFC 8259), so they may be passed on unchanged.
* :meth:`Envelope.to_json` and :func:`parse` are inverse to each other, except for unknown fields.
* :func:`head` and :func:`check` are for programs that pass a text on and need no ``data``: they take half the time.
  :func:`head` accepts the same texts as :func:`parse`, :func:`check` also those that are nested more deeply.
"""

import os
import random
import re
import time
from collections.abc import Mapping
from functools import lru_cache
from typing import Annotated, Any, Final

import msgspec
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError
from pydantic_core import ErrorDetails

from towpath.protocol.errors import BadEnvelope, TowpathError, UnsupportedVersion

VERSION: Final = "1.0"
MAX_ACTION_LENGTH: Final = 64
MAX_STREAM_LENGTH: Final = 512
_MAX_TRACE_LENGTH = 128
_MAX_TRACE_STATE_LENGTH = 512
_MAX_ID_LENGTH = 64

PING: Final = "ping"
PONG: Final = "pong"
ACCEPTED: Final = "accepted"
ERROR: Final = "error"

#: Actions that have no domain; a client may send only ``ping``.
BARE_ACTIONS: Final = frozenset({PING, PONG, ACCEPTED, ERROR})

#: The letters of an id; part of other patterns, too.
ID_LETTERS: Final = r"[A-Za-z0-9._:-]{1,64}"
_WORD = r"[a-z][a-z0-9_]*"
#: Of an action: two to four words, or one of :data:`BARE_ACTIONS`.
ACTION_PATTERN: Final = rf"^(?:{_WORD}(?:\.{_WORD}){{1,3}}|{'|'.join(sorted(BARE_ACTIONS))})$"

#: Ids and keys: 1-64 letters that need no quoting in JSON, URLs, AMQP keys or logs.
Id = Annotated[str, StringConstraints(pattern=rf"^{ID_LETTERS}$")]
Action = Annotated[str, StringConstraints(pattern=ACTION_PATTERN, max_length=MAX_ACTION_LENGTH)]
Version = Annotated[str, StringConstraints(pattern=r"^[0-9]{1,4}\.[0-9]{1,4}$")]
TraceParent = Annotated[str, StringConstraints(max_length=_MAX_TRACE_LENGTH)]
TraceState = Annotated[str, StringConstraints(max_length=_MAX_TRACE_STATE_LENGTH)]


class Envelope(BaseModel):
    """One message.

    Attributes:
        msg_id: Unique per sender; the idempotency key.
        timestamp: When it was made, Unix milliseconds. Informative; never trusted for order.
        action: ``domain.verb`` (two to four words), or ``ping``, ``pong``, ``accepted``, ``error``.
        data: The payload, ``{}`` when empty.
        version: ``major.minor`` of the protocol.
        key: Ordering key; envelopes of one domain and key are handled in the order they were sent.
        ack: Whether the client wants ``accepted`` once the broker has it safely.
        correlation_id: The ``msg_id`` this answers.
        stream, seq: Position of a durable push; ``seq`` grows by exactly 1 per stream.
        traceparent, tracestate: W3C trace context (https://www.w3.org/TR/trace-context/).
    """

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)

    msg_id: Id
    timestamp: Annotated[int, Field(ge=0, lt=2**63)]
    action: Action
    data: dict[str, Any]
    version: Version
    key: Id | None = None
    ack: bool | None = None
    correlation_id: Id | None = None
    stream: Annotated[str, StringConstraints(min_length=1, max_length=MAX_STREAM_LENGTH)] | None = None
    seq: Annotated[int, Field(ge=1)] | None = None
    traceparent: TraceParent | None = None
    tracestate: TraceState | None = None

    @property
    def domain(self) -> str:
        """The first word of the action: the service it belongs to."""
        return self.action.partition(".")[0]

    def to_json(self) -> bytes:
        """UTF-8 JSON without the fields that are not set; exact decimals in ``data`` stay numbers."""
        return _ENCODER.encode({name: value for name, value in self.__dict__.items() if value is not None})

    def answer(self, action: str, data: Mapping[str, Any]) -> "Envelope":
        """An envelope that answers this one.

        Example:
            >>> make("ping", msg_id="m-1").answer("pong", {}).correlation_id
            'm-1'
        """
        return make(action, data, correlation_id=self.msg_id)


# Ids need not be secret, only unique: this is five times as fast as the kernel's randomness, with which it is seeded,
# and seeded again in a fork.
_CHANCE = random.Random()  # noqa: S311
os.register_at_fork(after_in_child=_CHANCE.seed)

_ENCODER = msgspec.json.Encoder(decimal_format="number")
_STRICT_JSON = msgspec.json.Decoder(msgspec.Raw)


class Head(msgspec.Struct, gc=False):
    """An envelope whose ``data`` is not read; see :class:`Envelope`."""

    msg_id: str
    timestamp: int
    action: str
    data: dict[str, msgspec.Raw]
    version: str
    key: str | None = None
    ack: bool | None = None
    correlation_id: str | None = None
    stream: str | None = None
    seq: int | None = None
    traceparent: str | None = None
    tracestate: str | None = None


_HEAD = msgspec.json.Decoder(Head)
_matches_id = re.compile(ID_LETTERS).fullmatch
_matches_action = re.compile(ACTION_PATTERN[1:-1]).fullmatch
_is_version_1 = re.compile(r"1\.[0-9]{1,4}").fullmatch

#: Objects and arrays of which no reader says that they are too deep, however they stand in each other.
_SHALLOW = 100
#: pydantic reads no number with more digits before the point, and Python no integer.
_MAX_DIGITS = 4300
_DIGITS_TO_0 = bytes.maketrans(b"123456789", b"0" * 9)
_LONG_NUMBER = b"0" * (_MAX_DIGITS + 1)


def parse(text: str | bytes) -> Envelope:
    """Read one envelope from JSON.

    Raises:
        UnsupportedVersion: Another major version.
        BadEnvelope: Not JSON, not an object, or a field is missing or malformed.

    Example:
        >>> envelope = parse('{"msg_id":"m-1","timestamp":0,"action":"chat.send","data":{},"version":"1.0"}')
        >>> envelope.domain, envelope.msg_id
        ('chat', 'm-1')
    """
    try:
        envelope = Envelope.model_validate_json(text)
    except ValidationError as error:
        raise _refusal(text, error) from None
    if not envelope.version.startswith("1."):
        raise _unsupported(envelope.version, envelope.msg_id)
    nan, infinity = (b"NaN", b"Infinity") if isinstance(text, bytes) else ("NaN", "Infinity")
    # Searched first, which is cheap; the words may also be in a string.
    if nan in text or infinity in text:  # type: ignore[operator]  # both are str or both bytes
        _refuse_non_finite_numbers(text, envelope.msg_id)
    return envelope


def head(text: bytes) -> Head:
    """Read one envelope but for its ``data``.

    Raises:
        UnsupportedVersion, BadEnvelope: As :func:`parse` does.
    """
    # Few brackets cannot be deep. Many may be in strings, or side by side: `parse` decides.
    if text.count(b"{") + text.count(b"[") <= _SHALLOW and (found := _head(text)) is not None:
        return found
    envelope = parse(text)
    return Head(**{name: value for name, value in envelope.__dict__.items() if name != "data"}, data={})


def check(text: bytes) -> str | None:
    """Check one envelope without building it; returns its ``correlation_id``.

    It takes JSON that is nested deeper than :func:`parse` reads, as long as a reader can pass it on.

    Raises:
        UnsupportedVersion, BadEnvelope: As :func:`parse` does.
    """
    return checked(text).correlation_id


def checked(text: bytes) -> Head | Envelope:
    """Like :func:`check`, but returns what it has read of the envelope."""
    found = _head(text)
    return parse(text) if found is None else found


def _head(text: bytes) -> Head | None:
    """The head of an envelope; ``None`` for what :func:`parse` has to look at."""
    try:
        text.decode()  # every byte of it: msgspec does not look into strings that it passes over
        head = _HEAD.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if (
        _is_id(head.msg_id)
        and 0 <= head.timestamp < 2**63
        and len(head.action) <= MAX_ACTION_LENGTH  # before it may be cached
        and _is_action(head.action)
        and (head.version == VERSION or _is_version_1(head.version))
        and (head.correlation_id is None or _is_id(head.correlation_id))
        and (head.seq is None or head.seq >= 1)
        and (head.stream is None or 0 < len(head.stream) <= MAX_STREAM_LENGTH)
        and (head.key is None or _is_id(head.key))
        and (head.traceparent is None or len(head.traceparent) <= _MAX_TRACE_LENGTH)
        and (head.tracestate is None or len(head.tracestate) <= _MAX_TRACE_STATE_LENGTH)
        # Only a text of this length can have such a number.
        and not (len(text) > _MAX_DIGITS and _LONG_NUMBER in text.translate(_DIGITS_TO_0))
    ):
        return head
    return None


def _is_id(text: str) -> object:
    # Most ids are letters and digits, which takes no regular expression to see.
    return (text.isalnum() and text.isascii() and len(text) <= _MAX_ID_LENGTH) or _matches_id(text)


@lru_cache(maxsize=1024)
def _is_action(text: str) -> bool:
    return _matches_action(text) is not None


def read(value: Any) -> Envelope:
    """Check one envelope that is already decoded from JSON; raises as :func:`parse` does."""
    try:
        envelope = Envelope.model_validate(value)
    except ValidationError as error:
        raise _explain(value, error) from None
    if not envelope.version.startswith("1."):
        raise _unsupported(envelope.version, envelope.msg_id)
    return envelope


def make(
    action: str,
    data: Mapping[str, Any] | None = None,
    *,
    msg_id: str | None = None,
    key: str | None = None,
    ack: bool | None = None,
    correlation_id: str | None = None,
    stream: str | None = None,
    seq: int | None = None,
    traceparent: str | None = None,
) -> Envelope:
    """A new envelope with a new id and the current time.

    Args:
        action: ``domain.verb``, or one of :data:`BARE_ACTIONS`.
        data: The payload; ``{}`` if there is none.
        msg_id: The idempotency key; a new one if ``None``.
        key, ack, correlation_id, stream, seq, traceparent: See :class:`Envelope`.

    Raises:
        pydantic.ValidationError: A field is malformed.

    Example:
        >>> envelope = make("order.updated", {"order_id": "o-1"}, stream="orders:ana", seq=8)
        >>> envelope.action, envelope.data, envelope.seq
        ('order.updated', {'order_id': 'o-1'}, 8)
    """
    return Envelope(
        msg_id=msg_id or new_msg_id(),
        timestamp=now_ms(),
        action=action,
        data=dict(data or {}),
        version=VERSION,
        key=key,
        ack=ack,
        correlation_id=correlation_id,
        stream=stream,
        seq=seq,
        traceparent=traceparent,
    )


def write(
    action: str,
    data: Mapping[str, Any],
    *,
    correlation_id: str | None = None,
    traceparent: str | None = None,
) -> bytes:
    """The JSON of :func:`make`, for a program that answers much: what is its own is not checked again."""
    envelope: dict[str, Any] = {
        "msg_id": new_msg_id(),
        "timestamp": now_ms(),
        "action": action,
        "data": data,
        "version": VERSION,
    }
    if correlation_id is not None:
        envelope["correlation_id"] = correlation_id
    if traceparent is not None:
        envelope["traceparent"] = traceparent
    return _ENCODER.encode(envelope)


def make_error(error: TowpathError, *, correlation_id: str | None, trace_id: str | None = None) -> Envelope:
    """The ``error`` envelope for ``error``.

    Args:
        correlation_id: The ``msg_id`` of the refused request, if it is known.
        trace_id: See :meth:`TowpathError.data() <towpath.protocol.errors.TowpathError.data>`.

    Example:
        >>> envelope = make_error(BadEnvelope("This is not JSON."), correlation_id="m-1")
        >>> envelope.action, envelope.data["code"], envelope.correlation_id
        ('error', 'bad_envelope', 'm-1')
    """
    return make(ERROR, error.data(trace_id=trace_id), correlation_id=correlation_id)


def new_msg_id() -> str:
    """24 random hexadecimal digits: 96 bits, so that no two senders meet."""
    return f"{_CHANCE.getrandbits(96):024x}"


def now_ms() -> int:
    """Unix time in milliseconds."""
    return time.time_ns() // 1_000_000


def field_problems(errors: list[ErrorDetails]) -> dict[str, Any]:
    """pydantic's findings as ``details`` of an error: ``{"fields": [{"field", "problem"}]}``."""
    return {
        "fields": [
            {"field": ".".join(str(part) for part in error["loc"]) or "(whole)", "problem": error["msg"]}
            # Bounded: a list in a payload may have thousands of wrong elements.
            for error in errors[:20]
        ]
    }


def _refusal(text: str | bytes, error: ValidationError) -> BadEnvelope:
    try:
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as cause:
        return BadEnvelope(f"This is not JSON: {cause}. Send one JSON object a frame.")
    return _explain(value, error)


def _explain(value: Any, error: ValidationError) -> BadEnvelope:
    if not isinstance(value, dict):
        return BadEnvelope(
            f"An envelope is a JSON object; this is {_json_kind(value)}. Send one JSON object a frame."
        )
    msg_id = value.get("msg_id")
    if not (isinstance(msg_id, str) and _matches_id(msg_id)):
        msg_id = None
    version = value.get("version")
    # Before the fields: another major version may have other ones.
    if isinstance(version, str) and re.fullmatch(r"[0-9]{1,4}\.[0-9]{1,4}", version) and version[:2] != "1.":
        return _unsupported(version, msg_id)
    details = field_problems(error.errors(include_url=False, include_context=False, include_input=False))
    names = ", ".join(dict.fromkeys(field["field"] for field in details["fields"]))
    return BadEnvelope(f"Envelope refused because of: {names}.", msg_id=msg_id, details=details)


def _unsupported(version: str, msg_id: str | None) -> UnsupportedVersion:
    return UnsupportedVersion(
        f"Version {version} is not spoken here; send version {VERSION}.",
        msg_id=msg_id,
        details={"version": version, "supported": ["1.x"]},
    )


def _refuse_non_finite_numbers(text: str | bytes, msg_id: str) -> None:
    # pydantic's JSON reader takes NaN and Infinity, RFC 8259 does not; the text is passed on as it came,
    # and a reader in another language would choke on the whole batch.
    try:
        _STRICT_JSON.decode(text)
    except msgspec.DecodeError:
        raise BadEnvelope(
            "NaN and Infinity are not JSON numbers; send a finite number, a string or null.", msg_id=msg_id
        ) from None


def _json_kind(value: Any) -> str:
    if value is None:
        return "null"
    kinds = {bool: "a boolean", int: "a number", float: "a number", str: "a string", list: "an array"}
    return kinds.get(type(value), "something else")
