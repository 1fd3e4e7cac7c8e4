"""Admission: checks of origin and token. Nothing here waits: keys are fetched by tasks of their own.

Tokens are JWTs (RFC 7519), signed with HS256 (shared secret) or with the key that a public key belongs to: RS256,
ES256 or EdDSA. The algorithm follows from the key, never from the token (RFC 8725, section 3.1).

Guarantees: any token is either accepted or refused with a reason (:class:`TokenRefused`); no other exception is
raised. ``iat`` and ``nbf`` may be ahead of the local clock by ``clock_leeway`` seconds. ``exp`` has no leeway: a
connection ends when its token expires.
"""

import asyncio
import math
import time
import warnings
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import jwt

from towpath.gateway.admission.issuers import Issuer, Issuers
from towpath.gateway.admission.key_set import Key
from towpath.gateway.admission.key_source import KeySource
from towpath.gateway.admission.reasons import Reason
from towpath.gateway.admission.revocations import Revocations
from towpath.gateway.settings import GatewaySettings
from towpath.protocol.routes import check_user_id
from towpath.servicekit.runtime.loops import failures_of, keep_running
from towpath.servicekit.runtime.telemetry import Telemetry

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
    """The token is missing, invalid or expired; the text gives the reason.

    Attributes:
        reason: The same in a word.
    """

    def __init__(self, text: str, reason: Reason = Reason.INVALID) -> None:
        super().__init__(text)
        self.reason = reason


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


class KeyUnknown(TokenRefused):
    """The token names a key that is not known here, or not yet.

    Attributes:
        source: May have it after the next fetch.
    """

    def __init__(self, source: KeySource) -> None:
        super().__init__(
            "the token is not valid: its key (kid) is unknown"
            if source.has_keys
            else "the keys of its issuer cannot be fetched for now"
        )
        self.source = source


class Admission:
    """Checks origins and tokens. Created with :meth:`open`.

    Attributes:
        revocations: Tokens that are refused although they are valid.

    Raises:
        BadSetting: There is not exactly one kind of key, or it cannot be used, or is weak.
    """

    def __init__(self, settings: GatewaySettings, telemetry: Telemetry) -> None:
        self.revocations = Revocations()
        self._issuers = Issuers(settings, telemetry)
        self._leeway = settings.clock_leeway
        self._lifetime_max = settings.token_lifetime_max or math.inf
        self._max_bytes = settings.token_max_bytes
        self._origins = frozenset(
            origin.rstrip("/").lower() for origin in settings.allowed_origins.replace(",", " ").split()
        )
        self._unknown_keys = telemetry.counter(
            "tokens_unknown_key", "Tokens whose key (kid) was unknown when they were checked"
        )
        self._of_previous = telemetry.counter(
            "tokens_previous_secret", "Tokens that only TOWPATH_AUTH_SECRET_PREVIOUS verified"
        )

    @classmethod
    @asynccontextmanager
    async def open(cls, settings: GatewaySettings, telemetry: Telemetry) -> "AsyncIterator[Admission]":
        """Admission; while it is open the keys of issuers are fetched.

        Raises:
            BadSetting
        """
        admission = cls(settings, telemetry)
        fetching = [
            asyncio.create_task(
                keep_running("keys", source.run, pause=1.0, failed=failures_of("keys", telemetry)),
                name=f"keys: {source.name}",
            )
            for source in admission._issuers.sources
        ]
        try:
            yield admission
        finally:
            for task in fetching:
                task.cancel()
            await asyncio.gather(*fetching, return_exceptions=True)

    def has_keys(self) -> bool:
        """Whether any token can be verified."""
        return self._issuers.have_keys

    def admits_origin(self, origin: str | None) -> bool:
        """Whether a page from ``origin`` may connect (RFC 6454); no origin means that the client is not a browser."""
        return origin is None or "*" in self._origins or origin.lower() in self._origins

    def identify(self, token: str | None) -> Identity:
        """The user of ``token``.

        Raises:
            KeyUnknown: It may be accepted after the next fetch of keys.
            TokenRefused
        """
        if not token:
            raise TokenRefused(
                f'no token: send "Authorization: Bearer <jwt>" or the subprotocol "{TOKEN_SUBPROTOCOL}<jwt>"',
                Reason.MISSING,
            )
        # Before it is decoded: a token costs work in proportion to its size, and is not trusted yet.
        if len(token) > self._max_bytes:
            raise TokenRefused(
                f"the token has {len(token)} bytes, and the maximum is {self._max_bytes} "
                "(TOWPATH_TOKEN_MAX_BYTES)"
            )
        try:
            issuer = self._issuers.of(token)
            if issuer is None:
                raise TokenRefused(
                    "the token is not valid: its issuer (iss) is not one of TOWPATH_AUTH_ISSUERS"
                )
            claims = self._claims(token, issuer)
        except _UNREADABLE as error:
            # Without the cause, whose text may quote the token.
            raise TokenRefused(f"the token is not valid: {_in_short(error)}") from None
        identity = _identity(claims, issuer, time.time(), self._leeway)
        if (left := identity.expires_at - time.time()) > self._lifetime_max + self._leeway:
            raise TokenRefused(
                f"the token is valid for {left:.0f} s more, and the maximum is {self._lifetime_max:g} s "
                "(TOWPATH_TOKEN_LIFETIME_MAX)"
            )
        if self.revocations.refuses(identity, time.time()):
            raise TokenRefused("the token is revoked", Reason.REVOKED)
        return identity

    def _claims(self, token: str, issuer: Issuer) -> dict[str, Any]:
        """The claims of ``token``, verified with the key of its issuer or else the one before; errors propagate."""
        try:
            return _verified(token, issuer, self._key(token, issuer))
        except jwt.InvalidSignatureError:
            if issuer.previous is None:
                raise
            claims = _verified(token, issuer, issuer.previous)
            self._of_previous.add()
            return claims

    def _key(self, token: str, issuer: Issuer) -> Key:
        """The key that verifies ``token``; nothing is computed with a token whose key is unknown."""
        kid = None if issuer.source is None else jwt.get_unverified_header(token).get("kid")
        if (key := issuer.keys.find(kid)) is not None:
            return key
        assert issuer.source is not None
        self._unknown_keys.add()
        raise KeyUnknown(issuer.source)


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


def _verified(token: str, issuer: Issuer, key: Key) -> dict[str, Any]:
    """The claims of ``token``, if its signature, audience and issuer are right; errors of PyJWT propagate."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about short secrets, at each call; the gateway warns once, at start
        claims: dict[str, Any] = jwt.decode(
            token,
            key.material,
            # RFC 8725, section 3.1: the key decides the algorithm, never the header of the token.
            algorithms=[key.algorithm],
            # RFC 8725, section 3.9: a token that the same issuer made for another system is refused.
            audience=issuer.audience,
            issuer=issuer.name or None,
            # Times are checked below: PyJWT has one leeway for all of them, and fails on some numbers.
            options={
                "require": ["exp", "sub", "aud"],
                "verify_exp": False,
                "verify_iat": False,
                "verify_nbf": False,
            },
        )
    return claims


def _identity(claims: dict[str, Any], issuer: Issuer, now: float, leeway: float) -> Identity:
    user_id, scope = claims["sub"], claims.get("scope")
    if not isinstance(user_id, str):
        raise TokenRefused("the token is not valid: sub must be a string")
    if not user_id:
        # A prefix alone would be a user id.
        raise TokenRefused("the token is not valid: sub is empty")
    user_id = issuer.user_prefix + user_id
    try:
        check_user_id(user_id)
    except ValueError as error:
        raise TokenRefused(f"the token is not valid: sub: {error}") from None
    if scope is not None and not isinstance(scope, str):
        raise TokenRefused("the token is not valid: scope must be a string of domains separated by spaces")
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
        raise TokenRefused("the token is expired", Reason.EXPIRED)
    return Identity(user_id, expires_at, scope, issuer.name, claims.get("jti"), issued_at)


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
