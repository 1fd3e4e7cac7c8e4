"""Key sets: which keys of a JWKS document verify tokens."""

import contextlib
import json
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import given
from hypothesis import strategies as st

from towpath.gateway.admission.key_set import KEYS_MAX, KeySet, KeySetRefused
from towpath.testkit.issuer import SigningKey

EC = SigningKey("ec")
RSA = SigningKey("rsa", "RS256")
EDWARDS = SigningKey("ed", "EdDSA")


def read(*keys: Any) -> KeySet:
    return KeySet.read(json.dumps({"keys": keys}).encode())


def short_rsa() -> dict[str, Any]:
    key = rsa.generate_private_key(65537, 1024).public_key()
    return {**jwt.get_algorithm_by_name("RS256").to_jwk(key, as_dict=True), "kid": "short"}


def private(key: SigningKey) -> dict[str, Any]:
    return {**jwt.get_algorithm_by_name(key.algorithm).to_jwk(key.private, as_dict=True), "kid": "private"}


@pytest.mark.parametrize("key", [EC, RSA, EDWARDS], ids=lambda key: key.algorithm)
def test_a_key_has_the_algorithm_of_its_type(key: SigningKey) -> None:
    plain = {name: value for name, value in key.jwk.items() if name not in ("alg", "use")}
    for shown in (key.jwk, plain):
        found = read(shown).find(key.kid)
        assert found is not None
        assert found.algorithm == key.algorithm
        assert jwt.decode(key.token("ana"), found.material, [found.algorithm], audience="towpath")


@pytest.mark.parametrize(
    ("unusable", "why"),
    [
        ({"kty": "oct", "k": "c2VjcmV0", "kid": "secret"}, "type"),
        ({**RSA.jwk, "use": "enc"}, "not for signatures"),
        ({**RSA.jwk, "key_ops": ["encrypt"]}, "not for verification"),
        ({**RSA.jwk, "key_ops": "verify"}, "not for verification"),
        ({**RSA.jwk, "alg": "HS256"}, "algorithm is not RS256"),
        ({**RSA.jwk, "alg": "PS256"}, "algorithm is not RS256"),
        ({**RSA.jwk, "kid": 7}, "kid is not text"),
        ({**RSA.jwk, "n": "!"}, "cannot be read"),
        ({**RSA.jwk, "n": None}, "cannot be read"),
        ({**RSA.jwk, "e": "A" * 300}, "cannot be read"),
        ({**RSA.jwk, "e": "_____wE"}, "exponent"),
        ({**RSA.jwk, "crv": "P-256"}, "type"),
        ({**RSA.jwk, "kty": None}, "no type"),
        ({**EC.jwk, "crv": "P-384"}, "type"),
        ({**EC.jwk, "x": EC.jwk["y"]}, "cannot be read"),
        (private(RSA), "private key"),
        (private(EC), "private key"),
        (short_rsa(), "2048"),
        ("a text", "not an object"),
        ([], "not an object"),
    ],
)
def test_an_unusable_key_is_left_out_and_the_others_stay(unusable: Any, why: str) -> None:
    found = read(EC.jwk, unusable)
    assert list(found.keys) == ["ec"]
    [reason] = found.left_out
    assert why in reason


def test_of_two_keys_with_one_name_none_is_used() -> None:
    found = read({**EC.jwk, "kid": "same"}, {**EDWARDS.jwk, "kid": "same"}, RSA.jwk)
    assert list(found.keys) == ["rsa"]
    assert sum(found.left_out.values()) == 2


def test_a_key_for_encryption_does_not_shadow_one_for_signatures_of_the_same_name() -> None:
    assert read({**RSA.jwk, "kid": "same", "use": "enc"}, {**EC.jwk, "kid": "same"}).find("same")


def test_a_token_without_kid_needs_a_set_of_one_key() -> None:
    assert read(EC.jwk).find(None) is not None
    assert read(SigningKey(None).jwk).find(None) is not None
    assert read(EC.jwk, RSA.jwk).find(None) is None
    assert read(EC.jwk).find("other") is None


@pytest.mark.parametrize(
    ("document", "why"),
    [
        (b"", "not JSON"),
        (b"<html>no</html>", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b'{"keys":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "not JSON"),
        (b"[]", "not a key set"),
        (b"{}", "not a key set"),
        (b'{"keys": {}}', "not a key set"),
        (json.dumps({"keys": [EC.jwk] * (KEYS_MAX + 1)}).encode(), "101 keys"),
    ],
    ids=range(8),
)
def test_a_document_that_is_not_a_key_set_is_refused(document: bytes, why: str) -> None:
    with pytest.raises(KeySetRefused, match=why):
        KeySet.read(document)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=40),
    lambda part: st.lists(part, max_size=3) | st.dictionaries(st.text(max_size=5), part, max_size=3),
    max_leaves=5,
)
members = st.sampled_from(["kty", "crv", "n", "e", "x", "y", "kid", "use", "alg", "key_ops", "d"])


@given(
    st.lists(st.dictionaries(members, anything) | anything, max_size=4), st.sampled_from([EC, RSA, EDWARDS])
)
def test_any_document_is_read_or_refused(changes: list[Any], key: SigningKey) -> None:
    keys = [{**key.jwk, **change} if isinstance(change, dict) else change for change in changes]
    with contextlib.suppress(KeySetRefused):  # such as NaN, which JSON does not have
        found = read(*keys)
        assert len(found.keys) + sum(found.left_out.values()) == len(keys)


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_without_another_error(document: bytes) -> None:
    with pytest.raises(KeySetRefused):
        KeySet.read(document)
