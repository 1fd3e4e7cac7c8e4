"""The list of token issuers in ``TOWPATH_AUTH_ISSUERS``, read and checked at start.

Guarantee: no issuer of a list can sign a token of another issuer's user. Each issuer has a prefix for its user ids,
and no prefix begins with another one; otherwise both declare that they share their users.
"""

from itertools import combinations
from typing import Final

import msgspec
from yarl import URL

#: The audience that tokens must have unless set otherwise (protocol.md, "Connecting").
AUDIENCE: Final = "towpath"
_ISSUERS_MAX: Final = 16
#: Long enough for a name, and short enough to leave most of a user id to the issuer.
_PREFIX_MAX: Final = 32


class NamedIssuer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One issuer of the list.

    Attributes:
        issuer: The `iss` of its tokens.
        jwks_url: Where its keys are.
        audience: The `aud` of its tokens.
        user_prefix: The first letters of each of its users' ids; the `sub` of a token follows.
        same_users: Its users are those of all other issuers that say so too.
    """

    issuer: str
    jwks_url: str
    audience: str = AUDIENCE
    user_prefix: str = ""
    same_users: bool = False


def read_issuers(value: str) -> list[NamedIssuer]:
    """The issuers of a list; an empty text has none.

    Raises:
        ValueError: With the reason, for a person.
    """
    if not value.strip():
        return []
    try:
        issuers = msgspec.json.decode(value, type=list[NamedIssuer])
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError(f'must be a JSON list of {{"issuer", "jwks_url", …}}: {error}') from None
    if not 0 < len(issuers) <= _ISSUERS_MAX:
        raise ValueError(f"has {len(issuers)} issuers: name from 1 to {_ISSUERS_MAX}")
    for one in issuers:
        if not one.issuer or not one.audience:
            raise ValueError("an issuer or an audience is empty")
        if len(one.user_prefix) > _PREFIX_MAX:
            raise ValueError(f"issuer {one.issuer[:100]!r}: user_prefix may have {_PREFIX_MAX} characters")
        try:
            jwks_url(one.jwks_url)
        except ValueError as error:
            raise ValueError(f"issuer {one.issuer[:100]!r}: jwks_url {error}") from None
    for one, other in combinations(issuers, 2):
        _check_pair(one, other)
    return issuers


def jwks_url(value: str) -> str:
    """Return ``value`` unchanged, if it is an address for keys.

    Raises:
        ValueError: With the reason, for a person.
    """
    try:
        url = URL(value)
    except ValueError:
        url = URL()
    if url.scheme not in ("http", "https") or not url.host:
        raise ValueError("must be https://host/path of a JWKS document")
    # It would be sent to the issuer with each fetch, and be found in logs: a set of public keys needs none.
    if url.user is not None or url.password is not None:
        raise ValueError("must not contain a user or a password")
    return value


def _check_pair(one: NamedIssuer, other: NamedIssuer) -> None:
    names = f"{one.issuer[:100]!r} and {other.issuer[:100]!r}"
    if one.issuer == other.issuer:
        raise ValueError(f"issuer {one.issuer[:100]!r} is in the list twice")
    if one.same_users and other.same_users:
        return
    if one.user_prefix.startswith(other.user_prefix) or other.user_prefix.startswith(one.user_prefix):
        raise ValueError(
            f"{names} could sign tokens of each other's users: give them prefixes (user_prefix) of which none "
            'begins with the other, or "same_users": true in both'
        )
