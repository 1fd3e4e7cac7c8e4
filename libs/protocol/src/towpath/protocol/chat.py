"""Payload models of the ``chat`` domain: requests, answers and pushes."""

from collections.abc import Mapping
from typing import Annotated, Final, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from towpath.protocol.fields import Name, Payload, Text, UserId

DOMAIN: Final = "chat"
STREAM_PREFIX: Final = "chat:"
DIRECT_PREFIX: Final = "dm:"
MAX_TEXT: Final = 4000
MAX_TITLE: Final = 200
#: Letters of a room's name. With its prefix it stays below :data:`~towpath.protocol.envelope.MAX_STREAM_LENGTH`.
MAX_ROOM: Final = 500

#: The name of a room that is there already, two-person rooms included.
RoomName = Annotated[Text, StringConstraints(min_length=1, max_length=MAX_ROOM)]
MessageText = Annotated[Text, StringConstraints(min_length=1, max_length=MAX_TEXT)]
#: The title of a room, on one line, in any script.
Title = Annotated[str, StringConstraints(min_length=1, max_length=MAX_TITLE, pattern=r"^[^\x00-\x1f\x7f]*$")]
Seq = Annotated[int, Field(ge=0, lt=2**63)]


def stream_of(room: str) -> str:
    """The stream of a room; also the group its members' connections are in."""
    return STREAM_PREFIX + room


def direct_room(one: str, other: str) -> str:
    """The two-person room of ``one`` and ``other``, the same for both users.

    A colon or percent sign in a user id is escaped, so that no two pairs share a room.
    """
    first, second = sorted((one, other))
    return DIRECT_PREFIX + ":".join(user.replace("%", "%25").replace(":", "%3A") for user in (first, second))


def is_direct(room: str) -> bool:
    """Whether a name is one of those kept for two-person rooms."""
    return room.startswith(DIRECT_PREFIX)


def direct_users(room: str) -> tuple[str, str]:
    """The inverse of :func:`direct_room`."""
    first, _, second = room.removeprefix(DIRECT_PREFIX).partition(":")
    one, other = (user.replace("%3A", ":").replace("%25", "%") for user in (first, second))
    return one, other


# Requests


class CreateRoom(Payload):
    """``data`` of ``chat.create``.

    Attributes:
        title: The displayed title; the room's name if absent.
        private: Whether only invited users may join.
    """

    room: Name
    title: Title | None = None
    private: bool = False


class JoinRoom(Payload):
    room: Name


class LeaveRoom(Payload):
    room: RoomName


class Invite(Payload):
    room: RoomName
    user: UserId


class Decline(Payload):
    room: RoomName


class RemoveMember(Payload):
    room: RoomName
    user: UserId


class TransferRoom(Payload):
    """``data`` of ``chat.transfer``; ``user`` is the member who becomes the owner."""

    room: RoomName
    user: UserId


class DropRoom(Payload):
    room: RoomName


class Block(Payload):
    user: UserId


class Unblock(Payload):
    user: UserId


class ListBlocked(Payload):
    pass


class SendMessage(Payload):
    room: RoomName
    text: MessageText
    client_ref: Annotated[Text, StringConstraints(max_length=128)] | None = None


class SendDirect(Payload):
    to: UserId
    text: MessageText


class EditMessage(Payload):
    """``data`` of ``chat.edit``; ``seq`` is the message's."""

    room: RoomName
    seq: Seq
    text: MessageText


class DeleteMessage(Payload):
    """``data`` of ``chat.delete``; ``seq`` is the message's."""

    room: RoomName
    seq: Seq


class ReadHistory(Payload):
    room: RoomName
    before_seq: Seq | None = None
    after_seq: Seq | None = None
    limit: Annotated[int, Field(ge=1, le=200)] = 50

    @model_validator(mode="after")
    def _one_direction(self) -> Self:
        if self.before_seq is not None and self.after_seq is not None:
            raise ValueError("give before_seq or after_seq, not both")
        return self


class ListRooms(Payload):
    pass


class FindRooms(Payload):
    """``data`` of ``chat.find``: public rooms, whether the user is in them or not.

    Attributes:
        prefix: How their names begin.
        cursor: As an earlier answer gave it: the name of its last room.
    """

    prefix: Annotated[Text, StringConstraints(max_length=128)] = ""
    limit: Annotated[int, Field(ge=1, le=100)] = 20
    cursor: RoomName | None = None


class ListMembers(Payload):
    room: RoomName


class MarkRead(Payload):
    """``data`` of ``chat.read``: the user has read all up to ``seq``."""

    room: RoomName
    seq: Seq


class Typing(Payload):
    room: RoomName


# Answers


class Created(Payload):
    """Answer to ``chat.create``."""

    room: str


class Joined(Payload):
    """Answer to ``chat.join``: the position of the room's stream, and the members.

    Attributes:
        members: By name; of a crowd the first 100.
        count: How many members there are; there when the room is a crowd.
    """

    room: str
    seq: int
    members: list[str]
    count: int | None = None


class Left(Payload):
    """Answer to ``chat.leave``."""

    room: str


class Invited(Payload):
    """Answer to ``chat.invite``."""

    room: str
    user: str


class Declined(Payload):
    """Answer to ``chat.decline``."""

    room: str


class Removed(Payload):
    """Answer to ``chat.remove``."""

    room: str
    user: str


class Transferred(Payload):
    """Answer to ``chat.transfer``."""

    room: str
    owner: str


class Dropped(Payload):
    """Answer to ``chat.drop``."""

    room: str


class Blocking(Payload):
    """Answer to ``chat.block`` and ``chat.unblock``."""

    user: str


class BlockedUser(Payload):
    """One entry of ``chat.blocked``; ``since`` is Unix milliseconds."""

    user: str
    since: int


class BlockedList(Payload):
    """Answer to ``chat.blocked``: the users whom the asking user blocks, by name."""

    users: list[BlockedUser]


class Sent(Payload):
    """Answer to ``chat.send`` and ``chat.direct``. ``sent_at`` is Unix milliseconds."""

    room: str
    seq: int
    sent_at: int


class MessageChanged(Payload):
    """Answer to ``chat.edit`` and ``chat.delete``; ``seq`` is the message's."""

    room: str
    seq: int


class Message(Payload):
    """Push ``chat.message``, and one entry of a history. Times are Unix milliseconds.

    Attributes:
        text: Empty once the message is deleted.
        edited_at: When it was last edited, if it was.
        deleted_at: When it was deleted, if it was; only in histories.
        deleted: There in a push that is replayed after the message was deleted.
        hidden: There for a user who blocked the author when it was written; it is like a deleted message then.
    """

    room: str
    seq: int
    user: str
    text: str
    sent_at: int
    client_ref: str | None = None
    edited_at: int | None = None
    deleted_at: int | None = None
    deleted: Literal[True] | None = None
    hidden: Literal[True] | None = None


class History(Payload):
    """Answer to ``chat.history``, oldest first.

    Attributes:
        has_more: Whether there is more in the direction asked for.
        seq: The position of the room's stream that the messages include.
    """

    room: str
    messages: list[Message]
    has_more: bool
    seq: int


class RoomSummary(Payload):
    """One entry of ``chat.rooms``.

    Attributes:
        seq: The position of the room's stream.
        read_seq: How far the user has read.
        unread: Messages of others after that, but for deleted ones; counted up to 1,000.
        private: There when only those who are invited may join.
        owner: The owner of a private room.
    """

    room: str
    title: str
    seq: int
    read_seq: int
    unread: int
    private: Literal[True] | None = None
    owner: str | None = None


class Invitation(Payload):
    """Push ``chat.invited``, and one entry of ``chat.rooms``: ``by`` asks the user to join."""

    room: str
    title: str
    by: str


class RoomList(Payload):
    """Answer to ``chat.rooms``, by name; the first 1,000 of each kind. ``invitations`` is there if there are any."""

    rooms: list[RoomSummary]
    invitations: list[Invitation] | None = None


class FoundRoom(Payload):
    """One entry of ``chat.find``; ``members`` is how many are in it."""

    room: str
    title: str
    members: int


class FoundRooms(Payload):
    """Answer to ``chat.find``, by name in the order of code points; ``cursor`` asks for the next page."""

    rooms: list[FoundRoom]
    cursor: str | None = None


class MemberState(Payload):
    """One entry of ``chat.members``; ``online`` says whether the user has a connection open."""

    user: str
    online: bool


class MemberList(Payload):
    """Answer to ``chat.members``, by name; of a crowd the first 100.

    Attributes:
        seq: The position of the room's stream that the members include.
        count: How many members there are; there when the room is a crowd.
    """

    room: str
    members: list[MemberState]
    seq: int
    count: int | None = None


class ReadPosition(Payload):
    """Answer to ``chat.read``: how far the user has read now."""

    room: str
    seq: int


# Pushes


class MemberChange(Payload):
    """Pushes ``chat.joined`` and ``chat.left``; ``by`` is the owner who removed the user, if one did."""

    room: str
    seq: int
    user: str
    by: str | None = None


class OwnerChange(Payload):
    """Push ``chat.owner``: ``user`` owns the room now."""

    room: str
    seq: int
    user: str


class RoomDropped(Payload):
    """Push ``chat.dropped``: its owner ``by`` deleted the room."""

    room: str
    by: str


class MessageEdited(Payload):
    """Push ``chat.edited``; ``seq`` is the message's. ``edited_at`` is Unix milliseconds.

    Attributes:
        client_ref: There, and empty, in a hidden one whose message has one.
        text: The newest one when it is replayed; empty once the message is deleted.
        deleted: There in a push that is replayed after the message was deleted.
        hidden: As in :class:`Message`.
    """

    room: str
    seq: int
    user: str
    text: str
    edited_at: int
    client_ref: str | None = None
    deleted: Literal[True] | None = None
    hidden: Literal[True] | None = None


class MessageDeleted(Payload):
    """Push ``chat.deleted``; ``seq`` is the message's. ``deleted_at`` is Unix milliseconds."""

    room: str
    seq: int
    user: str
    deleted_at: int


class TypingPush(Payload):
    """Push ``chat.typing``."""

    room: str
    user: str


class ReadPush(Payload):
    """Push ``chat.read``: ``user`` has read all up to ``seq``."""

    room: str
    user: str
    seq: int


class PresencePush(Payload):
    """Push ``chat.presence``: the user's first connection is open, or the last one is gone."""

    room: str
    user: str
    online: bool


class CrowdCounted(Payload):
    """Push ``chat.crowd``, at most once a second, instead of a push for each change in a room of many members.

    Attributes:
        members: How many members there are.
        online: How many of them have a connection open.
        seq: Where the room's stream stood when they were counted.
    """

    room: str
    members: int
    online: int
    seq: int


# Events


class DirectSent(Payload):
    """``data`` of the event ``chat.direct_sent``: ``by`` has written to ``user_id`` in the room of the two.

    It has no text: the message may be edited or deleted, and events cannot.
    """

    user_id: UserId
    by: Text
    room: RoomName
    seq: Seq


class InvitationSent(Payload):
    """``data`` of the event ``chat.invitation_sent``: ``by`` invites ``user_id`` to a room."""

    user_id: UserId
    by: Text
    room: RoomName
    title: Text


#: Event that the service publishes → its ``data``.
EVENTS_OUT: Final[Mapping[str, type[Payload]]] = {
    "chat.direct_sent": DirectSent,
    "chat.invitation_sent": InvitationSent,
}

#: Push → its ``data``.
PUSHES: Final[Mapping[str, type[Payload]]] = {
    "chat.message": Message,
    "chat.edited": MessageEdited,
    "chat.deleted": MessageDeleted,
    "chat.joined": MemberChange,
    "chat.left": MemberChange,
    "chat.owner": OwnerChange,
    "chat.dropped": RoomDropped,
    "chat.invited": Invitation,
    "chat.typing": TypingPush,
    "chat.read": ReadPush,
    "chat.presence": PresencePush,
    "chat.crowd": CrowdCounted,
}
