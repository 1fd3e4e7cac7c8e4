"""What a request names: its room, and whose memberships it is about. No I/O."""

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
from towpath.servicekit.requests import Request


def users_of(request: Request) -> list[str]:
    """Whose memberships a request is about; first who asks."""
    if request.session is None:
        # A gateway that says that it lives speaks of nobody.
        return [request.payload.user_id if isinstance(request.payload, SessionEvent) else ""]
    user = request.session.user_id
    match request.payload:
        case SendDirect(to=other) | Invite(user=other):
            return [user, other]
    return [user]


def room_of(request: Request) -> str | None:
    """The room a request names; none where the name would not do."""
    if isinstance(request.payload, SendDirect):
        name = direct_room(*users_of(request))
        return name if len(name) <= MAX_ROOM else None
    return getattr(request.payload, "room", None)


def opens(request: Request) -> bool:
    """Whether a request makes its room if it is not there."""
    payload = request.payload
    if isinstance(payload, JoinRoom | CreateRoom):
        return not is_direct(payload.room)
    return isinstance(payload, SendDirect)
