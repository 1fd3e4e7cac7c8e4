"""A key set: the public keys of a token issuer, read from its JWKS document (RFC 7517). Pure.

Guarantees:

* A key has one algorithm, by its type: RSA → RS256, P-256 → ES256, Ed25519 → EdDSA. Neither the document nor a token
  chooses another (RFC 8725, section 3.1). A symmetric key is never read: its secret would be public.
* RSA keys have 2048 to 8192 bits: shorter ones are weak (RFC 7518, section 3.3), longer ones make each check slow.
* A key that cannot be used is left out, and the others stay in use. A document that is not a key set, or has more
  than :data:`KEYS_MAX` keys, is refused as a whole.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import jwt
import msgspec

KEYS_MAX: Final = 100
RSA_BITS_MIN: Final = 2048
_RSA_BITS_MAX: Final = 8192
#: Verification takes time in proportion to the exponent's length; nearly all keys have 65537.
_EXPONENT_BITS_MAX: Final = 32
#: Type and curve of a key → its algorithm, and the members that are its public part (RFC 7518, section 6; RFC 8037).
_TYPES: Final[Mapping[tuple[str, str | None], tuple[str, tuple[str, ...]]]] = {
    ("RSA", None): ("RS256", ("n", "e")),
    ("EC", "P-256"): ("ES256", ("x", "y")),
    ("OKP", "Ed25519"): ("EdDSA", ("x",)),
}


class KeySetRefused(Exception):
    """The document is not a usable key set; the text gives the reason, without quotes of the document."""


class Key(NamedTuple):
    """A key that verifies tokens.

    Attributes:
        material: As PyJWT takes it: a secret, or a public key of `cryptography`.
        algorithm: The only one that it is used with.
    """

    material: Any
    algorithm: str


@dataclass(frozen=True, slots=True)
class KeySet:
    """Read with :meth:`read`.

    Attributes:
        keys: By `kid`; a key without one is under ``None``.
        left_out: Why keys were not read, and how many.
    """

    keys: Mapping[str | None, Key]
    left_out: Mapping[str, int]

    @classmethod
    def read(cls, document: bytes) -> "KeySet":
        """The keys of a document.

        Raises:
            KeySetRefused
        """
        try:
            decoded = msgspec.json.decode(document)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise KeySetRefused("it is not JSON") from None
        items = decoded.get("keys") if isinstance(decoded, dict) else None
        if not isinstance(items, list):
            raise KeySetRefused("it is not a key set: an object with a list of keys")
        if len(items) > KEYS_MAX:
            raise KeySetRefused(f"it has {len(items)} keys, and the maximum is {KEYS_MAX}")
        usable: list[tuple[str | None, Key]] = []
        left_out: Counter[str] = Counter()
        for item in items:
            try:
                usable.append(_key(item))
            except _Unusable as reason:
                left_out[str(reason)] += 1
        named = Counter(kid for kid, _ in usable)
        # Which of several would verify a token must not depend on their order.
        ambiguous = sum(count for count in named.values() if count > 1)
        if ambiguous:
            left_out["its kid occurs twice"] = ambiguous
        return cls({kid: key for kid, key in usable if named[kid] == 1}, left_out)

    def find(self, kid: str | None) -> Key | None:
        """The key that a token names; a token without `kid` needs a set of one key."""
        if kid is None:
            return next(iter(self.keys.values())) if len(self.keys) == 1 else None
        return self.keys.get(kid)


class _Unusable(Exception):
    pass


def _key(item: Any) -> tuple[str | None, Key]:
    if not isinstance(item, dict):
        raise _Unusable("it is not an object")
    kid = item.get("kid")
    if not isinstance(kid, str | None):
        raise _Unusable("its kid is not text")
    kind, curve = item.get("kty"), item.get("crv")
    if not isinstance(kind, str) or not isinstance(curve, str | None):
        raise _Unusable("it has no type")
    if (known := _TYPES.get((kind, curve))) is None:
        raise _Unusable("its type is not RSA, P-256 or Ed25519")
    algorithm, members = known
    # Anyone could sign with it.
    if "d" in item:
        raise _Unusable("it is a private key")
    # RFC 7517, sections 4.2 to 4.4: what the issuer uses the key for.
    if item.get("use", "sig") != "sig":
        raise _Unusable("it is not for signatures")
    operations = item.get("key_ops", ["verify"])
    if not isinstance(operations, list) or "verify" not in operations:
        raise _Unusable("it is not for verification")
    if item.get("alg", algorithm) != algorithm:
        raise _Unusable(f"its algorithm is not {algorithm}")
    public = {"kty": kind, "crv": curve} | {name: item.get(name) for name in members}
    try:
        material = jwt.PyJWK(public, algorithm).key
    except (jwt.PyJWTError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError):
        raise _Unusable("it cannot be read") from None
    if kind == "RSA" and not _is_fit(material):
        raise _Unusable(f"RSA has to have {RSA_BITS_MIN} to {_RSA_BITS_MAX} bits, and a small exponent")
    return kid, Key(material, algorithm)


def _is_fit(key: Any) -> bool:
    exponent: int = key.public_numbers().e
    return (
        RSA_BITS_MIN <= key.key_size <= _RSA_BITS_MAX
        and exponent.bit_length() <= _EXPONENT_BITS_MAX
        and exponent % 2 == 1
    )
