"""Senders in the inbox have their kind in front."""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # ana → user:ana, event:billing → backend:billing
    op.execute(
        "UPDATE orders_inbox SET sender = CASE WHEN sender LIKE 'event:%'"
        " THEN 'backend:' || SUBSTR(sender, 7) ELSE 'user:' || sender END"
    )


def downgrade() -> None:
    raise NotImplementedError("the earlier schema cannot distinguish a user from a backend of the same name")
