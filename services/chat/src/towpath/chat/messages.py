"""The messages that one unit of work touches: load, post, change, save.

Guarantees: the number of statements does not depend on the number of messages. The text of a message that was edited
or deleted, or is hidden from a reader, is withheld from its entries in the stream, in the same transaction
(:mod:`towpath.chat.texts`).
"""

from collections.abc import Collection
from functools import cache
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from towpath.chat.domain import Room
from towpath.chat.errors import NoSuchMessage
from towpath.chat.gone import is_gone
from towpath.chat.post import Post
from towpath.chat.tables import MESSAGES
from towpath.chat.texts import BLANK
from towpath.protocol.chat import Message, MessageDeleted, MessageEdited, stream_of
from towpath.protocol.envelope import Envelope, now_ms
from towpath.servicekit import Streams, bulk

_COLUMNS: Final = MESSAGES.columns.keys()
_CHANGING: Final = ("text", "size", "edited_at", "deleted_at", "hidden_from")


class Messages:
    """Messages and their changes; the caller locks the rooms."""

    def __init__(self, connection: AsyncConnection, streams: Streams) -> None:
        self._connection = connection
        self._streams = streams
        self._posts: dict[tuple[str, int], Post] = {}

    async def load(self, wanted: Collection[tuple[str, int]]) -> None:
        """Read the existing messages of ``wanted``, pairs of room and ``seq``."""
        if not wanted:
            return
        asked = bulk.pair_values(self._connection, [(room, str(seq)) for room, seq in wanted])
        for row in await self._connection.execute(_there(self._connection.dialect.name), asked):
            self._posts[row.room, row.seq] = Post(**row._mapping, is_stored=True)

    def get(self, room: Room, seq: int) -> Post:
        """A loaded or posted message.

        Raises:
            NoSuchMessage
        """
        post = self._posts.get((room.name, seq))
        # Up to there the messages are those of a room that is gone in this unit of work.
        if post is None or seq <= room.begins_after:
            raise NoSuchMessage(room.name, seq)
        return post

    def post(
        self,
        room: Room,
        user_id: str,
        text: str,
        client_ref: str | None = None,
        *,
        hidden_from: str | None = None,
    ) -> tuple[Message, Envelope]:
        """Store a message; returns it with its durable push.

        Args:
            hidden_from: The user who must not get it.
        """
        stream = stream_of(room.name)
        message = Message(
            room=room.name,
            seq=self._streams.head(stream) + 1,
            user=user_id,
            text=text,
            sent_at=now_ms(),
            client_ref=client_ref,
        )
        push = self._streams.append(stream, "chat.message", lambda _: message.model_dump(exclude_none=True))
        post = self._posts[room.name, message.seq] = Post(
            room=room.name,
            seq=message.seq,
            user_id=user_id,
            text=text,
            sent_at=message.sent_at,
            size=len(push.to_json()),
            client_ref=client_ref,
            hidden_from=hidden_from,
        )
        if hidden_from is not None:
            # Not in the entry, which both users read: each gets the text that is theirs when it is filled in.
            self._withhold(post, post.seq)
        return message, push

    def edited(self, post: Post) -> Envelope:
        """The durable push for an edited message."""
        assert post.edited_at is not None
        change = MessageEdited(
            room=post.room, seq=post.seq, user=post.user_id, text=post.text, edited_at=post.edited_at
        )
        push = self._streams.append(
            stream_of(post.room), "chat.edited", lambda _: change.model_dump(exclude_none=True)
        )
        post.size = max(post.size, len(push.to_json()))
        # The old text goes, and the new entry names the message instead of holding its text: so the next edit changes
        # one entry again, however many came before (docs/adr/0017).
        self._withhold(post, post.seq)
        self._withhold(post, self._streams.head(stream_of(post.room)))
        return push

    def deleted(self, post: Post) -> Envelope:
        """The durable push for a deleted message."""
        assert post.deleted_at is not None
        change = MessageDeleted(room=post.room, seq=post.seq, user=post.user_id, deleted_at=post.deleted_at)
        self._withhold(post, post.seq)
        return self._streams.append(stream_of(post.room), "chat.deleted", lambda _: change.model_dump())

    async def save(self) -> None:
        """Write posted and changed messages."""
        posts = self._posts.values()
        await bulk.insert(self._connection, MESSAGES, [_row(post) for post in posts if not post.is_stored])
        changed = [
            {name: getattr(post, name) for name in ("room", "seq", *_CHANGING)}
            for post in posts
            if post.is_stored and post.is_changed
        ]
        await bulk.update(self._connection, MESSAGES, changed, key=["room", "seq"])

    def _withhold(self, post: Post, seq: int) -> None:
        """Withhold the text from the entry at ``seq``, whose subject is ``post``."""
        self._streams.withhold(stream_of(post.room), seq, about=post.seq, blank=BLANK)


@cache
def _there(dialect: str) -> sa.Select[Any]:
    asked = bulk.pairs(dialect).subquery()
    # A join: for a row value that contains a number SQLite would use only the room column of the index.
    here = sa.and_(MESSAGES.c.room == asked.c[0], MESSAGES.c.seq == sa.cast(asked.c[1], sa.BigInteger))
    return sa.select(MESSAGES).join(asked, here).where(~is_gone(MESSAGES.c.room, MESSAGES.c.seq))


def _row(post: Post) -> dict[str, Any]:
    return {name: getattr(post, name) for name in _COLUMNS}
