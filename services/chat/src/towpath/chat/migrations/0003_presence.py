"""Connections, gateways, and the presence of users."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "chat_connections",
        sa.Column("connection_id", sa.String(256), primary_key=True),
        sa.Column("user_id", sa.String(256), nullable=False),
        sa.Column("gateway_id", sa.String(256), nullable=False),
        sa.Column("incarnation", sa.String(64), nullable=False),
        sa.Column("ended_at", sa.BigInteger),
    )
    op.create_index("ix_chat_connections_user_id", "chat_connections", ["user_id"])
    op.create_index("ix_chat_connections_ended_at", "chat_connections", ["ended_at"])
    op.create_index(
        "ix_chat_connections_gateway", "chat_connections", ["gateway_id", "incarnation", "connection_id"]
    )
    op.create_table(
        "chat_gateways",
        sa.Column("gateway_id", sa.String(256), primary_key=True),
        sa.Column("incarnation", sa.String(64), primary_key=True),
        sa.Column("heard_at", sa.BigInteger, nullable=False),
        sa.Column("over_at", sa.BigInteger),
        sa.Column("looked_up_to", sa.String(256)),
    )
    op.create_table(
        "chat_people",
        sa.Column("user_id", sa.String(256), primary_key=True),
        sa.Column("is_online", sa.Boolean, nullable=False),
        sa.Column("look_at", sa.BigInteger),
    )
    op.create_index("ix_chat_people_look_at", "chat_people", ["look_at"])


def downgrade() -> None:
    for table in ("chat_people", "chat_gateways", "chat_connections"):
        op.drop_table(table)
