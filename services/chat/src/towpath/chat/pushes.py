"""Pushes to the members of a room."""

from collections.abc import Sequence

from towpath.chat.domain import Room
from towpath.chat.repository import Rooms
from towpath.protocol.chat import MemberChange, OwnerChange, stream_of
from towpath.protocol.envelope import Envelope, make
from towpath.servicekit import Leave, Push, to_group, to_user


def to_room(room: Room, envelope: Envelope, rooms: Rooms, *, hidden_from: str | None = None) -> list[Push]:
    """Pushes to every member of the room. A two-person room has no group: each of the two is pushed to as a user.

    Args:
        hidden_from: The user of a two-person room who does not get it.
    """
    if room.is_direct:
        return [to_user(user, envelope) for user in room.pair if user != hidden_from]
    return [to_group(stream_of(room.name), envelope, leaves=rooms.leaves(room))]


def left(room: Room, user_id: str, rooms: Rooms, *, was_crowd: bool, by: str | None = None) -> list[Push]:
    """The pushes for a user who has left, or whom the owner ``by`` has removed."""
    # The leave that makes it an ordinary room is the last one that is counted (protocol.md, "Crowds").
    if was_crowd:
        return in_crowd("chat.left", room, user_id, rooms, by=by)
    change = rooms.changed("chat.left", room, user_id, by=by)
    # The user's own connections get it by the user's key: they leave the group before it is published.
    return [*to_room(room, change, rooms), to_user(user_id, change)]


def in_crowd(action: str, room: Room, user_id: str, rooms: Rooms, *, by: str | None = None) -> list[Push]:
    """Mark the crowd for its next count, and push the change to the user's own connections, without a stream."""
    rooms.mark_crowd(room)
    change = MemberChange(room=room.name, seq=rooms.seq(room), user=user_id, by=by)
    envelope = make(action, change.model_dump(exclude_none=True))
    # Without a push to the group the leaves go with this one: a removed user must not get the next count.
    leaves: Sequence[Leave] = rooms.leaves(room) if action == "chat.left" else ()
    return [to_user(user_id, envelope, leaves=leaves)]


def owned(room: Room, owner: str, rooms: Rooms) -> list[Push]:
    """The pushes that say who owns the room now."""
    change = rooms.appended("chat.owner", room, lambda seq: OwnerChange(room=room.name, seq=seq, user=owner))
    return to_room(room, change, rooms)
