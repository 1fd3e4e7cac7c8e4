"""Posts: messages as chat stores them, and who may change them. No I/O.

Guarantee: a method that raises has changed nothing.
"""

from dataclasses import dataclass

from towpath.chat.errors import MessageDeleted, NotTheAuthor


@dataclass(slots=True)
class Post:
    """A stored message. Times are Unix milliseconds.

    Attributes:
        text: Empty once it is deleted.
        size: The size of its largest push, in bytes.
        hidden_from: The other user of a room of two, who blocked the author when this text was written.
        is_stored: Whether the database has a row of it.
    """

    room: str
    seq: int
    user_id: str
    text: str
    sent_at: int
    size: int
    client_ref: str | None = None
    edited_at: int | None = None
    deleted_at: int | None = None
    hidden_from: str | None = None
    is_stored: bool = False
    is_changed: bool = False

    def edit(self, user_id: str, text: str, at: int, hidden_from: str | None = None) -> None:
        """Replace the text.

        Args:
            hidden_from: A user who must not get the new text. An older text that is hidden remains hidden.

        Raises:
            NotTheAuthor, MessageDeleted
        """
        self._check(user_id)
        self.text, self.edited_at, self.is_changed = text, at, True
        self.hidden_from = hidden_from or self.hidden_from

    def delete(self, user_id: str, at: int) -> None:
        """Delete the message: its text is removed permanently.

        Raises:
            NotTheAuthor, MessageDeleted
        """
        self._check(user_id)
        self.text, self.deleted_at, self.is_changed = "", at, True

    def _check(self, user_id: str) -> None:
        if self.user_id != user_id:
            raise NotTheAuthor(self.seq)
        if self.deleted_at is not None:
            raise MessageDeleted(self.seq)
