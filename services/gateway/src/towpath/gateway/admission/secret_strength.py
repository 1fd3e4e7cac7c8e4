"""Secret strength: which keys for tokens are too weak to start with.

Guarantees: outside development mode a gateway does not start with a secret that can be found by trying, or that
others know; nor with a short RSA key. In development mode it does, but then it listens on this machine only. A
refusal is one line that never shows the secret.
"""

import base64
import binascii
from typing import Any, Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_der_private_key, load_der_public_key

from towpath.gateway.addresses import is_loopback
from towpath.gateway.admission.key_set import RSA_BITS_MIN
from towpath.gateway.settings import GatewaySettings
from towpath.servicekit.runtime.settings import BadSetting

#: RFC 7518, section 3.2: a key must be at least as long as the hash.
BYTES_MIN: Final = 32
#: A random secret of that length has far more different bytes; one of fewer was typed.
_DIFFERENT_MIN: Final = 4
#: Published in this repository, or as examples by others.
KNOWN: Final = frozenset(
    {
        "a secret for tests, of 32 bytes or more",
        "development-only-secret-of-32-bytes-or-more",
        "a-string-secret-at-least-256-bits-long",  # jwt.io
        "your-256-bit-secret-your-256-bit-secret",
        "correct horse battery staple correct horse",
        "changeme-changeme-changeme-changeme",
    }
)
_REMEDY: Final = "set one that `openssl rand -base64 48` prints"


def refuse_weak(settings: GatewaySettings, public_key: Any) -> None:
    """Check the secrets, or the public key, that tokens are verified with.

    Raises:
        BadSetting
    """
    if settings.development:
        if not is_loopback(settings.host):
            raise BadSetting(
                "TOWPATH_HOST",
                settings.host,
                "is reachable from other machines, which development mode does not allow, since its secret may be "
                "known: unset TOWPATH_DEVELOPMENT",
            )
        return
    for name, secret in (
        ("TOWPATH_AUTH_SECRET", settings.auth_secret),
        ("TOWPATH_AUTH_SECRET_PREVIOUS", settings.auth_secret_previous),
    ):
        if secret and (reason := weakness(secret)):
            raise BadSetting(name, None, f"{reason}; {_REMEDY}")
    if isinstance(public_key, RSAPublicKey) and public_key.key_size < RSA_BITS_MIN:
        raise BadSetting(
            "TOWPATH_AUTH_PUBLIC_KEY",
            None,
            f"has {public_key.key_size} bits, and RSA needs {RSA_BITS_MIN} (RFC 7518, 3.3)",
        )


def weakness(secret: str) -> str | None:
    """Why a secret is too weak to sign tokens with; ``None`` if it is not. Nothing of the secret is in the text."""
    raw = secret.encode()
    if _is_key_file(secret):
        # With a public key as the secret, anyone who has it could sign tokens (RFC 8725, section 2.1).
        return "is a key or certificate, not a secret; a public key belongs in TOWPATH_AUTH_PUBLIC_KEY"
    if len(raw) < BYTES_MIN:
        return f"has {len(raw)} bytes, and the minimum is {BYTES_MIN} (RFC 7518, 3.2)"
    if len(set(raw)) < _DIFFERENT_MIN:
        return f"has fewer than {_DIFFERENT_MIN} different bytes"
    if secret in KNOWN:
        return "is published in documentation or in the source of Towpath"
    return None


def _is_key_file(secret: str) -> bool:
    """Whether it is the PEM text of a key or certificate, or the base64 of one (DER)."""
    if "-----BEGIN " in secret:
        return True
    try:
        raw = base64.b64decode("".join(secret.split()), validate=True)
    except (binascii.Error, ValueError):
        return False
    for load in (load_der_public_key, lambda der: load_der_private_key(der, None)):
        try:
            load(raw)
        except (ValueError, UnsupportedAlgorithm):
            continue
        except TypeError:
            pass  # a private key that is encrypted
        return True
    return False
