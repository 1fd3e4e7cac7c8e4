"""Numbers of membership changes, and leaves at the heads of streams."""

import sqlalchemy as sa
from alembic import op

from towpath.servicekit.storage.migrations import create_numbers_table

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    create_numbers_table("chat_group_numbers")
    op.add_column("chat_streams", sa.Column("leaves", sa.Text))


def downgrade() -> None:
    op.drop_column("chat_streams", "leaves")
    op.drop_table("chat_group_numbers")
