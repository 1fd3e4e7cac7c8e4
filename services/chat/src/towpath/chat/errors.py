"""The refusals of chat: why a request changes nothing. The client gets the text."""

from towpath.protocol.errors import Conflict, Forbidden, InvalidData, NotFound


class NotInRoom(Forbidden):
    """The user is not in the room, or there is no such room; the user must not learn which of the two."""

    def __init__(self, room: str) -> None:
        super().__init__(f"You are not in room {room[:128]!r}: join it first.")


class NotForDirectRooms(Forbidden):
    """Two-person rooms cannot be created, joined or left, and have no invitations."""


class NotInvited(Forbidden):
    """The room is private, and the user has no invitation."""

    def __init__(self, room: str) -> None:
        super().__init__(f"Room {room[:128]!r} is private: ask a member for an invitation.")


class RoomExists(Conflict):
    """A room of this name exists already."""

    def __init__(self, room: str) -> None:
        super().__init__(f"There is a room {room[:128]!r} already: join it, or choose another name.")


class AlreadyInRoom(Conflict):
    """The user is a member already, so an invitation is not possible."""

    def __init__(self, room: str, user_id: str) -> None:
        super().__init__(f"{user_id!r} is in room {room[:128]!r} already.")


class NoSuchMessage(NotFound):
    """No message of the room has this ``seq``."""

    def __init__(self, room: str, seq: int) -> None:
        super().__init__(f"There is no message {seq} in room {room[:128]!r}.")


class NotTheAuthor(Forbidden):
    """Another user wrote the message."""

    def __init__(self, seq: int) -> None:
        super().__init__(f"Message {seq} was written by another user: only its author may change it.")


class MessageDeleted(Conflict):
    """The message is deleted already."""

    def __init__(self, seq: int) -> None:
        super().__init__(f"Message {seq} is deleted.")


class NotTheOwner(Forbidden):
    """Only the owner of a private room may do this; a public room has no owner."""

    def __init__(self, room: str) -> None:
        super().__init__(f"You do not own room {room[:128]!r}: only the owner of a private room may do this.")


class NoSuchMember(NotFound):
    """The named user is not in the room."""

    def __init__(self, room: str, user_id: str) -> None:
        super().__init__(f"{user_id!r} is not in room {room[:128]!r}.")


class OwnersLeave(Conflict):
    """An owner cannot remove the owner."""

    def __init__(self, room: str) -> None:
        super().__init__(f"You cannot remove yourself from room {room[:128]!r}: leave it with chat.leave.")


class TooManyMembers(Conflict):
    """The room has more members than one request may remove."""

    def __init__(self, room: str, members: int, most: int) -> None:
        super().__init__(
            f"Room {room[:128]!r} has {members:,} members, and at most {most:,} can be removed with it:"
            " remove members first."
        )


class NoInvitation(NotFound):
    """The user has no open invitation to the room."""

    def __init__(self, room: str) -> None:
        super().__init__(f"You have no invitation to room {room[:128]!r}.")


class YouBlock(Conflict):
    """The user blocks the one whom the message is for."""

    def __init__(self, user_id: str) -> None:
        super().__init__(f"You block {user_id!r}: unblock them before you write to them.")


class NotYourself(InvalidData):
    """Users cannot block themselves."""

    def __init__(self) -> None:
        problem = "must not be yourself"
        super().__init__(f"user: {problem}", details={"fields": [{"field": "user", "problem": problem}]})


class HiddenCharacters(InvalidData):
    """The name or the title of a new room has characters that people cannot see."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}", details={"fields": [{"field": field, "problem": problem}]})


class NamesTooLong(InvalidData):
    """The two user ids are too long for the name of their room."""
