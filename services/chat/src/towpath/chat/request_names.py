"""The rooms and the users that a request names. No I/O."""

from collections.abc import Collection
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
from towpath.protocol.fields import Payload
from towpath.protocol.sessions import SessionEvent
from towpath.servicekit import Request

#: Sets of types, as `in` takes a tenth of the time of `isinstance` with as many types, for every request of a batch.
_Types = frozenset[type[Payload]]

#: Requests that cause a push to a room.
PUSHED: Final[_Types] = frozenset(
    {
        JoinRoom,
        LeaveRoom,
        RemoveMember,
        TransferRoom,
        DropRoom,
        SendMessage,
        SendDirect,
        EditMessage,
        DeleteMessage,
        MarkRead,
        Typing,
    }
)
#: Requests that need the row of an existing room.
OF_ROOM: Final[_Types] = frozenset(
    {LeaveRoom, Invite, RemoveMember, TransferRoom, DropRoom, MarkRead, Typing, ListMembers}
)
#: Requests whose last user may be invited.
OF_GUEST: Final[_Types] = frozenset({JoinRoom, Invite, Decline, RemoveMember})
#: Requests by which members leave a room.
LEAVING: Final[_Types] = frozenset({LeaveRoom, RemoveMember, DropRoom})
BLOCKING: Final[_Types] = frozenset({Block, Unblock})
_NAMING_A_USER: Final[_Types] = frozenset({Invite, RemoveMember, TransferRoom})
#: Requests in a room of two whose push the other user may not get.
_READ_BY_OTHER: Final[_Types] = frozenset({SendMessage, EditMessage, MarkRead, Typing})


def users_of(request: Request) -> list[str]:
    """The users whose memberships a request concerns; the asking user first, the named one last."""
    payload, kind = request.payload, type(request.payload)
    if request.session is None:
        # ``session.alive`` of a gateway names no user.
        return [payload.user_id if isinstance(payload, SessionEvent) else ""]
    user = request.session.user_id
    if kind is SendDirect:
        return [user, payload.to]
    if kind in _NAMING_A_USER:
        return [user, payload.user]
    if (kind is SendMessage or kind is EditMessage) and is_direct(payload.room):
        return [user, _other(payload.room, user)]
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


def blocks_of(request: Request) -> Collection[Pair]:
    """The blocks on which the effect of a request depends, as far as the request names them."""
    if request.session is None:
        return ()
    payload, kind, user = request.payload, type(request.payload), request.session.user_id
    if kind is SendDirect:
        other = payload.to
    elif kind in _READ_BY_OTHER and is_direct(payload.room):
        other = _other(payload.room, user)
    elif kind is Invite or kind in BLOCKING:
        other = payload.user
    else:
        return ()
    return (user, other), (other, user)


def locks(request: Request) -> str | None:
    """The room of two whose stream a block locks, existing or not (:mod:`towpath.chat.blocks`)."""
    return _pair_room(request, request.payload.user) if type(request.payload) in BLOCKING else None


def _other(room: str, user_id: str) -> str:
    one, other = direct_users(room)
    return other if one == user_id else one


def _pair_room(request: Request, other: str) -> str | None:
    assert request.session is not None
    name = direct_room(request.session.user_id, other)
    return name if len(name) <= MAX_ROOM else None
