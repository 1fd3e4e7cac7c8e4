"""The envelope: valid ones, invalid ones, and the errors for their senders."""

import json
from decimal import Decimal
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from towpath.protocol.envelope import (
    BARE_ACTIONS,
    MAX_STREAM_LENGTH,
    VERSION,
    Envelope,
    check,
    field_problems,
    head,
    make,
    make_error,
    new_msg_id,
    now_ms,
    parse,
    read,
)
from towpath.protocol.errors import BadEnvelope, Conflict, ErrorCode, UnsupportedVersion
from towpath.protocol.messages import read_object

GOOD: Final[dict[str, Any]] = {
    "msg_id": "req-123456",
    "timestamp": 1712048400000,
    "action": "order.submit",
    "data": {"order_id": "O20250405001"},
    "version": "1.0",
}

WRONG: Final[dict[str, list[Any]]] = {
    "msg_id": ["", "a b", "ü", "x" * 65, "m\n", 1, None],
    "timestamp": [-1, 1.5, "1", True, 2**63, None],
    "action": ["order", "Order.submit", "order.", ".submit", "order..submit", "a.b.c.d.e", "1a.b", "a.1b"],
    "data": [None, [], "x", 1],
    "version": ["1", "1.", "v1.0", "1.0.0", " 1.0", "1.00000", 1.0, None],
    "key": ["", "a b", "x" * 65, 5],
    "ack": ["true", 1],
    "correlation_id": ["", "a b", 5],
    "stream": ["", "x" * 513, 5],
    "seq": [0, -1, "1", 1.5],
    "traceparent": ["x" * 129, 5],
}
WRONG["action"] += ["a.b\n", "a." + "b" * 63, "ping.", "", 5, None]

ids = st.from_regex(r"[A-Za-z0-9._:-]{1,64}", fullmatch=True)
words = st.from_regex(r"[a-z][a-z0-9_]{0,14}", fullmatch=True)
actions = st.lists(words, min_size=2, max_size=4).map(".".join) | st.sampled_from(sorted(BARE_ACTIONS))
finite = st.floats(allow_nan=False, allow_infinity=False)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | finite | st.text(max_size=20),
    lambda values: st.lists(values, max_size=4) | st.dictionaries(st.text(max_size=8), values, max_size=4),
    max_leaves=12,
)
envelopes = st.builds(
    Envelope,
    msg_id=ids,
    timestamp=st.integers(0, 2**63 - 1),
    action=actions,
    data=st.dictionaries(st.text(max_size=8), json_values, max_size=4),
    version=st.integers(0, 9999).map("1.{}".format),
    key=st.none() | ids,
    ack=st.none() | st.booleans(),
    correlation_id=st.none() | ids,
    stream=st.none() | st.text(min_size=1, max_size=MAX_STREAM_LENGTH),
    seq=st.none() | st.integers(1, 2**63),
    traceparent=st.none() | st.text(max_size=128),
)

# Texts that are envelopes but for a field more, less, doubled or of another kind.
loose_values = json_values | st.floats() | st.sampled_from(["1.0", "2.0", "order.submit", "NaN", "Infinity"])
fields = st.tuples(st.sampled_from(sorted(Envelope.model_fields)) | st.text(max_size=6), loose_values)


@st.composite
def near_envelopes(draw: st.DrawFn) -> str:
    """JSON texts (some with NaN or Infinity in them) of pairs in any order, names doubled or not."""
    kept = [pair for pair in GOOD.items() if draw(st.integers(0, 9))]
    pairs = draw(st.permutations([*kept, *draw(st.lists(fields, max_size=3))]))
    space = draw(st.sampled_from(["", " ", "\n\t"]))
    body = ",".join(f"{json.dumps(name)}:{space}{json.dumps(value)}" for name, value in pairs)
    return f"{space}{{{body}}}{space}"


texts = near_envelopes() | json_values.map(json.dumps) | st.text(max_size=40)


def a_text(**changes: Any) -> str:
    return json.dumps({**GOOD, **changes})


def a_text_without(name: str) -> str:
    return json.dumps({field: value for field, value in GOOD.items() if field != name})


def parsed(text: str | bytes) -> Envelope | BadEnvelope:
    try:
        return parse(text)
    except BadEnvelope as error:
        return error


def refusal(text: str | bytes) -> BadEnvelope:
    with pytest.raises(BadEnvelope) as refused:
        parse(text)
    return refused.value


def named_fields(error: BadEnvelope) -> list[str]:
    assert error.details is not None
    return [problem["field"] for problem in error.details["fields"]]


# Valid envelopes


@given(envelopes)
def test_parsing_returns_the_encoded_value(envelope: Envelope) -> None:
    assert parse(envelope.to_json()) == envelope
    assert parse(envelope.to_json().decode()) == envelope


@given(envelopes)
def test_reading_a_decoded_envelope_is_the_same_as_parsing_its_text(envelope: Envelope) -> None:
    assert read(json.loads(envelope.to_json())) == envelope


def test_the_example_of_the_contract_is_an_envelope() -> None:
    text = (
        '{"msg_id":"req-123456","timestamp":1712048400000,"action":"order.submit",'
        '"data":{"order_id":"O20250405001","amount":99.9},"version":"1.0"}'
    )
    envelope = parse(text)
    assert (envelope.domain, envelope.action) == ("order", "order.submit")
    assert envelope.data == {"order_id": "O20250405001", "amount": 99.9}


def test_unknown_fields_are_ignored() -> None:
    assert parse(a_text(priority=9, __proto__={})) == parse(a_text())


def test_an_optional_field_may_be_null() -> None:
    optional = ["key", "ack", "correlation_id", "stream", "seq", "traceparent"]
    assert parse(a_text(**dict.fromkeys(optional))) == parse(a_text())


@pytest.mark.parametrize("action", sorted(BARE_ACTIONS))
def test_a_few_actions_have_no_domain(action: str) -> None:
    assert parse(a_text(action=action)).action == action


@pytest.mark.parametrize("version", ["1.0", "1.1", "1.9999"])
def test_any_minor_version_is_accepted(version: str) -> None:
    assert parse(a_text(version=version)).version == version


def test_data_may_be_nested_to_the_depth_of_real_payloads() -> None:
    data = json.loads('{"x":' * 100 + "1" + "}" * 100)
    assert parse(a_text(data=data)).data == data


def test_an_exact_decimal_stays_a_number() -> None:
    assert b'"data":{"amount":99.90}' in make("order.paid", {"amount": Decimal("99.90")}).to_json()


def test_fields_that_are_not_set_are_not_sent() -> None:
    assert set(json.loads(make("order.submit").to_json())) == set(GOOD)


# Invalid envelopes


@given(texts)
def test_a_text_is_an_envelope_or_has_a_reason_for_its_sender(text: str) -> None:
    result = parsed(text)
    if isinstance(result, BadEnvelope):
        told = parse(make_error(result, correlation_id=result.msg_id).to_json())
        assert told.data["code"] in (ErrorCode.BAD_ENVELOPE, ErrorCode.UNSUPPORTED_VERSION)
        assert told.correlation_id is None or json.dumps(told.correlation_id) in text


@given(texts.map(str.encode), st.binary(max_size=4), st.integers(0, 400))
def test_bytes_parse_as_their_text_does_or_are_a_bad_envelope(text: bytes, noise: bytes, place: int) -> None:
    broken = text[:place] + noise + text[place:]
    result = parsed(broken)
    if isinstance(result, Envelope):
        assert parse(broken.decode()) == result


@given(texts.map(str.encode) | envelopes.map(Envelope.to_json), st.binary(max_size=4), st.integers(0, 400))
def test_checking_accepts_the_same_frames_as_parsing(text: bytes, noise: bytes, place: int) -> None:
    text = text[:place] + noise + text[place:]
    outcome = parsed(text)
    if isinstance(outcome, Envelope):
        assert check(text) == outcome.correlation_id
        read_head = head(text)
        for name in Envelope.model_fields:
            assert name == "data" or getattr(read_head, name) == getattr(outcome, name)
    else:
        with pytest.raises(type(outcome)) as caught:
            check(text)
        with pytest.raises(type(outcome)):
            head(text)
        assert (caught.value.message, caught.value.msg_id) == (outcome.message, outcome.msg_id)


@pytest.mark.parametrize("digits", [4300, 4301])
@pytest.mark.parametrize("number", ["%s", "-%s", "%s.5", "%se5", "0.%s", '"%s"'])
def test_checking_accepts_the_same_numbers_as_parsing(number: str, digits: int) -> None:
    data = number % ("7" * digits)
    text = f'{{"msg_id":"m","timestamp":1,"action":"a.b","version":"1.0","data":{{"n":{data}}}}}'.encode()
    if isinstance(parsed(text), Envelope):
        assert check(text) is None
    else:
        with pytest.raises(BadEnvelope):
            check(text)


@given(texts)
def test_every_accepted_text_is_strict_json_for_every_reader(text: str) -> None:
    envelope = parsed(text)
    if isinstance(envelope, BadEnvelope):
        return

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} was let through")

    plain = json.loads(text, parse_constant=refuse)
    assert read(plain) == envelope
    raw = read_object(text.encode())
    assert read(raw) == envelope.model_copy(update={"data": raw["data"]})


@pytest.mark.parametrize("field", ["msg_id", "timestamp", "action", "data", "version"])
def test_a_missing_field_is_named(field: str) -> None:
    error = refusal(a_text_without(field))
    assert named_fields(error) == [field]
    assert field in error.message
    assert error.msg_id == (None if field == "msg_id" else GOOD["msg_id"])


@pytest.mark.parametrize(
    ("field", "value"), [(field, value) for field, values in WRONG.items() for value in values]
)
def test_a_field_of_the_wrong_form_is_named(field: str, value: object) -> None:
    error = refusal(a_text(**{field: value}))
    assert named_fields(error) == [field]
    assert error.msg_id == (None if field == "msg_id" else GOOD["msg_id"])


def test_all_problems_are_named_at_once() -> None:
    assert set(named_fields(refusal('{"msg_id":"m-1","data":[]}'))) == {
        "timestamp",
        "action",
        "data",
        "version",
    }


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("[]", "an array"),
        ('"x"', "a string"),
        ("1", "a number"),
        ("1.5", "a number"),
        ("null", "null"),
        ("true", "a boolean"),
    ],
)
def test_a_json_value_other_than_an_object_is_refused_with_its_type(text: str, kind: str) -> None:
    error = refusal(text)
    assert kind in error.message
    assert error.msg_id is None


@pytest.mark.parametrize("text", ["", "hello", "{", "{'msg_id': 'm'}", a_text() + "}", "\ufeff" + a_text()])
def test_invalid_json_is_refused(text: str) -> None:
    assert "not JSON" in refusal(text).message


@pytest.mark.parametrize("text", [b"\xff", a_text().encode("utf-16"), b'{"msg_id":"\xed\xa0\x80"}'])
def test_bytes_that_are_not_utf_8_are_not_json(text: bytes) -> None:
    assert "not JSON" in refusal(text).message


@pytest.mark.parametrize("text", [a_text()[:-1] + ',"x":"\ud800"}', a_text(data={"x": "\ud800"})])
def test_half_a_surrogate_pair_is_refused_raw_and_escaped(text: str) -> None:
    assert refusal(text).code is ErrorCode.BAD_ENVELOPE


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
def test_numbers_that_json_does_not_have_are_refused(number: str) -> None:
    text = a_text()[:-1] + f',"data":{{"x":[{number}]}}}}'
    for form in (text, text.encode()):
        error = refusal(form)
        assert "NaN and Infinity" in error.message
        assert error.msg_id == GOOD["msg_id"]


def test_a_text_may_contain_their_names() -> None:
    data = {"text": "NaN is not Infinity"}
    assert parse(a_text(data=data)).data == data
    assert parse(a_text(data=data).encode()).data == data


@pytest.mark.parametrize("opening", ["[", '{"x":'])
@pytest.mark.parametrize("depth", [300, 5_000, 100_000])
def test_a_bottomless_text_is_refused(opening: str, depth: int) -> None:
    closing = {"[": "]", "{": "}"}[opening[0]]
    deep = opening * depth + "1" + closing * depth
    for text in (deep, a_text()[:-1] + f',"data":{{"x":{deep}}}}}'):
        assert refusal(text).code is ErrorCode.BAD_ENVELOPE


# Versions


@pytest.mark.parametrize("version", ["0.9", "2.0", "10.0", "01.0"])
def test_a_client_of_another_major_version_gets_the_supported_version(version: str) -> None:
    with pytest.raises(UnsupportedVersion) as refused:
        parse(a_text(version=version))
    assert refused.value.msg_id == GOOD["msg_id"]
    assert refused.value.details == {"version": version, "supported": ["1.x"]}
    with pytest.raises(UnsupportedVersion):
        read({**GOOD, "version": version})


def test_another_major_version_is_recognised_even_in_an_unknown_envelope() -> None:
    with pytest.raises(UnsupportedVersion) as refused:
        parse('{"version":"2.0","id":"m-1"}')
    assert refused.value.msg_id is None


# Making them


def test_a_new_envelope_is_stamped() -> None:
    before = now_ms()
    envelope = make("chat.send", {"text": "ahoy"}, key="lobby", ack=True)
    assert before <= envelope.timestamp <= now_ms()
    assert (envelope.version, envelope.key, envelope.ack) == (VERSION, "lobby", True)
    assert parse(envelope.to_json()) == envelope


def test_new_ids_are_unique() -> None:
    assert len({new_msg_id() for _ in range(1000)}) == 1000


def test_an_answer_names_its_request() -> None:
    asked = make("order.get", {"order_id": "O1"})
    answer = asked.answer("order.get.ok", {"order_id": "O1"})
    assert answer.correlation_id == asked.msg_id
    assert answer.msg_id != asked.msg_id


def test_an_error_envelope_carries_the_error_and_the_trace() -> None:
    envelope = make_error(Conflict("O1 is shipped."), correlation_id="m-1", trace_id="ab" * 16)
    assert (envelope.action, envelope.correlation_id) == ("error", "m-1")
    assert envelope.data == {
        "code": "conflict",
        "message": "O1 is shipped.",
        "retryable": False,
        "trace_id": "ab" * 16,
    }


def test_an_error_about_an_unreadable_message_has_no_correlation_id() -> None:
    assert "correlation_id" not in json.loads(make_error(refusal("{}"), correlation_id=None).to_json())


def test_the_first_twenty_problems_are_reported() -> None:
    problem: Any = {"loc": ("items", 3, "sku"), "msg": "is missing", "type": "missing", "input": None}
    told = field_problems([problem] * 30)["fields"]
    assert told == [{"field": "items.3.sku", "problem": "is missing"}] * 20
