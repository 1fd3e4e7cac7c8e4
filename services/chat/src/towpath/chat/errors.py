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


class NamesTooLong(InvalidData):
    """The two user ids are too long for the name of their room."""
