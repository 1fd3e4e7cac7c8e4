"""The handlers of chat: plain functions on the loaded unit of work, one per request and event."""

from typing import Final

from towpath.chat import pushes
from towpath.chat.blocking import block, list_blocked, unblock
from towpath.chat.domain import Room, check_names, direct_name, ordinary
from towpath.chat.invitations import decline, invite
from towpath.chat.ownership import drop, remove, transfer
from towpath.chat.pushes import to_room
from towpath.chat.repository import Rooms
from towpath.protocol.chat import (
    Block,
    BlockedList,
    Blocking,
    Created,
    CreateRoom,
    Decline,
    Declined,
    DeleteMessage,
    DirectSent,
    Dropped,
    DropRoom,
    EditMessage,
    FindRooms,
    FoundRooms,
    History,
    Invite,
    Invited,
    Joined,
    JoinRoom,
    LeaveRoom,
    Left,
    ListBlocked,
    ListMembers,
    ListRooms,
    MarkRead,
    MemberList,
    MemberState,
    MessageChanged,
    ReadHistory,
    ReadPosition,
    ReadPush,
    Removed,
    RemoveMember,
    RoomList,
    SendDirect,
    SendMessage,
    Sent,
    Transferred,
    TransferRoom,
    Typing,
    TypingPush,
    Unblock,
    stream_of,
)
from towpath.protocol.envelope import Envelope, make, now_ms
from towpath.protocol.fields import Empty
from towpath.protocol.messages import Session
from towpath.protocol.routes import SESSION_ALIVE, SESSION_ENDED, SESSION_STARTED
from towpath.protocol.sessions import GatewayAlive, SessionEnded, SessionStarted
from towpath.protocol.streams import Resume, ResumeAnswer
from towpath.servicekit import Handler, Handlers, Outcome, Push, resumed, to_user


def create(request: CreateRoom, session: Session, rooms: Rooms) -> Outcome:
    room = rooms.opened(ordinary(request.room))  # raises NotForDirectRooms
    # Checks before changes: a handler that raises must leave the unit of work as it was, for the rest of the batch.
    if not room.exists:
        # raises HiddenCharacters, TooManyRooms, TooManyRoomsMade
        _check_making(room, session.user_id, rooms, request.title)
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
    is_invited = rooms.invitation(room.name, session.user_id) is not None
    room.check_open_to(session.user_id, invited=is_invited)  # raises NotInvited
    if not room.has(session.user_id):
        rooms.quotas.check_entering(session.user_id, room.name, by=session.user_id)  # raises TooManyRooms
    if not room.exists:
        _check_making(room, session.user_id, rooms)  # raises HiddenCharacters, TooManyRooms, TooManyRoomsMade
    if not room.has(session.user_id):
        rooms.pay_for_change(session.user_id, room)  # raises FanOutLimitExceeded
    if not room.exists:
        room.make(session.user_id)
        rooms.quotas.made(session.user_id)
    joined = [] if room.has(session.user_id) else _admitted(room, session.user_id, rooms)
    seq, stream = rooms.seq(room), stream_of(room.name)
    answer = Joined(room=room.name, seq=seq, members=rooms.listed(room), count=rooms.crowd_count(room))
    # Messages between the commit and the subscription are replayed.
    return Outcome(answer=answer, pushes=joined, subscribe=[stream], replay={stream: seq})


def leave(request: LeaveRoom, session: Session, rooms: Rooms) -> Outcome:
    room = rooms.of_member(session.user_id, ordinary(request.room))  # raises NotForDirectRooms, NotInRoom
    was_crowd, was_owner = rooms.is_crowd(room), room.owner == session.user_id
    rooms.pay_for_change(session.user_id, room)  # raises FanOutLimitExceeded
    if was_owner:
        rooms.pay(session.user_id, room)  # raises FanOutLimitExceeded
    rooms.dismiss(room, session.user_id)
    if room.is_abandoned:
        # No resume replays it (protocol.md, "Deleted rooms").
        change = [to_user(session.user_id, rooms.vacate(room, session.user_id), stored=False)]
    else:
        change = pushes.left(room, session.user_id, rooms, was_crowd=was_crowd)
        if was_owner and (heir := room.succeed()) is not None:
            change += pushes.owned(room, heir, rooms)
    return Outcome(answer=Left(room=room.name), pushes=change, unsubscribe=[stream_of(room.name)])


def send(request: SendMessage, session: Session, rooms: Rooms) -> Outcome:
    room = rooms.of_member(session.user_id, request.room)  # raises NotInRoom
    rooms.blocks.check_writing(session.user_id, room.other(session.user_id))  # raises YouBlock
    rooms.pay(session.user_id, room, request.text)  # raises FanOutLimitExceeded
    return _sent(room, session.user_id, request.text, request.client_ref, rooms)


def direct(request: SendDirect, session: Session, rooms: Rooms) -> Outcome:
    room = rooms.opened(direct_name(session.user_id, request.to))  # raises NamesTooLong
    rooms.blocks.check_writing(session.user_id, request.to)  # raises YouBlock
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
            if rooms.blocks.has(user, session.user_id):
                room.member(user).hide()
    return _sent(room, session.user_id, request.text, None, rooms)


def edit(request: EditMessage, session: Session, rooms: Rooms) -> Outcome:
    room = rooms.of_member(session.user_id, request.room)  # raises NotInRoom
    post = rooms.messages.get(room, request.seq)  # raises NoSuchMessage
    rooms.pay(session.user_id, room, request.text)  # raises FanOutLimitExceeded
    # raises NotTheAuthor, MessageDeleted
    post.edit(session.user_id, request.text, now_ms(), hidden_from=rooms.hidden_from(room, session.user_id))
    change = rooms.messages.edited(post)
    answer = MessageChanged(room=room.name, seq=post.seq)
    return Outcome(answer=answer, pushes=to_room(room, change, rooms, hidden_from=post.hidden_from))


def delete(request: DeleteMessage, session: Session, rooms: Rooms) -> Outcome:
    room = rooms.of_member(session.user_id, request.room)  # raises NotInRoom
    post = rooms.messages.get(room, request.seq)  # raises NoSuchMessage
    rooms.pay(session.user_id, room)  # raises FanOutLimitExceeded
    post.delete(session.user_id, now_ms())  # raises NotTheAuthor, MessageDeleted
    answer = MessageChanged(room=room.name, seq=post.seq)
    change = rooms.messages.deleted(post)
    return Outcome(answer=answer, pushes=to_room(room, change, rooms, hidden_from=post.hidden_from))


def history(request: ReadHistory, session: Session, rooms: Rooms) -> Outcome:
    rooms.of_member(session.user_id, request.room)  # raises NotInRoom
    return Outcome(answer=rooms.lists.history(request, session.user_id))


def list_rooms(_: ListRooms, session: Session, rooms: Rooms) -> Outcome:
    invitations = rooms.lists.invitations(session.user_id)
    return Outcome(
        answer=RoomList(rooms=rooms.lists.summaries(session.user_id), invitations=invitations or None)
    )


def find_rooms(request: FindRooms, _: Session, rooms: Rooms) -> Outcome:
    return Outcome(answer=rooms.lists.found(request))


def list_members(request: ListMembers, session: Session, rooms: Rooms) -> Outcome:
    room = rooms.of_member(session.user_id, request.room)  # raises NotInRoom
    members = [MemberState(user=user, online=rooms.is_online(user)) for user in rooms.listed(room)]
    seq = rooms.lists.position(room.name)
    return Outcome(answer=MemberList(room=room.name, members=members, seq=seq, count=rooms.crowd_count(room)))


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
    if rooms.is_crowd(room):
        return Outcome(answer=answer, pushes=[to_user(session.user_id, change)])
    hidden_from = rooms.hidden_from(room, session.user_id)
    return Outcome(answer=answer, pushes=to_room(room, change, rooms, hidden_from=hidden_from))


def typing(request: Typing, session: Session, rooms: Rooms) -> Outcome:
    room = rooms.of_member(session.user_id, request.room)  # raises NotInRoom
    if rooms.is_crowd(room) or not rooms.may_show_typing(session.user_id, room):
        return Outcome(answer={})
    change = make("chat.typing", TypingPush(room=room.name, user=session.user_id).model_dump())
    if not room.is_direct:
        return Outcome(answer={}, pushes=to_room(room, change, rooms))
    readers = {*room.pair} - {session.user_id, rooms.hidden_from(room, session.user_id)}
    return Outcome(answer={}, pushes=[to_user(user, change) for user in readers])


def resume(request: Resume, session: Session, rooms: Rooms) -> Outcome:
    allowed = {name for name in request.positions if rooms.lists.may_receive(session.user_id, name)}
    return resumed(request.positions, allowed=allowed, groups=rooms.lists.groups(session.user_id))


def on_session_started(event: SessionStarted, rooms: Rooms) -> Outcome:
    """Subscribe a new connection to its user's rooms."""
    rooms.presence_events.started(event)
    session = Session(event.user_id, event.connection_id, event.gateway_id, inbox=event.inbox)
    return Outcome(connection=session, groups=rooms.lists.groups(event.user_id))


def on_session_ended(event: SessionEnded, rooms: Rooms) -> Outcome:
    """Record that a connection has ended."""
    rooms.presence_events.ended(event)
    return Outcome()


def on_gateway_alive(event: GatewayAlive, rooms: Rooms) -> Outcome:
    """Record that a gateway and its connections are alive."""
    rooms.presence_events.alive(event)
    return Outcome()


def _check_making(room: Room, user_id: str, rooms: Rooms, title: str | None = None) -> None:
    """Check that the user may create the room, for all its initial members.

    Raises:
        HiddenCharacters, TooManyRooms, TooManyRoomsMade
    """
    # The name of a room of two is made of user ids, and these are the issuer's.
    if not room.is_direct:
        check_names(room.name, title)
    for user in room.pair if room.is_direct else [user_id]:
        rooms.quotas.check_entering(user, room.name, by=user_id)
    rooms.quotas.check_making(user_id)


def _admitted(room: Room, user_id: str, rooms: Rooms) -> list[Push]:
    """Add the user, and push that to every member, including the user; in a crowd only to the user."""
    if (guest := room.guest(user_id)) is not None:
        rooms.quotas.accepted(guest.by, user_id)
    rooms.quotas.entered(user_id, room.name)
    rooms.add_member(room, user_id)
    # The join that makes it a crowd is counted already (protocol.md, "Crowds").
    if rooms.is_crowd(room, more=1):
        room.admit(user_id, read_seq=rooms.seq(room))
        return pushes.in_crowd("chat.joined", room, user_id, rooms)
    joined = rooms.changed("chat.joined", room, user_id)
    # Behind the entry of the join: what was written before it is not unread.
    room.admit(user_id, read_seq=rooms.seq(room))
    return to_room(room, joined, rooms)


def _sent(room: Room, user_id: str, text: str, client_ref: str | None, rooms: Rooms) -> Outcome:
    hidden_from = rooms.hidden_from(room, user_id)
    message, push = rooms.messages.post(room, user_id, text, client_ref, hidden_from=hidden_from)
    room.member(user_id).has_read(message.seq)
    if room.is_direct and hidden_from is None:
        for user in room.pair:
            room.member(user).show()
    answer = Sent(room=room.name, seq=message.seq, sent_at=message.sent_at)
    return Outcome(
        answer=answer,
        pushes=to_room(room, push, rooms, hidden_from=hidden_from),
        events=[] if hidden_from is not None else _direct_sent(room, user_id, message.seq),
    )


def _direct_sent(room: Room, by: str, seq: int) -> list[Envelope]:
    """The event for the other user of a room of two."""
    # Without the text: the inbox and other services would keep it after it is edited or deleted (docs/adr/0017).
    return [
        make("chat.direct_sent", DirectSent(user_id=user, by=by, room=room.name, seq=seq).model_dump())
        for user in (room.pair if room.is_direct else ())
        if user != by
    ]


COMMANDS: Final[Handlers] = {
    "chat.create": Handler(CreateRoom, create, answer=Created, cost=4),
    "chat.join": Handler(JoinRoom, join, answer=Joined, cost=4),
    "chat.leave": Handler(LeaveRoom, leave, answer=Left),
    "chat.invite": Handler(Invite, invite, answer=Invited, cost=4),
    "chat.decline": Handler(Decline, decline, answer=Declined, cost=4),
    "chat.remove": Handler(RemoveMember, remove, answer=Removed, cost=4),
    "chat.transfer": Handler(TransferRoom, transfer, answer=Transferred, cost=4),
    # It writes a row and a push for each member.
    "chat.drop": Handler(DropRoom, drop, answer=Dropped, cost=20),
    "chat.block": Handler(Block, block, answer=Blocking, cost=4),
    "chat.unblock": Handler(Unblock, unblock, answer=Blocking, cost=4),
    "chat.blocked": Handler(ListBlocked, list_blocked, answer=BlockedList, changes=False, cost=10),
    "chat.send": Handler(SendMessage, send, answer=Sent),
    "chat.direct": Handler(SendDirect, direct, answer=Sent),
    "chat.edit": Handler(EditMessage, edit, answer=MessageChanged),
    "chat.delete": Handler(DeleteMessage, delete, answer=MessageChanged),
    "chat.history": Handler(ReadHistory, history, answer=History, changes=False, cost=20),
    "chat.rooms": Handler(ListRooms, list_rooms, answer=RoomList, changes=False, cost=10),
    "chat.find": Handler(FindRooms, find_rooms, answer=FoundRooms, changes=False, cost=10),
    "chat.members": Handler(ListMembers, list_members, answer=MemberList, changes=False, cost=10),
    "chat.read": Handler(MarkRead, mark_read, answer=ReadPosition),
    # No user types faster than this allows. Below the cost of a heavy read.
    "chat.typing": Handler(Typing, typing, answer=Empty, changes=False, cost=9),
    "chat.resume": Handler(Resume, resume, answer=ResumeAnswer, changes=False, cost=20, groups=True),
}

EVENTS: Final[Handlers] = {
    SESSION_STARTED: Handler(SessionStarted, on_session_started, changes=False, idempotent=True, groups=True),
    SESSION_ENDED: Handler(SessionEnded, on_session_ended, changes=False, idempotent=True),
    SESSION_ALIVE: Handler(GatewayAlive, on_gateway_alive, changes=False, idempotent=True),
}
