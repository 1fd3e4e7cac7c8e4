"""Texts of messages are stored in ``chat_messages``, and in the stream entries of unchanged messages.

Guarantees:

* A deleted text, or one replaced by an edit, is in no table once the change is committed. An older push of the
  message is replayed with the current state: the new text, or ``deleted``.
* A text that is hidden from a user is in no stream entry. That user gets it as a deleted one, any other reader as if
  it were not hidden.
"""

from collections.abc import Collection
from functools import cache
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from towpath.chat.gone import is_gone
from towpath.chat.tables import MESSAGES
from towpath.protocol.chat import STREAM_PREFIX, stream_of
from towpath.servicekit import EntryId, Fields, Hidden, bulk

#: The replacement of a changed text in a stored entry.
BLANK: Final[Fields] = {"text": ""}


async def texts_by_now(
    connection: AsyncConnection, places: Collection[EntryId]
) -> dict[EntryId, Fields | Hidden]:
    """The current fields of the messages at ``places``; places in gone rooms are left out. One statement.

    See :data:`towpath.servicekit.storage.withheld.Fill`.
    """
    rooms = [(stream.removeprefix(STREAM_PREFIX), str(seq)) for stream, seq in places]
    asked = bulk.pair_values(connection, rooms)
    rows = await connection.execute(_texts(connection.dialect.name), asked)
    return {(stream_of(row.room), row.seq): _fields(row) for row in rows}


@cache
def _texts(dialect: str) -> sa.Select[Any]:
    asked = bulk.pairs(dialect).subquery()
    room, seq = asked.c[0], sa.cast(asked.c[1], sa.BigInteger)
    here = sa.and_(MESSAGES.c.room == room, MESSAGES.c.seq == seq)
    return (
        sa.select(
            room.label("room"),
            seq.label("seq"),
            MESSAGES.c.text,
            MESSAGES.c.edited_at,
            MESSAGES.c.deleted_at,
            MESSAGES.c.client_ref,
            MESSAGES.c.hidden_from,
        )
        .outerjoin_from(asked, MESSAGES, here)
        .where(~is_gone(room, seq))
    )


def _fields(row: Any) -> Fields | Hidden:
    if row.hidden_from is None:
        return _shown(row)
    instead = {"text": "", "deleted": True, "hidden": True}
    if row.client_ref is not None:
        # Free text of the author, too.
        instead["client_ref"] = ""
    return Hidden(_shown(row), row.hidden_from, instead)


def _shown(row: Any) -> Fields:
    if row.deleted_at is not None:
        return {"text": "", "deleted": True}
    if row.edited_at is not None:
        return {"text": row.text, "edited_at": row.edited_at}
    # The entry of a hidden text is blank, unlike that of any other unchanged message.
    return {} if row.hidden_from is None else {"text": row.text}
