"""The tables of the orders service. An order is identified by its owner and its id together."""

from typing import Final

import sqlalchemy as sa

from towpath.servicekit import KitTables

METADATA: Final = sa.MetaData()
KIT: Final = KitTables.define(METADATA, "orders")
INBOX: Final = KIT.inbox
STREAMS: Final = KIT.streams
ORDERS: Final = sa.Table(
    "orders",
    METADATA,
    sa.Column("user_id", sa.String(256), primary_key=True),
    sa.Column("order_id", sa.String(64), primary_key=True),
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("revision", sa.BigInteger, nullable=False),
    # Amounts are in minor units: 990 with 2 decimals is 9.90.
    sa.Column("amount", sa.BigInteger),
    sa.Column("currency", sa.String(3)),
    sa.Column("decimals", sa.SmallInteger),
    sa.Column("refunded", sa.BigInteger),
    sa.Column("rest_is_refunded", sa.Boolean, nullable=False),
    sa.Column("refund_count", sa.Integer, nullable=False),
    sa.Column("items", sa.Text),
    sa.Column("detail", sa.Text),
    sa.Column("is_creation_known", sa.Boolean, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("listed_at", sa.BigInteger, nullable=False),
    sa.Column("updated_at", sa.BigInteger, nullable=False),
    # Unix milliseconds: when something about it is published again; empty if nothing is.
    sa.Column("repeat_at", sa.BigInteger, index=True),
    sa.Index("ix_orders_listed", "user_id", "listed_at", "order_id"),
)
REFUNDS: Final = sa.Table(
    "orders_refunds",
    METADATA,
    sa.Column("user_id", sa.String(256), primary_key=True),
    sa.Column("order_id", sa.String(64), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True),
    # Without an amount it is what was left of an amount that was not known yet.
    sa.Column("amount", sa.BigInteger),
    sa.Column("decimals", sa.SmallInteger),
    sa.Column("sender", sa.String(300), nullable=False),
    sa.Column("revision", sa.BigInteger),
    sa.Column("detail", sa.Text),
    sa.Column("refunded_at", sa.BigInteger, nullable=False),
)
#: The newest revision of each sender of an order's events.
REVISIONS: Final = sa.Table(
    "orders_revisions",
    METADATA,
    sa.Column("user_id", sa.String(256), primary_key=True),
    sa.Column("order_id", sa.String(64), primary_key=True),
    sa.Column("sender", sa.String(300), primary_key=True),
    sa.Column("revision", sa.BigInteger, nullable=False),
)
