"""Rooms: members, guests and owners, and the rules for them. No I/O.

Guarantees: a method that raises has changed nothing. A private room with members has an owner among them; other rooms
have none.
"""

import bisect
from dataclasses import dataclass, field

from towpath.chat.errors import (
    AlreadyInRoom,
    HiddenCharacters,
    NamesTooLong,
    NotForDirectRooms,
    NotInRoom,
    NotInvited,
    NotTheOwner,
    RoomExists,
)
from towpath.chat.membership import GoneRoom, Guest, Member
from towpath.protocol.chat import MAX_ROOM, direct_room, direct_users, is_direct
from towpath.protocol.names import check_visible


@dataclass(slots=True)
class Room:
    """A room, with the members and guests that the unit of work needs.

    Attributes:
        title: The displayed title, if it differs from the name.
        private: Whether only invited users may join.
        created_by: The creator, if known.
        created_at: Unix milliseconds; ``None`` if created in this unit of work.
        owner: The member who may remove others, hand the room over and delete it; only of a private room.
        exists: Whether the room exists. Known if loaded, like the attributes above.
        is_stored: Whether the database has a row of it.
        count: Number of members.
        listed: The first members, sorted. Kept up to date if loaded.
        gone: Rooms of this name that went in this unit of work.
    """

    name: str
    title: str | None = None
    private: bool = False
    created_by: str | None = None
    created_at: int | None = None
    owner: str | None = None
    exists: bool = False
    is_stored: bool = False
    count: int = 0
    is_count_changed: bool = False
    is_owner_changed: bool = False
    listed: list[str] = field(default_factory=list)
    members: dict[str, Member] = field(default_factory=dict)
    guests: dict[str, Guest] = field(default_factory=dict)
    gone: list[GoneRoom] = field(default_factory=list)

    @property
    def is_direct(self) -> bool:
        """Whether it is a two-person room."""
        return is_direct(self.name)

    @property
    def pair(self) -> list[str]:
        """The users of a two-person room, one if they are the same."""
        return list(dict.fromkeys(direct_users(self.name)))

    def other(self, user_id: str) -> str | None:
        """The other user of a two-person room; ``None`` for any other room."""
        if not self.is_direct:
            return None
        one, other = direct_users(self.name)
        return other if one == user_id else one

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

    def make(self, by: str, title: str | None = None, *, private: bool = False) -> None:
        """Create the room, empty.

        Raises:
            RoomExists
        """
        if self.exists:
            raise RoomExists(self.name)
        self.exists = True
        self.title, self.private, self.created_by = title, private, by
        self.owner = by if private else None

    def guest(self, user_id: str) -> Guest | None:
        """The user as a guest, while the invitation is open."""
        guest = self.guests.get(user_id)
        return None if guest is None or guest.has_come else guest

    def check_outside(self, user_id: str) -> None:
        """Check that the user is not in the room.

        Raises:
            AlreadyInRoom
        """
        if self.has(user_id):
            raise AlreadyInRoom(self.name, user_id)

    def invite(self, user_id: str, by: str, seq: int = 0) -> None:
        """Invite the user.

        Args:
            seq: The head of the room's stream.

        Raises:
            AlreadyInRoom
        """
        self.check_outside(user_id)
        guest = self.guests.setdefault(user_id, Guest(user_id, by))
        guest.by, guest.seq, guest.shown_by = by, seq, None
        guest.has_come, guest.is_changed = False, True

    def check_open_to(self, user_id: str, *, invited: bool) -> None:
        """Check that the user may join.

        Raises:
            NotInvited
        """
        if self.private and not invited and not self.has(user_id):
            raise NotInvited(self.name)

    def admit(self, user_id: str, read_seq: int = 0) -> None:
        """Add the user, who has read up to ``read_seq``; does nothing for a member.

        Uses up an invitation.
        """
        if self.has(user_id):
            return
        self.members.setdefault(user_id, Member(user_id)).come(read_seq)
        self.count += 1
        self.is_count_changed = True
        bisect.insort(self.listed, user_id)
        if guest := self.guests.get(user_id):
            guest.end()

    def dismiss(self, user_id: str) -> None:
        """Remove the user.

        Raises:
            NotInRoom
        """
        self.member(user_id).is_gone = True
        self.count -= 1
        self.is_count_changed = True
        if user_id in self.listed:
            self.listed.remove(user_id)

    # Ownership

    def check_owner(self, user_id: str) -> None:
        """Check that the user owns the room.

        Raises:
            NotInRoom, NotTheOwner
        """
        self.member(user_id)
        if self.owner != user_id:
            raise NotTheOwner(self.name)

    def hand_over(self, user_id: str) -> None:
        """Make a member the owner.

        Raises:
            NotInRoom
        """
        self.member(user_id)
        self.owner, self.is_owner_changed = user_id, True

    def succeed(self) -> str | None:
        """Make the member who is longest in the room the owner, of those that are loaded; returns the new owner."""
        heirs = [member for member in self.members.values() if not member.is_gone]
        self.owner = min(heirs, key=lambda member: member.seniority).user_id if heirs else None
        self.is_owner_changed = True
        return self.owner

    # The end

    @property
    def is_abandoned(self) -> bool:
        """Whether the room has no members and no user may join."""
        return self.private and self.count <= 0

    def vacate(self, seq: int) -> None:
        """Mark the room as gone, with its stream up to ``seq``; its name is free."""
        # A new room of this name continues after `seq`: no position in the old stream fits the new one.
        self.gone.append(GoneRoom(seq, self.created_by, self.created_at))
        self.exists = self.private = False
        self.title = self.created_by = self.created_at = self.owner = None
        self.count = 0
        # Their invitations were to the gone room, not to a new one of its name.
        for guest in self.guests.values():
            guest.end()

    @property
    def begins_after(self) -> int:
        """The last ``seq`` of a gone room of this name; only of rooms gone in this unit of work."""
        return self.gone[-1].seq if self.gone else 0


def ordinary(room: str) -> str:
    """The name of a room that people join and leave.

    Raises:
        NotForDirectRooms
    """
    if is_direct(room):
        raise NotForDirectRooms(
            f"{room[:128]!r} is a room of two: chat.direct opens it; it has no joins, leaves or invitations."
        )
    return room


def check_names(room: str, title: str | None = None) -> None:
    """Check the name and the title of a new room: people must see all of them.

    Raises:
        HiddenCharacters
    """
    for field_name, text in (("room", room), ("title", title)):
        if text is not None:
            try:
                check_visible(text)
            except ValueError as error:
                raise HiddenCharacters(field_name, str(error)) from None


def direct_name(one: str, other: str) -> str:
    """The name of the two-person room of ``one`` and ``other``.

    Raises:
        NamesTooLong
    """
    name = direct_room(one, other)
    if len(name) > MAX_ROOM:
        raise NamesTooLong(f"to: {len(other)} letters are too long for a room of the two of you.")
    return name


def title(room: str, given: str | None, user_id: str) -> str:
    """The title of a room for ``user_id``: a two-person room has the name of the other user.

    Args:
        given: The title set at its creation.
    """
    if not is_direct(room):
        return given or room
    one, other = direct_users(room)
    return other if one == user_id else one
