"""Helpers for every service's Alembic ``env.py`` and migrations.

Migrations run inside the transaction of :meth:`towpath.servicekit.storage.database.Database.open`, so that a failed
one is rolled back completely.
"""

import sqlalchemy as sa
from alembic import context, op
from sqlalchemy import MetaData


def run_migrations(metadata: MetaData) -> None:
    """Run the pending migrations on the connection in Alembic's configuration."""
    attributes = context.config.attributes
    context.configure(
        connection=attributes["connection"],
        target_metadata=metadata,
        version_table=attributes["version_table"],
        transaction_per_migration=False,
        render_as_batch=True,
    )
    context.run_migrations()


def create_numbers_table(name: str) -> None:
    """Create the table that :func:`towpath.servicekit.storage.group_numbers.numbers_table` declares, and its row."""
    table = op.create_table(
        name,
        sa.Column("id", sa.SmallInteger, primary_key=True, autoincrement=False),
        sa.Column("number", sa.BigInteger, nullable=False),
    )
    op.bulk_insert(table, [{"id": 1, "number": 1}])  # 0 means that a service does not number its changes.


def name_kinds_of_senders(inbox: str) -> None:
    """Prefix senders with their kind: ``ana`` → ``user:ana``, ``event:billing`` → ``backend:billing``.

    Args:
        inbox: The table, as :func:`towpath.servicekit.storage.inbox.inbox_table` declares it.
    """
    table = sa.table(inbox, sa.column("sender", sa.String))
    is_event = table.c.sender.like("event:%")
    named = sa.case(
        (is_event, sa.literal("backend:").concat(sa.func.substr(table.c.sender, len("event:") + 1))),
        else_=sa.literal("user:").concat(table.c.sender),
    )
    op.execute(table.update().values(sender=named))
