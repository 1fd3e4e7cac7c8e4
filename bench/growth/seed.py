"""Chat's database, filled as if people had been there for long: rooms, and what was said in them.

Guarantee: the rows are those that the service itself would have written. One of each kind is made with its own
functions, and the database copies them with another ``seq``.
"""

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import msgspec
import sqlalchemy as sa

from bench.dialects import PADDING
from towpath.chat.app import CHAT
from towpath.chat.tables import INBOX, MEMBERS, MESSAGES, ROOMS, STREAMS
from towpath.protocol.chat import Message, Sent, stream_of
from towpath.protocol.envelope import make, new_msg_id, now_ms
from towpath.protocol.routes import PUSH, group_key
from towpath.servicekit.messaging.publication import Publication
from towpath.servicekit.storage.database import Database
from towpath.servicekit.storage.stored_outcome import StoredOutcome

#: A placeholder for the ``seq`` in a template; no other number in it is like this one.
_MARK: Final = 4_242_424_242_424_242
#: Messages in one transaction, so that the service need not wait long for its turn.
_TOGETHER: Final = 50_000


@asynccontextmanager
async def chat_database(file: Path) -> AsyncIterator[Database]:
    """Chat's database in an SQLite file."""
    assert CHAT.storage is not None
    url = f"sqlite+aiosqlite:///{file}"
    async with Database.open(url, service=CHAT.name, migrations=CHAT.storage.migrations) as database:
        yield database


async def add_rooms(database: Database, members: Iterable[tuple[str, list[str]]]) -> None:
    """Add rooms, each with its members; nothing was said there yet."""
    rooms = list(members)
    now = now_ms()
    async with database.transaction() as connection:
        await connection.execute(ROOMS.insert(), [{"room": name, "created_at": now} for name, _ in rooms])
        await connection.execute(
            STREAMS.heads.insert(), [{"stream": stream_of(name), "head": 0} for name, _ in rooms]
        )
        await connection.execute(
            MEMBERS.insert(),
            [{"room": name, "user_id": user, "read_seq": 0} for name, users in rooms for user in users],
        )


async def add_messages(database: Database, room: str, user: str, count: int) -> None:
    """Let ``user`` have said ``count`` messages in a room where nothing was said: messages, stream and inbox."""
    for first in range(1, count + 1, _TOGETHER):
        last = min(first + _TOGETHER - 1, count)
        async with database.transaction() as connection:
            for statement in _copies(room, user, first, last):
                await connection.execute(statement)
            await connection.execute(
                STREAMS.heads.update().where(STREAMS.heads.c.stream == stream_of(room)).values(head=last)
            )


def _copies(room: str, user: str, first: int, last: int) -> list[sa.Insert]:
    stream, now = stream_of(room), now_ms()
    message = Message(room=room, seq=_MARK, user=user, text=PADDING, sent_at=now)
    push = make("chat.message", message.model_dump(exclude_none=True), stream=stream, seq=_MARK).to_json()
    answer = make("chat.send.ok", Sent(room=room, seq=_MARK, sent_at=now).model_dump()).to_json()
    settled = StoredOutcome(
        answer=msgspec.Raw(answer),
        outgoing=[Publication(PUSH, group_key(stream), msgspec.Raw(push), stream, _MARK)],
    ).as_reference()
    numbers = sa.select(sa.literal(first).label("seq")).cte("numbers", recursive=True)
    numbers = numbers.union_all(sa.select(numbers.c.seq + 1).where(numbers.c.seq < last))
    seq = numbers.c.seq

    def numbered(template: bytes) -> sa.ColumnElement[str]:
        return sa.func.replace(template.decode(), str(_MARK), sa.cast(seq, sa.Text))

    def copies(table: sa.Table, **columns: object) -> sa.Insert:
        made = [
            value if isinstance(value, sa.ColumnElement) else sa.literal(value) for value in columns.values()
        ]
        return table.insert().from_select(list(columns), sa.select(*made).select_from(numbers))

    return [
        copies(MESSAGES, room=room, seq=seq, user_id=user, text=PADDING, sent_at=now, size=len(push)),
        copies(STREAMS.entries, stream=stream, seq=seq, envelope=numbered(push), created_at=now),
        copies(
            INBOX,
            sender=user,
            msg_id=sa.literal(new_msg_id()) + sa.cast(seq, sa.Text),
            outcome=numbered(msgspec.json.encode(settled)),
            created_at=now,
        ),
    ]
