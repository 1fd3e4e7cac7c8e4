"""The payments of each boat."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "tolls_paid",
        sa.Column("boat", sa.String(64), primary_key=True),
        sa.Column("times", sa.BigInteger, nullable=False),
    )
