"""Secret strength: a gateway does not start with a key that others may have."""

import base64
import re
import secrets
import subprocess
from pathlib import Path
from typing import Any, Final

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from towpath.gateway.admission.issuers import Issuers
from towpath.gateway.admission.secret_strength import KNOWN
from towpath.gateway.settings import GatewaySettings
from towpath.servicekit.runtime.settings import BadSetting
from towpath.servicekit.runtime.telemetry import Telemetry
from towpath.testkit.tokens import SECRET

ROOT: Final = Path(__file__).parents[3]
PEM: Final = serialization.Encoding.PEM
DER: Final = serialization.Encoding.DER
PUBLIC: Final = serialization.PublicFormat.SubjectPublicKeyInfo
PRIVATE: Final = serialization.PrivateFormat.PKCS8
PLAIN: Final = serialization.NoEncryption()
KEY: Final = ec.generate_private_key(ec.SECP256R1())


def check(**settings: Any) -> None:
    chosen = GatewaySettings(**settings)
    Issuers(chosen, Telemetry("gateway", chosen))


def base64_of(der: bytes) -> str:
    return base64.b64encode(der).decode()


@pytest.mark.parametrize(
    "secret",
    [
        secrets.token_urlsafe(32),
        secrets.token_hex(16),
        base64_of(secrets.token_bytes(48)),
        "ein Geheimnis mit Umlauten: äöü ß",
    ],
    ids=["url-safe", "hexadecimal", "base64", "a-sentence"],
)
def test_a_long_random_secret_is_accepted(secret: str) -> None:
    check(auth_secret=secret)


@pytest.mark.parametrize(
    ("secret", "why"),
    [
        ("x", "has 1 bytes, and the minimum is 32"),
        (secrets.token_hex(16)[:31], "has 31 bytes"),
        ("x" * 64, "fewer than 4 different bytes"),
        ("abc" * 20, "fewer than 4 different bytes"),
        (SECRET, "published"),
        ("development-only-secret-of-32-bytes-or-more", "published"),
        (KEY.public_key().public_bytes(PEM, PUBLIC).decode().strip(), "is a key or certificate"),
        (KEY.private_bytes(PEM, PRIVATE, PLAIN).decode().strip(), "is a key or certificate"),
        (base64_of(KEY.public_key().public_bytes(DER, PUBLIC)), "is a key or certificate"),
        (base64_of(KEY.private_bytes(DER, PRIVATE, PLAIN)), "is a key or certificate"),
        (
            base64_of(KEY.private_bytes(DER, PRIVATE, serialization.BestAvailableEncryption(b"password"))),
            "is a key or certificate",
        ),
    ],
    ids=[
        "one-letter",
        "31-bytes",
        "one-letter-64-times",
        "three-letters",
        "that-of-the-tests",
        "that-of-towpath-dev",
        "public-pem",
        "private-pem",
        "public-base64",
        "private-base64",
        "encrypted-base64",
    ],
)
def test_a_weak_secret_is_refused_with_one_line_that_does_not_show_it(secret: str, why: str) -> None:
    with pytest.raises(BadSetting, match=why) as refused:
        check(auth_secret=secret)
    line = str(refused.value)
    assert line.startswith("TOWPATH_AUTH_SECRET: ")
    assert "\n" not in line
    assert len(secret) < 5 or secret not in line
    check(auth_secret=secret, development=True)


def test_a_short_rsa_key_is_refused() -> None:
    short = rsa.generate_private_key(65537, 1024).public_key().public_bytes(PEM, PUBLIC).decode()
    with pytest.raises(BadSetting, match="TOWPATH_AUTH_PUBLIC_KEY: has 1024 bits"):
        check(auth_public_key=short)
    check(auth_public_key=short, development=True)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "192.0.2.7", "gateway"])
def test_in_development_mode_no_other_machine_can_connect(host: str) -> None:
    with pytest.raises(BadSetting, match=r"^TOWPATH_HOST='.*': is reachable from other machines"):
        check(auth_secret=SECRET, development=True, host=host)


def test_every_secret_of_the_repository_is_a_known_one() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    written = re.compile(r"""AUTH_SECRET[}"']?\s*(?:[:=]|:-)\s*["']?(?:\$\{\w+:-)?([^\s"'`$|<>{}()]{16,})""")
    found: dict[str, str] = {}
    for name in listed.stdout.splitlines():
        path = ROOT / name
        if path.suffix in (".md", ".yml", ".yaml", ".sh", ".toml", ".env") and path.is_file():
            found |= dict.fromkeys(written.findall(path.read_text()), name)
    assert {secret: name for secret, name in found.items() if secret not in KNOWN} == {}
    assert SECRET in KNOWN
