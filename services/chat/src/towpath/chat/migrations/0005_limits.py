"""An index to count the rooms that one user has made lately."""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("ix_chat_rooms_created_by", "chat_rooms", ["created_by", "created_at"])


def downgrade() -> None:
    op.drop_index("ix_chat_rooms_created_by", "chat_rooms")
