"""When something about an order is published again; nothing is about the orders of before."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("orders", sa.Column("repeat_at", sa.BigInteger))
    op.create_index("ix_orders_repeat_at", "orders", ["repeat_at"])
