"""A service starts only with all the tables that its code declares."""

from pathlib import Path

import pytest
import sqlalchemy as sa

from towpath.servicekit import Database, KitTables
from towpath.servicekit.storage.declared_tables import MissingMigration

MIGRATION = """
import sqlalchemy as sa
from alembic import op

revision, down_revision = {revision!r}, {before!r}


def upgrade():
    {step}
"""
SACKS = 'op.create_table("mill_sacks", sa.Column("id", sa.BigInteger, primary_key=True), sa.Column("extra", sa.Text))'


def write(folder: Path, *steps: str) -> Path:
    folder.mkdir(exist_ok=True)
    for number, step in enumerate(steps, start=1):
        before = f"{number - 1:04}" if number > 1 else None
        text = MIGRATION.format(revision=f"{number:04}", before=before, step=step)
        (folder / f"{number:04}_step.py").write_text(text)
    return folder


def declared(*columns: "sa.Column[object]") -> sa.MetaData:
    """The tables of the kit, and one of the service."""
    metadata = sa.MetaData()
    KitTables.define(metadata, "mill")
    if columns:
        sa.Table("mill_sacks", metadata, sa.Column("id", sa.BigInteger, primary_key=True), *columns)
    return metadata


async def start(url: str, metadata: sa.MetaData, migrations: Path | None) -> None:
    async with Database.open(url, service="mill", migrations=migrations, metadata=metadata):
        pass


async def missing(url: str, metadata: sa.MetaData, migrations: Path | None) -> str:
    with pytest.raises(MissingMigration) as problem:
        await start(url, metadata, migrations)
    return str(problem.value)


async def test_the_migration_of_a_missing_table_is_named(database_url: str, tmp_path: Path) -> None:
    metadata = declared(sa.Column("grain", sa.String(20)))
    folder = write(tmp_path / "migrations")
    assert await missing(database_url, metadata, folder) == (
        "the service 'mill' declares the table mill_sacks, which its database does not have: write the migration "
        f"{folder}/0001_mill_sacks.py with op.create_table('mill_sacks', …)"
    )
    assert await missing(database_url, metadata, None) == (
        "the service 'mill' declares the table mill_sacks, which its database does not have: name a folder in "
        "Storage(migrations=…), and write a migration in it with op.create_table('mill_sacks', …)"
    )


async def test_the_migration_of_a_missing_column_is_named_and_is_right(
    database_url: str, tmp_path: Path
) -> None:
    folder = write(tmp_path / "migrations", SACKS)
    await start(database_url, declared(sa.Column("extra", sa.Text)), folder)
    metadata = declared(sa.Column("grain", sa.String(20)))
    said = await missing(database_url, metadata, folder)
    head, _, step = said.partition(" with ")
    assert head == (
        "the service 'mill' declares the column mill_sacks.grain, which its database does not have: write the "
        f"migration {folder}/0002_mill_sacks.py, down_revision = '0001',"
    )
    write(folder, SACKS, step)
    await start(database_url, metadata, folder)


async def test_a_database_may_have_more_than_the_code_declares(database_url: str, tmp_path: Path) -> None:
    await start(database_url, declared(), write(tmp_path / "migrations", SACKS))


async def test_a_start_without_a_migration_changes_nothing(database_url: str, tmp_path: Path) -> None:
    folder = write(tmp_path / "migrations", SACKS)
    await missing(database_url, declared(sa.Column("grain", sa.String(20))), folder)
    async with Database.open(database_url, service="other") as database, database.transaction() as connection:
        tables = await connection.run_sync(lambda sync: sa.inspect(sync).get_table_names())
    assert [table for table in tables if table.startswith("mill")] == []
