"""Directed items: one that cannot be carried out costs only itself, and never the program or a connection."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from towpath.gateway.forwarding import directed
from towpath.gateway.forwarding.directed import Item
from towpath.protocol.envelope import make, parse
from towpath.protocol.errors import BadEnvelope
from towpath.protocol.routes import connection_key, control_key, group_key
from towpath.testkit.client import WireClient
from towpath.testkit.eventually import eventually
from towpath.testkit.gateway import Backend, GatewayUnderTest, RunGateway, a_backend


def envelope(**data: Any) -> bytes:
    return make("test.pushed", data).to_json()


GOOD: Final = envelope(n="x")
#: The members of an item, without its braces and its connection_id. None of them may be carried out.
ODD: Final[dict[str, bytes]] = {
    "empty group": b'"subscribe":[""]',
    "long group": b'"subscribe":["' + b"g" * 300 + b'"]',
    "group that is too long when encoded": '"subscribe":["{}"]'.format("ü" * 100).encode(),
    "group that is a number": b'"subscribe":[7]',
    "group that is null": b'"subscribe":[null]',
    "group that is half a surrogate pair": b'"subscribe":["\\ud800"]',
    "group that is not UTF-8": b'"subscribe":["\xff"]',
    "groups that are a string": b'"subscribe":"g"',
    "groups that are null": b'"subscribe":null',
    "groups that are an object": b'"subscribe":{"g":1}',
    "one good group and an empty one": b'"subscribe":["odd",""]',
    "empty group to leave": b'"unsubscribe":[""]',
    "long group to leave": b'"unsubscribe":["' + b"g" * 300 + b'"]',
    "groups to leave that are a number": b'"unsubscribe":3',
    "envelope that is a string": b'"envelope":"hello"',
    "envelope that is a number": b'"envelope":7',
    "envelope that is an array": b'"envelope":[' + GOOD + b"]",
    "envelope that is empty": b'"envelope":{}',
    "envelope without data": b'"envelope":{"msg_id":"a","timestamp":1,"action":"test.pushed","version":"1.0"}',
    "envelope with odd data": GOOD.join([b'"envelope":', b""]).replace(b'{"n":"x"}', b"[]"),
    "envelope with an odd id": b'"envelope":' + GOOD.replace(b'"msg_id":"', b'"msg_id":"a b'),
    "envelope with an odd action": b'"envelope":' + GOOD.replace(b"test.pushed", b"Test pushed"),
    "envelope with an action of many words": b'"envelope":' + GOOD.replace(b"test.pushed", b"a.b.c.d.e"),
    "envelope with a long action": b'"envelope":' + GOOD.replace(b"test.pushed", b"a." + b"b" * 70),
    "envelope of another version": b'"envelope":' + GOOD.replace(b'"1.0"', b'"2.0"'),
    "envelope with a version that is a number": b'"envelope":' + GOOD.replace(b'"1.0"', b"1.0"),
    "envelope of before 1970": b'"envelope":' + GOOD.replace(b'"timestamp":', b'"timestamp":-'),
    "envelope with an odd correlation id": b'"envelope":' + GOOD[:-1] + b',"correlation_id":"a b"}',
    "envelope with position 0": b'"envelope":' + GOOD[:-1] + b',"stream":"s","seq":0}',
    "envelope with an empty stream": b'"envelope":' + GOOD[:-1] + b',"stream":"","seq":1}',
    "envelope that is not UTF-8": b'"envelope":' + GOOD.replace(b'"x"', b'"\xff\xfe"'),
    "envelope with an unknown field that is not UTF-8": b'"envelope":' + GOOD[:-1] + b',"odd":"\xff"}',
    "envelope with NaN": b'"envelope":' + GOOD.replace(b'"x"', b"NaN"),
    "envelope with a raw control character": b'"envelope":' + GOOD.replace(b'"x"', b'"\x01"'),
    "reason that is a number": b'"disconnect":{"code":4502,"reason":7}',
    "reason that is null": b'"disconnect":{"code":4502,"reason":null}',
    "disconnect without a code": b'"disconnect":{"reason":"r"}',
    "disconnect that is a number": b'"disconnect":4502',
    "code that is a string": b'"disconnect":{"code":"4502"}',
    "code that is a fraction": b'"disconnect":{"code":4502.5}',
    "code 0": b'"disconnect":{"code":0}',
    "negative code": b'"disconnect":{"code":-4502}',
    "code 5000": b'"disconnect":{"code":5000}',
    "code of a hundred digits": b'"disconnect":{"code":' + b"4" * 100 + b"}",
    "code 1005, which cannot be sent": b'"disconnect":{"code":1005}',
    "code 1006, which cannot be sent": b'"disconnect":{"code":1006}',
    "good envelope, bad disconnect": b'"envelope":' + GOOD + b',"disconnect":{"code":1}',
}


async def welcomed(client: WireClient) -> str:
    connection: str = (await client.find(lambda f: f["action"] == "session.welcome"))["data"]["connection_id"]
    return connection


async def received(client: WireClient, last: str) -> list[Any]:
    """The ``n`` of each ``test.pushed`` up to the one that is ``last``."""
    await client.find(lambda f: f["action"] == "test.pushed" and f["data"].get("n") == last)
    return [frame["data"]["n"] for frame in client.pushes("test.pushed")]


@pytest.mark.parametrize("route", ["connection", "control"])
async def test_an_invalid_item_does_not_affect_the_valid_ones_around_it(
    gateway: GatewayUnderTest, backend: Backend, route: str
) -> None:
    async with gateway.connect("ana") as ana:
        connection = await welcomed(ana)
        who = b'"connection_id":"%s",' % connection.encode() if route == "connection" else b""
        key = connection_key(gateway.settings.gateway_id) if route == "connection" else control_key("ana")
        expected = []
        for number, odd in enumerate(ODD.values()):
            before, after = f"before {number}", f"after {number}"
            items = [
                b"{%s%s}" % (who, members)
                for members in (
                    b'"envelope":' + envelope(n=before),
                    odd,
                    b'"envelope":' + envelope(n=after),
                )
            ]
            # Where the JSON itself is broken, what is behind it is lost with it: so the last comes by itself.
            await backend.push(key, b"[" + b",".join(items[:2]) + b"]")
            await backend.push(key, items[2])
            expected += [before, after]
        await backend.push(group_key("odd"), msgspec.json.decode(envelope(n="no member")))
        await backend.push("everyone", msgspec.json.decode(envelope(n="end")))
        assert await received(ana, "end") == [*expected, "end"]
        assert (await ana.request("ping"))["action"] == "pong"
        dropped = (await gateway.admin("/metrics"))[1].partition("\ndirected_items_dropped_total")[2]
        assert float(dropped.split()[1 if dropped.startswith("{") else 0]) >= len(ODD)


@pytest.mark.parametrize("odd", ODD.values(), ids=list(ODD))
def test_an_invalid_item_in_a_batch_gives_one_error(odd: bytes) -> None:
    good = b'{"connection_id":"a","envelope":' + GOOD + b"}"
    items = list(directed.read(b"[" + good + b',{"connection_id":"a",' + odd + b"}," + good + b"]"))
    assert isinstance(items[0], Item)
    assert any(isinstance(item, BadEnvelope) for item in items)
    done = [item for item in items if isinstance(item, Item)]
    assert all(item.envelope == GOOD and item.disconnect is None and item.groups is None for item in done)


@given(
    st.binary()
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(
                st.sampled_from(
                    ["connection_id", "envelope", "subscribe", "unsubscribe", "disconnect", "code"]
                )
                | st.text(),
                inner,
            )
        ),
    ).map(lambda value: msgspec.json.encode(value, enc_hook=str))
)
def test_reading_any_body_gives_items_or_errors(body: bytes) -> None:
    for item in directed.read(body):
        if isinstance(item, Item) and item.envelope:
            assert parse(item.envelope).to_json()


@given(
    st.dictionaries(st.text(), st.none() | st.integers(-(2**53), 2**53) | st.text() | st.lists(st.text())),
    st.text() | st.from_regex(r"[a-z]+(\.[a-z]+){1,4}", fullmatch=True),
    st.integers(-1, 2**64),
    st.sampled_from(["1.0", "1.77", "2.0", "1", "", "01.0"]),
)
def test_the_fast_check_of_an_envelope_agrees_with_the_full_one(
    data: dict[str, Any], action: str, timestamp: int, version: str
) -> None:
    text = msgspec.json.encode(
        {"msg_id": "m", "timestamp": timestamp, "action": action, "data": data, "version": version}
    )
    [item] = directed.read(b'{"connection_id":"a","envelope":' + text + b"}")
    try:
        parse(text)
    except BadEnvelope:
        if "." in action:  # bare actions other than the four pass the fast check, and do no harm
            assert isinstance(item, BadEnvelope)
    else:
        assert isinstance(item, Item)


async def test_a_push_that_is_not_utf8_does_not_close_the_connection(
    gateway: GatewayUnderTest, backend: Backend
) -> None:
    async with gateway.connect("ana") as ana:
        await welcomed(ana)
        await backend.push("user.ana", GOOD.replace(b'"x"', b'"\xff"'))
        await backend.push(
            "user.ana", b"[" + GOOD.replace(b'"x"', b'"\xff"') + b"," + envelope(n="end") + b"]"
        )
        assert await received(ana, "end") == ["end"]


async def test_a_broken_batch_loses_only_the_items_after_the_break(
    gateway: GatewayUnderTest, backend: Backend
) -> None:
    async with gateway.connect("ana") as ana:
        await welcomed(ana)
        await backend.push("user.ana", b"[" + envelope(n=1) + b"," + envelope(n=2) + b",{broken")
        await backend.push("user.ana", envelope(n="end"))
        assert await received(ana, "end") == [1, 2, "end"]


async def test_groups_of_a_connection_are_bounded(run_gateway: RunGateway) -> None:
    async with (
        run_gateway(groups_per_connection=3) as gateway,
        a_backend(gateway.hub) as backend,
        gateway.connect("ana") as ana,
    ):
        session = {"gateway_id": gateway.settings.gateway_id, "connection_id": await welcomed(ana)}
        await backend.direct(session, subscribe=["a", "b", "c", "d", "e"])
        await backend.direct(session, subscribe=["a"])
        await backend.direct(session, unsubscribe=["a"], subscribe=[])
        await backend.direct(session, subscribe=["f"])
        for group in "abcdef":
            await backend.push(group_key(group), envelope(n=group))
        await backend.push("everyone", envelope(n="end"))
        assert await received(ana, "end") == ["b", "c", "f", "end"]
        assert "groups_refused_total 2.0" in (await gateway.admin("/metrics"))[1]


MISSPELLED: Final = [
    ("jos%c3%a9", "jos%C3%A9"),  # lower-case hex, as JavaScript libraries and Go write it
    ("jos%c3%A9", "jos%C3%A9"),
    ("o'neil", "o%27neil"),  # encodeURIComponent leaves ! ' ( ) * ~
    ("wow!(*)~", "wow%21%28%2A%29%7E"),
    ("ana maria", "ana%20maria"),
    ("ana+maria", "ana%2Bmaria"),
    ("josé", "jos%C3%A9"),
    ("用户", "%E7%94%A8%E6%88%B7"),
    ("%61na", "ana"),  # letters that need no encoding
    ("room%3A1", "room:1"),
    ("a%2Db", "a-b"),
    ("ana@example.org", "ana%40example%2Eorg"),  # dots are words to RabbitMQ
    ("a.b.c.d", "a%2Eb%2Ec%2Ed"),
    ("ana@example%2eorg", "ana%40example%2Eorg"),
    ("100%", "100%25"),
]


@pytest.mark.parametrize("kind", ["user", "group", "control"])
@pytest.mark.parametrize(("written", "right"), MISSPELLED)
async def test_a_push_under_another_spelling_is_counted_and_logged_with_the_right_key(
    gateway: GatewayUnderTest, backend: Backend, kind: str, written: str, right: str
) -> None:
    with capture_logs() as lines:
        for _ in range(3):
            await backend.push(f"{kind}.{written}", envelope(n=1))

        async def counted() -> bool:
            return "pushes_misspelled_total 3.0" in (await gateway.admin("/metrics"))[1]

        await eventually(counted)
    # The first is logged; the others come with the count of the next line, a minute later at the earliest.
    assert [(line["routing_key"], line["right"]) for line in _misspelled(lines)] == [
        (f"{kind}.{written}", f"{kind}.{right}")
    ]


@pytest.mark.parametrize(
    "key", ["user.ana", "group.chat:lobby", "control.a%2Eb", "user.%E7%94%A8", "everyone"]
)
async def test_a_correct_key_without_a_receiver_is_not_counted_as_misspelled(
    gateway: GatewayUnderTest, backend: Backend, key: str
) -> None:
    with capture_logs() as lines:
        await backend.push(key, envelope(n=1))
        async with gateway.connect("ben") as ben:
            await welcomed(ben)
            await backend.push("user.ben", envelope(n="end"))
            assert await received(ben, "end") == ["end"]
    assert not _misspelled(lines)
    assert "pushes_misspelled_total 0.0" in (await gateway.admin("/metrics"))[1]


async def test_an_unencoded_dot_is_found_with_selective_routing(run_gateway: RunGateway) -> None:
    async with (
        run_gateway(routing="selective", routing_calm=0.05) as gateway,
        a_backend(gateway.hub) as backend,
        gateway.connect("ana") as ana,
    ):
        await welcomed(ana)

        async def has(line: str) -> bool:
            return line in (await gateway.admin("/metrics"))[1]

        await eventually(lambda: has("routing_everything 0.0"))
        await backend.push("user.ana@example.org", envelope(n=1))
        await eventually(lambda: has("pushes_misspelled_total 1.0"))


def _misspelled(lines: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [line for line in lines if line["event"] == "routing_key_misspelled"]
