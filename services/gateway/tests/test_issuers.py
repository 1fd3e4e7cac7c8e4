"""Issuers: each token is checked with the keys, the audience and the name of its own issuer."""

import asyncio
import base64
import contextlib
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import ValidationError

from towpath.gateway.admission.credentials import Admission, KeyUnknown, TokenRefused
from towpath.gateway.issuer_list import read_issuers
from towpath.gateway.settings import GatewaySettings
from towpath.servicekit.runtime.settings import BadSetting, bad_setting
from towpath.servicekit.runtime.telemetry import Telemetry
from towpath.testkit.eventually import eventually
from towpath.testkit.issuer import SigningKey, TokenIssuer, an_issuer
from towpath.testkit.tokens import SECRET, a_token

ONE = {"issuer": "https://one.example", "jwks_url": "https://one.example/keys", "user_prefix": "one:"}
TWO = {"issuer": "https://two.example", "jwks_url": "https://two.example/keys", "user_prefix": "two:"}


@asynccontextmanager
async def admission(**settings: Any) -> AsyncIterator[Admission]:
    """An admission that has fetched all keys."""
    chosen = GatewaySettings(**settings)
    async with Telemetry.open("gateway", chosen) as telemetry, Admission.open(chosen, telemetry) as opened:
        yield opened


async def fetched(opened: Admission, *issuers: TokenIssuer) -> None:
    await eventually(lambda: opened.has_keys() and all(issuer.fetches for issuer in issuers))


def listed(*issuers: dict[str, Any]) -> str:
    return json.dumps(issuers)


# One issuer


async def test_a_token_of_the_issuer_is_accepted_and_one_of_another_key_is_refused() -> None:
    async with an_issuer() as issuer, admission(auth_jwks_url=issuer.url) as checks:
        await fetched(checks)
        identity = checks.identify(issuer.token("ana", jti="t-1"))
        assert (identity.user_id, identity.issuer, identity.token_id) == ("ana", "", "t-1")
        assert identity.issued_at == pytest.approx(time.time(), abs=5)
        with pytest.raises(TokenRefused, match="Signature verification failed"):
            checks.identify(SigningKey("first").token("ana"))


async def test_a_token_cannot_choose_algorithm_or_key() -> None:
    async with an_issuer() as issuer, admission(auth_jwks_url=issuer.url) as checks:
        issuer.keys = [SigningKey("rsa", "RS256")]
        await fetched(checks)
        key = issuer.keys[0]
        assert checks.identify(key.token("ana")).user_id == "ana"
        pem = key.private.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        claims = {"sub": "ana", "aud": "towpath", "exp": time.time() + 60}
        own = SigningKey("own", "RS256")
        forged = [
            jwt.PyJWS().encode(json.dumps(claims).encode(), "", "none", headers={"kid": "rsa"}),
            _hs256(claims, pem, "rsa"),
            _hs256(claims, json.dumps(key.jwk).encode(), "rsa"),
            jwt.encode(claims, own.private, "RS256", headers={"kid": "rsa", "jwk": own.jwk}),
            jwt.encode(claims, own.private, "RS256", headers={"kid": "rsa", "jku": "https://evil.example"}),
            jwt.encode(claims, own.private, "RS256", headers={"kid": "rsa", "x5u": "https://evil.example"}),
            jwt.encode(claims, key.private, "PS256", headers={"kid": "rsa"}),
            jwt.encode(claims, key.private, "RS512", headers={"kid": "rsa"}),
        ]
        for token in forged:
            with pytest.raises(TokenRefused):
                checks.identify(token)


def _hs256(claims: dict[str, Any], secret: bytes, kid: str) -> str:
    """A token signed with a public key as the secret (RFC 8725, section 2.1); PyJWT refuses to sign one."""

    def segment(raw: bytes) -> bytes:
        return base64.urlsafe_b64encode(raw).rstrip(b"=")

    head = json.dumps({"alg": "HS256", "typ": "JWT", "kid": kid}).encode()
    signed = segment(head) + b"." + segment(json.dumps(claims).encode())
    return (signed + b"." + segment(hmac.digest(secret, signed, hashlib.sha256))).decode()


@pytest.mark.parametrize("kid", ["../../etc/passwd", "first' OR 1=1", "x" * 5000, "\x00", "First", ""])
async def test_any_other_kid_is_unknown(kid: str) -> None:
    async with an_issuer() as issuer, admission(auth_jwks_url=issuer.url) as checks:
        await fetched(checks)
        key = SigningKey(kid)
        with pytest.raises(KeyUnknown, match=r"key .kid. is unknown"):
            checks.identify(key.token("ana"))


async def test_the_name_of_the_issuer_is_checked_if_it_is_set() -> None:
    async with (
        an_issuer() as issuer,
        admission(
            auth_jwks_url=issuer.url, auth_issuer="https://one.example", auth_audience="chat"
        ) as checks,
    ):
        await fetched(checks)
        good = {"iss": "https://one.example", "aud": "chat"}
        assert checks.identify(issuer.token("ana", **good)).issuer == "https://one.example"
        for wrong in ({"iss": None}, {"iss": "https://one.example/"}, {"iss": 7}, {"aud": "towpath"}):
            with pytest.raises(TokenRefused):
                checks.identify(issuer.token("ana", **(good | wrong)))


async def test_without_keys_a_token_is_not_called_invalid() -> None:
    async with an_issuer() as issuer:
        issuer.status = 500
        async with admission(auth_jwks_url=issuer.url) as checks:
            await eventually(lambda: issuer.fetches)
            assert not checks.has_keys()
            with pytest.raises(KeyUnknown, match="cannot be fetched"):
                checks.identify(issuer.token("ana"))


async def test_a_token_that_lives_longer_than_the_setting_allows_is_refused() -> None:
    async with admission(auth_secret=SECRET, development=True, token_lifetime_max=600) as checks:
        assert checks.identify(a_token("ana", expires_in=600)).user_id == "ana"
        with pytest.raises(TokenRefused, match=r"valid for 7\d\d s more, and the maximum is 600 s"):
            checks.identify(a_token("ana", expires_in=700))


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=200) | st.just(10**400),
    lambda part: st.lists(part, max_size=3) | st.dictionaries(st.text(max_size=8), part, max_size=3),
    max_leaves=5,
)
names = st.sampled_from(["sub", "exp", "iat", "nbf", "aud", "iss", "jti", "scope"])
KEY = SigningKey("first", "EdDSA")


@pytest.fixture(scope="module", params=["one issuer", "two issuers"])
def with_keys(request: pytest.FixtureRequest) -> Admission:
    """An admission whose issuer signs with :data:`KEY`; it has fetched that, and does not fetch any more."""

    async def fetch() -> Admission:
        async with an_issuer() as issuer:
            issuer.keys = [KEY]
            two = listed({**ONE, "jwks_url": issuer.url}, {**TWO, "jwks_url": issuer.url})
            given = {"auth_jwks_url": issuer.url} if request.param == "one issuer" else {"auth_issuers": two}
            async with admission(**given) as checks:
                await eventually(lambda: issuer.fetches == len(checks._issuers.sources))
                await eventually(lambda: all(source.has_keys for source in checks._issuers.sources))
                return checks

    return asyncio.run(fetch())


@given(
    st.dictionaries(names, anything),
    st.dictionaries(st.sampled_from(["typ", "crit", "kid", "jwk"]), anything),
)
def test_any_signed_token_is_accepted_or_refused(
    with_keys: Admission, claims: dict[str, Any], header: dict[str, Any]
) -> None:
    whole = {"sub": "ana", "aud": "towpath", "iss": ONE["issuer"], "exp": time.time() + 60} | claims
    try:
        token = jwt.PyJWS().encode(
            json.dumps(whole).encode(), KEY.private, "EdDSA", headers={"kid": KEY.kid} | header
        )
    except jwt.PyJWTError:
        assume(False)
    with contextlib.suppress(TokenRefused):
        assert int(with_keys.identify(token).expires_at * 1000) > 0


@given(st.text())
def test_any_text_as_a_token_is_refused_without_another_error(with_keys: Admission, token: str) -> None:
    with pytest.raises(TokenRefused):
        with_keys.identify(token)


# Several issuers


async def test_tokens_of_several_issuers_are_users_of_different_names() -> None:
    async with an_issuer() as one, an_issuer() as two:
        given = listed(
            {**ONE, "jwks_url": one.url, "audience": "first"},
            {**TWO, "jwks_url": two.url, "audience": "second"},
        )
        async with admission(auth_issuers=given) as checks:
            await fetched(checks, one, two)
            await eventually(lambda: all(source.has_keys for source in checks._issuers.sources))
            of_one = {"iss": ONE["issuer"], "aud": "first"}
            of_two = {"iss": TWO["issuer"], "aud": "second"}
            assert checks.identify(one.token("ana", **of_one)).user_id == "one:ana"
            identity = checks.identify(two.token("ana", **of_two))
            assert (identity.user_id, identity.issuer) == ("two:ana", TWO["issuer"])
            for token in (
                one.token("ana", **of_two),  # one's key cannot sign for two
                one.token("ana", **(of_one | {"aud": "second"})),  # each has its own audience
                one.token("ana", **(of_one | {"aud": "towpath"})),
                one.token("ana", aud="first"),  # no issuer
                one.token("ana", aud="first", iss="https://three.example"),
                one.token("ana", aud="first", iss=[ONE["issuer"]]),
                one.token("", **of_one),  # the prefix alone
            ):
                with pytest.raises(TokenRefused):
                    checks.identify(token)


async def test_an_issuer_that_is_down_does_not_stop_the_other() -> None:
    async with an_issuer() as one, an_issuer() as two:
        two.status = 503
        async with admission(
            auth_issuers=listed({**ONE, "jwks_url": one.url}, {**TWO, "jwks_url": two.url})
        ) as checks:
            await fetched(checks, one, two)
            assert checks.identify(one.token("ana", iss=ONE["issuer"])).user_id == "one:ana"
            with pytest.raises(KeyUnknown, match="cannot be fetched"):
                checks.identify(two.token("ana", iss=TWO["issuer"]))


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("https://one.example", "JSON list"),
        ("[]", "has 0 issuers"),
        (listed(*({**ONE, "issuer": str(n), "same_users": True} for n in range(17))), "has 17 issuers"),
        (listed({"issuer": "one"}), "jwks_url"),
        (listed({**ONE, "colour": "red"}), "colour"),
        (listed({**ONE, "issuer": ""}), "empty"),
        (listed({**ONE, "audience": ""}), "empty"),
        (listed({**ONE, "user_prefix": "x" * 33}), "32 characters"),
        (listed({**ONE, "jwks_url": "ftp://one.example"}), "must be https://"),
        (listed({**ONE, "jwks_url": "https://user:pass@one.example/"}), "must not contain a user"),
        (listed(ONE, ONE), "in the list twice"),
        (listed(ONE, {**TWO, "user_prefix": "one:"}), "each other's users"),
        (listed(ONE, {**TWO, "user_prefix": "one:two:"}), "each other's users"),
        (listed(ONE, {**TWO, "user_prefix": ""}), "each other's users"),
        (listed(ONE, {**TWO, "user_prefix": "", "same_users": True}), "each other's users"),
    ],
)
def test_a_list_in_which_one_issuer_could_sign_for_anothers_users_is_refused(value: str, why: str) -> None:
    with pytest.raises(ValidationError) as refused:
        GatewaySettings(auth_issuers=value)
    line = str(bad_setting(refused.value, prefix="TOWPATH_"))
    assert line.startswith("TOWPATH_AUTH_ISSUERS")
    assert why in line
    assert "pass@" not in line


def test_issuers_may_share_their_users() -> None:
    shared = {"user_prefix": "", "same_users": True}
    assert len(read_issuers(listed({**ONE, **shared}, {**TWO, **shared}))) == 2
    assert read_issuers(" ") == []


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"auth_secret": SECRET, "auth_jwks_url": "https://one.example/keys"},
        {"auth_public_key": "key", "auth_issuers": listed(ONE)},
        {"auth_jwks_url": "https://one.example/keys", "auth_issuers": listed(ONE)},
    ],
)
async def test_there_is_exactly_one_kind_of_key(settings: dict[str, Any]) -> None:
    with pytest.raises(BadSetting, match=r"exactly one of TOWPATH_AUTH_SECRET .*TOWPATH_AUTH_ISSUERS"):
        async with admission(**settings):
            pass


@pytest.mark.parametrize(
    "settings",
    [
        {"auth_jwks_url": "http://one.example/keys"},
        {"auth_issuers": listed({**ONE, "jwks_url": "http://192.0.2.1/keys"})},
    ],
)
async def test_keys_of_another_machine_are_fetched_by_https_only(settings: dict[str, Any]) -> None:
    with pytest.raises(BadSetting, match=r"^TOWPATH_AUTH_\w+: the keys of .* must be fetched by https"):
        async with admission(**settings):
            pass
