"""Admission: checks of origin and token. Pure functions of headers, settings and the time.

Tokens are JWTs (RFC 7519), signed with HS256 (shared secret) or with the key that a public key belongs to: RS256,
ES256 or EdDSA. The algorithm follows from the setting, never from the token (RFC 8725, section 3.1).

Guarantees: any token is either accepted or refused with a reason (:class:`TokenRefused`); no other exception is
raised. ``iat`` and ``nbf`` may be ahead of the local clock by ``clock_leeway`` seconds. ``exp`` has no leeway: a
connection ends when its token expires.
"""

import math
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from towpath.gateway.settings import GatewaySettings
from towpath.protocol.routes import check_user_id
from towpath.servicekit.runtime.settings import BadSetting

SUBPROTOCOL: Final = "towpath.v1"
TOKEN_SUBPROTOCOL: Final = "towpath.token."  # noqa: S105  # a prefix, not a secret


#: 9999-12-31T23:59:59Z. A larger number is not a date in seconds; most often it is in milliseconds.
_LAST_SECOND: Final = 253_402_300_799
#: Exceptions of PyJWT on unexpected input, beside its own errors.
_UNREADABLE: Final = (
    jwt.PyJWTError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    AttributeError,
    RecursionError,
)


class TokenRefused(Exception):
    """The token is missing, invalid or expired; the text gives the reason."""


@dataclass(frozen=True, slots=True)
class Identity:
    """The user of a token.

    Attributes:
        expires_at: Unix seconds.
        scope: Domains the user may address, separated by spaces; ``None`` means all.
        issuer: The issuer as the settings name it; empty if they name none.
        token_id: The `jti` of the token.
        issued_at: The `iat` of the token, in Unix seconds; 0 if it has none.
    """

    user_id: str
    expires_at: float
    scope: str | None = None
    issuer: str = ""
    token_id: str | None = None
    issued_at: float = 0.0


class Admission:
    """Checks origins and tokens.

    Raises:
        BadSetting: Neither or both of secret and public key are set, or the key cannot be used.
    """

    def __init__(self, settings: GatewaySettings) -> None:
        self._key: Any
        # With both, an attacker could sign with the public key as an HMAC secret (RFC 8725, section 2.1).
        if bool(settings.auth_secret) == bool(settings.auth_public_key):
            raise BadSetting(
                "TOWPATH_AUTH_SECRET",
                None,
                "set exactly one of TOWPATH_AUTH_SECRET (HS256) and TOWPATH_AUTH_PUBLIC_KEY "
                "(PEM; RS256, ES256 or EdDSA)",
            )
        if settings.auth_secret:
            self._key, self._algorithm = settings.auth_secret, "HS256"
        else:
            self._key, self._algorithm = _public_key(settings.auth_public_key or "")
        self._audience, self._issuer = settings.auth_audience, settings.auth_issuer or ""
        self._leeway = settings.clock_leeway
        self._max_bytes = settings.token_max_bytes
        self._origins = frozenset(
            origin.rstrip("/").lower() for origin in settings.allowed_origins.replace(",", " ").split()
        )

    def admits_origin(self, origin: str | None) -> bool:
        """Whether a page from ``origin`` may connect (RFC 6454); no origin means that the client is not a browser."""
        return origin is None or "*" in self._origins or origin.lower() in self._origins

    def identify(self, token: str | None) -> Identity:
        """The user of ``token``.

        Raises:
            TokenRefused
        """
        if not token:
            raise TokenRefused(
                f'no token: send "Authorization: Bearer <jwt>" or the subprotocol "{TOKEN_SUBPROTOCOL}<jwt>"'
            )
        # Before it is decoded: a token costs work in proportion to its size, and is not trusted yet.
        if len(token) > self._max_bytes:
            raise TokenRefused(
                f"the token has {len(token)} bytes, and the maximum is {self._max_bytes} "
                "(TOWPATH_TOKEN_MAX_BYTES)"
            )
        try:
            with warnings.catch_warnings():
                warnings.simplefilter(
                    "ignore"
                )  # PyJWT warns about short secrets at each call; the gateway warns once, at start.
                claims = jwt.decode(
                    token,
                    self._key,
                    # RFC 8725, section 3.1: the key decides the algorithm, never the header of the token.
                    algorithms=[self._algorithm],
                    # RFC 8725, section 3.9: a token that the same issuer made for another system is refused.
                    audience=self._audience,
                    issuer=self._issuer or None,
                    # Times are checked below: PyJWT has one leeway for all of them, and fails on some numbers.
                    options={
                        "require": ["exp", "sub", "aud"],
                        "verify_exp": False,
                        "verify_iat": False,
                        "verify_nbf": False,
                    },
                )
        except _UNREADABLE as error:
            # Without the cause, whose text may quote the token.
            raise TokenRefused(f"the token is not valid: {_in_short(error)}") from None
        return _identity(claims, self._issuer, time.time(), self._leeway)


def bearer_token(authorization: str | None, subprotocols: Sequence[str]) -> str | None:
    """The token of a handshake: from the Authorization header (RFC 6750), else from the subprotocols.

    An Authorization header of another scheme is ignored: a proxy or a browser may add ``Basic``.

    Raises:
        TokenRefused: There are different tokens in the subprotocols.
    """
    scheme, _, token = (authorization or "").strip().partition(" ")
    if scheme.lower() == "bearer" and (token := token.strip()):
        return token
    offered = {
        subprotocol.removeprefix(TOKEN_SUBPROTOCOL)
        for subprotocol in subprotocols
        if subprotocol.startswith(TOKEN_SUBPROTOCOL)
    }
    if len(offered) > 1:
        # Never guessed: the user of the connection would depend on the order of the header.
        raise TokenRefused(f'more than one token: offer one subprotocol "{TOKEN_SUBPROTOCOL}<jwt>"')
    return next(iter(offered), None)


def _identity(claims: dict[str, Any], issuer: str, now: float, leeway: float) -> Identity:
    user_id, scope = claims["sub"], claims.get("scope")
    if not isinstance(user_id, str):
        raise TokenRefused("the token is not valid: sub must be a string")
    try:
        check_user_id(user_id)
    except ValueError as error:
        raise TokenRefused(f"the token is not valid: sub: {error}") from None
    if scope is not None and not isinstance(scope, str):
        raise TokenRefused("the token is not valid: scope must be a string of domains separated by spaces")
    token_id = claims.get("jti")
    if token_id is not None and not isinstance(token_id, str):
        raise TokenRefused("the token is not valid: jti must be a string")
    issued_at = _seconds(claims, "iat") if claims.get("iat") is not None else 0.0
    for name in ("iat", "nbf"):
        if claims.get(name) is not None and (ahead := _seconds(claims, name) - now) > leeway:
            raise TokenRefused(
                f"the token is not valid yet: {name} is {ahead:.0f} s ahead of the clock here, "
                f"and the maximum is {leeway:g} s (TOWPATH_CLOCK_LEEWAY)"
            )
    expires_at = _seconds(claims, "exp")
    # Without a leeway (protocol.md, "Connecting"): the same moment ends the connection of a user who has one.
    if expires_at <= now:
        raise TokenRefused("the token is expired")
    return Identity(user_id, expires_at, scope, issuer, token_id, issued_at)


def _seconds(claims: dict[str, Any], name: str) -> float:
    """A NumericDate (RFC 7519, section 2)."""
    value = claims[name]
    # JSON's true is an int in Python, and 1e999 is infinity, which the range below refuses.
    is_number = isinstance(value, int) or (isinstance(value, float) and not math.isnan(value))
    if not is_number or isinstance(value, bool):
        raise TokenRefused(f"the token is not valid: {name} must be a number of seconds since 1970")
    if not -_LAST_SECOND <= value <= _LAST_SECOND:
        raise TokenRefused(
            f"the token is not valid: {name} is out of range: it must be in seconds since 1970, not in milliseconds"
        )
    return float(value)


def _in_short(error: Exception) -> str:
    """The defect, without quotes of the token that PyJWT may add."""
    if isinstance(error, jwt.PyJWTError):
        return str(error)[:200]
    return f"it cannot be read ({type(error).__name__})"


def _public_key(pem: str) -> tuple[Any, str]:
    name, remedy = "TOWPATH_AUTH_PUBLIC_KEY", "must be the PEM text of an RSA, P-256 or Ed25519 public key"
    try:
        key = load_pem_public_key(pem.replace("\\n", "\n").encode())
    except (ValueError, UnsupportedAlgorithm):
        raise BadSetting(name, None, remedy) from None
    if isinstance(key, RSAPublicKey):
        return key, "RS256"
    if isinstance(key, EllipticCurvePublicKey) and isinstance(key.curve, SECP256R1):
        return key, "ES256"
    if isinstance(key, Ed25519PublicKey):
        return key, "EdDSA"
    raise BadSetting(name, None, remedy)
