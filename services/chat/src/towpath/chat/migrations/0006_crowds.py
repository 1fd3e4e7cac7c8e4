"""How many members a room has, and the crowds whose numbers have changed."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("chat_rooms", sa.Column("members", sa.Integer, nullable=False, server_default="0"))
    op.execute(
        "UPDATE chat_rooms SET members ="
        " (SELECT COUNT(*) FROM chat_members WHERE chat_members.room = chat_rooms.room)"
    )
    op.create_table(
        "chat_crowds",
        sa.Column("room", sa.String(500), primary_key=True),
        sa.Column("changed_at", sa.BigInteger),
        sa.Column("pushed_at", sa.BigInteger, nullable=False),
    )
    op.create_index("ix_chat_crowds_changed_at", "chat_crowds", ["changed_at"])


def downgrade() -> None:
    op.drop_table("chat_crowds")
    op.drop_column("chat_rooms", "members")
