"""Who may connect: tokens and origins, as pure functions."""

import time
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from towpath.gateway.admission import Admission, TokenRefused, bearer_token
from towpath.gateway.settings import GatewaySettings
from towpath.servicekit.settings import BadSetting
from towpath.testkit.tokens import SECRET, a_token


def admission(**settings: Any) -> Admission:
    return Admission(GatewaySettings(**({"auth_secret": SECRET} | settings)))


def test_a_good_token_tells_who_it_is_until_when_and_what_it_may_address() -> None:
    identity = admission().identify(a_token("ana", scope="chat order", expires_in=60))
    assert (identity.user_id, identity.scope) == ("ana", "chat order")
    assert identity.expires_at == pytest.approx(time.time() + 60, abs=5)


@pytest.mark.parametrize(
    ("token", "why"),
    [
        (None, "no token"),
        ("", "no token"),
        ("not.a.jwt", "not valid"),
        (a_token("ana", secret="another secret, also of 32 bytes!!"), "not valid"),
        (a_token("ana", expires_in=-1), "expired"),
        (a_token("ana", exp=None), "exp"),
        (a_token("ana", sub=None), "sub"),
        (a_token(""), "sub"),
        (a_token("an\na"), "sub"),
        (a_token("ä" * 100), "sub"),
        (a_token("ana", aud="somebody-else"), "not valid"),
        (a_token("ana", aud=None), "aud"),
        (a_token("ana", scope=["chat"]), "scope"),
        (jwt.encode({"sub": "ana", "aud": "towpath", "exp": time.time() + 60}, "", "none"), "not valid"),
    ],
)
def test_a_bad_token_is_refused_with_the_reason(token: str | None, why: str) -> None:
    with pytest.raises(TokenRefused, match=why):
        admission().identify(token)


@pytest.mark.parametrize("kind", ["RS256", "ES256", "EdDSA"])
def test_tokens_by_public_key_are_taken_and_secrets_are_not(kind: str) -> None:
    keys: dict[str, Any] = {
        "RS256": lambda: rsa.generate_private_key(65537, 2048),
        "ES256": lambda: ec.generate_private_key(ec.SECP256R1()),
        "EdDSA": ed25519.Ed25519PrivateKey.generate,
    }
    key = keys[kind]()
    pem = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    checks = admission(auth_secret=None, auth_public_key=pem.decode())
    claims = {"sub": "ana", "aud": "towpath", "exp": time.time() + 60}
    assert checks.identify(jwt.encode(claims, key, kind)).user_id == "ana"
    with pytest.raises(TokenRefused):  # the classic confusion of algorithms: RFC 8725, 2.1
        checks.identify(a_token("ana"))


@pytest.mark.parametrize(
    "settings",
    [
        {"auth_secret": None},
        {"auth_secret": "s", "auth_public_key": "p"},
        {"auth_secret": None, "auth_public_key": "not a key"},
    ],
)
def test_without_exactly_one_usable_key_nothing_starts(settings: dict[str, Any]) -> None:
    with pytest.raises(BadSetting, match="TOWPATH_AUTH_"):
        admission(**settings)


@pytest.mark.parametrize(
    ("allowed", "origin", "admitted"),
    [
        ("", None, True),
        ("", "https://a.example", False),
        ("https://a.example", "https://a.example", True),
        ("https://a.example/", "HTTPS://A.example", True),
        ("https://a.example, https://b.example", "https://b.example", True),
        ("https://a.example", "https://a.example.evil.example", False),
        ("https://a.example", "http://a.example", False),
        ("https://a.example", "null", False),
        ("*", "https://anything.example", True),
    ],
)
def test_only_named_origins_may_connect(allowed: str, origin: str | None, admitted: bool) -> None:
    assert admission(allowed_origins=allowed).admits_origin(origin) is admitted


@pytest.mark.parametrize(
    "origins", ["shop.example", "https://a.example;https://b.example/x", '["https://a.example"]']
)
def test_what_is_no_origin_is_a_bad_setting(origins: str) -> None:
    with pytest.raises(ValidationError, match="is no origin"):
        admission(allowed_origins=origins)


def test_the_header_goes_before_the_subprotocol() -> None:
    assert bearer_token("Bearer abc", ["towpath.v1", "towpath.token.def"]) == "abc"
    assert bearer_token("bearer  abc", []) == "abc"
    assert bearer_token(None, ["towpath.v1", "towpath.token.d.e.f"]) == "d.e.f"
    assert bearer_token("Basic abc", ["towpath.token.def"]) is None
    assert bearer_token(None, ["towpath.v1"]) is None


@given(st.text())
def test_no_text_makes_the_check_fail_in_another_way(token: str) -> None:
    with pytest.raises(TokenRefused):
        admission().identify(token)
