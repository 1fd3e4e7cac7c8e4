"""Revocations: tokens that gateways refuse before they expire, as they are written and read.

A revocation is published to ``towpath.push`` with the key of its kind, and kept in the log ``towpath.revocations``,
which each gateway reads from its beginning when it starts.

Guarantees: the routing key alone gives the kind, because the broker's topic permissions are about keys: a body under
``revoke.user`` cannot revoke the tokens of all users. An item that cannot be read affects only itself. Everything
that its sender chooses has a bound.
"""

from collections.abc import Iterator, Sequence
from enum import StrEnum
from typing import Annotated, Final

import msgspec

from towpath.protocol.errors import BadEnvelope
from towpath.protocol.messages import join_batch, split_batch
from towpath.protocol.routes import check_user_id

#: The queue that keeps revocations, and the pattern of the keys that it is bound to.
REVOCATIONS: Final = "towpath.revocations"
REVOKE_ALL: Final = "revoke.*"
#: The key of markers: a reader publishes one, and has read everything once it reads it. No revocation has this key.
READER: Final = "revoke.reader"

#: Revocations that are active at once. A gateway holds each in memory (some 200 bytes), and the log has to hold
#: all of them twice. More are better expressed by a user or by a time of issue.
ACTIVE_MAX: Final = 50_000
#: Bytes of the log; the broker drops its oldest part past that. 50,000 long revocations are 10 MB.
LOG_BYTES: Final = 20_000_000
#: Days that a revocation may last, and that the log keeps one.
DAYS_MAX: Final = 400

#: 9999-12-31T23:59:59Z. A larger number is not a date in seconds; most often it is in milliseconds.
_LAST_SECOND: Final = 253_402_300_799
#: The longest token id, in characters; a UUID has 36.
TOKEN_ID_CHARACTERS: Final = 256
#: The longest ``by`` and ``reason``, in characters.
NOTE_CHARACTERS: Final = 120

_Time = Annotated[float, msgspec.Meta(gt=0, le=_LAST_SECOND)]
_Note = Annotated[str, msgspec.Meta(max_length=NOTE_CHARACTERS)]


class Kind(StrEnum):
    """The subject of a revocation; its routing key is ``revoke.<kind>``."""

    USER = "user"  #: the tokens of one user
    TOKEN = "token"  #: one token  # noqa: S105  # a word, not a secret
    ISSUED_BEFORE = "issued_before"  #: the tokens of all users

    @property
    def key(self) -> str:
        """The routing key on ``towpath.push``."""
        return f"revoke.{self}"


class Revocation(msgspec.Struct, frozen=True, omit_defaults=True):
    """One revocation.

    Attributes:
        until: Unix seconds; the revocation ends then, because the tokens that it names have expired.
        user_id: Of ``USER``.
        token_id: Of ``TOKEN``: the claim ``jti``.
        before: Of ``USER`` and ``ISSUED_BEFORE``: tokens with ``iat`` up to this time (Unix seconds) are refused, and
            those without ``iat``.
        by, reason: For people: who revoked it, and why.
    """

    until: _Time
    user_id: str = ""
    token_id: Annotated[str, msgspec.Meta(max_length=TOKEN_ID_CHARACTERS)] = ""
    before: Annotated[float, msgspec.Meta(ge=0, le=_LAST_SECOND)] = 0.0
    by: _Note = ""
    reason: _Note = ""

    def subject(self, kind: Kind) -> str:
        """The token or user that it names; empty for all users."""
        return self.token_id if kind is Kind.TOKEN else self.user_id


_ITEM: Final = msgspec.json.Decoder(Revocation)
_ENCODER: Final = msgspec.json.Encoder()


def kind_of(routing_key: str) -> Kind | None:
    """The kind of a routing key; ``None`` for a key that this version does not know."""
    try:
        return Kind(routing_key.removeprefix("revoke.")) if routing_key.startswith("revoke.") else None
    except ValueError:
        return None


def write(items: Sequence[Revocation]) -> bytes:
    """A body of revocations of one kind."""
    return join_batch([_ENCODER.encode(item) for item in items])


def read(kind: Kind, body: bytes) -> Iterator[Revocation | BadEnvelope]:
    """The revocations of a body, in order; one that cannot be read is replaced by the error."""
    try:
        texts = split_batch(body)
    except BadEnvelope as error:
        yield error
        return
    for text in texts:
        try:
            yield _checked(kind, _ITEM.decode(text))
        except (msgspec.DecodeError, ValueError, RecursionError) as error:
            yield BadEnvelope(f"This is not a revocation: {error}.")


def _checked(kind: Kind, item: Revocation) -> Revocation:
    """``item``, if it has what its kind needs, and nothing of another kind.

    Raises:
        ValueError
    """
    if kind is Kind.USER:
        check_user_id(item.user_id)
    elif item.user_id:
        raise ValueError(f"user_id does not belong to {kind.key}")
    if (kind is Kind.TOKEN) != bool(item.token_id):
        raise ValueError(
            "token_id is missing" if kind is Kind.TOKEN else f"token_id does not belong to {kind.key}"
        )
    if (kind is Kind.TOKEN) == bool(item.before):
        raise ValueError(f"before does not belong to {kind.key}" if item.before else "before is missing")
    return item
