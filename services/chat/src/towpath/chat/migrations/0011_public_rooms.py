"""An index on the names of public rooms, to find them by the beginning of a name."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

PUBLIC = sa.text("NOT private AND SUBSTR(room, 1, 3) <> 'dm:'")


def upgrade() -> None:
    op.create_index(
        "ix_chat_rooms_public",
        "chat_rooms",
        ["room"],
        sqlite_where=PUBLIC,
        postgresql_where=PUBLIC,
        postgresql_ops={"room": "varchar_pattern_ops"},
    )


def downgrade() -> None:
    op.drop_index("ix_chat_rooms_public", "chat_rooms")
