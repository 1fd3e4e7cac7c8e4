"""W3C trace context: what is read, and what is dropped (https://www.w3.org/TR/trace-context-2/)."""

from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from towpath.servicekit.runtime.trace_context import (
    TRACESTATE_MAX,
    TraceParent,
    is_version_00,
    read_traceparent,
    read_tracestate,
    trace_id,
)

TRACE_ID: Final = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT_ID: Final = "00f067aa0ba902b7"
TRACE: Final = f"00-{TRACE_ID}-{PARENT_ID}-01"
hexadecimal = st.text("0123456789abcdef", min_size=1, max_size=40)


@pytest.mark.parametrize(
    ("text", "flags"),
    [
        (TRACE, 1),
        (f"00-{TRACE_ID}-{PARENT_ID}-00", 0),
        (f"00-{TRACE_ID}-{PARENT_ID}-03", 3),
        (f"00-{TRACE_ID}-{PARENT_ID}-fe", 2),
        (f"01-{TRACE_ID}-{PARENT_ID}-01", 1),
        (f"cc-{TRACE_ID}-{PARENT_ID}-09-what-comes-later", 1),
        (f"cc-{TRACE_ID}-{PARENT_ID}-00-", 0),
    ],
)
def test_a_traceparent_is_read_and_written_as_version_00_with_the_known_flags(text: str, flags: int) -> None:
    found = read_traceparent(text)
    assert found == TraceParent(TRACE_ID, PARENT_ID, flags)
    assert str(found) == f"00-{TRACE_ID}-{PARENT_ID}-{flags:02x}"
    assert trace_id(text) == TRACE_ID


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "x",
        TRACE.upper(),
        f" {TRACE}",
        f"{TRACE}\n",
        f"{TRACE}-later",
        f"{TRACE}-",
        TRACE[:-1],
        f"{TRACE}0",
        f"ff-{TRACE_ID}-{PARENT_ID}-01",
        f"cc-{TRACE_ID}-{PARENT_ID}-01.later",
        f"cc-{TRACE_ID}-{PARENT_ID}-01-\n",
        f"0-{TRACE_ID}-{PARENT_ID}-01",
        f"000-{TRACE_ID}-{PARENT_ID}-01",
        f".0-{TRACE_ID}-{PARENT_ID}-01",
        f"00-{'0' * 32}-{PARENT_ID}-01",
        f"00-{TRACE_ID}-{'0' * 16}-01",
        f"00-{TRACE_ID[:-1]}g-{PARENT_ID}-01",
        f"00-{TRACE_ID}1-{PARENT_ID}-01",
        f"00-{TRACE_ID}-{PARENT_ID}-1",
        f"00-{TRACE_ID}-{PARENT_ID}-.0",
        TRACE.replace("4", "٤"),  # a digit to `str.isdigit`, and none here
    ],
)
def test_a_malformed_traceparent_is_not_read(text: str | None) -> None:
    assert read_traceparent(text) is None
    assert trace_id(text) is None
    assert text is None or not is_version_00(text)


@given(hexadecimal, hexadecimal, hexadecimal, hexadecimal, st.sampled_from(["", "-", "-later"]))
def test_whatever_is_read_is_well_formed(
    version: str, first: str, second: str, flags: str, rest: str
) -> None:
    text = f"{version}-{first.rjust(32, '0')}-{second.rjust(16, '0')}-{flags}{rest}"
    found = read_traceparent(text)
    if found is None:
        return
    assert is_version_00(str(found))
    assert read_traceparent(str(found)) == found
    assert (found.trace_id, found.parent_id) == (first.rjust(32, "0"), second.rjust(16, "0"))


@given(st.text(max_size=80) | st.text("0123456789abcdef-=,@ \t\x00", max_size=80))
def test_no_text_raises(text: str) -> None:
    read_traceparent(text)
    read_tracestate(text)


def test_another_decision_leaves_the_rest() -> None:
    for flags, sampled, wanted in ((1, False, 0), (2, True, 3), (3, False, 2), (0, True, 1)):
        assert TraceParent(TRACE_ID, PARENT_ID, flags).with_sampled(sampled).flags == wanted


MANY: Final = [f"k{number}={number}" for number in range(33)]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("rojo=00f067aa0ba902b7,congo=t61rcWkgMzE", "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"),
        ("foo=1 \t , \t bar=2,\t,baz= 3", "foo=1,bar=2,baz= 3"),
        (",,foo=1,", "foo=1"),
        ("foo=1,bar=2,foo=3", "foo=1,bar=2"),
        ("0a_-*/@=~", "0a_-*/@=~"),
        ('foo="\\', 'foo="\\'),
        ("z" * 256 + "=1", "z" * 256 + "=1"),
        ("t@" + "v" * 15 + "=1", "t@" + "v" * 15 + "=1"),
        ("foo=" + "v" * 256, "foo=" + "v" * 256),
        (",".join(MANY[:32]), ",".join(MANY[:32])),
    ],
)
def test_a_tracestate_is_read_without_its_spaces_and_repetitions(text: str, wanted: str) -> None:
    assert read_tracestate(text) == wanted


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        " ,\t,",
        "foo",
        "foo=",
        "foo=1,bar=",
        "=1",
        "foo=bar=baz",
        "Foo=1",
        "_foo=1",
        "foo =1",
        "foo.=1",
        "foo=1;2,bär=1",
        "foo=\x7f",
        "foo=\n",
        "foo=1\n",
        "z" * 257 + "=1",
        "foo=" + "v" * 257,
        ",".join(MANY),
        ",".join(["foo=1"] * 33),
        "foo=" + ",".join(["v" * 200] * 3),
        "a=" + "v" * 200 + ",b=" + "v" * 200 + ",c=" + "v" * 200,
    ],
)
def test_a_tracestate_with_one_bad_member_or_too_many_is_dropped_whole(text: str | None) -> None:
    assert read_tracestate(text) is None


@given(st.text("abz09_-*/@=, \t~\"\\'", max_size=TRACESTATE_MAX + 10))
def test_a_tracestate_that_is_read_can_be_passed_on(text: str) -> None:
    found = read_tracestate(text)
    if found is not None:
        assert read_tracestate(found) == found
        assert found.isascii()
        assert found.isprintable()
        assert len(found) <= len(text)
