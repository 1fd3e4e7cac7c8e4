"""Revocations on the wire."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from towpath.protocol.errors import BadEnvelope
from towpath.protocol.revocations import Kind, Revocation, kind_of, read, write

LATER = 2_000_000_000.0


def test_each_kind_has_its_key() -> None:
    assert {kind: kind.key for kind in Kind} == {
        Kind.USER: "revoke.user",
        Kind.TOKEN: "revoke.token",
        Kind.ISSUED_BEFORE: "revoke.issued_before",
    }
    assert [kind_of(kind.key) for kind in Kind] == list(Kind)


@pytest.mark.parametrize(
    "key", ["", "revoke", "revoke.", "revoke.USER", "revoke.user.x", "user", "control.user"]
)
def test_an_unknown_key_has_no_kind(key: str) -> None:
    assert kind_of(key) is None


@pytest.mark.parametrize(
    ("kind", "item"),
    [
        (Kind.USER, Revocation(LATER, user_id="ana", before=5.5, by="ops", reason="left")),
        (Kind.TOKEN, Revocation(LATER, token_id="t-1")),
        (Kind.ISSUED_BEFORE, Revocation(LATER, before=1_700_000_000.0)),
    ],
)
def test_a_written_revocation_is_read_as_it_was(kind: Kind, item: Revocation) -> None:
    assert list(read(kind, write([item]))) == [item]
    assert list(read(kind, write([item, item]))) == [item, item]


@pytest.mark.parametrize(
    ("kind", "item"),
    [
        # Topic permissions are about keys: a sender that may revoke one user must not revoke all.
        (Kind.USER, {"until": LATER, "before": 5}),
        (Kind.USER, {"until": LATER, "before": 5, "user_id": ""}),
        (Kind.USER, {"until": LATER, "user_id": "ana"}),
        (Kind.USER, {"until": LATER, "before": 5, "user_id": "ana", "token_id": "t"}),
        (Kind.USER, {"until": LATER, "before": 5, "user_id": "a\nb"}),
        (Kind.USER, {"until": LATER, "before": 5, "user_id": "a" * 129}),
        (Kind.USER, {"until": LATER, "before": 5, "user_id": 7}),
        (Kind.TOKEN, {"until": LATER}),
        (Kind.TOKEN, {"until": LATER, "token_id": "t", "user_id": "ana"}),
        (Kind.TOKEN, {"until": LATER, "token_id": "t", "before": 5}),
        (Kind.TOKEN, {"until": LATER, "token_id": "t" * 257}),
        (Kind.TOKEN, {"token_id": "t"}),
        (Kind.TOKEN, {"token_id": "t", "until": 0}),
        (Kind.TOKEN, {"token_id": "t", "until": -1}),
        (Kind.TOKEN, {"token_id": "t", "until": LATER * 1000}),
        (Kind.TOKEN, {"token_id": "t", "until": "2030"}),
        (Kind.TOKEN, {"token_id": "t", "until": True}),
        (Kind.TOKEN, {"token_id": "t", "until": LATER, "reason": "r" * 121}),
        (Kind.ISSUED_BEFORE, {"until": LATER}),
        (Kind.ISSUED_BEFORE, {"until": LATER, "before": 5, "user_id": "ana"}),
        (Kind.ISSUED_BEFORE, {"until": LATER, "before": LATER * 1000}),
    ],
)
def test_an_invalid_revocation_costs_itself_alone(kind: Kind, item: dict[str, Any]) -> None:
    valid = {
        Kind.USER: Revocation(LATER, user_id="ben", before=1.0),
        Kind.TOKEN: Revocation(LATER, token_id="x"),
        Kind.ISSUED_BEFORE: Revocation(LATER, before=1.0),
    }[kind]
    text = json.dumps(item).encode()
    first, second, third = read(kind, b"[" + write([valid]) + b"," + text + b"," + write([valid]) + b"]")
    assert (first, third) == (valid, valid)
    assert isinstance(second, BadEnvelope)


def test_fields_of_a_later_version_are_ignored() -> None:
    body = json.dumps({"until": LATER, "token_id": "t", "weight": {"a": 1}}).encode()
    assert list(read(Kind.TOKEN, body)) == [Revocation(LATER, token_id="t")]


@given(kind=st.sampled_from(Kind), body=st.one_of(st.binary(), st.text().map(str.encode)))
def test_any_body_is_read_or_refused(kind: Kind, body: bytes) -> None:
    for item in read(kind, body):
        assert isinstance(item, Revocation | BadEnvelope)


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(st.sampled_from(["until", "user_id", "token_id", "before", "x"]), inner)
        ),
    )
)
def test_any_json_is_read_or_refused(value: Any) -> None:
    for kind in Kind:
        for item in read(kind, json.dumps(value).encode()):
            assert isinstance(item, Revocation | BadEnvelope)
