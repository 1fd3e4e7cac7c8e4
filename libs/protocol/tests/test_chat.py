"""Payloads of chat: names that can be routed, texts that can be stored, rooms of two."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from towpath.protocol.chat import (
    MAX_TEXT,
    MAX_TITLE,
    PUSHES,
    CreateRoom,
    EditMessage,
    Invite,
    JoinRoom,
    LeaveRoom,
    MarkRead,
    Message,
    ReadHistory,
    RoomList,
    RoomSummary,
    SendDirect,
    SendMessage,
    Typing,
    direct_room,
    direct_users,
    is_direct,
    stream_of,
)
from towpath.protocol.envelope import MAX_STREAM_LENGTH
from towpath.protocol.routes import group_key, user_key

# Some names have to be alike, or no two pairs would ever collide.
users = st.text(min_size=1, max_size=8) | st.text(":%3A25ab", min_size=1, max_size=5)


def is_refused(model: type[BaseModel], data: dict[str, Any]) -> bool:
    try:
        model.model_validate(data)
    except ValidationError:
        return True
    return False


# Names


@given(st.text(max_size=140))
def test_an_accepted_name_is_routable(name: str) -> None:
    if not is_refused(JoinRoom, {"room": name}):
        assert len(stream_of(name)) <= MAX_STREAM_LENGTH
        assert group_key(stream_of(name))
    if not is_refused(SendDirect, {"to": name, "text": "ahoy"}):
        assert user_key(name)
    assert is_refused(CreateRoom, {"room": name}) is is_refused(JoinRoom, {"room": name})
    assert is_refused(Invite, {"room": "lobby", "user": name}) is is_refused(JoinRoom, {"room": name})


@pytest.mark.parametrize("name", ["lobby", "Zoë & Bo", "用户", "🚣", "a.b/c", "100%", "x" * 128, "ü" * 36])
def test_rooms_may_have_names_in_any_script(name: str) -> None:
    assert JoinRoom(room=name).room == name


@pytest.mark.parametrize("name", ["", "x" * 129, "🚣" * 20, "a\nb", "a\x00", "a\x7f", "a\ud800", 5, None])
def test_a_name_that_cannot_be_shown_or_routed_is_refused(name: object) -> None:
    assert is_refused(JoinRoom, {"room": name})
    assert is_refused(SendDirect, {"to": name, "text": "ahoy"})


@pytest.mark.parametrize(
    "title", ["a", "x" * MAX_TITLE, "🚣" * MAX_TITLE, "Zoë & Bo: the lock-keeper's", " "]
)
def test_a_title_is_one_line_of_any_script(title: str) -> None:
    assert CreateRoom(room="lobby", title=title).title == title


@pytest.mark.parametrize(
    "title", ["", "x" * (MAX_TITLE + 1), "a\nb", "line\n", "a\x00", "a\x7f", "\ud800", 5]
)
def test_a_title_that_cannot_be_shown_on_one_line_is_refused(title: object) -> None:
    assert is_refused(CreateRoom, {"room": "lobby", "title": title})


def test_a_room_is_public_by_default() -> None:
    assert CreateRoom(room="lobby").private is False
    assert is_refused(CreateRoom, {"room": "lobby", "private": 1})


# Rooms of two


@given(users, users)
def test_a_room_of_two_has_one_name_for_both_and_names_them(one: str, other: str) -> None:
    room = direct_room(one, other)
    assert room == direct_room(other, one)
    assert is_direct(room)
    assert direct_users(room) == tuple(sorted((one, other)))


@given(users, users, users, users)
def test_each_pair_has_a_room_of_its_own(a: str, b: str, c: str, d: str) -> None:
    assert (direct_room(a, b) == direct_room(c, d)) == ({a, b} == {c, d})


def test_plain_names_are_unencoded_in_a_key() -> None:
    assert direct_room("bo", "ana") == "dm:ana:bo"
    assert not is_direct("lobby")


@pytest.mark.parametrize("model", [LeaveRoom, Typing])
def test_requests_may_name_a_room_of_two(model: type[BaseModel]) -> None:
    room = direct_room("ü" * 40, ":" * 100)
    assert not is_refused(model, {"room": room})
    assert not is_refused(SendMessage, {"room": room, "text": "ahoy"})


# Texts


@pytest.mark.parametrize("text", ["a", "x" * MAX_TEXT, "🚣" * MAX_TEXT, " ", "two\nlines", "\ufeff"])
def test_a_text_keeps_every_character(text: str) -> None:
    assert SendMessage(room="lobby", text=text).text == text
    assert SendDirect(to="bo", text=text).text == text


@pytest.mark.parametrize("text", ["", "x" * (MAX_TEXT + 1), "a\x00b", 5, None])
def test_a_text_that_is_empty_too_long_or_cannot_be_stored_is_refused(text: object) -> None:
    assert is_refused(SendMessage, {"room": "lobby", "text": text})
    assert is_refused(SendDirect, {"to": "bo", "text": text})
    assert is_refused(EditMessage, {"room": "lobby", "seq": 1, "text": text})


@pytest.mark.parametrize(
    ("reference", "refused"), [("x" * 128, False), ("x" * 129, True), ("\x00", True), (5, True)]
)
def test_a_clients_own_reference_is_bounded(reference: object, refused: bool) -> None:
    assert is_refused(SendMessage, {"room": "lobby", "text": "ahoy", "client_ref": reference}) is refused


def test_a_view_of_a_message_leaves_out_absent_fields() -> None:
    message = Message(room="lobby", seq=1, user="ana", text="ahoy", sent_at=1)
    told = message.model_dump(mode="json", exclude_none=True)
    assert set(told) == {"room", "seq", "user", "text", "sent_at"}


# History


@pytest.mark.parametrize(
    ("asked", "refused"),
    [
        ({}, False),
        ({"before_seq": 10}, False),
        ({"after_seq": 0}, False),
        ({"before_seq": 10, "after_seq": 0}, True),
        ({"before_seq": -1}, True),
        ({"before_seq": 2**63}, True),
        ({"before_seq": "10"}, True),
        ({"limit": 200}, False),
        ({"limit": 201}, True),
        ({"limit": 0}, True),
        ({"limit": True}, True),
    ],
)
def test_a_history_has_one_direction_and_bounds(asked: dict[str, Any], refused: bool) -> None:
    assert is_refused(ReadHistory, {"room": "lobby", **asked}) is refused


# Positions


@pytest.mark.parametrize(
    ("seq", "refused"), [(0, False), (2**63 - 1, False), (-1, True), (2**63, True), ("4", True), (4.0, True)]
)
def test_a_position_is_an_integer_that_databases_can_store(seq: object, refused: bool) -> None:
    assert is_refused(MarkRead, {"room": "lobby", "seq": seq}) is refused


# Lists


def test_a_list_of_rooms_leaves_out_absent_fields() -> None:
    summary = RoomSummary(room="lobby", title="lobby", seq=1, read_seq=1, unread=0)
    told = RoomList(rooms=[summary]).model_dump(mode="json", exclude_none=True)
    assert told == {"rooms": [{"room": "lobby", "title": "lobby", "seq": 1, "read_seq": 1, "unread": 0}]}


# The domain as tables


def test_every_push_is_of_the_domain() -> None:
    assert {name.partition(".")[0] for name in PUSHES} == {"chat"}


def test_an_envelope_may_have_unknown_fields() -> None:
    assert SendMessage.model_validate({"room": "lobby", "text": "ahoy", "mood": "fine"}).text == "ahoy"
