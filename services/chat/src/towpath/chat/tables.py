"""The tables of chat."""

from typing import Final

import sqlalchemy as sa

from towpath.protocol.chat import MAX_ROOM, MAX_TITLE
from towpath.servicekit.groups import numbers_table
from towpath.servicekit.inbox import inbox_table
from towpath.servicekit.outbox import OutboxTables
from towpath.servicekit.streams import StreamTables

METADATA: Final = sa.MetaData()
INBOX: Final = inbox_table(METADATA, "chat")
OUTBOX: Final = OutboxTables.define(METADATA, "chat")
STREAMS: Final = StreamTables.define(METADATA, "chat", groups=True)
GROUP_NUMBERS: Final = numbers_table(METADATA, "chat")
#: ``title`` is empty where a room is called by its name, ``created_by`` where nobody took note.
#: ``members`` is how many rows :data:`MEMBERS` has of the room; it is changed under the lock on the stream's head.
ROOMS: Final = sa.Table(
    "chat_rooms",
    METADATA,
    sa.Column("room", sa.String(MAX_ROOM), primary_key=True),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("title", sa.String(MAX_TITLE)),
    sa.Column("private", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("created_by", sa.String(256)),
    sa.Column("members", sa.Integer, nullable=False, server_default="0"),
    sa.Index("ix_chat_rooms_created_by", "created_by", "created_at"),
)
MEMBERS: Final = sa.Table(
    "chat_members",
    METADATA,
    sa.Column("room", sa.String(MAX_ROOM), primary_key=True),
    sa.Column("user_id", sa.String(256), primary_key=True),
    sa.Column("read_seq", sa.BigInteger, nullable=False),
    sa.Index("ix_chat_members_user", "user_id", "room"),
)
#: Who is asked into a room and has not come yet. ``seq`` is where the room's stream stood.
INVITATIONS: Final = sa.Table(
    "chat_invitations",
    METADATA,
    sa.Column("room", sa.String(MAX_ROOM), primary_key=True),
    sa.Column("user_id", sa.String(256), primary_key=True),
    sa.Column("invited_by", sa.String(256), nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("seq", sa.BigInteger, nullable=False, server_default="0"),
    sa.Index("ix_chat_invitations_user", "user_id", "room"),
)
#: What was said; unlike streams it is kept for good, but for the text of what is deleted. It is the only place of a
#: text that was edited (:mod:`towpath.chat.texts`). ``size`` is the largest
#: push that told of it, in bytes.
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
    sa.Column("edited_at", sa.BigInteger),
    sa.Column("deleted_at", sa.BigInteger),
)
#: Private rooms that nobody is in any more, a row each time one is left by the last: what stands at ``seq`` of the
#: stream, or before, belongs to nobody. ``uncleared_since`` is when that was, empty once these rows are deleted.
GONE: Final = sa.Table(
    "chat_gone_rooms",
    METADATA,
    sa.Column("room", sa.String(MAX_ROOM), primary_key=True),
    sa.Column("seq", sa.BigInteger, primary_key=True),
    sa.Column("created_by", sa.String(256)),
    sa.Column("created_at", sa.BigInteger, nullable=False, index=True),
    sa.Column("uncleared_since", sa.BigInteger, index=True),
    sa.Index("ix_chat_gone_rooms_created_by", "created_by", "created_at"),
)
#: Rooms of many members. ``changed_at`` is when their numbers changed, empty once these were pushed; ``pushed_at`` is
#: when that was done last.
CROWDS: Final = sa.Table(
    "chat_crowds",
    METADATA,
    sa.Column("room", sa.String(MAX_ROOM), primary_key=True),
    sa.Column("changed_at", sa.BigInteger, index=True),
    sa.Column("pushed_at", sa.BigInteger, nullable=False),
)
#: Connections as gateways tell of them; ``ended_at`` stays for a while, for a start that is heard after the end.
CONNECTIONS: Final = sa.Table(
    "chat_connections",
    METADATA,
    sa.Column("connection_id", sa.String(256), primary_key=True),
    sa.Column("user_id", sa.String(256), nullable=False, index=True),
    sa.Column("gateway_id", sa.String(256), nullable=False),
    sa.Column("incarnation", sa.String(64), nullable=False),
    sa.Column("ended_at", sa.BigInteger, index=True),
    sa.Index("ix_chat_connections_gateway", "gateway_id", "incarnation", "connection_id"),
)
#: Gateways, a row for each time one was started. ``over_at`` is when all its connections were lost: it fell silent,
#: or was started anew. ``looked_up_to`` is the last of them whose user is marked for a look; none when all are.
GATEWAYS: Final = sa.Table(
    "chat_gateways",
    METADATA,
    sa.Column("gateway_id", sa.String(256), primary_key=True),
    sa.Column("incarnation", sa.String(64), primary_key=True),
    sa.Column("heard_at", sa.BigInteger, nullable=False),
    sa.Column("over_at", sa.BigInteger),
    sa.Column("looked_up_to", sa.String(256)),
)
#: Who is online, as others were told, and who is to be looked at, and when.
PEOPLE: Final = sa.Table(
    "chat_people",
    METADATA,
    sa.Column("user_id", sa.String(256), primary_key=True),
    sa.Column("is_online", sa.Boolean, nullable=False),
    sa.Column("look_at", sa.BigInteger, index=True),
)
