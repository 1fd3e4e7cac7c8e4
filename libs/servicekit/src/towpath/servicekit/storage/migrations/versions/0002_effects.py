"""Effects: the calls to the outside that outcomes declare."""

import sqlalchemy as sa
from alembic import context, op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    service = context.config.attributes["service"]
    # A database that an earlier release was started on after this one has it already.
    if sa.inspect(op.get_bind()).has_table(f"{service}_effects"):
        return
    op.create_table(
        f"{service}_effects",
        sa.Column("effect", sa.String(64), primary_key=True),
        sa.Column("key", sa.String(512), primary_key=True),
        sa.Column("state", sa.String(8), nullable=False),
        sa.Column("due_at", sa.BigInteger, nullable=False),
        sa.Column("holder", sa.String(64)),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("data", sa.Text, nullable=False),
        sa.Column("result", sa.Text),
        sa.Column("error", sa.Text),
        sa.Column("traceparent", sa.String(64), nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
    )
    op.create_index(f"ix_{service}_effects_due", f"{service}_effects", ["effect", "state", "due_at"])


def downgrade() -> None:
    """The table stays: it remembers which effects have run."""
