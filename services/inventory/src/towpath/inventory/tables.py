"""The tables of the inventory service."""

from typing import Final

import sqlalchemy as sa

from towpath.servicekit import KitTables

METADATA: Final = sa.MetaData()
KIT: Final = KitTables.define(METADATA, "inventory")
INBOX: Final = KIT.inbox
STREAMS: Final = KIT.streams
#: The tracked items. ``revision`` is the ``seq`` of the last entry of the item's stream.
STOCK: Final = sa.Table(
    "inventory_stock",
    METADATA,
    sa.Column("sku", sa.String(64), primary_key=True),
    sa.Column("on_hand", sa.BigInteger, nullable=False),
    sa.Column("reserved", sa.BigInteger, nullable=False),
    sa.Column("revision", sa.BigInteger, nullable=False),
    # The second lock on the door: the domain checks it first.
    sa.CheckConstraint("reserved >= 0 AND reserved <= on_hand", name="ck_inventory_stock_never_below_zero"),
)
#: Every order that has items, and every order that ended before it was created. ``quantities`` is a JSON object.
RESERVATIONS: Final = sa.Table(
    "inventory_reservations",
    METADATA,
    sa.Column("user_id", sa.String(256), primary_key=True),
    sa.Column("order_id", sa.String(64), primary_key=True),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("quantities", sa.Text, nullable=False),
    sa.Column("changed_at", sa.BigInteger, nullable=False),
    sa.Index("ix_inventory_reservations_changed", "state", "changed_at"),
)
#: ``user_id`` watches ``sku``.
WATCHES: Final = sa.Table(
    "inventory_watches",
    METADATA,
    sa.Column("user_id", sa.String(256), primary_key=True),
    sa.Column("sku", sa.String(64), primary_key=True),
)
