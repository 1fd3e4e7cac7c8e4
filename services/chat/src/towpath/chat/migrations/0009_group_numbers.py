"""Numbers of membership changes, and leaves at the heads of streams."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    numbers = op.create_table(
        "chat_group_numbers",
        sa.Column("id", sa.SmallInteger, primary_key=True, autoincrement=False),
        sa.Column("number", sa.BigInteger, nullable=False),
    )
    op.bulk_insert(numbers, [{"id": 1, "number": 1}])  # 0 means that a service does not number its changes.
    op.add_column("chat_streams", sa.Column("leaves", sa.Text))


def downgrade() -> None:
    op.drop_column("chat_streams", "leaves")
    op.drop_table("chat_group_numbers")
