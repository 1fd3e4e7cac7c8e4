"""Stock, reservations and watches."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "inventory_stock",
        sa.Column("sku", sa.String(64), primary_key=True),
        sa.Column("on_hand", sa.BigInteger, nullable=False),
        sa.Column("reserved", sa.BigInteger, nullable=False),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.CheckConstraint("reserved >= 0 AND reserved <= on_hand", name="ck_inventory_stock_never_below_zero"),
    )
    op.create_table(
        "inventory_reservations",
        sa.Column("user_id", sa.String(256), primary_key=True),
        sa.Column("order_id", sa.String(64), primary_key=True),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("quantities", sa.Text, nullable=False),
        sa.Column("changed_at", sa.BigInteger, nullable=False),
    )
    op.create_index(
        "ix_inventory_reservations_changed", "inventory_reservations", ["state", "changed_at"]
    )
    op.create_table(
        "inventory_watches",
        sa.Column("user_id", sa.String(256), primary_key=True),
        sa.Column("sku", sa.String(64), primary_key=True),
    )


def downgrade() -> None:
    for table in ("inventory_watches", "inventory_reservations", "inventory_stock"):
        op.drop_table(table)
