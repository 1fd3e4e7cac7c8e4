"""Frames from RabbitMQ can be decoded by aiormq, whatever a sender put into them."""

import asyncio
from typing import Any, Final

import aiormq.connection
import hypothesis.strategies as st
import pamqp.frame
import pytest
from hypothesis import example, given, settings
from pamqp.commands import Basic
from pamqp.header import ContentHeader

from towpath.servicekit.broker.interface import UNDECODABLE
from towpath.servicekit.broker.rabbitmq.codec import SafeReader, safe_method
from towpath.servicekit.broker.rabbitmq.content_header import safe_header
from towpath.testkit.odd_messages import OddMessage, odd_messages, properties, short, table, u64

NANOSECONDS: Final = u64(1_764_300_000 * 10**9)
START: Final = b"\x00\x3c\x00\x00" + (7).to_bytes(8, "big")


def header(raw: bytes) -> bytes:
    return START + raw


def frame(kind: int, payload: bytes) -> bytes:
    return bytes([kind]) + b"\x00\x01" + len(payload).to_bytes(4, "big") + payload + b"\xce"


def decoded(payload: bytes, kind: int = 2) -> Any:
    return pamqp.frame.unmarshal(frame(kind, payload))[2]


@pytest.mark.parametrize(
    ("raw", "what"),
    [
        (properties(timestamp=NANOSECONDS), "timestamp"),
        (properties(headers=table({b"at": b"T" + NANOSECONDS})), "at"),
        (properties(headers=table({b"at": b"T" + u64(-5)})), "at"),
        (properties(message_id=short(b"caf\xe9")), "message_id"),
        (properties(app_id=short(b"caf\xe9")), "app_id"),
        (properties(headers=table({b"caf\xe9": b"V"})), "caf"),
        (properties(headers=table({b"odd": b"Z1234"})), "odd"),
        (properties(headers=table({b"many": b"A\x00\x01\x00\x00" + b"V" * 65_536})), "many"),
        (properties(headers=b"\xff\xff\xff\xff"), "headers"),
    ],
)
def test_an_undecodable_header_is_replaced_by_the_reason(raw: bytes, what: str) -> None:
    safe = decoded(safe_header(header(raw)))
    assert what in safe.properties.headers[UNDECODABLE]
    assert safe.body_size == 7


def test_decodable_headers_are_kept_beside_undecodable_ones() -> None:
    good, bad = b"S\x00\x00\x00\x0corders.event", b"T" + NANOSECONDS
    raw = properties(
        headers=table({b"x-first-death-queue": good, b"at": bad}),
        message_id=short(b"m-1"),
        timestamp=NANOSECONDS,
        app_id=short(b"shop"),
    )
    kept = decoded(safe_header(header(raw))).properties
    assert (kept.message_id, kept.app_id, kept.timestamp) == ("m-1", "shop", None)
    assert kept.headers["x-first-death-queue"] == "orders.event"


def test_a_decodable_frame_is_passed_on_unchanged() -> None:
    honest = ContentHeader(
        body_size=7,
        properties=Basic.Properties(
            content_type="application/json",
            message_id="m-1",
            delivery_mode=2,
            app_id="é",
            headers={"traceparent": "00-1", "x-attempt": 3, "x-death": [{"count": 1, "queue": "a"}]},
        ),
    ).marshal()
    assert safe_header(honest) is honest


def test_a_routing_key_in_latin_1_makes_its_message_undecodable_and_no_other() -> None:
    deliver = b"\x00\x3c\x00\x3c" + short(b"tag") + u64(9) + b"\x00" + short(b"towpath.push")
    safe, wrong = safe_method(deliver + short(b"user.caf\xe9"))
    assert decoded(safe, 1).routing_key == "user.caf\\xe9"
    assert decoded(safe, 1).delivery_tag == 9
    assert wrong is not None
    assert safe_method(deliver + short(b"user.ann")) == (deliver + short(b"user.ann"), None)


def test_a_close_reason_cut_within_a_letter_can_be_read() -> None:
    close = b"\x00\x14\x00\x28" + b"\x01\x94" + short(b"no exchange '\xc3") + b"\x00\x3c\x00\x28"
    safe, wrong = safe_method(close)
    assert decoded(safe, 1).reply_code == 404
    assert wrong is None


@settings(max_examples=300, deadline=None)
@given(raw=st.binary(max_size=200), flags=st.integers(0, 0xFFFF))
@example(raw=b"", flags=0)
def test_any_bytes_become_a_header_that_pamqp_decodes(raw: bytes, flags: int) -> None:
    decoded(safe_header(START + flags.to_bytes(2, "big") + raw))


@settings(max_examples=300, deadline=None)
@given(seed=st.integers(0, 10**9), at=st.integers(0, 400), byte=st.integers(0, 255))
def test_every_odd_header_becomes_one_that_pamqp_decodes(seed: int, at: int, byte: int) -> None:
    odd = one_odd(seed)
    raw = bytearray(header(odd.properties))
    decoded(safe_header(bytes(raw)))
    raw[12 + at % (len(raw) - 12)] = byte
    decoded(safe_header(bytes(raw)))


def one_odd(seed: int) -> OddMessage:
    (odd,) = odd_messages(seed=seed, count=1, targets=[("a", b"b.c")], bodies=[b"{}"], refusable=0.5)
    return odd


async def test_frames_are_read_one_by_one_until_the_end_of_the_stream() -> None:
    stream = asyncio.StreamReader()
    stream.feed_data(frame(2, header(properties(timestamp=NANOSECONDS))) + frame(3, b"a body!"))
    stream.feed_eof()
    frames = aiormq.connection.FrameReceiver(SafeReader(stream))  # type: ignore[arg-type]
    _, _, first = await frames.get_frame()
    _, _, second = await frames.get_frame()
    assert isinstance(first, ContentHeader)
    assert UNDECODABLE in (first.properties.headers or {})
    assert second.value == b"a body!"  # type: ignore[union-attr]
    with pytest.raises(StopAsyncIteration):
        await frames.get_frame()
