"""The tables of the notifications service."""

from typing import Final

import sqlalchemy as sa

from towpath.servicekit import KitTables

METADATA: Final = sa.MetaData()
KIT: Final = KitTables.define(METADATA, "notifications")
STREAMS: Final = KIT.streams
#: One row per notification, by its owner and its position in the owner's stream.
ITEMS: Final = sa.Table(
    "notifications_items",
    METADATA,
    sa.Column("user_id", sa.String(256), primary_key=True),
    sa.Column("seq", sa.BigInteger, primary_key=True),
    # Of owner and topic together: a second event about the same topic finds it.
    sa.Column("id", sa.String(32), nullable=False, unique=True),
    sa.Column("kind", sa.String(32), nullable=False),
    sa.Column("title", sa.Text, nullable=False),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("link", sa.Text),
    sa.Column("created_at", sa.BigInteger, nullable=False, index=True),
    # Unix milliseconds: when a mail about it is due; empty if none is wanted, or once that was decided.
    sa.Column("mail_at", sa.BigInteger, index=True),
)
#: One row per user with preferences or a read position.
PEOPLE: Final = sa.Table(
    "notifications_people",
    METADATA,
    sa.Column("user_id", sa.String(256), primary_key=True),
    sa.Column("email", sa.String(254)),
    sa.Column("language", sa.String(8)),
    # A JSON array; empty for all kinds.
    sa.Column("kinds", sa.Text),
    sa.Column("read_seq", sa.BigInteger, nullable=False, server_default="0"),
    # How often the address was changed, and how many mails were sent, on a day (days since 1970, UTC).
    sa.Column("address_day", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("addresses", sa.Integer, nullable=False, server_default="0"),
    sa.Column("mail_day", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("mails", sa.Integer, nullable=False, server_default="0"),
)
#: The connections of users, as session events report them.
CONNECTIONS: Final = sa.Table(
    "notifications_connections",
    METADATA,
    sa.Column("connection_id", sa.String(256), primary_key=True),
    sa.Column("user_id", sa.String(256), nullable=False, index=True),
    sa.Column("gateway_id", sa.String(256), nullable=False),
    sa.Column("incarnation", sa.String(64), nullable=False),
    sa.Column("is_open", sa.Boolean, nullable=False),
    sa.Column("changed_at", sa.BigInteger, nullable=False, index=True),
)
#: The last run of each gateway, and when it was heard.
GATEWAYS: Final = sa.Table(
    "notifications_gateways",
    METADATA,
    sa.Column("gateway_id", sa.String(256), primary_key=True),
    sa.Column("incarnation", sa.String(64), nullable=False),
    sa.Column("heard_at", sa.BigInteger, nullable=False),
)
