"""Rooms: who is in them, and what that allows. No I/O.

Guarantee: what a method raises it raises before it changes anything.
"""

import bisect
from dataclasses import dataclass, field
from typing import Final

from towpath.protocol.chat import MAX_ROOM, direct_room, direct_users, is_direct
from towpath.protocol.errors import Forbidden, InvalidData

#: Members that ``chat.join`` tells of, so that its answer fits into a frame.
LISTED: Final = 1000


class NotInRoom(Forbidden):
    """The user is not in the room, or there is no such room: which of the two is not theirs to know."""

    def __init__(self, room: str) -> None:
        super().__init__(f"You are not in room {room[:128]!r}: join it first.")


class NotForDirectRooms(Forbidden):
    """Two-person rooms are neither joined nor left."""


class NamesTooLong(InvalidData):
    """The two user ids are too long for the name of their room."""


@dataclass(slots=True)
class Member:
    """One user in one room.

    Attributes:
        read_seq: How far the user has read.
        is_stored: Whether the database has a row of it.
        is_gone: The user has left.
    """

    user_id: str
    read_seq: int = 0
    is_stored: bool = False
    is_gone: bool = False
    is_changed: bool = False

    def has_read(self, seq: int) -> None:
        """Take note that the user knows all up to ``seq``; it only grows."""
        if seq > self.read_seq:
            self.read_seq = seq
            self.is_changed = True


@dataclass(slots=True)
class Room:
    """A room, with those of its members that matter just now.

    Attributes:
        listed: The first members, sorted: those that ``chat.join`` tells of. Kept up to date where loaded.
        is_new: There was no such room before.
    """

    name: str
    listed: list[str] = field(default_factory=list)
    is_new: bool = False
    members: dict[str, Member] = field(default_factory=dict)

    @property
    def is_direct(self) -> bool:
        """Whether it is a two-person room."""
        return is_direct(self.name)

    @property
    def pair(self) -> list[str]:
        """The users of a two-person room, one if they are the same."""
        return list(dict.fromkeys(direct_users(self.name)))

    def told_members(self) -> list[str]:
        """The users in the room, sorted; the first :data:`LISTED`."""
        return self.listed[:LISTED]

    def has(self, user_id: str) -> bool:
        """Whether the user is in the room."""
        member = self.members.get(user_id)
        return member is not None and not member.is_gone

    def member(self, user_id: str) -> Member:
        """The user as a member.

        Raises:
            NotInRoom
        """
        if not self.has(user_id):
            raise NotInRoom(self.name)
        return self.members[user_id]

    def admit(self, user_id: str, read_seq: int = 0) -> None:
        """Let the user in, who knows all up to ``read_seq``; nothing changes for who is in already."""
        if self.has(user_id):
            return
        member = self.members.setdefault(user_id, Member(user_id))
        member.is_gone = False
        member.is_changed = True
        member.read_seq = read_seq
        bisect.insort(self.listed, user_id)

    def dismiss(self, user_id: str) -> None:
        """Let the user go.

        Raises:
            NotInRoom
        """
        self.member(user_id).is_gone = True
        if user_id in self.listed:
            self.listed.remove(user_id)


def ordinary(room: str) -> str:
    """The name of a room that people join and leave.

    Raises:
        NotForDirectRooms
    """
    if is_direct(room):
        raise NotForDirectRooms(
            f"{room[:128]!r} is a room of two: chat.direct opens it, nobody joins or leaves it."
        )
    return room


def direct_name(one: str, other: str) -> str:
    """The name of the two-person room of ``one`` and ``other``.

    Raises:
        NamesTooLong
    """
    name = direct_room(one, other)
    if len(name) > MAX_ROOM:
        raise NamesTooLong(f"to: {len(other)} letters are too long for a room of the two of you.")
    return name


def title(room: str, user_id: str) -> str:
    """What a room is called for ``user_id``: a two-person room has the name of the other."""
    if not is_direct(room):
        return room
    one, other = direct_users(room)
    return other if one == user_id else one
