"""Message bodies between gateway, services and backends: batches, commands and directed items.

A body is a JSON object or an array of such objects; whoever reads takes both. Envelopes inside travel as raw
JSON (:class:`msgspec.Raw`), so a hop that only passes them on neither parses nor builds them again.
"""

from collections.abc import Sequence
from decimal import Decimal, InvalidOperation
from typing import Any, Final

import msgspec

from towpath.protocol.errors import BadEnvelope
from towpath.protocol.routes import connection_key, user_key


class Session(msgspec.Struct, frozen=True, omit_defaults=True):
    """Who sent a command, as the gateway knows it: the only identity a service may trust.

    Attributes:
        scope: Domains the user may address, separated by spaces; ``None`` means all.
    """

    user_id: str
    connection_id: str
    gateway_id: str
    scope: str | None = None

    def may_address(self, domain: str) -> bool:
        """Whether the token's scope names ``domain`` (or names none at all)."""
        return self.scope is None or domain in self.scope.split()


class Command(msgspec.Struct, frozen=True):
    """A client's envelope with the session the gateway stamped."""

    session: Session
    envelope: dict[str, Any]


class Disconnect(msgspec.Struct, frozen=True):
    """Close the connection with this code and reason (at most 123 bytes, RFC 6455 section 5.5)."""

    code: int
    reason: str = ""


#: No JSON. Always this very object: msgspec leaves out a default of this type only when it is the same one.
NO_JSON: Final = msgspec.Raw()


class Directed(msgspec.Struct, frozen=True, omit_defaults=True):
    """One item for a connection, done in this order: (un)subscribe, deliver, disconnect.

    On ``control.<user_id>`` the same without ``connection_id``, for all connections of the user.

    Attributes:
        envelope: Raw JSON of the envelope to deliver; empty when there is none.
    """

    connection_id: str | None = None
    envelope: msgspec.Raw = NO_JSON
    subscribe: list[str] = []
    unsubscribe: list[str] = []
    disconnect: Disconnect | None = None


def _number(text: str) -> Decimal | float:
    try:
        return Decimal(text)
    except InvalidOperation:
        # An exponent of 19 digits or more, which Decimal does not know: zero or infinity, and no amount of money.
        return float(text)


class _Correlation(msgspec.Struct):
    correlation_id: str = ""


_CORRELATION = msgspec.json.Decoder(_Correlation)
_RAW_LIST = msgspec.json.Decoder(list[msgspec.Raw])
_RAW = msgspec.json.Decoder(msgspec.Raw)
_DIRECTED_LIST = msgspec.json.Decoder(list[Directed])
_DIRECTED = msgspec.json.Decoder(Directed)
_COMMAND = msgspec.json.Decoder(Command, float_hook=_number)
_OBJECT = msgspec.json.Decoder(dict[str, Any], float_hook=_number)
_ENCODER = msgspec.json.Encoder()


def join_batch(items: Sequence[bytes]) -> bytes:
    """One body of many JSON texts: the object itself when it is one, else an array."""
    return items[0] if len(items) == 1 else b"[" + b",".join(items) + b"]"


def split_batch(body: bytes) -> list[bytes]:
    """The JSON texts of a body, each as it stands there.

    Raises:
        BadEnvelope: The body is neither a JSON object nor an array.
    """
    try:
        if body.lstrip()[:1] == b"[":
            return [bytes(raw) for raw in _RAW_LIST.decode(body)]
        if body.lstrip()[:1] == b"{":
            return [bytes(_RAW.decode(body))]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadEnvelope(f"The body is not JSON: {error}.") from None
    raise BadEnvelope("The body is neither a JSON object nor an array of objects.")


def wrap_command(session_json: bytes, envelope_json: bytes) -> bytes:
    """The body item of a command; both arguments are JSON objects and stand in it as they are."""
    return b'{"session":' + session_json + b',"envelope":' + envelope_json + b"}"


def read_command(item: bytes) -> Command:
    """Read one command; numbers with a fraction become exact decimals.

    Raises:
        BadEnvelope: Not a command.
    """
    try:
        command = _COMMAND.decode(item)
        connection_key(command.session.gateway_id)
        user_key(command.session.user_id)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise BadEnvelope(f"This is not a command: {error}.") from None
    return command


def read_object(item: bytes) -> dict[str, Any]:
    """Read one JSON object; numbers with a fraction become exact decimals.

    Raises:
        BadEnvelope: Not a JSON object.
    """
    try:
        return _OBJECT.decode(item)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadEnvelope(f"This is not a JSON object: {error}.") from None


def read_directed(body: bytes) -> list[Directed]:
    """Read a body of directed items.

    Raises:
        BadEnvelope: Not an item, nor an array of them.
    """
    try:
        return _DIRECTED_LIST.decode(body) if body.lstrip()[:1] == b"[" else [_DIRECTED.decode(body)]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadEnvelope(f"These are not directed items: {error}.") from None


def read_correlation(envelope: bytes) -> str:
    """The ``correlation_id`` of an envelope; empty when it has none or is no envelope."""
    try:
        return _CORRELATION.decode(envelope).correlation_id
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""


def encode(value: Session | Directed) -> bytes:
    """UTF-8 JSON without the fields that are at their defaults."""
    return _ENCODER.encode(value)
