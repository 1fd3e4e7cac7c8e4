"""Credentials: which tokens and origins may connect, as pure functions."""

import contextlib
import json
import secrets
import time
from typing import Any, Final

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import ValidationError

from towpath.gateway.admission.credentials import Admission, TokenRefused, bearer_token
from towpath.gateway.settings import GatewaySettings
from towpath.servicekit.runtime.settings import BadSetting, bad_setting
from towpath.servicekit.runtime.telemetry import Telemetry
from towpath.testkit.tokens import A_DAY, AUTH_SETTINGS, SECRET, a_token


def admission(**settings: Any) -> Admission:
    chosen = GatewaySettings(**{**AUTH_SETTINGS, **settings})
    return Admission(chosen, Telemetry("gateway", chosen))


def test_a_valid_token_gives_user_expiry_and_scope() -> None:
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
        (a_token("ä" * 100), "sub: a user id has at most 200 bytes when percent-encoded, this one 600"),
        (a_token("x" * 129), "sub: a user id has at most 128 characters, this one 129"),
        (a_token("ana", sub=7), "[Ss]ub"),
        (a_token("a\x7fb"), "sub: a user id must not contain control characters"),
        (a_token("ana", aud="somebody-else"), "not valid"),
        (a_token("ana", aud=None), "aud"),
        (a_token("ana", aud=["one", "two"]), "not valid"),
        (a_token("ana", aud={"towpath": 1}), "not valid"),
        (a_token("ana", scope=["chat"]), "scope"),
        (a_token("ana", jti=7), "JWT ID must be a string"),
        (a_token("ana", scope="chat " * 2000), "maximum is 8192"),
        (jwt.encode({"sub": "ana", "aud": "towpath", "exp": time.time() + A_DAY}, "", "none"), "not valid"),
    ],
)
def test_a_bad_token_is_refused_with_the_reason(token: str | None, why: str) -> None:
    with pytest.raises(TokenRefused, match=why):
        admission().identify(token)


@pytest.mark.parametrize("end", ["\n", "\r\n", " "])
def test_a_secret_with_a_line_break_at_its_end_is_refused_and_not_shown(end: str) -> None:
    with pytest.raises(ValidationError, match="begins or ends with white space") as refused:
        GatewaySettings(auth_secret=SECRET + end)
    message = str(bad_setting(refused.value, prefix="TOWPATH_"))
    assert message.startswith("TOWPATH_AUTH_SECRET: ")
    assert SECRET not in message


def test_tokens_of_the_previous_secret_are_accepted_until_it_is_unset() -> None:
    old, new = secrets.token_hex(32), secrets.token_hex(32)
    during = admission(auth_secret=new, auth_secret_previous=old)
    assert {during.identify(a_token("ana", secret=secret)).user_id for secret in (old, new)} == {"ana"}
    after = admission(auth_secret=new)
    assert after.identify(a_token("ana", secret=new)).user_id == "ana"
    with pytest.raises(TokenRefused, match="Signature verification failed"):
        after.identify(a_token("ana", secret=old))


@pytest.mark.parametrize(
    ("claims", "why"),
    [
        ({"expires_in": -1}, "expired"),
        ({"aud": "another"}, "not valid"),
        ({"sub": ""}, "sub"),
        ({"iss": "x"}, "iss"),
    ],
)
def test_a_token_of_the_previous_secret_is_checked_like_any_other(claims: dict[str, Any], why: str) -> None:
    old = secrets.token_hex(32)
    checks = admission(auth_secret=secrets.token_hex(32), auth_secret_previous=old, auth_issuer="us")
    assert checks.identify(a_token("ana", secret=old, iss="us")).user_id == "ana"
    with pytest.raises(TokenRefused, match=why):
        checks.identify(a_token("ana", **{"secret": old, "iss": "us", **claims}))


def test_a_third_secret_is_refused_while_there_are_two() -> None:
    checks = admission(auth_secret=secrets.token_hex(32), auth_secret_previous=secrets.token_hex(32))
    with pytest.raises(TokenRefused, match="Signature verification failed"):
        checks.identify(a_token("ana", secret=secrets.token_hex(32)))


@pytest.mark.parametrize("kind", ["RS256", "ES256", "EdDSA"])
def test_with_a_public_key_only_tokens_of_its_private_key_are_accepted(kind: str) -> None:
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
        {"auth_secret": None, "auth_jwks_url": "https://one.example/keys", "auth_secret_previous": SECRET},
        {"auth_secret_previous": SECRET},
    ],
)
def test_without_exactly_one_usable_key_the_gateway_does_not_start(settings: dict[str, Any]) -> None:
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
def test_an_invalid_origin_is_a_bad_setting(origins: str) -> None:
    with pytest.raises(ValidationError, match="is not an origin"):
        admission(allowed_origins=origins)


def test_the_header_has_precedence_over_the_subprotocol() -> None:
    assert bearer_token("Bearer abc", ["towpath.v1", "towpath.token.def"]) == "abc"
    assert bearer_token("bearer  abc", []) == "abc"
    assert bearer_token(None, ["towpath.v1", "towpath.token.d.e.f"]) == "d.e.f"
    assert bearer_token("BEARER abc", ["towpath.token.def"]) == "abc"
    assert bearer_token(None, ["towpath.v1"]) is None


@pytest.mark.parametrize(
    "added", ["Basic dXNlcjpwYXNz", "Bearer", "Bearer   ", "", "Negotiate abc", "bearer\t"]
)
def test_an_authorization_without_a_bearer_token_does_not_hide_the_subprotocols_token(added: str) -> None:
    assert bearer_token(added, ["towpath.v1", "towpath.token.def"]) == "def"
    assert bearer_token(added, ["towpath.v1"]) is None


def test_two_tokens_in_the_subprotocols_are_refused() -> None:
    assert bearer_token(None, ["towpath.token.abc", "towpath.token.abc"]) == "abc"
    with pytest.raises(TokenRefused, match="more than one token"):
        bearer_token(None, ["towpath.token.abc", "towpath.token.def"])


# Times


@pytest.mark.parametrize("name", ["iat", "nbf"])
def test_a_token_from_a_clock_ahead_is_accepted_within_the_leeway(name: str) -> None:
    ahead: dict[str, Any] = {name: time.time() + 30}
    assert admission(clock_leeway=60).identify(a_token("ana", **ahead)).user_id == "ana"
    with pytest.raises(TokenRefused, match=rf"not valid yet: {name} is \d+ s ahead .*TOWPATH_CLOCK_LEEWAY"):
        admission(clock_leeway=5).identify(a_token("ana", **ahead))


def test_expiry_has_no_leeway() -> None:
    with pytest.raises(TokenRefused, match="expired"):
        admission(clock_leeway=3600).identify(a_token("ana", expires_in=-0.5))


NO_TIMES: Final = [
    10**400,
    -(10**400),
    float("nan"),
    float("inf"),
    1e300,
    "4102444800",
    "soon",
    [1],
    {},
    True,
]


@pytest.mark.parametrize("name", ["exp", "iat", "nbf"])
@pytest.mark.parametrize(
    "value",
    [*NO_TIMES, pytest.param(int(time.time() * 1000), id="milliseconds")],
    ids=lambda value: str(value)[:12],
)
def test_a_claim_that_is_not_a_time_in_seconds_is_refused_by_its_name(name: str, value: Any) -> None:
    with pytest.raises(TokenRefused, match=f"not valid: {name} "):
        admission().identify(a_token("ana", **{name: value}))


@pytest.mark.parametrize("expiry", [-1, -1.5, 0, False, 10.5])
def test_an_expiry_in_the_past_is_refused_whatever_its_form(expiry: float) -> None:
    with pytest.raises(TokenRefused, match=r"expired|exp must be"):
        admission().identify(a_token("ana", exp=expiry))


@pytest.mark.parametrize("expiry", [4102444800, 4102444800.5, 253402300799])
def test_an_expiry_far_ahead_is_accepted(expiry: float) -> None:
    assert admission().identify(a_token("ana", exp=expiry)).expires_at == expiry


def test_a_token_for_several_audiences_is_accepted() -> None:
    assert admission().identify(a_token("ana", aud=["other", "towpath"])).user_id == "ana"


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=200) | st.just(10**400),
    lambda part: st.lists(part, max_size=3) | st.dictionaries(st.text(max_size=8), part, max_size=3),
    max_leaves=5,
)
names = st.sampled_from(["sub", "exp", "iat", "nbf", "aud", "iss", "jti", "scope"])


@given(st.dictionaries(names, anything), st.dictionaries(st.sampled_from(["typ", "crit", "kid"]), anything))
def test_any_signed_token_is_accepted_or_refused(claims: dict[str, Any], header: dict[str, Any]) -> None:
    whole = {"sub": "ana", "aud": "towpath", "exp": time.time() + 60} | claims
    try:
        token = jwt.PyJWS().encode(json.dumps(whole).encode(), SECRET, "HS256", headers=header)
    except jwt.PyJWTError:
        assume(False)
    with contextlib.suppress(TokenRefused):
        assert int(admission().identify(token).expires_at * 1000) > 0


def test_a_token_nested_too_deep_is_refused() -> None:
    deep = '{"sub":' + "[" * 2500 + "]" * 2500 + "}"
    with pytest.raises(TokenRefused, match="not valid"):
        admission().identify(jwt.PyJWS().encode(deep.encode(), SECRET, "HS256"))


@given(st.text())
def test_any_text_as_a_token_is_refused_without_another_error(token: str) -> None:
    with pytest.raises(TokenRefused):
        admission().identify(token)
