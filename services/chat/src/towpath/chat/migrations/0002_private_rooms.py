"""Titles, private rooms and invitations; messages that were edited or deleted."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("chat_rooms", sa.Column("title", sa.String(200)))
    op.add_column(
        "chat_rooms", sa.Column("private", sa.Boolean, nullable=False, server_default=sa.false())
    )
    op.add_column("chat_rooms", sa.Column("created_by", sa.String(256)))
    op.add_column("chat_messages", sa.Column("edited_at", sa.BigInteger))
    op.add_column("chat_messages", sa.Column("deleted_at", sa.BigInteger))
    op.create_table(
        "chat_invitations",
        sa.Column("room", sa.String(500), primary_key=True),
        sa.Column("user_id", sa.String(256), primary_key=True),
        sa.Column("invited_by", sa.String(256), nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
    )
    op.create_index("ix_chat_invitations_user", "chat_invitations", ["user_id", "room"])


def downgrade() -> None:
    op.drop_table("chat_invitations")
    for table, column in (
        ("chat_messages", "deleted_at"),
        ("chat_messages", "edited_at"),
        ("chat_rooms", "created_by"),
        ("chat_rooms", "private"),
        ("chat_rooms", "title"),
    ):
        op.drop_column(table, column)
