"""The handlers of invitations: invite and decline."""

from towpath.chat.domain import Room, ordinary, title
from towpath.chat.errors import NoInvitation
from towpath.chat.repository import Rooms
from towpath.protocol.chat import Decline, Declined, Invitation, InvitationSent, Invite, Invited
from towpath.protocol.envelope import make
from towpath.protocol.messages import Session
from towpath.servicekit import Outcome, to_user


def invite(request: Invite, session: Session, rooms: Rooms) -> Outcome:
    """A user who blocks the inviter sees nothing of it; the inviter gets the same answer, and the same limits."""
    room = rooms.of_member(session.user_id, ordinary(request.room))  # raises NotForDirectRooms, NotInRoom
    room.check_outside(request.user)  # raises AlreadyInRoom
    answer = Invited(room=room.name, user=request.user)
    is_seen = not rooms.blocks.has(request.user, session.user_id)
    if (guest := room.guest(request.user)) is not None:
        # An open invitation is pushed once; else members could alternate and push without end. One that its guest
        # does not see must not keep the invitations of other members away.
        if not is_seen or rooms.invitation(room.name, request.user) is not None:
            return Outcome(answer=answer)
        guest.show(by=session.user_id)
        return _invited(answer, room, request.user, session.user_id)
    rooms.quotas.check_inviting(session.user_id, request.user)  # raises TooManyInvitations
    room.invite(request.user, by=session.user_id, seq=rooms.seq(room))
    rooms.quotas.invited(session.user_id, request.user)
    return _invited(answer, room, request.user, session.user_id) if is_seen else Outcome(answer=answer)


def decline(request: Decline, session: Session, rooms: Rooms) -> Outcome:
    name = ordinary(request.room)  # raises NotForDirectRooms
    guest = rooms.invitation(name, session.user_id)
    if guest is None:
        raise NoInvitation(name)
    guest.end()
    rooms.quotas.accepted(guest.by, session.user_id)
    return Outcome(answer=Declined(room=name))


def _invited(answer: Invited, room: Room, user_id: str, by: str) -> Outcome:
    invitation = Invitation(room=room.name, title=title(room.name, room.title, user_id), by=by)
    event = InvitationSent(user_id=user_id, **invitation.model_dump())
    return Outcome(
        answer=answer,
        pushes=[to_user(user_id, make("chat.invited", invitation.model_dump()))],
        events=[make("chat.invitation_sent", event.model_dump())],
    )
