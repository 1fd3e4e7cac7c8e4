"""The rooms and the users that a request names. No I/O."""

from typing import Final

from towpath.chat.blocks import Pair
from towpath.protocol.chat import (
    MAX_ROOM,
    Block,
    CreateRoom,
    Decline,
    DeleteMessage,
    DropRoom,
    EditMessage,
    Invite,
    JoinRoom,
    LeaveRoom,
    ListMembers,
    MarkRead,
    RemoveMember,
    SendDirect,
    SendMessage,
    TransferRoom,
    Typing,
    Unblock,
    direct_room,
    direct_users,
    is_direct,
)
from towpath.protocol.sessions import SessionEvent
from towpath.servicekit import Request

#: Requests that cause a push to a room.
PUSHED: Final = (
    JoinRoom
    | LeaveRoom
    | RemoveMember
    | TransferRoom
    | DropRoom
    | SendMessage
    | SendDirect
    | EditMessage
    | DeleteMessage
    | MarkRead
    | Typing
)
#: Requests that need the row of an existing room.
OF_ROOM: Final = LeaveRoom | Invite | RemoveMember | TransferRoom | DropRoom | MarkRead | Typing | ListMembers
#: Requests whose last user may be invited.
OF_GUEST: Final = JoinRoom | Invite | Decline | RemoveMember
#: Requests by which members leave a room.
LEAVING: Final = LeaveRoom | RemoveMember | DropRoom


def users_of(request: Request) -> list[str]:
    """The users whose memberships a request concerns; the asking user first, the named one last."""
    if request.session is None:
        # ``session.alive`` of a gateway names no user.
        return [request.payload.user_id if isinstance(request.payload, SessionEvent) else ""]
    user = request.session.user_id
    match request.payload:
        case SendDirect(to=other) | Invite(user=other) | RemoveMember(user=other) | TransferRoom(user=other):
            return [user, other]
        case SendMessage() | EditMessage() if (reader := reader_of(request)) is not None:
            return [user, reader]
    return [user]


def room_of(request: Request) -> str | None:
    """The room that a request names; ``None`` if the name is not valid."""
    if isinstance(request.payload, SendDirect):
        return _pair_room(request, request.payload.to)
    return getattr(request.payload, "room", None)


def opens(request: Request) -> bool:
    """Whether a request creates its room if it does not exist."""
    payload = request.payload
    if isinstance(payload, JoinRoom | CreateRoom):
        return not is_direct(payload.room)
    return isinstance(payload, SendDirect)


def reader_of(request: Request) -> str | None:
    """The other user of a room of two, who gets the push of this request; ``None`` for other requests."""
    payload = request.payload
    assert request.session is not None
    if isinstance(payload, SendDirect):
        return payload.to
    if isinstance(payload, SendMessage | EditMessage | MarkRead | Typing) and is_direct(payload.room):
        one, other = direct_users(payload.room)
        return other if one == request.session.user_id else one
    return None


def blocks_of(request: Request) -> set[Pair]:
    """The blocks on which the effect of a request depends, as far as the request names them."""
    if request.session is None:
        return set()
    user = request.session.user_id
    match request.payload:
        case Block(user=other) | Unblock(user=other):
            return {(user, other)}
        case Invite(user=other):
            return {(other, user)}
    reader = reader_of(request)
    return set() if reader is None else {(user, reader), (reader, user)}


def locks(request: Request) -> str | None:
    """The room of two whose stream a block locks, existing or not (:mod:`towpath.chat.blocks`)."""
    payload = request.payload
    return _pair_room(request, payload.user) if isinstance(payload, Block | Unblock) else None


def _pair_room(request: Request, other: str) -> str | None:
    assert request.session is not None
    name = direct_room(request.session.user_id, other)
    return name if len(name) <= MAX_ROOM else None
