"""What chat does with each request and event: plain functions on what the unit of work loaded."""

from typing import Final

from towpath.chat.domain import Room, direct_name, ordinary
from towpath.chat.repository import Rooms
from towpath.protocol.chat import (
    Joined,
    JoinRoom,
    LeaveRoom,
    Left,
    ListRooms,
    ReadHistory,
    RoomList,
    SendDirect,
    SendMessage,
    Sent,
    Typing,
    TypingTold,
    is_direct,
    stream_of,
)
from towpath.protocol.envelope import Envelope, make
from towpath.protocol.messages import Session
from towpath.protocol.routes import SESSION_STARTED
from towpath.protocol.sessions import SessionEvent
from towpath.protocol.streams import Resume
from towpath.servicekit.outcome import Outcome, Tell, resumed, to_group, to_user
from towpath.servicekit.requests import Handler, Handlers


def join(request: JoinRoom, session: Session, rooms: Rooms) -> Outcome:
    room = rooms.opened(ordinary(request.room))  # raises NotForDirectRooms
    tell: list[Tell] = []
    if not room.has(session.user_id):
        tell = _told(room, rooms.changed("chat.joined", room, session.user_id))
        room.admit(session.user_id, read_seq=rooms.seq(room))
    seq, stream = rooms.seq(room), stream_of(room.name)
    answer = Joined(room=room.name, seq=seq, members=room.told_members())
    # What is said between the commit and the subscription is replayed.
    return Outcome(answer=answer, tell=tell, subscribe=[stream], replay={stream: seq})


def leave(request: LeaveRoom, session: Session, rooms: Rooms) -> Outcome:
    room = rooms.of_member(session.user_id, ordinary(request.room))  # raises NotForDirectRooms, NotInRoom
    room.dismiss(session.user_id)
    left = rooms.changed("chat.left", room, session.user_id)
    return Outcome(
        answer=Left(room=room.name),
        # The user's connections are no longer in the group then.
        tell=[*_told(room, left), to_user(session.user_id, left)],
        unsubscribe=[stream_of(room.name)],
    )


def send(request: SendMessage, session: Session, rooms: Rooms) -> Outcome:
    room = rooms.of_member(session.user_id, request.room)  # raises NotInRoom
    return _sent(room, session.user_id, request.text, request.client_ref, rooms)


def direct(request: SendDirect, session: Session, rooms: Rooms) -> Outcome:
    room = rooms.opened(direct_name(session.user_id, request.to))  # raises NamesTooLong
    for user in room.pair:
        room.admit(user)
    return _sent(room, session.user_id, request.text, None, rooms)


def history(request: ReadHistory, session: Session, rooms: Rooms) -> Outcome:
    rooms.of_member(session.user_id, request.room)  # raises NotInRoom
    return Outcome(answer=rooms.history(request))


def list_rooms(_: ListRooms, session: Session, rooms: Rooms) -> Outcome:
    return Outcome(answer=RoomList(rooms=rooms.summaries(session.user_id)))


def typing(request: Typing, session: Session, rooms: Rooms) -> Outcome:
    room = rooms.of_member(session.user_id, request.room)  # raises NotInRoom
    told = make("chat.typing", TypingTold(room=room.name, user=session.user_id).model_dump())
    if room.is_direct:
        return Outcome(answer={}, tell=[to_user(user, told) for user in room.pair if user != session.user_id])
    return Outcome(answer={}, tell=_told(room, told))


def resume(request: Resume, session: Session, rooms: Rooms) -> Outcome:
    names = rooms.names(session.user_id)
    return resumed(request.positions, allowed={stream_of(name) for name in names}, subscribe=_groups(names))


def greet(event: SessionEvent, rooms: Rooms) -> Outcome:
    """A connection is new: it hears the rooms of its user from now on."""
    session = Session(event.user_id, event.connection_id, event.gateway_id)
    return Outcome(connection=session, subscribe=_groups(rooms.names(event.user_id)))


def _sent(room: Room, user_id: str, text: str, client_ref: str | None, rooms: Rooms) -> Outcome:
    message, push = rooms.post(room, user_id, text, client_ref)
    room.member(user_id).has_read(message.seq)
    answer = Sent(room=room.name, seq=message.seq, sent_at=message.sent_at)
    return Outcome(answer=answer, tell=_told(room, push))


def _told(room: Room, envelope: Envelope) -> list[Tell]:
    """Everybody in the room. A two-person room has no group: each of the two hears it as a user."""
    if room.is_direct:
        return [to_user(user, envelope) for user in room.pair]
    return [to_group(stream_of(room.name), envelope)]


def _groups(names: list[str]) -> list[str]:
    return [stream_of(name) for name in names if not is_direct(name)]


COMMANDS: Final[Handlers] = {
    "chat.join": Handler(JoinRoom, join),
    "chat.leave": Handler(LeaveRoom, leave),
    "chat.send": Handler(SendMessage, send),
    "chat.direct": Handler(SendDirect, direct),
    "chat.history": Handler(ReadHistory, history, changes=False),
    "chat.rooms": Handler(ListRooms, list_rooms, changes=False),
    "chat.typing": Handler(Typing, typing, changes=False),
    "chat.resume": Handler(Resume, resume, changes=False),
}

EVENTS: Final[Handlers] = {
    SESSION_STARTED: Handler(SessionEvent, greet, changes=False),
}
