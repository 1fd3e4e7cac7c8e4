"""Owners of private rooms, users who are blocked, and what is hidden from the user who blocks.

The owner of an existing private room is its creator, or else its first member by name: when each member joined was not
stored.
"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

OWNERS = """
    UPDATE chat_rooms SET owner = CASE
        WHEN EXISTS (SELECT 1 FROM chat_members WHERE chat_members.room = chat_rooms.room AND user_id = created_by)
        THEN created_by
        ELSE (SELECT MIN(user_id) FROM chat_members WHERE chat_members.room = chat_rooms.room)
    END WHERE private
"""


def upgrade() -> None:
    op.add_column("chat_rooms", sa.Column("owner", sa.String(256)))
    op.execute(OWNERS)
    op.add_column("chat_members", sa.Column("joined_at", sa.BigInteger, nullable=False, server_default="0"))
    op.add_column("chat_members", sa.Column("hidden", sa.Boolean, nullable=False, server_default=sa.false()))
    op.create_index("ix_chat_members_joined", "chat_members", ["room", "joined_at", "user_id"])
    op.add_column("chat_invitations", sa.Column("shown_by", sa.String(256)))
    op.add_column("chat_messages", sa.Column("hidden_from", sa.String(256)))
    op.create_table(
        "chat_blocks",
        sa.Column("user_id", sa.String(256), primary_key=True),
        sa.Column("blocked", sa.String(256), primary_key=True),
        sa.Column("created_at", sa.BigInteger, nullable=False),
    )


def downgrade() -> None:
    raise NotImplementedError("the earlier schema cannot hide a message from one of its readers")
