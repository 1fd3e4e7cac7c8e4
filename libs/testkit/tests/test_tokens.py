"""Tokens as a gateway reads them."""

import jwt
import pytest

from towpath.testkit.tokens import SECRET, a_token


def test_a_token_names_its_user_and_is_for_towpath() -> None:
    claims = jwt.decode(a_token("ana", scope="chat order"), SECRET, ["HS256"], audience="towpath")
    assert claims["sub"] == "ana"
    assert claims["scope"] == "chat order"


def test_an_expired_token_is_refused() -> None:
    with pytest.raises(jwt.ExpiredSignatureError):
        jwt.decode(a_token("ana", expires_in=-1), SECRET, ["HS256"], audience="towpath")


def test_a_token_signed_with_another_secret_is_refused() -> None:
    with pytest.raises(jwt.InvalidSignatureError):
        jwt.decode(a_token("ana", secret="x" * 32), SECRET, ["HS256"], audience="towpath")


def test_a_claim_can_be_left_out() -> None:
    with pytest.raises(jwt.MissingRequiredClaimError):
        jwt.decode(a_token("ana", aud=None), SECRET, ["HS256"], audience="towpath")
