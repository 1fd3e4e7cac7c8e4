"""Senders in the inbox have their kind in front."""

from towpath.servicekit.storage.migrations import name_kinds_of_senders

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    name_kinds_of_senders("chat_inbox")


def downgrade() -> None:
    raise NotImplementedError("the schema of before cannot tell a user from a backend of the same name")
