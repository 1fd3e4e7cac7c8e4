"""Rooms that are gone; texts that were deleted or edited leave the stream and the inbox.

Private rooms without members are deleted from now on. Stream entries of messages that were edited or deleted
lose their text, and are filled in when they are replayed. Outcomes in the inbox name pushes by their place in the
stream. All of it in steps of 1,000 rows, in the one transaction of the migration.
"""

from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import sqlalchemy as sa
import structlog
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

log = structlog.get_logger(__name__)

STEP = 1000
#: Rows between two progress lines.
REPORTED = 20_000

OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])
OUTGOING = msgspec.json.Decoder(list[list[msgspec.Raw]])
IN_ITS_STREAM = msgspec.Raw(b"0")

GONE = """
    INSERT INTO chat_gone_rooms (room, seq, created_by, created_at, uncleared_since)
    SELECT chat_rooms.room, head, created_by, created_at, created_at
    FROM chat_rooms JOIN chat_streams ON stream = 'chat:' || chat_rooms.room
    WHERE private AND NOT EXISTS (SELECT 1 FROM chat_members WHERE chat_members.room = chat_rooms.room)
"""
#: Without its last entry no resume of the stream from before is complete.
SEALED = """
    DELETE FROM chat_stream_entries
    WHERE (stream, seq) IN (SELECT 'chat:' || room, seq FROM chat_gone_rooms)
"""
FREED = "DELETE FROM chat_rooms WHERE room IN (SELECT room FROM chat_gone_rooms)"

EDITS = """
    SELECT stream, seq, envelope FROM chat_stream_entries
    WHERE (stream, seq) > (:after_stream, :after_seq) AND envelope LIKE '%"action":"chat.edited"%'
    ORDER BY stream, seq LIMIT :step
"""
CHANGED = """
    SELECT stream, entries.seq, envelope, room
    FROM chat_messages AS messages
    JOIN chat_stream_entries AS entries ON stream = 'chat:' || room AND entries.seq = messages.seq
    WHERE (room, messages.seq) > (:after_room, :after_seq) AND (edited_at IS NOT NULL OR deleted_at IS NOT NULL)
    ORDER BY room, messages.seq LIMIT :step
"""
SET_ENTRY = "UPDATE chat_stream_entries SET envelope = :envelope WHERE stream = :stream AND seq = :seq"
OUTCOMES = """
    SELECT sender, msg_id, outcome FROM chat_inbox
    WHERE (sender, msg_id) > (:after_sender, :after_msg_id) ORDER BY sender, msg_id LIMIT :step
"""
SET_OUTCOME = "UPDATE chat_inbox SET outcome = :outcome WHERE sender = :sender AND msg_id = :msg_id"


def upgrade() -> None:
    op.add_column(
        "chat_invitations", sa.Column("seq", sa.BigInteger, nullable=False, server_default="0")
    )
    op.create_table(
        "chat_gone_rooms",
        sa.Column("room", sa.String(500), primary_key=True),
        sa.Column("seq", sa.BigInteger, primary_key=True),
        sa.Column("created_by", sa.String(256)),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("uncleared_since", sa.BigInteger),
    )
    op.create_index("ix_chat_gone_rooms_created_at", "chat_gone_rooms", ["created_at"])
    op.create_index("ix_chat_gone_rooms_uncleared_since", "chat_gone_rooms", ["uncleared_since"])
    op.create_index("ix_chat_gone_rooms_created_by", "chat_gone_rooms", ["created_by", "created_at"])
    for statement in (GONE, SEALED, FREED):
        op.execute(statement)
    withhold_texts()
    rewrite_outcomes(by_place)


def downgrade() -> None:
    rewrite_outcomes(without_places)
    op.drop_table("chat_gone_rooms")
    op.drop_column("chat_invitations", "seq")


def withhold_texts() -> None:
    connection = op.get_bind()
    for select, first in ((EDITS, "stream"), (CHANGED, "room")):
        for rows in pages("chat_stream_entries", select, (first, ""), ("seq", 0)):
            changed = [{"stream": row.stream, "seq": row.seq, "envelope": withheld(row)} for row in rows]
            connection.execute(sa.text(SET_ENTRY), changed)


def withheld(entry: Any) -> str:
    """The entry without its text, and with the ``seq`` of the message that it is about."""
    envelope = OBJECT.decode(entry.envelope)
    data = OBJECT.decode(envelope["data"])
    envelope.pop("about", None)
    blank: dict[str, Any] = {"about": data["seq"], **envelope, "data": {**data, "text": ""}}
    return msgspec.json.encode(blank).decode()


def rewrite_outcomes(changed: Callable[[list[msgspec.Raw]], list[msgspec.Raw] | None]) -> None:
    connection = op.get_bind()
    for rows in pages("chat_inbox", OUTCOMES, ("sender", ""), ("msg_id", "")):
        new = []
        for row in rows:
            settled = OBJECT.decode(row.outcome)
            if "outgoing" not in settled:
                continue
            pushes = [changed(push) for push in OUTGOING.decode(settled["outgoing"])]
            outcome = {**settled, "outgoing": [push for push in pushes if push is not None]}
            text = msgspec.json.encode(outcome).decode()
            if text != row.outcome:
                new.append({"sender": row.sender, "msg_id": row.msg_id, "outcome": text})
        if new:
            connection.execute(sa.text(SET_OUTCOME), new)


def by_place(push: list[msgspec.Raw]) -> list[Any]:
    exchange, routing_key, item, *_ = push
    envelope = OBJECT.decode(item)
    if "stream" not in envelope or "seq" not in envelope:
        return push
    return [exchange, routing_key, IN_ITS_STREAM, envelope["stream"], envelope["seq"]]


def without_places(push: list[msgspec.Raw]) -> list[msgspec.Raw] | None:
    return None if push[2] == IN_ITS_STREAM else push[:3]


def pages(table: str, select: str, *key: tuple[str, Any]) -> Iterator[list[Any]]:
    """The rows of ``select``, in steps; says now and then how far it is."""
    connection = op.get_bind()
    total = connection.execute(sa.select(sa.func.count()).select_from(sa.table(table))).scalar_one()
    last, done, reported = dict(key), 0, 0
    while True:
        after = {f"after_{name}": value for name, value in last.items()}
        rows = list(connection.execute(sa.text(select), {**after, "step": STEP}))
        if not rows:
            break
        yield rows
        last = {name: getattr(rows[-1], name) for name in last}
        done += len(rows)
        if done - reported >= REPORTED:
            reported = done
            log.info("migrating", revision=revision, table=table, rows=done, at_most=total)
    if done:
        log.info("migrated", revision=revision, table=table, rows=done)
