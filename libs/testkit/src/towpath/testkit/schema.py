"""Whether the migrations of a service and of the kit create the tables that the code declares."""

from typing import Any

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection

from towpath.servicekit.service import Service
from towpath.servicekit.storage.database import Database
from towpath.servicekit.storage.migrations import kit_version_table
from towpath.servicekit.storage.newer_schema import marks_table


async def schema_differences(service: Service[Any], database_url: str) -> list[Any]:
    """The differences that ``alembic revision --autogenerate`` finds after all migrations; normally empty."""
    storage = service.storage
    assert storage is not None
    metadata = storage.inbox.metadata
    # Tables that nothing declares: the other version table, and the one for older releases.
    undeclared = {kit_version_table(service.name), marks_table(service.name)}

    def compare(connection: Connection) -> list[Any]:
        context = MigrationContext.configure(
            connection, opts={"version_table": f"{service.name}_version", "compare_type": True}
        )
        return [
            difference
            for difference in compare_metadata(context, metadata)
            if difference[0] != "remove_table" or difference[1].name not in undeclared
        ]

    async with (
        Database.open(database_url, service=service.name, migrations=storage.migrations) as database,
        database.transaction() as connection,
    ):
        return await connection.run_sync(compare)
