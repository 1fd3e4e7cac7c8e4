"""Routing keys: a key reaches its own receiver only, and a partition is the same in every program."""

import json
from collections.abc import Callable
from zlib import crc32

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from towpath.protocol import chat
from towpath.protocol.errors import BadEnvelope
from towpath.protocol.messages import read_command
from towpath.protocol.orders import OrderEvent
from towpath.protocol.routes import (
    EVERYONE,
    EXCHANGES,
    PARTITIONS,
    RETRY_DELAYS,
    check_user_id,
    command_key,
    command_queue,
    connection_key,
    control_key,
    dead_queue,
    decode_word,
    encode_word,
    events_queue,
    group_key,
    partition,
    retry_queue,
    user_key,
)
from towpath.protocol.sessions import SessionStarted

SAFE = set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-:%")
KEYS_OF_A_PERSON = (user_key, group_key, connection_key, control_key)
#: The bindings of a gateway: its own connections by name, all others as patterns.
PATTERNS_OF_GATEWAYS = (EVERYONE, "user.*", "group.*", "control.*")

awkward = st.sampled_from(
    ["a.b", "*", "#", "a.*", "user.bo", "%2E", "%", "~", " ", "\x00", "ü", "用户", "🚣"]
)
# Some ids have to be alike, or no two of them would ever collide.
ids = awkward | st.text(min_size=1, max_size=12) | st.text("ab.*#%2E:", min_size=1, max_size=6)


def matches(pattern: list[str], key: list[str]) -> bool:
    """Topic matching as AMQP 0-9-1 defines it."""
    if not pattern:
        return not key
    if pattern[0] == "#":
        return matches(pattern[1:], key) or (bool(key) and matches(pattern, key[1:]))
    return bool(key) and pattern[0] in ("*", key[0]) and matches(pattern[1:], key[1:])


def reaches(key: str, pattern: str) -> bool:
    return matches(pattern.split("."), key.split("."))


# Words


@given(ids)
def test_an_encoded_word_has_safe_letters_only_and_can_be_decoded(word: str) -> None:
    encoded = encode_word(word)
    assert set(encoded) <= SAFE
    assert decode_word(encoded) == word


@given(ids, ids)
def test_different_words_are_encoded_differently(one: str, other: str) -> None:
    assert (encode_word(one) == encode_word(other)) == (one == other)


@pytest.mark.parametrize("word", ["ana", "ANA_9", "room:lobby", "a-b"])
def test_a_plain_word_is_not_encoded(word: str) -> None:
    assert encode_word(word) == word


@pytest.mark.parametrize(
    ("word", "encoded"),
    [
        ("a.b", "a%2Eb"),
        ("ana@example.org", "ana%40example%2Eorg"),
        ("100%", "100%25"),
        ("~", "%7E"),
        ("/", "%2F"),
        ("zoë", "zo%C3%AB"),
    ],
)
def test_other_letters_are_percent_encoded_as_utf_8(word: str, encoded: str) -> None:
    assert encode_word(word) == encoded


@pytest.mark.parametrize("word", ["", "x" * 224, "ü" * 38, "\ud800"])
def test_a_word_that_no_key_can_carry_is_refused(word: str) -> None:
    with pytest.raises(ValueError):
        encode_word(word)


def test_encoded_bytes_that_are_not_text_are_refused() -> None:
    with pytest.raises(ValueError):
        decode_word("%FF")


# Keys


@given(ids, ids)
def test_a_key_reaches_the_named_receiver_only(one: str, other: str) -> None:
    for key_of in KEYS_OF_A_PERSON:
        assert reaches(key_of(one), key_of(other)) == (one == other)


@given(ids, ids)
def test_keys_of_different_kinds_never_meet(one: str, other: str) -> None:
    keys = [key_of(one) for key_of in KEYS_OF_A_PERSON]
    patterns = [key_of(other) for key_of in KEYS_OF_A_PERSON]
    for number, key in enumerate(keys):
        assert not any(reaches(key, pattern) for pattern in patterns[:number] + patterns[number + 1 :])
        assert not reaches(key, EVERYONE)


@given(ids)
def test_a_gateway_receives_every_key_under_one_of_its_patterns(word: str) -> None:
    for key_of in (user_key, group_key, control_key):
        assert sum(reaches(key_of(word), pattern) for pattern in PATTERNS_OF_GATEWAYS) == 1
    assert not any(reaches(connection_key(word), pattern) for pattern in PATTERNS_OF_GATEWAYS)


@given(st.text(min_size=1, max_size=300))
def test_a_key_is_as_long_as_amqp_allows_at_most(word: str) -> None:
    try:
        keys = [key_of(word) for key_of in KEYS_OF_A_PERSON]
    except ValueError:
        assume(False)
    assert all(len(key.encode()) <= 255 for key in keys)


# Partitions


def test_the_checksum_is_the_standard_crc_32() -> None:
    assert crc32(b"123456789") == 0xCBF43926  # https://reveng.sourceforge.io/crc-catalogue/all.htm


@pytest.mark.parametrize(
    ("key", "number"),
    [
        # Node: require("zlib").crc32(key) % 8
        ("ana", 2),
        ("bo", 3),
        ("alice", 7),
        ("m-1", 4),
        ("O20250405001", 3),
        ("room:lobby", 5),
        ("zoë", 4),
        ("用户", 5),
    ],
)
def test_a_partition_is_the_same_in_every_language(key: str, number: int) -> None:
    assert partition(key) == number
    assert command_key("order", key) == f"order.{number}"


@given(st.text(max_size=64))
@example("")
def test_a_command_goes_to_one_partition_of_its_domain(key: str) -> None:
    patterns = [f"order.{number}" for number in range(PARTITIONS)]
    assert [reaches(command_key("order", key), pattern) for pattern in patterns].count(True) == 1


def test_keys_spread_over_all_partitions() -> None:
    assert {partition(f"user-{number}") for number in range(200)} == set(range(PARTITIONS))


# Names


def test_the_queues_of_a_service_are_those_of_the_contract() -> None:
    assert EXCHANGES == ("towpath.commands", "towpath.events", "towpath.push")
    assert command_queue("orders", 7) == "orders.commands.7"
    assert events_queue("orders") == "orders.events"
    assert [retry_queue("orders", delay) for delay in RETRY_DELAYS] == [
        "orders.retry.5s",
        "orders.retry.30s",
        "orders.retry.2min",
        "orders.retry.10min",
    ]
    assert dead_queue("orders") == "orders.dead"


def test_retries_wait_longer_each_time() -> None:
    assert list(RETRY_DELAYS.values()) == sorted(set(RETRY_DELAYS.values()))


# User ids


@pytest.mark.parametrize(
    "user", ["a", "x" * 128, "ü" * 33, "用" * 22, "@" * 66, "a.b c'd", "x" * 98 + "@" * 30]
)
def test_a_user_id_within_the_limits_is_accepted(user: str) -> None:
    assert check_user_id(user) == user


@pytest.mark.parametrize(
    ("user", "why"),
    [
        ("", "must not be empty"),
        ("x" * 129, "at most 128 characters, this one 129"),
        ("x" * 10_000, "at most 128 characters, this one 10000"),
        ("ü" * 34, "at most 200 bytes when percent-encoded, this one 204"),
        ("." * 67, "at most 200 bytes when percent-encoded, this one 201"),
        ("🚣" * 17, "at most 200 bytes when percent-encoded, this one 204"),
        ("a\nb", "control characters"),
        ("a\x7f", "control characters"),
        ("\x00", "control characters"),
        ("\ud800", "lone surrogates"),
    ],
)
def test_an_invalid_user_id_is_refused_with_the_reason(user: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        check_user_id(user)


def _session(user: str) -> dict[str, str]:
    return {"user_id": user, "connection_id": "c", "gateway_id": "g"}


@pytest.mark.parametrize("user", ["x" * 128, "x" * 129, "ü" * 33, "ü" * 34, "a\x7fb", ""])
@pytest.mark.parametrize(
    "read",
    [
        lambda user: chat.Invite.model_validate({"room": "r", "user": user}),
        lambda user: chat.SendDirect.model_validate({"to": user, "text": "hello"}),
        lambda user: OrderEvent.model_validate({"order_id": "O1", "user_id": user}),
        lambda user: SessionStarted.model_validate(_session(user)),
        lambda user: read_command(json.dumps({"session": _session(user), "envelope": {}}).encode()),
    ],
    ids=["invitation", "direct", "order event", "session event", "command"],
)
def test_every_source_of_user_ids_has_the_same_limits(read: Callable[[str], object], user: str) -> None:
    try:
        check_user_id(user)
    except ValueError:
        with pytest.raises((ValueError, BadEnvelope)):
            read(user)
    else:
        read(user)
