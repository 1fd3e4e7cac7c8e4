"""Bodies on the broker: batches, commands that cannot be escaped from, directed items."""

import json
from collections.abc import Callable
from contextlib import suppress
from decimal import Decimal
from typing import Any, Final

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from towpath.protocol.envelope import make, parse
from towpath.protocol.errors import BadEnvelope
from towpath.protocol.messages import (
    BODY_MAX_ITEMS,
    NO_JSON,
    Directed,
    Disconnect,
    Session,
    encode,
    join_batch,
    read_command,
    read_directed,
    read_object,
    split_batch,
    split_directed,
    wrap_command,
)

ANA: Final = Session(user_id="ana", connection_id="c-1", gateway_id="gw-1")

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=12),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(st.text(max_size=6), values, max_size=3),
    max_leaves=8,
)
objects = st.dictionaries(st.text(max_size=6), json_values, max_size=4)
sessions = st.builds(
    Session,
    user_id=st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=15),
    connection_id=st.text(max_size=20),
    gateway_id=st.text(min_size=1, max_size=15),
    scope=st.none() | st.text(max_size=20),
)
directed = st.builds(
    Directed,
    connection_id=st.none() | st.text(max_size=20),
    envelope=st.just(NO_JSON) | objects.map(lambda data: msgspec.Raw(make("chat.told", data).to_json())),
    subscribe=st.lists(st.text(max_size=8), max_size=3),
    unsubscribe=st.lists(st.text(max_size=8), max_size=3),
    disconnect=st.none() | st.builds(Disconnect, code=st.integers(4000, 4999), reason=st.text(max_size=40)),
)
anything = st.binary(max_size=60) | json_values.map(lambda value: json.dumps(value).encode())
decimals = st.decimals(allow_nan=False, allow_infinity=False)


@st.composite
def frames(draw: st.DrawFn) -> str:
    """Texts that a gateway takes, written as unkindly as JSON allows: blanks, unknown and doubled fields."""
    names = st.sampled_from(["session", "envelope", "user_id", "}", '"', "msg_id", "data"])
    pairs = [(name, value) for name, value in json.loads(make("chat.send", draw(objects)).to_json()).items()]
    stray = [(draw(names), draw(json_values)) for _ in range(draw(st.integers(0, 3)))]
    space = draw(st.sampled_from(["", " ", "\r\n", "\t"]))
    # The last one counts, so the envelope's own come last.
    body = ("," + space).join(
        f"{json.dumps(name)}{space}:{json.dumps(value)}" for name, value in stray + pairs
    )
    return f"{space}{{{space}{body}{space}}}{space}"


# Batches


@given(st.lists(objects, min_size=1, max_size=5), st.sampled_from([b"", b" ", b"\n\t"]))
def test_a_batch_splits_into_its_items(values: list[Any], space: bytes) -> None:
    items = [space + json.dumps(value).encode() + space for value in values]
    assert [json.loads(item) for item in split_batch(space + join_batch(items) + space)] == values


def test_a_batch_of_one_is_the_object_itself() -> None:
    assert join_batch([b'{"a":1}']) == b'{"a":1}'
    assert join_batch([b'{"a":1}', b'{"b":2}']) == b'[{"a":1},{"b":2}]'


def test_an_item_is_embedded_unchanged_in_the_body() -> None:
    items = [b'{ "a" : 1.50 }', '{"b":"ü"}'.encode()]
    assert split_batch(join_batch(items)) == items


@pytest.mark.parametrize(
    "body", [b"", b" ", b"1", b'"x"', b"null", b"{", b"[{}", b"[{}]]", b"{}{}", b"[" * 10_000]
)
def test_a_body_that_is_neither_object_nor_array_is_refused(body: bytes) -> None:
    with pytest.raises(BadEnvelope):
        split_batch(body)


@given(anything)
@example(b"[" * 10_000)
@example(b'{"a":' * 10_000)
@example(b'{"a":1e99999999999999999999}')
@example(b'{"a":1e-99999999999999999999}')
@example(b'{"session":{"user_id":"\xff"}}')
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    readers: list[Callable[[bytes], object]] = [split_batch, read_command, read_object, read_directed]
    for reader in readers:
        with suppress(BadEnvelope):
            reader(body)


# Commands


@given(sessions, frames())
def test_a_frame_cannot_leave_the_command_that_wraps_it(session: Session, frame: str) -> None:
    envelope = parse(frame)
    [item] = split_batch(join_batch([wrap_command(encode(session), frame.encode())]))
    command = read_command(item)
    assert command.session == session
    assert command.envelope == json.loads(frame)
    assert command.envelope["msg_id"] == envelope.msg_id


@given(st.lists(frames(), min_size=2, max_size=4))
def test_a_frame_cannot_reach_its_neighbour_in_a_batch(frames: list[str]) -> None:
    wrapped = [wrap_command(encode(ANA), frame.encode()) for frame in frames]
    commands = [read_command(item) for item in split_batch(join_batch(wrapped))]
    assert [command.envelope for command in commands] == [json.loads(frame) for frame in frames]
    assert {command.session.user_id for command in commands} == {"ana"}


@pytest.mark.parametrize(
    "item",
    [
        b"{}",
        b"[]",
        b'{"session":{"user_id":"ana"},"envelope":{}}',
        b'{"session":{"user_id":1,"connection_id":"c","gateway_id":"g"},"envelope":{}}',
        b'{"session":{"user_id":"ana","connection_id":"c","gateway_id":"g"},"envelope":[]}',
        b'{"session":{"user_id":"","connection_id":"c","gateway_id":"g"},"envelope":{}}',
        b'{"session":{"user_id":"ana","connection_id":"c","gateway_id":""},"envelope":{}}',
        b'{"session":{"user_id":"%s","connection_id":"c","gateway_id":"g"},"envelope":{}}' % (b"x" * 300),
    ],
)
def test_a_body_without_envelope_or_session_is_not_a_command(item: bytes) -> None:
    with pytest.raises(BadEnvelope, match="not a command"):
        read_command(item)


@pytest.mark.parametrize(
    ("scope", "domain", "allowed"),
    [
        (None, "order", True),
        ("order", "order", True),
        ("chat order", "order", True),
        ("", "order", False),
        ("chat", "order", False),
        ("orders", "order", False),
    ],
)
def test_a_scope_names_the_domains_that_may_be_addressed(
    scope: str | None, domain: str, allowed: bool
) -> None:
    session = Session(user_id="ana", connection_id="c-1", gateway_id="gw-1", scope=scope)
    assert session.may_address(domain) is allowed


# Numbers


@given(decimals)
def test_a_number_with_a_fraction_is_exact(number: Decimal) -> None:
    text = str(number)
    read = read_object(f'{{"x":[{text}]}}'.encode())["x"][0]
    assert read == number
    assert isinstance(read, int if text.lstrip("-").isdigit() else Decimal)


def test_the_same_holds_inside_a_command() -> None:
    item = wrap_command(encode(ANA), b'{"data":{"amount":0.10}}')
    assert str(read_command(item).envelope["data"]["amount"]) == "0.10"


@pytest.mark.parametrize(
    ("number", "value"), [("1e99999999999999999999", float("inf")), ("1e-9999999999999999999999", 0.0)]
)
def test_an_exponent_beyond_all_decimals_is_refused(number: str, value: float) -> None:
    assert read_object(f'{{"x":{number}}}'.encode()) == {"x": value}


# Directed items


@given(directed)
def test_a_directed_item_reads_as_it_was_encoded(item: Directed) -> None:
    [read] = read_directed(encode(item))
    assert read.connection_id == item.connection_id
    assert bytes(read.envelope) == bytes(item.envelope)
    assert (read.subscribe, read.unsubscribe) == (item.subscribe, item.unsubscribe)
    assert read.disconnect == item.disconnect


@given(st.lists(directed, min_size=1, max_size=4))
def test_directed_items_may_be_one_or_many_in_a_body(items: list[Directed]) -> None:
    read = read_directed(join_batch([encode(item) for item in items]))
    assert [encode(item) for item in read] == [encode(item) for item in items]


def test_absent_options_are_left_out_of_the_envelope() -> None:
    assert encode(Directed(connection_id="c-1", subscribe=["chat:lobby"])) == (
        b'{"connection_id":"c-1","subscribe":["chat:lobby"]}'
    )


@pytest.mark.parametrize("body", [b"1", b'{"connection_id":7}', b'{"subscribe":"chat:lobby"}', b"[1]", b"{"])
def test_an_invalid_directed_item_is_refused(body: bytes) -> None:
    with pytest.raises(BadEnvelope, match="not directed items"):
        read_directed(body)


@given(
    st.lists(st.text(min_size=1, max_size=40), max_size=60),
    st.lists(st.text(min_size=1, max_size=40), max_size=60),
    st.booleans(),
)
def test_a_split_item_changes_the_same_groups_in_the_same_order(
    subscribe: list[str], unsubscribe: list[str], closes: bool
) -> None:
    item = Directed(
        "c-1",
        msgspec.Raw(b'{"a":1}'),
        subscribe,
        unsubscribe,
        Disconnect(4502) if closes else None,
    )
    parts = split_directed(item, max_groups=7, max_bytes=100)
    assert [group for part in parts for group in part.subscribe] == subscribe
    assert [group for part in parts for group in part.unsubscribe] == unsubscribe
    # An item subscribes first, then unsubscribes, then delivers, then disconnects: so do its parts together.
    kinds = [
        kind
        for part in parts
        for kind, there in enumerate(
            [part.subscribe, part.unsubscribe, bytes(part.envelope), part.disconnect is not None]
        )
        if there
    ]
    assert kinds == sorted(kinds)
    assert [bytes(part.envelope) for part in parts if part.envelope] == [b'{"a":1}']
    assert sum(part.disconnect is not None for part in parts) == closes
    for part in parts:
        groups = [*part.subscribe, *part.unsubscribe]
        assert len(groups) <= 7
        assert len(groups) <= 1 or sum(len(group.encode()) for group in groups) <= 100
        assert part.connection_id == "c-1"


def test_a_body_with_too_many_items_is_refused_as_a_whole() -> None:
    assert len(split_batch(b"[" + b",".join([b"{}"] * BODY_MAX_ITEMS) + b"]")) == BODY_MAX_ITEMS
    with pytest.raises(BadEnvelope, match="items"):
        split_batch(b"[" + b",".join([b"{}"] * (BODY_MAX_ITEMS + 1)) + b"]")


@pytest.mark.parametrize("inbox", [10**30, 2**63, -1, "1"])
def test_a_command_without_its_inbox_number_is_refused(inbox: object) -> None:
    session = {"user_id": "ana", "connection_id": "c-1", "gateway_id": "gw-1", "inbox": inbox}
    with pytest.raises(BadEnvelope):
        read_command(json.dumps({"session": session, "envelope": {}}).encode())
