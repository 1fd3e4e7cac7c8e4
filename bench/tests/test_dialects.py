"""Every frame carries its number, which identifies its answers and pushes."""

import json
from typing import Any

import pytest

from bench import dialects
from bench.dialects import dialect, number_after
from bench.dialects.towpath import DIALECT as TOWPATH
from towpath.protocol.envelope import make, make_error, parse
from towpath.protocol.errors import Busy

NUMBERS = (0, 1, 4_711, 9_999_999_999)
KINDS = ("echo", "order.first", "order.get", "order.submit")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("number", NUMBERS)
def test_the_towpath_dialect_makes_valid_envelopes(kind: str, number: int) -> None:
    assert parse(TOWPATH.request(kind, "u1")(number)).msg_id == f"{number:010d}"


@pytest.mark.parametrize("number", NUMBERS)
def test_an_answer_is_recognised_by_the_request_it_names(number: int) -> None:
    answer = make("echo.say.ok", {"text": "x"}, correlation_id=f"{number:010d}").to_json()
    assert (TOWPATH.answered(answer), TOWPATH.heard(answer[:0])) == (number, None)


@pytest.mark.parametrize("number", NUMBERS)
def test_a_refusal_does_not_count_as_an_answer(number: int) -> None:
    refusal = make_error(Busy("The broker takes no more."), correlation_id=f"{number:010d}").to_json()
    assert (TOWPATH.answered(refusal), TOWPATH.refused(refusal)) == (None, number)


@pytest.mark.parametrize("number", NUMBERS)
def test_a_message_of_a_room_arrives_with_its_number(number: int) -> None:
    said = parse(TOWPATH.say("r1", "u1")(number))
    push = make("chat.message", {**said.data, "user": "u1"}, stream="chat:r1", seq=3).to_json()
    assert (TOWPATH.heard(push), TOWPATH.position(push)) == (number, 3)


def test_all_messages_of_a_room_have_the_same_key_so_that_they_keep_their_order() -> None:
    frames = [TOWPATH.join("r1", 1), TOWPATH.say("r1", "u1")(2), TOWPATH.leave("r1", 3)]
    assert {parse(frame).key for frame in frames} == {"r1"}


@pytest.mark.parametrize("name", dialects.NAMES)
def test_every_dialect_makes_one_frame_a_number_and_the_same_length_for_all(name: str) -> None:
    make_request = dialect(name).request("echo", "u1")
    frames = [make_request(number) for number in NUMBERS]
    assert len(set(frames)) == len(NUMBERS)
    assert len({len(frame) for frame in frames}) == 1


@pytest.mark.parametrize("name", ["plain", "towpath"])
def test_a_push_of_another_backend_is_an_envelope_whose_text_begins_with_the_number(name: str) -> None:
    publication = dialect(name).push("u1")(42)
    data: dict[str, Any] = json.loads(publication.body)["data"]
    assert data["text"].startswith("0000000042")
    assert publication.routing_key == "user.u1"


def test_a_number_is_found_anywhere_in_a_text() -> None:
    read = number_after(b'"n":"')
    frames = [b'{"n":"0000000001"}', b'{"longer":1,"n":"0000000002"}', b"{}", b'{"n":"0000000003"}']
    assert [read(frame) for frame in frames] == [1, 2, None, 3]
