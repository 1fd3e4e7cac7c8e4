"""Payload models of the ``chat`` domain: requests, answers and pushes."""

from typing import Annotated, Final, Self

from pydantic import Field, StringConstraints, model_validator

from towpath.protocol.fields import Name, Payload, Text

DOMAIN: Final = "chat"
STREAM_PREFIX: Final = "chat:"
DIRECT_PREFIX: Final = "dm:"
MAX_TEXT: Final = 4000
#: Letters of a room's name. With its prefix it stays below :data:`~towpath.protocol.envelope.MAX_STREAM_LENGTH`.
MAX_ROOM: Final = 500

#: The name of a room that is there already, two-person rooms included.
RoomName = Annotated[Text, StringConstraints(min_length=1, max_length=MAX_ROOM)]
MessageText = Annotated[Text, StringConstraints(min_length=1, max_length=MAX_TEXT)]
Seq = Annotated[int, Field(ge=0, lt=2**63)]


def stream_of(room: str) -> str:
    """The stream of a room; also the group its members' connections are in."""
    return STREAM_PREFIX + room


def direct_room(one: str, other: str) -> str:
    """The two-person room of ``one`` and ``other``, the same whoever asks.

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


class JoinRoom(Payload):
    room: Name


class LeaveRoom(Payload):
    room: RoomName


class SendMessage(Payload):
    room: RoomName
    text: MessageText
    client_ref: Annotated[Text, StringConstraints(max_length=128)] | None = None


class SendDirect(Payload):
    to: Name
    text: MessageText


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


class Typing(Payload):
    room: RoomName


class Joined(Payload):
    """Answer to ``chat.join``: where the room's stream stands, and who is in it."""

    room: str
    seq: int
    members: list[str]


class Left(Payload):
    """Answer to ``chat.leave``."""

    room: str


class MemberChange(Payload):
    """Pushes ``chat.joined`` and ``chat.left``."""

    room: str
    seq: int
    user: str


class Sent(Payload):
    """Answer to ``chat.send`` and ``chat.direct``. ``sent_at`` is Unix milliseconds."""

    room: str
    seq: int
    sent_at: int


class Message(Payload):
    """Push ``chat.message``, and one entry of a history. ``sent_at`` is Unix milliseconds."""

    room: str
    seq: int
    user: str
    text: str
    sent_at: int
    client_ref: str | None = None


class History(Payload):
    """Answer to ``chat.history``, oldest first; ``has_more`` says that there is more in the direction asked for."""

    room: str
    messages: list[Message]
    has_more: bool


class RoomSummary(Payload):
    """One entry of ``chat.rooms``.

    Attributes:
        seq: Where the room's stream stands.
        read_seq: How far the user has read.
        unread: Messages of others after that; counted up to 1,000.
    """

    room: str
    title: str
    seq: int
    read_seq: int
    unread: int


class RoomList(Payload):
    """Answer to ``chat.rooms``, by name; the first 1,000."""

    rooms: list[RoomSummary]


class TypingTold(Payload):
    """Push ``chat.typing``."""

    room: str
    user: str
