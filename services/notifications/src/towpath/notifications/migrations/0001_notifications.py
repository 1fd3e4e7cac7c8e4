"""Notifications, people, and the connections that are known."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "notifications_items",
        sa.Column("user_id", sa.String(256), primary_key=True),
        sa.Column("seq", sa.BigInteger, primary_key=True),
        sa.Column("id", sa.String(32), nullable=False, unique=True),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("title", sa.Text, nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("link", sa.Text),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("mail_at", sa.BigInteger),
    )
    op.create_index("ix_notifications_items_created_at", "notifications_items", ["created_at"])
    op.create_index("ix_notifications_items_mail_at", "notifications_items", ["mail_at"])
    op.create_table(
        "notifications_people",
        sa.Column("user_id", sa.String(256), primary_key=True),
        sa.Column("email", sa.String(254)),
        sa.Column("language", sa.String(8)),
        sa.Column("kinds", sa.Text),
        sa.Column("read_seq", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("address_day", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("addresses", sa.Integer, nullable=False, server_default="0"),
        sa.Column("mail_day", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("mails", sa.Integer, nullable=False, server_default="0"),
    )
    op.create_table(
        "notifications_connections",
        sa.Column("connection_id", sa.String(256), primary_key=True),
        sa.Column("user_id", sa.String(256), nullable=False),
        sa.Column("gateway_id", sa.String(256), nullable=False),
        sa.Column("incarnation", sa.String(64), nullable=False),
        sa.Column("is_open", sa.Boolean, nullable=False),
        sa.Column("changed_at", sa.BigInteger, nullable=False),
    )
    op.create_index("ix_notifications_connections_user_id", "notifications_connections", ["user_id"])
    op.create_index("ix_notifications_connections_changed_at", "notifications_connections", ["changed_at"])
    op.create_table(
        "notifications_gateways",
        sa.Column("gateway_id", sa.String(256), primary_key=True),
        sa.Column("incarnation", sa.String(64), nullable=False),
        sa.Column("heard_at", sa.BigInteger, nullable=False),
    )


def downgrade() -> None:
    for table in ("items", "people", "connections", "gateways"):
        op.drop_table(f"notifications_{table}")
