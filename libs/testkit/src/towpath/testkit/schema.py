"""Whether a service's migrations make the tables that its code declares."""

from typing import Any

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection

from towpath.servicekit.handling.store import Storage
from towpath.servicekit.storage.database import Database


async def schema_differences(storage: Storage[Any], database_url: str) -> list[Any]:
    """What ``alembic revision --autogenerate`` would find to do after all migrations; nothing, if they are right."""
    version_table = "schema_version"

    def compare(connection: Connection) -> list[Any]:
        context = MigrationContext.configure(
            connection, opts={"version_table": version_table, "compare_type": True}
        )
        return list(compare_metadata(context, storage.inbox.metadata))

    async with (
        Database.open(database_url, migrations=storage.migrations, version_table=version_table) as database,
        database.transaction() as connection,
    ):
        return await connection.run_sync(compare)
