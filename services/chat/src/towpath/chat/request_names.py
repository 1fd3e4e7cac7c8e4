"""The room and the users that a request names. No I/O."""

from towpath.protocol.chat import (
    MAX_ROOM,
    CreateRoom,
    Invite,
    JoinRoom,
    SendDirect,
    direct_room,
    is_direct,
)
from towpath.protocol.sessions import SessionEvent
from towpath.servicekit import Request


def users_of(request: Request) -> list[str]:
    """The users whose memberships a request concerns; the asking user first."""
    if request.session is None:
        # ``session.alive`` of a gateway names no user.
        return [request.payload.user_id if isinstance(request.payload, SessionEvent) else ""]
    user = request.session.user_id
    match request.payload:
        case SendDirect(to=other) | Invite(user=other):
            return [user, other]
    return [user]


def room_of(request: Request) -> str | None:
    """The room that a request names; ``None`` if the name is not valid."""
    if isinstance(request.payload, SendDirect):
        name = direct_room(*users_of(request))
        return name if len(name) <= MAX_ROOM else None
    return getattr(request.payload, "room", None)


def opens(request: Request) -> bool:
    """Whether a request creates its room if it does not exist."""
    payload = request.payload
    if isinstance(payload, JoinRoom | CreateRoom):
        return not is_direct(payload.room)
    return isinstance(payload, SendDirect)
