"""The tables of chat."""

from typing import Final

import sqlalchemy as sa

from towpath.protocol.chat import MAX_ROOM
from towpath.servicekit.inbox import inbox_table
from towpath.servicekit.streams import StreamTables

METADATA: Final = sa.MetaData()
INBOX: Final = inbox_table(METADATA, "chat")
STREAMS: Final = StreamTables.define(METADATA, "chat")
ROOMS: Final = sa.Table(
    "chat_rooms",
    METADATA,
    sa.Column("room", sa.String(MAX_ROOM), primary_key=True),
    sa.Column("created_at", sa.BigInteger, nullable=False),
)
MEMBERS: Final = sa.Table(
    "chat_members",
    METADATA,
    sa.Column("room", sa.String(MAX_ROOM), primary_key=True),
    sa.Column("user_id", sa.String(256), primary_key=True),
    sa.Column("read_seq", sa.BigInteger, nullable=False),
    sa.Index("ix_chat_members_user", "user_id", "room"),
)
#: What was said; unlike streams it is kept for good. ``size`` is the push in bytes.
MESSAGES: Final = sa.Table(
    "chat_messages",
    METADATA,
    sa.Column("room", sa.String(MAX_ROOM), primary_key=True),
    sa.Column("seq", sa.BigInteger, primary_key=True),
    sa.Column("user_id", sa.String(256), nullable=False),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("client_ref", sa.String(128)),
    sa.Column("sent_at", sa.BigInteger, nullable=False),
    sa.Column("size", sa.Integer, nullable=False),
)
