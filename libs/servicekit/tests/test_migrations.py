"""The kit's tables: created for a new service, adopted from older ones, by any number of replicas at once."""

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import create_async_engine

from towpath.servicekit import KitTables
from towpath.servicekit.runtime.settings import BadSetting
from towpath.servicekit.storage.database import Database
from towpath.servicekit.storage.migrations import history, kit_history, kit_version_table

METADATA: Final = sa.MetaData()
KIT: Final = KitTables.define(METADATA, "shop")
TABLES: Final = (
    *("shop_inbox", "shop_streams", "shop_stream_entries"),
    *("shop_outbox", "shop_outbox_lease", "shop_group_numbers"),
    "shop_effects",
)
#: A row for each table that orders of the last release without the kit's migrations had.
ROWS: Final = (
    "INSERT INTO shop_inbox (sender, msg_id, outcome, created_at) VALUES ('user:ana', 'm-1', '{}', 1)",
    "INSERT INTO shop_streams (stream, head) VALUES ('shop:ana', 7)",
    "INSERT INTO shop_stream_entries (stream, seq, envelope, created_at) VALUES ('shop:ana', 7, '{}', 1)",
)
#: These tables as each service created them in migrations of its own.
OWN: Final = """
import sqlalchemy as sa
from alembic import op
revision, down_revision = "0001", None
def upgrade():
    op.create_table(
        "shop_streams",
        sa.Column("stream", sa.String(512), primary_key=True),
        sa.Column("head", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "shop_stream_entries",
        sa.Column("stream", sa.String(512), primary_key=True),
        sa.Column("seq", sa.BigInteger, primary_key=True),
        sa.Column("envelope", sa.Text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
    )
    op.create_index("ix_shop_stream_entries_created_at", "shop_stream_entries", ["created_at"])
    op.create_table(
        "shop_inbox",
        sa.Column("sender", sa.String(300), primary_key=True),
        sa.Column("msg_id", sa.String(64), primary_key=True),
        sa.Column("outcome", sa.Text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
    )
    op.create_index("ix_shop_inbox_created_at", "shop_inbox", ["created_at"])
"""


def differences(connection: Connection) -> list[Any]:
    """Differences between the database and the declared tables; version tables do not count."""
    context = MigrationContext.configure(connection, opts={"compare_type": True})
    found = compare_metadata(context, METADATA)
    return [one for one in found if one[0] != "remove_table" or not one[1].name.endswith("_version")]


async def rows_of(database: Database, table: str) -> Sequence[Any]:
    async with database.reading() as connection:
        rows = await connection.execute(sa.text(f"SELECT * FROM {table}"))
        return [dict(row._mapping) for row in rows]


async def test_a_service_without_migrations_of_its_own_gets_the_tables_of_the_kit(database_url: str) -> None:
    async with Database.open(database_url, service="shop") as database:
        async with database.transaction() as connection:
            assert await connection.run_sync(differences) == []
        assert await rows_of(database, "shop_group_numbers") == [{"id": 1, "number": 1}]
        assert [len(await rows_of(database, table)) for table in TABLES] == [0, 0, 0, 0, 0, 1, 0]
        await database.probe(20.0)
        assert database.writability.is_writable


async def test_tables_that_a_service_created_itself_are_adopted_with_their_rows(
    database_url: str, tmp_path: Path
) -> None:
    (tmp_path / "0001_shop.py").write_text(OWN)
    engine = create_async_engine(database_url)
    async with engine.begin() as connection:
        await connection.run_sync(_as_the_last_release_left_it, tmp_path)
    await engine.dispose()
    for _ in range(2):  # A second start changes nothing.
        async with Database.open(database_url, service="shop", migrations=tmp_path) as database:
            async with database.transaction() as connection:
                assert await connection.run_sync(differences) == []
            assert await rows_of(database, "shop_inbox") == [
                {"sender": "user:ana", "msg_id": "m-1", "outcome": "{}", "created_at": 1}
            ]
            assert await rows_of(database, "shop_streams") == [
                {"stream": "shop:ana", "head": 7, "leaves": None}
            ]
            assert [row["seq"] for row in await rows_of(database, "shop_stream_entries")] == [7]
            assert await rows_of(database, "shop_version") == [{"version_num": "0001"}]


def _as_the_last_release_left_it(connection: Connection, migrations: Path) -> None:
    command.upgrade(history(connection, "shop", migrations), "head")
    for statement in ROWS:
        connection.execute(sa.text(statement))


async def test_a_database_of_the_present_shape_is_adopted_unchanged(database_url: str) -> None:
    """As chat's: all tables are there, and there is no version table of the kit yet."""
    async with Database.open(database_url, service="shop") as database, database.transaction() as connection:
        for statement in (*ROWS, "UPDATE shop_group_numbers SET number = 9", "DROP TABLE shop_kit_version"):
            await connection.execute(sa.text(statement))
        before = await connection.run_sync(_schema)
    async with Database.open(database_url, service="shop") as database:
        async with database.transaction() as connection:
            assert await connection.run_sync(_schema) == before
        assert await rows_of(database, "shop_group_numbers") == [{"id": 1, "number": 9}]
        assert len(await rows_of(database, "shop_stream_entries")) == 1


def _schema(connection: Connection) -> dict[str, Any]:
    inspector = sa.inspect(connection)
    return {
        table: (
            [
                (column["name"], str(column["type"]), column["nullable"])
                for column in inspector.get_columns(table)
            ],
            inspector.get_pk_constraint(table)["constrained_columns"],
            sorted(str(index["name"]) for index in inspector.get_indexes(table)),
        )
        for table in TABLES
    }


async def test_replicas_that_start_together_create_the_tables_once(database_url: str) -> None:
    async with asyncio.timeout(60), AsyncExitStack() as stack:
        replicas = await asyncio.gather(
            *(stack.enter_async_context(Database.open(database_url, service="shop")) for _ in range(6))
        )
        for replica in replicas:
            assert await rows_of(replica, "shop_group_numbers") == [{"id": 1, "number": 1}]
        assert await rows_of(replicas[0], kit_version_table("shop")) == [{"version_num": "0002"}]


async def test_replicas_that_start_together_adopt_older_tables_once(
    database_url: str, tmp_path: Path
) -> None:
    (tmp_path / "0001_shop.py").write_text(OWN)
    async with asyncio.timeout(60), AsyncExitStack() as stack:
        replicas = await asyncio.gather(
            *(
                stack.enter_async_context(Database.open(database_url, service="shop", migrations=tmp_path))
                for _ in range(4)
            )
        )
        async with replicas[0].transaction() as connection:
            assert await connection.run_sync(differences) == []


async def test_services_that_share_a_database_have_tables_of_their_own(database_url: str) -> None:
    async with (
        Database.open(database_url, service="shop") as shop,
        Database.open(database_url, service="mill") as mill,
    ):
        async with shop.transaction() as connection:
            await connection.execute(sa.text(ROWS[0]))
        assert len(await rows_of(mill, "shop_inbox")) == 1
        assert await rows_of(mill, "mill_inbox") == []


async def test_a_table_of_another_shape_that_has_a_name_of_the_kit_is_reported(database_url: str) -> None:
    engine = create_async_engine(database_url)
    async with engine.begin() as connection:
        await connection.execute(sa.text("CREATE TABLE shop_outbox (id INTEGER PRIMARY KEY, item TEXT)"))
    with pytest.raises(
        BadSetting, match=r"shop_outbox has no column created_at, exchange, routing_key; .* name$"
    ):
        async with Database.open(database_url, service="shop"):
            pass
    async with engine.connect() as connection:
        names = await connection.run_sync(lambda sync: sa.inspect(sync).get_table_names())
    assert names == ["shop_outbox"], "a failed migration leaves nothing behind"
    await engine.dispose()


@pytest.mark.parametrize("folder", ["two words", "a:colon", "a,comma", "100 %(percent)s"])
async def test_migrations_may_be_in_any_folder(folder: str, database_url: str, tmp_path: Path) -> None:
    migrations = tmp_path / folder
    migrations.mkdir()
    (migrations / "0001_shop.py").write_text(OWN)
    async with Database.open(database_url, service="shop", migrations=migrations) as database:
        assert await rows_of(database, "shop_version") == [{"version_num": "0001"}]


async def test_taking_the_kit_back_keeps_the_tables(database_url: str) -> None:
    """A release from before the kit's migrations goes on with them."""
    async with Database.open(database_url, service="shop") as database, database.transaction() as connection:
        await connection.execute(sa.text(ROWS[0]))
        await connection.run_sync(lambda sync: command.downgrade(kit_history(sync, "shop"), "base"))
    async with Database.open(database_url, service="shop") as database:
        assert len(await rows_of(database, "shop_inbox")) == 1
