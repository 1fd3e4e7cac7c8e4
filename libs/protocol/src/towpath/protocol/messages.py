"""Message bodies between gateway, services and backends: batches, commands and directed items.

A body is a JSON object or an array of such objects; readers accept both. Envelopes inside travel as raw
JSON (:class:`msgspec.Raw`), so a hop that only passes them on neither parses nor builds them again.
"""

import json
import re
from collections.abc import Iterator, Sequence
from decimal import Decimal, InvalidOperation
from typing import Annotated, Any, Final

import msgspec
from msgspec.structs import replace

from towpath.protocol.errors import BadEnvelope
from towpath.protocol.routes import check_user_id, connection_key

#: The bound of numbers that others choose and programs pass on; see :class:`Directed`. 0 means none.
Number = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class Session(msgspec.Struct, frozen=True, omit_defaults=True):
    """The sender of a command, as the gateway knows it: the only identity a service may trust.

    Attributes:
        scope: Domains the user may address, separated by spaces; ``None`` means all.
        inbox: Which of the gateway's inboxes, one after the other, gets the answer. A directed item repeats it.
    """

    user_id: str
    connection_id: str
    gateway_id: str
    scope: str | None = None
    inbox: Number = 0

    def may_address(self, domain: str) -> bool:
        """Whether the token's scope names ``domain`` (or names none at all)."""
        return self.scope is None or domain in self.scope.split()


class Command(msgspec.Struct, frozen=True):
    """A client's envelope with the session the gateway stamped.

    Attributes:
        traceparent: The trace of the gateway; ``None`` where it is in the envelope. If it is set, the one in the
            envelope is the client's: a service links to it and does not obey it.
        tracestate: Of the client, where the gateway continues its trace.
    """

    session: Session
    envelope: dict[str, Any]
    traceparent: Annotated[str, msgspec.Meta(max_length=128)] | None = None
    tracestate: Annotated[str, msgspec.Meta(max_length=512)] | None = None

    @property
    def trace(self) -> str | None:
        """The trace that a service continues."""
        found = self.traceparent or self.envelope.get("traceparent")
        return found if isinstance(found, str) else None


class Disconnect(msgspec.Struct, frozen=True):
    """Close the connection with this code and reason (at most 123 bytes, RFC 6455 section 5.5)."""

    code: int
    reason: str = ""


#: No JSON. Always this very object: msgspec leaves out a default of this type only when it is the same one.
NO_JSON: Final = msgspec.Raw()


class Directed(msgspec.Struct, frozen=True, omit_defaults=True):
    """One item for a connection, done in this order: (un)subscribe, deliver, disconnect.

    On ``control.<user_id>`` the same without ``connection_id``, for all connections of the user.

    Changes of groups may come by both ways, and late. So a service may number them: of two changes of one group the
    one with the higher number counts, whichever comes first. Without a number they count as they come.

    Attributes:
        envelope: Raw JSON of the envelope to deliver; empty when there is none.
        as_of: The number of these changes; numbers grow in the order in which the service commits its changes.
        complete: With ``subscribe``, and what came before with the same ``as_of``, these are all groups that the
            connection is in, as of that number: it leaves the service's other ones.
        inbox: See :class:`Session`.
    """

    connection_id: str | None = None
    envelope: msgspec.Raw = NO_JSON
    subscribe: list[str] = []
    unsubscribe: list[str] = []
    disconnect: Disconnect | None = None
    as_of: Number = 0
    complete: bool = False
    inbox: Number = 0


#: The largest body that is published, where no setting says otherwise. RabbitMQ 4 takes 16 MiB.
MESSAGE_MAX_BYTES: Final = 8 * 1024 * 1024
#: Items that one body may have; a lane puts at most 500 into one.
BODY_MAX_ITEMS: Final = 10_000
#: Groups that one directed item names at most, and their bytes.
DIRECTED_MAX_GROUPS: Final = 500
DIRECTED_MAX_BYTES: Final = 64 * 1024
_JSON: Final = json.JSONDecoder()
_SPACE: Final = re.compile(r"[ \t\r\n]*")


def _number(text: str) -> Decimal | float:
    try:
        return Decimal(text)
    except InvalidOperation:
        # An exponent of 19 digits or more, which Decimal does not know: zero or infinity, and no amount of money.
        return float(text)


class _Correlation(msgspec.Struct):
    correlation_id: str = ""


class _Traced(msgspec.Struct):
    traceparent: str | None = None


_CORRELATION = msgspec.json.Decoder(_Correlation)
_TRACED = msgspec.json.Decoder(_Traced)
_RAW_LIST = msgspec.json.Decoder(list[msgspec.Raw])
_RAW = msgspec.json.Decoder(msgspec.Raw)
_DIRECTED_LIST = msgspec.json.Decoder(list[Directed])
_DIRECTED = msgspec.json.Decoder(Directed)
# Numbers with a fraction stay exact: money must not pass through a float (protocol.md, "Orders").
_COMMAND = msgspec.json.Decoder(Command, float_hook=_number)
_OBJECT = msgspec.json.Decoder(dict[str, Any], float_hook=_number)
_ENCODER = msgspec.json.Encoder()


class TooManyItems(BadEnvelope):
    """A body with more items than anybody looks at."""


def join_batch(items: Sequence[bytes]) -> bytes:
    """One body of many JSON texts: the object itself when it is one, else an array."""
    return items[0] if len(items) == 1 else b"[" + b",".join(items) + b"]"


def split_batch(body: bytes, *, max_items: int = BODY_MAX_ITEMS) -> list[bytes]:
    """The JSON texts of a body, each unchanged.

    Raises:
        TooManyItems: The body has more than ``max_items``.
        BadEnvelope: It is neither a JSON object nor an array.
    """
    try:
        if body.lstrip()[:1] == b"[":
            _bound_items(body, max_items)
            return [bytes(raw) for raw in _RAW_LIST.decode(body)]
        if body.lstrip()[:1] == b"{":
            return [bytes(_RAW.decode(body))]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadEnvelope(f"The body is not JSON: {error}.") from None
    raise BadEnvelope("The body is neither a JSON object nor an array of objects.")


def _bound_items(body: bytes, max_items: int) -> None:
    """Refuse an array of too many items before it is decoded: a million empty objects take 100 MiB.

    Raises:
        BadEnvelope
    """
    # n items have n - 1 commas between them, so this count lets nearly every body pass.
    if len(body) <= max_items or body.count(b",") < max_items:
        return
    text = body.decode()
    at, count = _SPACE.match(text, text.index("[") + 1).end(), 0  # type: ignore[union-attr]
    while not text.startswith("]", at):
        try:
            _, at = _JSON.raw_decode(text, at)
        except ValueError:
            return  # the decoder says what is wrong
        count += 1
        if count > max_items:
            raise TooManyItems(f"The body has more than {max_items} items.")
        at = _SPACE.match(text, at).end()  # type: ignore[union-attr]
        if text.startswith(",", at):
            at = _SPACE.match(text, at + 1).end()  # type: ignore[union-attr]
        elif not text.startswith("]", at):
            return


def split_directed(
    item: Directed, *, max_groups: int = DIRECTED_MAX_GROUPS, max_bytes: int = DIRECTED_MAX_BYTES
) -> list[Directed]:
    """``item`` as several that have the same effect in their order, where it changes many groups.

    Args:
        max_groups: Groups that one item names at most.
        max_bytes: UTF-8 bytes of the groups that one item names; a single group may be longer.
    """
    runs = list(_runs([*item.subscribe, *item.unsubscribe], max_groups, max_bytes))
    if len(runs) <= 1:
        return [item]
    bare = Directed(item.connection_id, as_of=item.as_of, inbox=item.inbox)
    parts = [replace(bare, subscribe=some) for some in _runs(item.subscribe, max_groups, max_bytes)]
    parts += [replace(bare, unsubscribe=some) for some in _runs(item.unsubscribe, max_groups, max_bytes)]
    if item.complete:
        # On the last of the changes: what came before with the same number is part of the list (protocol.md,
        # "RabbitMQ").
        parts[-1] = replace(parts[-1], complete=True)
    if item.envelope or item.disconnect is not None:
        # Behind all changes: the contract's order within one item.
        parts.append(Directed(item.connection_id, item.envelope, disconnect=item.disconnect))
    return parts


def _runs(groups: Sequence[str], max_groups: int, max_bytes: int) -> Iterator[list[str]]:
    run: list[str] = []
    size = 0
    for group in groups:
        length = len(group.encode("utf-8", "replace"))
        if run and (len(run) >= max_groups or size + length > max_bytes):
            yield run
            run, size = [], 0
        run.append(group)
        size += length
    if run:
        yield run


def wrap_command(
    session_json: bytes, envelope_json: bytes, traceparent: str | None = None, tracestate: str | None = None
) -> bytes:
    """The body item of a command; session and envelope are JSON objects and stand in it as they are.

    Args:
        traceparent, tracestate: See :class:`Command`.
    """
    trace = b""
    if traceparent is not None:
        trace = b',"traceparent":' + _ENCODER.encode(traceparent)
    if tracestate is not None:
        trace += b',"tracestate":' + _ENCODER.encode(tracestate)
    return b'{"session":' + session_json + trace + b',"envelope":' + envelope_json + b"}"


def read_command(item: bytes) -> Command:
    """Read one command; numbers with a fraction become exact decimals.

    Raises:
        BadEnvelope: Not a command.
    """
    try:
        command = _COMMAND.decode(item)
        # Both become words of routing keys: refused here, and not when the answer is published.
        connection_key(command.session.gateway_id)
        check_user_id(command.session.user_id)
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
        if body.lstrip()[:1] != b"[":
            return [_DIRECTED.decode(body)]
        _bound_items(body, BODY_MAX_ITEMS)
        return _DIRECTED_LIST.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadEnvelope(f"These are not directed items: {error}.") from None


def read_correlation(envelope: bytes) -> str:
    """The ``correlation_id`` of an envelope; empty if it has none or is not an envelope."""
    try:
        return _CORRELATION.decode(envelope).correlation_id
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""


def read_trace(envelope: bytes) -> str | None:
    """The ``traceparent`` of an envelope; ``None`` if it has none or is not an envelope."""
    try:
        return _TRACED.decode(envelope).traceparent
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def with_trace(envelope: bytes, traceparent: str) -> bytes:
    """The JSON of an envelope with ``traceparent``, unless it has one; unchanged if it is not a JSON object.

    Example:
        >>> with_trace(b'{"action":"chat.message"}', "00-ab-cd-01")
        b'{"action":"chat.message","traceparent":"00-ab-cd-01"}'
    """
    # Written into the text: reading and building it again would cost more than all else that is done for it here.
    if b'"traceparent"' in envelope and read_trace(envelope) is not None:
        return envelope
    text = envelope.rstrip()
    if not text.endswith(b"}") or len(text) <= len("{}"):
        return envelope
    return text[:-1] + b',"traceparent":' + _ENCODER.encode(traceparent) + b"}"


def encode(value: Session | Directed) -> bytes:
    """UTF-8 JSON without the fields that are at their defaults."""
    return _ENCODER.encode(value)
