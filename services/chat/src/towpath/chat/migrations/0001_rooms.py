"""Rooms, members and messages, their streams and the inbox."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "chat_rooms",
        sa.Column("room", sa.String(500), primary_key=True),
        sa.Column("created_at", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "chat_members",
        sa.Column("room", sa.String(500), primary_key=True),
        sa.Column("user_id", sa.String(256), primary_key=True),
        sa.Column("read_seq", sa.BigInteger, nullable=False),
    )
    op.create_index("ix_chat_members_user", "chat_members", ["user_id", "room"])
    op.create_table(
        "chat_messages",
        sa.Column("room", sa.String(500), primary_key=True),
        sa.Column("seq", sa.BigInteger, primary_key=True),
        sa.Column("user_id", sa.String(256), nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("client_ref", sa.String(128)),
        sa.Column("sent_at", sa.BigInteger, nullable=False),
        sa.Column("size", sa.Integer, nullable=False),
    )
    op.create_table(
        "chat_streams",
        sa.Column("stream", sa.String(512), primary_key=True),
        sa.Column("head", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "chat_stream_entries",
        sa.Column("stream", sa.String(512), primary_key=True),
        sa.Column("seq", sa.BigInteger, primary_key=True),
        sa.Column("envelope", sa.Text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
    )
    op.create_index("ix_chat_stream_entries_created_at", "chat_stream_entries", ["created_at"])
    op.create_table(
        "chat_inbox",
        sa.Column("sender", sa.String(300), primary_key=True),
        sa.Column("msg_id", sa.String(64), primary_key=True),
        sa.Column("outcome", sa.Text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
    )
    op.create_index("ix_chat_inbox_created_at", "chat_inbox", ["created_at"])


def downgrade() -> None:
    for table in (
        "chat_inbox",
        "chat_stream_entries",
        "chat_streams",
        "chat_messages",
        "chat_members",
        "chat_rooms",
    ):
        op.drop_table(table)
