"""The handlers of owners: remove a member, hand the room over, delete it."""

from towpath.chat import pushes
from towpath.chat.domain import ordinary
from towpath.chat.errors import NoSuchMember, OwnersLeave
from towpath.chat.repository import Rooms
from towpath.protocol.chat import (
    Dropped,
    DropRoom,
    Removed,
    RemoveMember,
    RoomDropped,
    Transferred,
    TransferRoom,
    stream_of,
)
from towpath.protocol.envelope import make
from towpath.protocol.messages import Session
from towpath.servicekit import Outcome, to_user


def remove(request: RemoveMember, session: Session, rooms: Rooms) -> Outcome:
    room = rooms.of_member(session.user_id, ordinary(request.room))  # raises NotForDirectRooms, NotInRoom
    room.check_owner(session.user_id)  # raises NotTheOwner
    if request.user == session.user_id:
        raise OwnersLeave(room.name)
    answer = Removed(room=room.name, user=request.user)
    if not room.has(request.user):
        if (guest := room.guest(request.user)) is None:
            raise NoSuchMember(room.name, request.user)
        # An invited user is removed before the first join: the invitation ends.
        guest.end()
        rooms.quotas.accepted(guest.by, request.user)
        return Outcome(answer=answer)
    was_crowd = rooms.is_crowd(room)
    rooms.pay_for_change(session.user_id, room)  # raises FanOutLimitExceeded
    rooms.dismiss(room, request.user)
    return Outcome(
        answer=answer,
        pushes=pushes.left(room, request.user, rooms, was_crowd=was_crowd, by=session.user_id),
    )


def transfer(request: TransferRoom, session: Session, rooms: Rooms) -> Outcome:
    room = rooms.of_member(session.user_id, ordinary(request.room))  # raises NotForDirectRooms, NotInRoom
    room.check_owner(session.user_id)  # raises NotTheOwner
    if not room.has(request.user):
        raise NoSuchMember(room.name, request.user)
    answer = Transferred(room=room.name, owner=request.user)
    if request.user == session.user_id:
        return Outcome(answer=answer)
    rooms.pay(session.user_id, room)  # raises FanOutLimitExceeded
    room.hand_over(request.user)
    return Outcome(answer=answer, pushes=pushes.owned(room, request.user, rooms))


def drop(request: DropRoom, session: Session, rooms: Rooms) -> Outcome:
    room = rooms.of_member(session.user_id, ordinary(request.room))  # raises NotForDirectRooms, NotInRoom
    room.check_owner(session.user_id)  # raises NotTheOwner
    rooms.check_dropping(room)  # raises TooManyMembers
    rooms.pay(session.user_id, room)  # raises FanOutLimitExceeded
    members = rooms.all_members(room)
    for user in members:
        rooms.dismiss(room, user)
    # Its number is used up and its entry is not stored, so no position in this stream fits a new room of the name.
    rooms.vacate(room, session.user_id)
    # Without a stream, which the members may not resume now, and by their own keys, as they leave the group first.
    dropped = make("chat.dropped", RoomDropped(room=room.name, by=session.user_id).model_dump())
    leaves = rooms.leaves(room)
    return Outcome(
        answer=Dropped(room=room.name),
        pushes=[to_user(user, dropped, leaves=leaves) for user in members],
        unsubscribe=[stream_of(room.name)],
    )
