"""Alembic's entry, for the kit's revisions and for those of every service; see the package."""

from alembic import context

context.configure(
    connection=context.config.attributes["connection"],
    version_table=context.config.attributes["version_table"],
    # The caller's transaction holds all of it: :func:`towpath.servicekit.storage.database._migrate`.
    transaction_per_migration=False,
    # SQLite changes a column only by copying its table: https://alembic.sqlalchemy.org/en/latest/batch.html
    render_as_batch=True,
)
context.run_migrations()
