"""Rooms, their members, names and messages, without a database."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from towpath.chat.domain import Room, direct_name, ordinary, title
from towpath.chat.errors import (
    AlreadyInRoom,
    MessageDeleted,
    NamesTooLong,
    NotForDirectRooms,
    NotInRoom,
    NotInvited,
    NotTheAuthor,
    RoomExists,
)
from towpath.chat.membership import Member
from towpath.chat.post import Post
from towpath.protocol.chat import direct_users

users = st.text(alphabet=string.ascii_lowercase + ":%3A25", min_size=1, max_size=6)


@given(users, users)
def test_two_users_have_one_room_for_either_opener(one: str, other: str) -> None:
    room = direct_name(one, other)
    assert room == direct_name(other, one)
    assert set(direct_users(room)) == {one, other}
    assert title(room, None, one) == other
    assert title(room, "given", other) == one


@given(users, users, users, users)
def test_each_pair_has_a_room_of_its_own(one: str, other: str, third: str, fourth: str) -> None:
    same = {one, other} == {third, fourth}
    assert (direct_name(one, other) == direct_name(third, fourth)) is same


def test_names_that_fill_a_room_name_are_refused() -> None:
    with pytest.raises(NamesTooLong):
        direct_name(":" * 128, "%" * 128)


def test_a_room_of_two_cannot_be_joined_or_left() -> None:
    assert ordinary("dmz") == "dmz"
    with pytest.raises(NotForDirectRooms):
        ordinary("dm:alice:bob")


@given(st.lists(st.tuples(st.booleans(), st.sampled_from("abcde"))))
def test_the_list_of_members_follows_joins_and_leaves(story: list[tuple[bool, str]]) -> None:
    room = Room("weavers")
    inside: set[str] = set()
    for comes, user in story:
        if comes:
            room.admit(user)
            inside.add(user)
        elif user in inside:
            room.dismiss(user)
            inside.remove(user)
        else:
            with pytest.raises(NotInRoom):
                room.dismiss(user)
        assert room.listed == sorted(inside)
        assert room.count == len(inside)
        assert {user for user in "abcde" if room.has(user)} == inside


def test_a_member_is_admitted_without_a_change() -> None:
    room = Room("weavers", members={"alice": Member("alice", read_seq=7, is_stored=True)})
    room.admit("alice")
    assert room.member("alice") == Member("alice", read_seq=7, is_stored=True)


def test_a_read_position_only_grows() -> None:
    member = Member("alice", read_seq=7)
    assert not member.has_read(5)
    assert (member.read_seq, member.is_changed) == (7, False)
    assert not member.has_read(7)
    assert member.has_read(9)
    assert (member.read_seq, member.is_changed) == (9, True)


@given(st.lists(st.tuples(st.sampled_from(["invite", "join", "leave"]), st.sampled_from("abc"))))
def test_a_private_room_needs_an_invitation_after_a_leave(story: list[tuple[str, str]]) -> None:
    room = Room("den")
    room.make("owner", private=True)
    inside: set[str] = set()
    asked: set[str] = set()
    for verb, user in story:
        if verb == "invite" and user in inside:
            with pytest.raises(AlreadyInRoom):
                room.invite(user, by="owner")
        elif verb == "invite":
            room.invite(user, by="owner")
            asked.add(user)
        elif verb == "join" and user not in inside | asked:
            with pytest.raises(NotInvited):
                room.check_open_to(user, invited=room.guest(user) is not None)
        elif verb == "join":
            room.check_open_to(user, invited=room.guest(user) is not None)
            room.admit(user)
            inside.add(user)
            asked.discard(user)
        elif user in inside:
            room.dismiss(user)
            inside.remove(user)
        assert {user for user in "abc" if room.has(user)} == inside


def test_a_room_is_created_once_and_keeps_its_properties() -> None:
    room = Room("den")
    room.make("alice", "The den", private=True)
    with pytest.raises(RoomExists):
        room.make("mallory", "Mine")
    assert (room.title, room.private, room.created_by) == ("The den", True, "alice")


def test_a_refused_request_changes_no_message() -> None:
    post = a_post()
    with pytest.raises(NotTheAuthor):
        post.edit("mallory", "hm", at=2)
    with pytest.raises(NotTheAuthor):
        post.delete("mallory", at=2)
    assert post == a_post()


def test_a_deleted_message_has_no_text() -> None:
    post = a_post()
    post.edit("alice", "better", at=2)
    post.delete("alice", at=3)
    assert (post.text, post.edited_at, post.deleted_at) == ("", 2, 3)
    with pytest.raises(MessageDeleted):
        post.edit("alice", "again", at=4)
    with pytest.raises(MessageDeleted):
        post.delete("alice", at=4)
    assert (post.text, post.edited_at, post.deleted_at) == ("", 2, 3)


def a_post() -> Post:
    return Post(room="den", seq=1, user_id="alice", text="good", sent_at=1, size=100)
