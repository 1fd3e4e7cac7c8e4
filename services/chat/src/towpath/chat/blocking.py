"""The handlers of blocks: block, unblock, list. A block is visible to its owner alone (docs/adr/0028)."""

from towpath.chat.repository import Rooms
from towpath.protocol.chat import Block, BlockedList, Blocking, ListBlocked, Unblock
from towpath.protocol.messages import Session
from towpath.servicekit import Outcome


def block(request: Block, session: Session, rooms: Rooms) -> Outcome:
    rooms.blocks.add(session.user_id, request.user)  # raises NotYourself, TooManyBlocked
    return Outcome(answer=Blocking(user=request.user))


def unblock(request: Unblock, session: Session, rooms: Rooms) -> Outcome:
    rooms.blocks.remove(session.user_id, request.user)
    return Outcome(answer=Blocking(user=request.user))


def list_blocked(_: ListBlocked, session: Session, rooms: Rooms) -> Outcome:
    return Outcome(answer=BlockedList(users=rooms.lists.blocked(session.user_id)))
