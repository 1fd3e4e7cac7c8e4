"""Orders, their streams and the inbox."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "orders",
        sa.Column("order_id", sa.String(64), primary_key=True),
        sa.Column("user_id", sa.String(256), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.Column("seen_revision", sa.BigInteger, nullable=False),
        sa.Column("cents", sa.BigInteger, nullable=False),
        sa.Column("currency", sa.String(3), nullable=False),
        sa.Column("items", sa.Text),
        sa.Column("detail", sa.Text),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("updated_at", sa.BigInteger, nullable=False),
    )
    op.create_index("ix_orders_user", "orders", ["user_id", "created_at", "order_id"])
    op.create_table(
        "orders_streams",
        sa.Column("stream", sa.String(512), primary_key=True),
        sa.Column("head", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "orders_stream_entries",
        sa.Column("stream", sa.String(512), primary_key=True),
        sa.Column("seq", sa.BigInteger, primary_key=True),
        sa.Column("envelope", sa.Text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
    )
    op.create_index("ix_orders_stream_entries_created_at", "orders_stream_entries", ["created_at"])
    op.create_table(
        "orders_inbox",
        sa.Column("sender", sa.String(300), primary_key=True),
        sa.Column("msg_id", sa.String(64), primary_key=True),
        sa.Column("outcome", sa.Text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
    )
    op.create_index("ix_orders_inbox_created_at", "orders_inbox", ["created_at"])


def downgrade() -> None:
    for table in ("orders_inbox", "orders_stream_entries", "orders_streams", "orders"):
        op.drop_table(table)
