"""The handlers of chat: plain functions on the loaded unit of work, one per request and event."""

from typing import Final

from towpath.chat.domain import Room, direct_name, ordinary, title
from towpath.chat.repository import Rooms
from towpath.protocol.chat import (
    Created,
    CreateRoom,
    DeleteMessage,
    EditMessage,
    Invitation,
    Invite,
    Invited,
    Joined,
    JoinRoom,
    LeaveRoom,
    Left,
    ListMembers,
    ListRooms,
    MarkRead,
    MemberChange,
    MemberList,
    MemberState,
    MessageChanged,
    ReadHistory,
    ReadPosition,
    ReadPush,
    RoomList,
    SendDirect,
    SendMessage,
    Sent,
    Typing,
    TypingPush,
    stream_of,
)
from towpath.protocol.envelope import Envelope, make, now_ms
from towpath.protocol.messages import Session
from towpath.protocol.routes import SESSION_ALIVE, SESSION_ENDED, SESSION_STARTED
from towpath.protocol.sessions import GatewayAlive, SessionEnded, SessionStarted
from towpath.protocol.streams import Resume
from towpath.servicekit import Handler, Handlers, Outcome, Push, resumed, to_group, to_user


def create(request: CreateRoom, session: Session, rooms: Rooms) -> Outcome:
    room = rooms.opened(ordinary(request.room))  # raises NotForDirectRooms
    # Checks before changes: a handler that raises must leave the unit of work as it was, for the rest of the batch.
    if not room.exists:
        _check_making(room, session.user_id, rooms)  # raises TooManyRooms, TooManyRoomsMade
    room.make(session.user_id, request.title, private=request.private)  # raises RoomExists
    rooms.quotas.made(session.user_id)
    return Outcome(
        answer=Created(room=room.name),
        pushes=_admitted(room, session.user_id, rooms),
        subscribe=[stream_of(room.name)],
        replay={stream_of(room.name): rooms.seq(room)},
    )


def join(request: JoinRoom, session: Session, rooms: Rooms) -> Outcome:
    room = rooms.opened(ordinary(request.room))  # raises NotForDirectRooms
    room.check_open_to(session.user_id)  # raises NotInvited
    if not room.has(session.user_id):
        rooms.quotas.check_entering(session.user_id, room.name, by=session.user_id)  # raises TooManyRooms
    if not room.exists:
        _check_making(room, session.user_id, rooms)  # raises TooManyRooms, TooManyRoomsMade
    if not room.has(session.user_id):
        rooms.pay_for_change(session.user_id, room)  # raises FanOutLimitExceeded
    if not room.exists:
        room.make(session.user_id)
        rooms.quotas.made(session.user_id)
    pushes = [] if room.has(session.user_id) else _admitted(room, session.user_id, rooms)
    seq, stream = rooms.seq(room), stream_of(room.name)
    answer = Joined(room=room.name, seq=seq, members=rooms.listed(room), count=rooms.crowd_count(room))
    # Messages between the commit and the subscription are replayed.
    return Outcome(answer=answer, pushes=pushes, subscribe=[stream], replay={stream: seq})


def leave(request: LeaveRoom, session: Session, rooms: Rooms) -> Outcome:
    room = rooms.of_member(session.user_id, ordinary(request.room))  # raises NotForDirectRooms, NotInRoom
    was_crowd = rooms.is_crowd(room)
    rooms.pay_for_change(session.user_id, room)  # raises FanOutLimitExceeded
    room.dismiss(session.user_id)
    # Stored beside the head until the `unsubscribe` is confirmed (docs/adr/0021): no later push may reach the user.
    rooms.remove_member(room, session.user_id)
    rooms.quotas.left(session.user_id, room.name)
    if room.is_abandoned:
        left = rooms.vacate(room, session.user_id)
        # No resume replays it (protocol.md, "Deleted rooms").
        pushes = [to_user(session.user_id, left, stored=False)]
    # The leave that makes it an ordinary room is the last one that is counted (protocol.md, "Crowds").
    elif was_crowd:
        pushes = _crowd_change("chat.left", room, session.user_id, rooms)
    else:
        left = rooms.changed("chat.left", room, session.user_id)
        # The user's own connections get it by the user's key: they leave the group before it is published.
        pushes = [*_push(room, left, rooms), to_user(session.user_id, left)]
    return Outcome(
        answer=Left(room=room.name),
        pushes=pushes,
        unsubscribe=[stream_of(room.name)],
    )


def invite(request: Invite, session: Session, rooms: Rooms) -> Outcome:
    room = rooms.of_member(session.user_id, ordinary(request.room))  # raises NotForDirectRooms, NotInRoom
    room.check_outside(request.user)  # raises AlreadyInRoom
    answer = Invited(room=room.name, user=request.user)
    if room.inviter(request.user) is not None:
        # An open invitation is pushed once; else members could alternate and push without end.
        return Outcome(answer=answer)
    rooms.quotas.check_inviting(session.user_id, request.user)  # raises TooManyInvitations
    room.invite(request.user, by=session.user_id, seq=rooms.seq(room))
    rooms.quotas.invited(session.user_id, request.user)
    shown = title(room.name, room.title, request.user)
    invitation = Invitation(room=room.name, title=shown, by=session.user_id)
    return Outcome(
        answer=answer, pushes=[to_user(request.user, make("chat.invited", invitation.model_dump()))]
    )


def send(request: SendMessage, session: Session, rooms: Rooms) -> Outcome:
    room = rooms.of_member(session.user_id, request.room)  # raises NotInRoom
    rooms.pay(session.user_id, room, request.text)  # raises FanOutLimitExceeded
    return _sent(room, session.user_id, request.text, request.client_ref, rooms)


def direct(request: SendDirect, session: Session, rooms: Rooms) -> Outcome:
    room = rooms.opened(direct_name(session.user_id, request.to))  # raises NamesTooLong
    if not room.exists:
        _check_making(room, session.user_id, rooms)  # raises TooManyRooms, TooManyRoomsMade
    rooms.pay(session.user_id, room, request.text)  # raises FanOutLimitExceeded
    if not room.exists:
        room.make(session.user_id)
        rooms.quotas.made(session.user_id)
    for user in room.pair:
        if not room.has(user):
            room.admit(user)
            rooms.quotas.entered(user, room.name)
    return _sent(room, session.user_id, request.text, None, rooms)


def edit(request: EditMessage, session: Session, rooms: Rooms) -> Outcome:
    room = rooms.of_member(session.user_id, request.room)  # raises NotInRoom
    post = rooms.messages.get(room, request.seq)  # raises NoSuchMessage
    rooms.pay(session.user_id, room, request.text)  # raises FanOutLimitExceeded
    post.edit(session.user_id, request.text, now_ms())  # raises NotTheAuthor, MessageDeleted
    answer = MessageChanged(room=room.name, seq=post.seq)
    return Outcome(answer=answer, pushes=_push(room, rooms.messages.edited(post), rooms))


def delete(request: DeleteMessage, session: Session, rooms: Rooms) -> Outcome:
    room = rooms.of_member(session.user_id, request.room)  # raises NotInRoom
    post = rooms.messages.get(room, request.seq)  # raises NoSuchMessage
    rooms.pay(session.user_id, room)  # raises FanOutLimitExceeded
    post.delete(session.user_id, now_ms())  # raises NotTheAuthor, MessageDeleted
    answer = MessageChanged(room=room.name, seq=post.seq)
    return Outcome(answer=answer, pushes=_push(room, rooms.messages.deleted(post), rooms))


def history(request: ReadHistory, session: Session, rooms: Rooms) -> Outcome:
    rooms.of_member(session.user_id, request.room)  # raises NotInRoom
    return Outcome(answer=rooms.history(request))


def list_rooms(_: ListRooms, session: Session, rooms: Rooms) -> Outcome:
    invitations = rooms.invitations(session.user_id)
    return Outcome(answer=RoomList(rooms=rooms.summaries(session.user_id), invitations=invitations or None))


def list_members(request: ListMembers, session: Session, rooms: Rooms) -> Outcome:
    room = rooms.of_member(session.user_id, request.room)  # raises NotInRoom
    members = [MemberState(user=user, online=rooms.is_online(user)) for user in rooms.listed(room)]
    return Outcome(answer=MemberList(room=room.name, members=members, count=rooms.crowd_count(room)))


def mark_read(request: MarkRead, session: Session, rooms: Rooms) -> Outcome:
    room = rooms.of_member(session.user_id, request.room)  # raises NotInRoom
    member = room.member(session.user_id)
    position = min(request.seq, rooms.seq(room))  # one ahead of the stream would hide the next messages
    if position > member.read_seq:
        rooms.pay_for_change(session.user_id, room)  # raises FanOutLimitExceeded
    grew = member.has_read(position)
    answer = ReadPosition(room=room.name, seq=member.read_seq)
    if not grew:
        return Outcome(answer=answer)
    read = ReadPush(room=room.name, user=session.user_id, seq=member.read_seq)
    change = make("chat.read", read.model_dump())
    # In a crowd only the reader's own connections get it: one push per reader to all members would be their square.
    pushes = [to_user(session.user_id, change)] if rooms.is_crowd(room) else _push(room, change, rooms)
    return Outcome(answer=answer, pushes=pushes)


def typing(request: Typing, session: Session, rooms: Rooms) -> Outcome:
    room = rooms.of_member(session.user_id, request.room)  # raises NotInRoom
    if rooms.is_crowd(room) or not rooms.may_show_typing(session.user_id, room):
        return Outcome(answer={})
    change = make("chat.typing", TypingPush(room=room.name, user=session.user_id).model_dump())
    if room.is_direct:
        return Outcome(
            answer={}, pushes=[to_user(user, change) for user in room.pair if user != session.user_id]
        )
    return Outcome(answer={}, pushes=_push(room, change, rooms))


def resume(request: Resume, session: Session, rooms: Rooms) -> Outcome:
    allowed = {name for name in request.positions if rooms.may_receive(session.user_id, name)}
    return resumed(request.positions, allowed=allowed, groups=rooms.groups(session.user_id))


def on_session_started(event: SessionStarted, rooms: Rooms) -> Outcome:
    """Subscribe a new connection to its user's rooms."""
    rooms.presence_events.started(event)
    session = Session(event.user_id, event.connection_id, event.gateway_id, inbox=event.inbox)
    return Outcome(connection=session, groups=rooms.groups(event.user_id))


def on_session_ended(event: SessionEnded, rooms: Rooms) -> Outcome:
    """Record that a connection has ended."""
    rooms.presence_events.ended(event)
    return Outcome()


def on_gateway_alive(event: GatewayAlive, rooms: Rooms) -> Outcome:
    """Record that a gateway and its connections are alive."""
    rooms.presence_events.alive(event)
    return Outcome()


def _check_making(room: Room, user_id: str, rooms: Rooms) -> None:
    """Check that the user may create the room, for all its initial members.

    Raises:
        TooManyRooms, TooManyRoomsMade
    """
    for user in room.pair if room.is_direct else [user_id]:
        rooms.quotas.check_entering(user, room.name, by=user_id)
    rooms.quotas.check_making(user_id)


def _admitted(room: Room, user_id: str, rooms: Rooms) -> list[Push]:
    """Add the user, and push that to every member, including the user; in a crowd only to the user."""
    if (inviter := room.inviter(user_id)) is not None:
        rooms.quotas.accepted(inviter, user_id)
    rooms.quotas.entered(user_id, room.name)
    rooms.add_member(room, user_id)
    # The join that makes it a crowd is counted already (protocol.md, "Crowds").
    if rooms.is_crowd(room, more=1):
        room.admit(user_id, read_seq=rooms.seq(room))
        return _crowd_change("chat.joined", room, user_id, rooms)
    joined = rooms.changed("chat.joined", room, user_id)
    # Behind the entry of the join: what was written before it is not unread.
    room.admit(user_id, read_seq=rooms.seq(room))
    return _push(room, joined, rooms)


def _crowd_change(action: str, room: Room, user_id: str, rooms: Rooms) -> list[Push]:
    """Mark the crowd for its next count, and push the change to the user's own connections, without a stream."""
    rooms.mark_crowd(room)
    change = MemberChange(room=room.name, seq=rooms.seq(room), user=user_id)
    return [to_user(user_id, make(action, change.model_dump()))]


def _sent(room: Room, user_id: str, text: str, client_ref: str | None, rooms: Rooms) -> Outcome:
    message, push = rooms.messages.post(room, user_id, text, client_ref)
    room.member(user_id).has_read(message.seq)
    answer = Sent(room=room.name, seq=message.seq, sent_at=message.sent_at)
    return Outcome(answer=answer, pushes=_push(room, push, rooms))


def _push(room: Room, envelope: Envelope, rooms: Rooms) -> list[Push]:
    """Pushes to every member of the room. A two-person room has no group: each of the two is pushed to as a user."""
    if room.is_direct:
        return [to_user(user, envelope) for user in room.pair]
    return [to_group(stream_of(room.name), envelope, leaves=rooms.leaves(room))]


COMMANDS: Final[Handlers] = {
    "chat.create": Handler(CreateRoom, create, cost=4),
    "chat.join": Handler(JoinRoom, join, cost=4),
    "chat.leave": Handler(LeaveRoom, leave),
    "chat.invite": Handler(Invite, invite, cost=4),
    "chat.send": Handler(SendMessage, send),
    "chat.direct": Handler(SendDirect, direct),
    "chat.edit": Handler(EditMessage, edit),
    "chat.delete": Handler(DeleteMessage, delete),
    "chat.history": Handler(ReadHistory, history, changes=False, cost=20),
    "chat.rooms": Handler(ListRooms, list_rooms, changes=False, cost=10),
    "chat.members": Handler(ListMembers, list_members, changes=False, cost=10),
    "chat.read": Handler(MarkRead, mark_read),
    # No user types faster than this allows. Below the cost of a heavy read.
    "chat.typing": Handler(Typing, typing, changes=False, cost=9),
    "chat.resume": Handler(Resume, resume, changes=False, cost=20, groups=True),
}

EVENTS: Final[Handlers] = {
    SESSION_STARTED: Handler(SessionStarted, on_session_started, changes=False, idempotent=True, groups=True),
    SESSION_ENDED: Handler(SessionEnded, on_session_ended, changes=False, idempotent=True),
    SESSION_ALIVE: Handler(GatewayAlive, on_gateway_alive, changes=False, idempotent=True),
}
