"""Rooms, their members and their names, without a database."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from towpath.chat.domain import (
    LISTED,
    Member,
    NamesTooLong,
    NotForDirectRooms,
    NotInRoom,
    Room,
    direct_name,
    ordinary,
    title,
)
from towpath.protocol.chat import direct_users

users = st.text(alphabet=string.ascii_lowercase + ":%3A25", min_size=1, max_size=6)


@given(users, users)
def test_two_people_have_one_room_whoever_opens_it(one: str, other: str) -> None:
    room = direct_name(one, other)
    assert room == direct_name(other, one)
    assert set(direct_users(room)) == {one, other}
    assert title(room, one) == other
    assert title(room, other) == one


@given(users, users, users, users)
def test_no_two_pairs_share_a_room(one: str, other: str, third: str, fourth: str) -> None:
    same = {one, other} == {third, fourth}
    assert (direct_name(one, other) == direct_name(third, fourth)) is same


def test_names_that_fill_a_room_name_are_refused() -> None:
    with pytest.raises(NamesTooLong):
        direct_name(":" * 128, "%" * 128)


def test_a_room_of_two_is_neither_joined_nor_left() -> None:
    assert ordinary("dmz") == "dmz"
    with pytest.raises(NotForDirectRooms):
        ordinary("dm:alice:bob")


@given(st.lists(st.tuples(st.booleans(), st.sampled_from("abcde"))))
def test_the_list_of_members_follows_who_comes_and_goes(story: list[tuple[bool, str]]) -> None:
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
        assert room.told_members() == sorted(inside)
        assert {user for user in "abcde" if room.has(user)} == inside


def test_who_is_in_already_is_admitted_without_a_change() -> None:
    room = Room("weavers", members={"alice": Member("alice", read_seq=7, is_stored=True)})
    room.admit("alice")
    assert room.member("alice") == Member("alice", read_seq=7, is_stored=True)


def test_a_read_position_only_grows() -> None:
    member = Member("alice", read_seq=7)
    member.has_read(5)
    assert (member.read_seq, member.is_changed) == (7, False)
    member.has_read(9)
    assert (member.read_seq, member.is_changed) == (9, True)


def test_a_list_of_members_has_an_end() -> None:
    room = Room("stadium", listed=[f"{number:05}" for number in range(LISTED)])
    room.admit("00000a")
    assert len(room.told_members()) == LISTED
    assert room.told_members()[:2] == ["00000", "00000a"]
