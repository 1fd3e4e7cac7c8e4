"""The tables of chat."""

from typing import Final

import sqlalchemy as sa

from towpath.protocol.chat import DIRECT_PREFIX, MAX_ROOM, MAX_TITLE
from towpath.servicekit import KitTables

METADATA: Final = sa.MetaData()
KIT: Final = KitTables.define(METADATA, "chat")
INBOX: Final = KIT.inbox
STREAMS: Final = KIT.streams
#: Rooms that :mod:`towpath.chat.finding` lists. Both databases use the index only where a query has the same words.
PUBLIC: Final = sa.text(f"NOT private AND SUBSTR(room, 1, {len(DIRECT_PREFIX)}) <> '{DIRECT_PREFIX}'")
#: ``title`` is empty if the room has no title but its name, ``created_by`` if the creator is unknown, ``owner`` in a
#: public room. ``members`` is the number of rows of the room in :data:`MEMBERS`, changed under the lock on the
#: stream's head.
ROOMS: Final = sa.Table(
    "chat_rooms",
    METADATA,
    sa.Column("room", sa.String(MAX_ROOM), primary_key=True),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("title", sa.String(MAX_TITLE)),
    sa.Column("private", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("created_by", sa.String(256)),
    sa.Column("members", sa.Integer, nullable=False, server_default="0"),
    sa.Column("owner", sa.String(256)),
    sa.Index("ix_chat_rooms_created_by", "created_by", "created_at"),
    sa.Index(
        "ix_chat_rooms_public",
        "room",
        sqlite_where=PUBLIC,
        postgresql_where=PUBLIC,
        postgresql_ops={"room": "varchar_pattern_ops"},
    ),
)
#: ``joined_at`` is 0 for members from before it was stored. ``hidden`` is set while the user has seen nothing of a
#: room of two that a blocked user opened.
MEMBERS: Final = sa.Table(
    "chat_members",
    METADATA,
    sa.Column("room", sa.String(MAX_ROOM), primary_key=True),
    sa.Column("user_id", sa.String(256), primary_key=True),
    sa.Column("read_seq", sa.BigInteger, nullable=False),
    sa.Column("joined_at", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("hidden", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Index("ix_chat_members_user", "user_id", "room"),
    sa.Index("ix_chat_members_joined", "room", "joined_at", "user_id"),
)
#: Users invited to a room who have not joined yet. ``seq`` is the head of the room's stream at the invitation.
#: ``shown_by`` is a later inviter whom the user sees instead of ``invited_by``, whom the user blocks.
INVITATIONS: Final = sa.Table(
    "chat_invitations",
    METADATA,
    sa.Column("room", sa.String(MAX_ROOM), primary_key=True),
    sa.Column("user_id", sa.String(256), primary_key=True),
    sa.Column("invited_by", sa.String(256), nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("seq", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("shown_by", sa.String(256)),
    sa.Index("ix_chat_invitations_user", "user_id", "room"),
)
#: Messages; unlike streams they are kept permanently, except the text of deleted ones. An edited text is stored only
#: here (:mod:`towpath.chat.texts`). ``size`` is the size of the message's largest push, in bytes. ``hidden_from`` is
#: the user of a room of two who blocked the author when the text was written: that user never gets it.
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
    sa.Column("hidden_from", sa.String(256)),
)
#: ``user_id`` blocks ``blocked``.
BLOCKS: Final = sa.Table(
    "chat_blocks",
    METADATA,
    sa.Column("user_id", sa.String(256), primary_key=True),
    sa.Column("blocked", sa.String(256), primary_key=True),
    sa.Column("created_at", sa.BigInteger, nullable=False),
)
#: Gone private rooms, one row each time a room loses its last member or is deleted: entries up to ``seq`` of the
#: stream belong to the gone room. ``uncleared_since`` is when that was, empty once its rows are deleted.
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
#: Crowds. ``changed_at`` is when their counts changed, empty once these were pushed; ``pushed_at`` is the time of the
#: last push.
CROWDS: Final = sa.Table(
    "chat_crowds",
    METADATA,
    sa.Column("room", sa.String(MAX_ROOM), primary_key=True),
    sa.Column("changed_at", sa.BigInteger, index=True),
    sa.Column("pushed_at", sa.BigInteger, nullable=False),
)
#: Connections, from session events; an ended row stays for a while, for a start event that arrives after the end.
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
#: Gateways, one row per start. ``over_at`` is when all its connections were lost: it fell silent, or was restarted.
#: ``looked_up_to`` is the last connection whose user is marked for a presence round; empty when all are.
GATEWAYS: Final = sa.Table(
    "chat_gateways",
    METADATA,
    sa.Column("gateway_id", sa.String(256), primary_key=True),
    sa.Column("incarnation", sa.String(64), primary_key=True),
    sa.Column("heard_at", sa.BigInteger, nullable=False),
    sa.Column("over_at", sa.BigInteger),
    sa.Column("looked_up_to", sa.String(256)),
)
#: Users with their published presence, and when to check them again.
PEOPLE: Final = sa.Table(
    "chat_people",
    METADATA,
    sa.Column("user_id", sa.String(256), primary_key=True),
    sa.Column("is_online", sa.Boolean, nullable=False),
    sa.Column("look_at", sa.BigInteger, index=True),
)
