"""Idempotency keys (draft-ietf-httpapi-idempotency-key-header): a repeated request has its effect once.

Nothing is stored for this. Consumers handle an event once by its sender and ``msg_id``, for 24 hours;
:func:`msg_id_of` derives the ``msg_id`` from the key alone, so a repetition has the same one, whichever replica takes
it, and whether or not the ingress was restarted in between.

:class:`Fingerprints` only finds misuse: another body under the same key is refused. It is a bounded memory of one
replica. After it has forgotten a key, and on other replicas, another body is published under the same ``msg_id``, and
consumers drop it as a repetition: it has no effect either way.
"""

import hashlib
import re
from collections import OrderedDict
from typing import Any, Final

import msgspec

from towpath.ingress.problems import Kind, Problem
from towpath.protocol.envelope import ID_LETTERS

HEADER: Final = "Idempotency-Key"
LENGTH_MAX: Final = 255

_is_id: Final = re.compile(ID_LETTERS).fullmatch
#: An sf-string (https://www.rfc-editor.org/rfc/rfc8941#section-3.3.3), or, as many clients send it, without quotes.
PATTERN: Final = r'^("([ !#-\[\]-~]|\\["\\])+"|[!#-~]+)$'
_matches: Final = re.compile(PATTERN[1:-1]).fullmatch
_DIGEST_BYTES: Final = 16


def read_key(values: list[str]) -> str | None:
    """The key of a request; ``None`` if it has none.

    Raises:
        Problem: 400, it is malformed.
    """
    if not values:
        return None
    value = values[0].strip()
    if len(values) > 1 or len(value) > LENGTH_MAX or not _matches(value):
        raise Problem(
            Kind.BAD_REQUEST,
            f"{HEADER} must be there once, with 1 to {LENGTH_MAX} visible ASCII characters, such as a UUID.",
        )
    return re.sub(r"\\(.)", r"\1", value[1:-1]) if value.startswith('"') else value


def msg_id_of(key: str, position: int | None) -> str:
    """The ``msg_id`` of an item that has none of its own.

    Args:
        position: In the array; ``None`` for a single object, whose id is the key itself where that is an id.

    Example:
        >>> msg_id_of("8e03978e-40d5-43dd-bc93-6894a57f9324", None)
        '8e03978e-40d5-43dd-bc93-6894a57f9324'
        >>> msg_id_of("8e03978e-40d5-43dd-bc93-6894a57f9324", 7)
        'idem-1bf38b4b6a0111f45be46be0ed18a5de-7'
    """
    if position is None:
        if _is_id(key):
            return key
        return f"idem-{_digest(b'one', key)}"
    return f"idem-{_digest(b'many', key)}-{position}"


def fingerprint(path: str, content: Any) -> bytes:
    """A fingerprint of a request: the same for the same JSON, whatever its spaces and the order of its fields."""
    text = msgspec.json.encode(content, order="sorted")
    return hashlib.blake2b(text, digest_size=_DIGEST_BYTES, person=path.encode()[:16]).digest()


class Fingerprints:
    """The fingerprint of each key's body, for a while.

    Args:
        most: Keys that are remembered.
        retention: Seconds that they are.
    """

    def __init__(self, most: int, retention: float) -> None:
        self._most = most
        self._retention = retention
        self._known: OrderedDict[bytes, tuple[float, bytes]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def check(self, sender: str, key: str, found: bytes, now: float) -> None:
        """Remember the body of a key, or compare it with the one that is remembered.

        Raises:
            Problem: 422, it is another one.
        """
        while self._known and (len(self._known) > self._most or self._is_old(now)):
            self._known.popitem(last=False)
        name = hashlib.blake2b(f"{sender}\n{key}".encode(), digest_size=_DIGEST_BYTES).digest()
        _, known = self._known.setdefault(name, (now, found))
        if known != found:
            raise Problem(
                Kind.KEY_REUSED,
                f"{HEADER} {key[:64]!r} came with another body before: a new request needs a new key.",
            )

    def _is_old(self, now: float) -> bool:
        since, _ = next(iter(self._known.values()))
        return now - since > self._retention


def _digest(kind: bytes, key: str) -> str:
    return hashlib.blake2b(key.encode(), digest_size=_DIGEST_BYTES, person=kind).hexdigest()
