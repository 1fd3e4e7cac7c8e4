"""Admission: who may connect. Pure functions of headers, settings and the time.

Tokens are JWTs (RFC 7519), signed with HS256 (shared secret) or with the key that a public key belongs to: RS256,
ES256 or EdDSA. The algorithm follows from the setting, never from the token (RFC 8725, section 3.1).
"""

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
from towpath.protocol.routes import encode_word
from towpath.servicekit.settings import BadSetting

AUDIENCE: Final = "towpath"
SUBPROTOCOL: Final = "towpath.v1"
TOKEN_SUBPROTOCOL: Final = "towpath.token."  # noqa: S105  # a prefix, not a secret


class TokenRefused(Exception):
    """The token is missing, not valid, or expired; the text says which."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a token speaks for.

    Attributes:
        expires_at: Unix seconds.
        scope: Domains the user may address, separated by spaces; ``None`` means all.
    """

    user_id: str
    expires_at: float
    scope: str | None = None


class Admission:
    """Checks origins and tokens.

    Raises:
        BadSetting: Neither or both of secret and public key are set, or the key cannot be used.
    """

    def __init__(self, settings: GatewaySettings) -> None:
        self._key: Any
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
        self._origins = frozenset(
            origin.rstrip("/").lower() for origin in settings.allowed_origins.replace(",", " ").split()
        )

    def admits_origin(self, origin: str | None) -> bool:
        """Whether a page from ``origin`` may connect (RFC 6454); no origin means that it is no browser."""
        return origin is None or "*" in self._origins or origin.lower() in self._origins

    def identify(self, token: str | None) -> Identity:
        """Who ``token`` speaks for.

        Raises:
            TokenRefused
        """
        if not token:
            raise TokenRefused(
                f'no token: send "Authorization: Bearer <jwt>" or the subprotocol "{TOKEN_SUBPROTOCOL}<jwt>"'
            )
        try:
            with warnings.catch_warnings():
                warnings.simplefilter(
                    "ignore"
                )  # PyJWT warns of short secrets at each call; we did once, at start
                claims = jwt.decode(
                    token,
                    self._key,
                    algorithms=[self._algorithm],
                    audience=AUDIENCE,
                    options={"require": ["exp", "sub", "aud"]},
                )
        except jwt.ExpiredSignatureError:
            raise TokenRefused("the token is expired") from None
        except (jwt.PyJWTError, ValueError) as error:
            raise TokenRefused(f"the token is not valid: {error}") from None
        return _identity(claims)


def bearer_token(authorization: str | None, subprotocols: Sequence[str]) -> str | None:
    """The token of a handshake: from the Authorization header (RFC 6750), else from the subprotocols."""
    if authorization is not None:
        scheme, _, token = authorization.strip().partition(" ")
        return token.strip() if scheme.lower() == "bearer" else None
    for subprotocol in subprotocols:
        if subprotocol.startswith(TOKEN_SUBPROTOCOL):
            return subprotocol.removeprefix(TOKEN_SUBPROTOCOL)
    return None


def _identity(claims: dict[str, Any]) -> Identity:
    user_id, scope = claims["sub"], claims.get("scope")
    if not isinstance(user_id, str) or not user_id or any(ord(letter) < 32 for letter in user_id):
        raise TokenRefused("the token is not valid: sub must be a string without control characters")
    try:
        encode_word(user_id)
    except ValueError as error:
        raise TokenRefused(f"the token is not valid: sub: {error}") from None
    if scope is not None and not isinstance(scope, str):
        raise TokenRefused("the token is not valid: scope must be a string of domains separated by spaces")
    return Identity(user_id, float(claims["exp"]), scope)


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
