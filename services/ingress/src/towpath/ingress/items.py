"""Items: what one event or push must be, and the envelope that is published for it.

Guarantees: an envelope that is made here passes :func:`towpath.protocol.envelope.parse`, the check of all readers.
Its ``data`` is the caller's JSON text, unchanged. Rights are checked on what is published, so no spelling of an
action gets around them.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Final

import msgspec
from pydantic import BaseModel, ConfigDict, Field, JsonValue, StringConstraints

from towpath.ingress.bodies import depth_exceeds
from towpath.ingress.keys import RESERVED, Key
from towpath.ingress.problems import Status
from towpath.protocol.envelope import (
    BARE_ACTIONS,
    MAX_ACTION_LENGTH,
    VERSION,
    Envelope,
    Id,
    TraceParent,
    new_msg_id,
    now_ms,
    parse,
)
from towpath.protocol.errors import BadEnvelope, UnsupportedVersion
from towpath.protocol.routes import EVENTS, PUSH, USER_ID_CHARACTERS, check_user_id, user_key

_WORD: Final = "[a-z][a-z0-9_]*"


class NewEnvelope(BaseModel):
    """An event, or the envelope of a push. Only ``action`` and ``data`` are required.

    Attributes:
        action: ``<domain>.<verb>``, two to four words.
        data: The payload.
        msg_id: Makes the event take effect once, also when it is sent again; unique per API key. By default it is
            derived from the ``Idempotency-Key``, or is a new one.
        timestamp: When it was made, in Unix milliseconds; by default now.
        version: Of the protocol.
        key: See ``docs/reference/protocol.md``.
        traceparent: W3C trace context.
    """

    model_config = ConfigDict(extra="forbid")

    action: Annotated[
        str, StringConstraints(pattern=rf"^{_WORD}(\.{_WORD}){{1,3}}$", max_length=MAX_ACTION_LENGTH)
    ] = Field(examples=["order.paid"])
    data: dict[str, JsonValue] = Field(examples=[{"order_id": "O1", "user_id": "ana"}])
    msg_id: Id | None = None
    timestamp: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    version: Annotated[str, StringConstraints(pattern=r"^1\.[0-9]{1,4}$")] | None = None
    key: Id | None = None
    traceparent: TraceParent | None = None


class NewPush(BaseModel):
    """An envelope for all connections of one user. Actions of the domain ``session`` are refused.

    Attributes:
        user_id: At most 200 bytes when percent-encoded, without control characters.
    """

    model_config = ConfigDict(extra="forbid")

    user_id: Annotated[str, StringConstraints(min_length=1, max_length=USER_ID_CHARACTERS)]
    envelope: NewEnvelope


@dataclass(frozen=True, slots=True)
class Outgoing:
    """An item that can be published."""

    exchange: str
    routing_key: str
    msg_id: str
    text: bytes


class Rejected(Exception):
    """An item is not published.

    Args:
        status: ``INVALID`` or ``FORBIDDEN``.
        detail: Why, and what to do.
    """

    def __init__(self, status: Status, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ENCODER = msgspec.json.Encoder()


def event(text: bytes, key: Key, msg_id: str | None, *, nesting_max: int) -> Outgoing:
    """The publication of an event.

    Args:
        text: The JSON of the item.
        msg_id: Of an item that has none of its own; ``None`` for a new one.

    Raises:
        Rejected
    """
    envelope, written = _envelope(text, msg_id, nesting_max)
    if not key.may_publish(envelope.action):
        allowed = ", ".join(key.events) or "none"
        raise Rejected(
            Status.FORBIDDEN, f"This API key may not publish {envelope.action}; its events: {allowed}."
        )
    return Outgoing(EVENTS, envelope.action, envelope.msg_id, written)


def push(text: bytes, key: Key, msg_id: str | None, *, nesting_max: int) -> Outgoing:
    """The publication of a push; see :func:`event`.

    Raises:
        Rejected
    """
    fields = _fields(text, NewPush, "push")
    user_id, inner = fields.get("user_id"), fields.get("envelope")
    if user_id is None or inner is None:
        raise _invalid("A push is {user_id, envelope}: one of them is missing.")
    try:
        user = check_user_id(msgspec.json.decode(user_id, type=str))
    except (msgspec.DecodeError, ValueError) as error:
        raise _invalid(f"user_id: {error}.") from None
    envelope, written = _envelope(bytes(inner), msg_id, nesting_max)
    if not key.push:
        raise Rejected(Status.FORBIDDEN, "This API key may not push to users.")
    if envelope.domain in RESERVED:
        raise Rejected(Status.FORBIDDEN, f"{envelope.action}: only gateways say this to their clients.")
    return Outgoing(PUSH, user_key(user), envelope.msg_id, written)


def _envelope(text: bytes, msg_id: str | None, nesting_max: int) -> tuple[Envelope, bytes]:
    """The envelope of an item, and its JSON."""
    fields = _fields(text, NewEnvelope, "envelope")
    _check_depth(text, nesting_max)
    given = {name: value for name, value in fields.items() if bytes(value) != b"null"}
    made: dict[str, Any] = {
        "msg_id": msg_id or new_msg_id(),
        "timestamp": now_ms(),
        "version": VERSION,
        **given,
    }
    written = _ENCODER.encode(made)
    try:
        envelope = parse(written)
    except UnsupportedVersion as error:
        raise _invalid(str(error)) from None
    except BadEnvelope as error:
        raise _invalid(_problems(error)) from None
    if envelope.action in BARE_ACTIONS:
        raise _invalid(f"action: {envelope.action!r} has no domain; write order.paid.")
    return envelope, written


def _fields(text: bytes, model: type[BaseModel], title: str) -> dict[str, msgspec.Raw]:
    """The fields of an object, each as it came."""
    try:
        fields = _FIELDS.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        raise _invalid(f"The {title} is not a JSON object: {error}.") from None
    if unknown := sorted(fields.keys() - model.model_fields.keys()):
        names = ", ".join(model.model_fields)
        raise _invalid(f"{unknown[0][:40]!r} is not a field of the {title}; there are {names}.")
    return fields


def _check_depth(text: bytes, nesting_max: int) -> None:
    if text.count(b"{") + text.count(b"[") <= nesting_max:
        return  # Few brackets cannot be deep.
    try:
        too_deep = depth_exceeds(msgspec.json.decode(text), nesting_max)
    except RecursionError:
        too_deep = True
    except msgspec.DecodeError as error:
        raise _invalid(f"This is not JSON: {error}.") from None
    if too_deep:
        raise _invalid(f"data: objects and arrays are nested deeper than {nesting_max} levels.")


def _problems(error: BadEnvelope) -> str:
    """The findings as one text: ``action: …; data: …``."""
    found = (error.details or {}).get("fields", [])
    return "; ".join(f"{one['field']}: {one['problem']}" for one in found[:5]) or str(error)


def _invalid(detail: str) -> Rejected:
    return Rejected(Status.INVALID, detail)
