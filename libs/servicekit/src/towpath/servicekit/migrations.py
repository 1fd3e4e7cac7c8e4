"""What every service's Alembic ``env.py`` calls.

Migrations run inside the transaction of :meth:`towpath.servicekit.database.Database.open`, so that a failed one
leaves nothing behind.
"""

from alembic import context
from sqlalchemy import MetaData


def run_migrations(metadata: MetaData) -> None:
    """Run the pending migrations on the connection that the caller put into the configuration."""
    attributes = context.config.attributes
    context.configure(
        connection=attributes["connection"],
        target_metadata=metadata,
        version_table=attributes["version_table"],
        transaction_per_migration=False,
        render_as_batch=True,
    )
    context.run_migrations()
