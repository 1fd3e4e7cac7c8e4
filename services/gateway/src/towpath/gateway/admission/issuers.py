"""Issuers: whose tokens this gateway accepts, and with which keys.

One issuer with a shared secret (and the one before it), a public key, or a key set that is fetched (JWKS), or several
with a key set each.

Guarantees: a token is verified with the keys, the audience and the name of one issuer. With several issuers the token
names it (`iss`), and that decides only which keys are tried. Addresses in a token (``jku``, ``x5u``) and keys in it
(``jwk``, ``x5c``) are never used: its sender chose them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from yarl import URL

from towpath.gateway.addresses import is_loopback
from towpath.gateway.admission.key_set import Key
from towpath.gateway.admission.key_source import KeySource
from towpath.gateway.admission.secret_strength import refuse_weak
from towpath.gateway.issuer_list import read_issuers
from towpath.gateway.settings import GatewaySettings
from towpath.servicekit.runtime.settings import BadSetting
from towpath.servicekit.runtime.telemetry import Telemetry

_ONE_OF: Final = (
    "set exactly one of TOWPATH_AUTH_SECRET (HS256), TOWPATH_AUTH_PUBLIC_KEY (PEM; RS256, ES256 or EdDSA), "
    "TOWPATH_AUTH_JWKS_URL (keys of an issuer) and TOWPATH_AUTH_ISSUERS (several issuers)"
)


class Keys(Protocol):
    """The keys of an issuer."""

    def find(self, kid: str | None) -> Key | None:
        """The key for a token with this `kid`."""
        ...


@dataclass(frozen=True, slots=True)
class SetKey:
    """The one key of the settings; it verifies tokens with any `kid`."""

    key: Key

    def find(self, kid: str | None) -> Key | None:
        return self.key


@dataclass(frozen=True, slots=True)
class Issuer:
    """One issuer.

    Attributes:
        name: The `iss` of its tokens; empty if any will do.
        audience: The `aud` of its tokens.
        user_prefix: User ids begin with it; the `sub` follows.
        source: Fetches its keys, if they are fetched.
        previous: The key before this one; it verifies tokens as well.
    """

    name: str
    audience: str
    keys: Keys
    user_prefix: str = ""
    source: KeySource | None = None
    previous: Key | None = None


class Issuers:
    """The issuers of the settings.

    Attributes:
        sources: Of those whose keys are fetched.

    Raises:
        BadSetting: There is not exactly one kind of key, or it cannot be used.
    """

    def __init__(self, settings: GatewaySettings, telemetry: Telemetry) -> None:
        given = (
            settings.auth_secret,
            settings.auth_public_key,
            settings.auth_jwks_url,
            settings.auth_issuers.strip(),
        )
        # With a secret and a public key, an attacker could sign with the public key as an HMAC secret (RFC 8725,
        # section 2.1).
        if sum(map(bool, given)) != 1:
            raise BadSetting("TOWPATH_AUTH_SECRET", None, _ONE_OF)
        if settings.auth_secret_previous:
            _check_previous(settings)
        public_key = _public_key(settings.auth_public_key) if settings.auth_public_key else None
        refuse_weak(settings, public_key and public_key.material)
        issuers = _named(settings, telemetry)
        if not issuers:
            issuers = [_single(settings, public_key, telemetry)]
        self._only = issuers[0] if len(issuers) == 1 else None
        self._by_name: Mapping[str, Issuer] = {issuer.name: issuer for issuer in issuers}
        self.sources = [issuer.source for issuer in issuers if issuer.source is not None]

    def of(self, token: str) -> Issuer | None:
        """The issuer whose token this may be; errors of PyJWT propagate."""
        if self._only is not None:
            return self._only
        claims: Mapping[str, Any] = jwt.decode(token, options={"verify_signature": False})
        name = claims.get("iss")
        return self._by_name.get(name) if isinstance(name, str) else None

    @property
    def have_keys(self) -> bool:
        """Whether there are keys of any issuer."""
        return not self.sources or any(source.has_keys for source in self.sources)


def _named(settings: GatewaySettings, telemetry: Telemetry) -> list[Issuer]:
    issuers = []
    for named in read_issuers(settings.auth_issuers):
        _check_scheme("TOWPATH_AUTH_ISSUERS", named.jwks_url, settings)
        source = KeySource(named.issuer, named.jwks_url, settings, telemetry)
        issuers.append(Issuer(named.issuer, named.audience, source, named.user_prefix, source))
    return issuers


def _single(settings: GatewaySettings, public_key: Key | None, telemetry: Telemetry) -> Issuer:
    name, audience = settings.auth_issuer or "", settings.auth_audience
    if url := settings.auth_jwks_url:
        _check_scheme("TOWPATH_AUTH_JWKS_URL", url, settings)
        source = KeySource(name or URL(url).host or "", url, settings, telemetry)
        return Issuer(name, audience, source, source=source)
    previous = Key(settings.auth_secret_previous, "HS256") if settings.auth_secret_previous else None
    return Issuer(name, audience, SetKey(public_key or Key(settings.auth_secret, "HS256")), previous=previous)


def _check_previous(settings: GatewaySettings) -> None:
    name = "TOWPATH_AUTH_SECRET_PREVIOUS"
    if not settings.auth_secret:
        raise BadSetting(name, None, "is for use together with TOWPATH_AUTH_SECRET, the new secret; unset it")
    if settings.auth_secret_previous == settings.auth_secret:
        raise BadSetting(
            name, None, "is the same as TOWPATH_AUTH_SECRET: set the new one there, or unset this one"
        )


def _check_scheme(setting: str, url: str, settings: GatewaySettings) -> None:
    address = URL(url)
    if address.scheme != "https" and not settings.development and not is_loopback(address.host or ""):
        raise BadSetting(
            setting,
            None,
            f"the keys of {address.host} must be fetched by https: anyone on the way could put in a key",
        )


def _public_key(pem: str) -> Key:
    name, remedy = "TOWPATH_AUTH_PUBLIC_KEY", "must be the PEM text of an RSA, P-256 or Ed25519 public key"
    try:
        key = load_pem_public_key(pem.replace("\\n", "\n").encode())
    except (ValueError, UnsupportedAlgorithm):
        raise BadSetting(name, None, remedy) from None
    if isinstance(key, RSAPublicKey):
        return Key(key, "RS256")
    if isinstance(key, EllipticCurvePublicKey) and isinstance(key.curve, SECP256R1):
        return Key(key, "ES256")
    if isinstance(key, Ed25519PublicKey):
        return Key(key, "EdDSA")
    raise BadSetting(name, None, remedy)
