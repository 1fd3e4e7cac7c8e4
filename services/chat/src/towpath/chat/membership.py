"""How a user belongs to a room: as a member, as an invited guest, or once, to a room that is gone. No I/O."""

from dataclasses import dataclass


@dataclass(slots=True)
class Member:
    """One user in one room.

    Attributes:
        read_seq: The last ``seq`` that the user has read.
        joined_at: Unix milliseconds; ``None`` if the user joined in this unit of work, 0 if it is not known.
        is_hidden: The user has seen nothing of the room: it is a room of two, opened by a user whom this one blocks.
        is_stored: Whether the database has a row of it.
        is_gone: The user has left.
        is_changed: The read position has changed.
        is_moved: Another column has changed.
    """

    user_id: str
    read_seq: int = 0
    joined_at: int | None = None
    is_hidden: bool = False
    is_stored: bool = False
    is_gone: bool = False
    is_changed: bool = False
    is_moved: bool = False

    @property
    def seniority(self) -> tuple[float, str]:
        """The order in which members succeed an owner: the longest in the room first."""
        return float("inf") if self.joined_at is None else self.joined_at, self.user_id

    def has_read(self, seq: int) -> bool:
        """Set the read position to ``seq``; it only grows. Returns whether it changed."""
        if seq <= self.read_seq:
            return False
        self.read_seq = seq
        self.is_changed = True
        return True

    def come(self, read_seq: int) -> None:
        """The user joins, also one who left in this unit of work."""
        # Such a user still has a row: it is changed, not inserted twice.
        self.is_gone, self.is_hidden, self.joined_at = False, False, None
        self.is_moved = self.is_stored
        self.read_seq = read_seq
        self.is_changed = True

    def hide(self) -> None:
        """The user sees nothing of the room so far."""
        self.is_hidden = self.is_moved = True

    def show(self) -> None:
        """The user sees something of the room from now on."""
        if self.is_hidden:
            self.is_hidden, self.is_moved = False, True


@dataclass(slots=True)
class Guest:
    """One user who is invited to one room.

    Attributes:
        by: The first inviter, whose open invitation it is.
        seq: The head of the room's stream at the invitation.
        shown_by: A later inviter whom the user sees instead, because the user blocks the first one.
        is_stored: Whether the database has a row of it.
        has_come: The invitation is used up, declined or withdrawn.
    """

    user_id: str
    by: str
    seq: int = 0
    shown_by: str | None = None
    is_stored: bool = False
    has_come: bool = False
    is_changed: bool = False

    @property
    def inviter(self) -> str:
        """The inviter whom the user sees."""
        return self.shown_by or self.by

    def show(self, by: str) -> None:
        """Show the invitation as one of ``by``."""
        self.shown_by, self.is_changed = by, True

    def end(self) -> None:
        """Use the invitation up, or withdraw it."""
        self.has_come = self.is_changed = True


@dataclass(frozen=True, slots=True)
class GoneRoom:
    """A private room that lost its last member, or was deleted by its owner.

    Attributes:
        seq: The last ``seq`` of the stream of its name that belongs to the gone room.
        created_at: ``None`` if it was made just now.
    """

    seq: int
    created_by: str | None
    created_at: int | None
