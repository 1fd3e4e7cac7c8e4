"""A release works on a schema that a newer one has expanded, and refuses one that is not for it."""

import asyncio
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Final

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection
from structlog.testing import capture_logs

from towpath.servicekit import Database, KitTables
from towpath.servicekit.runtime.exit_status import ExitStatus
from towpath.servicekit.storage import database as database_module
from towpath.servicekit.storage import sqlite
from towpath.servicekit.storage.newer_schema import BadMark, NewerSchema
from towpath.testkit.eventually import eventually

MIGRATION: Final = """
import sqlalchemy as sa
from alembic import op

revision, down_revision = {revision!r}, {before!r}
{mark}

def upgrade():
    {step}
"""
SACKS: Final = (
    'op.create_table("mill_sacks", '
    'sa.Column("id", sa.BigInteger, primary_key=True), sa.Column("grain", sa.Text))'
)
ADD_ORIGIN: Final = 'op.add_column("mill_sacks", sa.Column("origin", sa.Text))'
ADD_BINS: Final = 'op.create_table("mill_bins", sa.Column("id", sa.BigInteger, primary_key=True))'
DROP_GRAIN: Final = 'op.execute("ALTER TABLE mill_sacks DROP COLUMN grain")'
#: SQLite adds no column that needs a value, so the table is a new one.
NEED_ORIGIN: Final = """op.drop_table("mill_sacks")
    columns = [sa.Column("id", sa.BigInteger, primary_key=True), sa.Column("grain", sa.Text)]
    op.create_table("mill_sacks", *columns, sa.Column("origin", sa.Text, nullable=False))"""
DEFAULT_ORIGIN: Final = (
    'op.add_column("mill_sacks", sa.Column("origin", sa.Text, nullable=False, server_default="?"))'
)
PATIENCE: Final = 60.0


class Release:
    """One release of a service: its migrations and its tables."""

    def __init__(self, folder: Path, *steps: str | tuple[str, str], **columns: Any) -> None:
        """A step is the body of a migration, or that and the revision from which releases can work on it."""
        folder.mkdir()
        self.migrations = folder
        for number, step in enumerate(steps, start=1):
            body, oldest = step if isinstance(step, tuple) else (step, None)
            text = MIGRATION.format(
                revision=f"{number:04}",
                before=f"{number - 1:04}" if number > 1 else None,
                mark="" if oldest is None else f"compatible_from = {oldest!r}",
                step=body,
            )
            (folder / f"{number:04}_step.py").write_text(text)
        self.metadata = sa.MetaData()
        KitTables.define(self.metadata, "mill")
        declared = [sa.Column(name, kind) for name, kind in ({"grain": sa.Text} | columns).items() if kind]
        self.sacks = sa.Table(
            "mill_sacks", self.metadata, sa.Column("id", sa.BigInteger, primary_key=True), *declared
        )

    def open(self, url: str) -> AbstractAsyncContextManager[Database]:
        return Database.open(url, service="mill", migrations=self.migrations, metadata=self.metadata)

    async def store(self, database: Database, number: int, **values: str) -> None:
        async with database.transaction() as connection:
            await connection.execute(self.sacks.insert().values(id=number, **values))

    async def stored(self, database: Database) -> list[Any]:
        async with database.reading() as connection:
            rows = await connection.execute(sa.select(self.sacks).order_by(self.sacks.c.id))
            return [tuple(row) for row in rows]

    async def refused(self, url: str) -> str:
        with pytest.raises(NewerSchema) as problem:
            async with self.open(url):
                pass
        assert problem.value.status is ExitStatus.BAD_SETTING
        return str(problem.value)


@pytest.fixture
def old(tmp_path: Path) -> Release:
    return Release(tmp_path / "old", SACKS)


async def version(database: Database, table: str = "mill_version") -> str:
    async with database.reading() as connection:
        row = await connection.execute(sa.text(f"SELECT version_num FROM {table}"))
        return str(row.scalar_one())


async def test_an_old_release_runs_and_starts_on_a_schema_that_a_newer_one_expanded(
    database_url: str, tmp_path: Path, old: Release
) -> None:
    new = Release(tmp_path / "new", SACKS, ADD_ORIGIN, ADD_BINS, origin=sa.Text)
    async with old.open(database_url) as running:
        await old.store(running, 1, grain="rye")
        async with new.open(database_url) as newer:
            await old.store(running, 2, grain="oat")
            await new.store(newer, 3, grain="rye", origin="Leeds")
            assert await new.stored(newer) == [(1, "rye", None), (2, "oat", None), (3, "rye", "Leeds")]
        assert await old.stored(running) == [(1, "rye"), (2, "oat"), (3, "rye")]
    with capture_logs() as logs:
        async with old.open(database_url) as again:
            await old.store(again, 4, grain="oat")
            await again.probe(20.0)
            assert again.writability.is_writable
            assert await version(again) == "0003"
    [line] = [line for line in logs if line["event"] == "schema_is_newer"]
    assert (line["service"], line["ahead"]) == ("mill", "mill_version 0003 (this release has 0001)")
    with capture_logs() as logs:
        async with new.open(database_url) as newer:
            assert len(await new.stored(newer)) == 4
    assert logs == []


async def test_a_release_starts_on_tables_of_a_newer_kit(database_url: str, old: Release) -> None:
    async with old.open(database_url) as database, database.transaction() as connection:
        await connection.execute(sa.text("UPDATE mill_kit_version SET version_num = '9999'"))
    with capture_logs() as logs:
        async with old.open(database_url) as database:
            assert await version(database, "mill_kit_version") == "9999"
    [line] = [line for line in logs if line["event"] == "schema_is_newer"]
    assert line["ahead"] == "mill_kit_version 9999 (this release has 0002)"


async def test_a_release_refuses_a_schema_that_is_marked_for_newer_ones(
    database_url: str, tmp_path: Path, old: Release
) -> None:
    last = Release(tmp_path / "last", SACKS, ADD_ORIGIN, origin=sa.Text)
    # Later revisions have no mark of their own, and that of before still counts.
    new = Release(tmp_path / "new", SACKS, ADD_ORIGIN, ("pass", "0002"), ADD_BINS, origin=sa.Text)
    for _ in range(2):
        async with new.open(database_url):
            pass
    async with last.open(database_url) as database:
        await last.store(database, 1, grain="rye")
    assert await old.refused(database_url) == (
        "TOWPATH_DATABASE_URL: holds a schema this version does not know, mill_version 0004 (this release has 0001), "
        "which is for releases that have revision 0002: start a newer release, or restore a backup of before the "
        "upgrade"
    )


async def test_a_newer_mark_replaces_an_older_one(database_url: str, tmp_path: Path) -> None:
    last = Release(tmp_path / "last", SACKS, ("pass", "0001"))
    async with last.open(database_url):
        pass
    new = Release(tmp_path / "new", SACKS, ("pass", "0001"), ("pass", "0003"))
    async with new.open(database_url):
        pass
    assert "which is for releases that have revision 0003" in await last.refused(database_url)


async def test_a_release_refuses_a_schema_without_a_column_that_it_declares(
    database_url: str, tmp_path: Path, old: Release
) -> None:
    async with Release(tmp_path / "new", SACKS, DROP_GRAIN, grain=None).open(database_url):
        pass
    assert "without the column mill_sacks.grain: start a newer release" in await old.refused(database_url)


async def test_a_release_refuses_a_schema_with_a_column_that_it_would_leave_without_a_value(
    database_url: str, tmp_path: Path, old: Release
) -> None:
    async with Release(tmp_path / "new", SACKS, NEED_ORIGIN, origin=sa.Text).open(database_url):
        pass
    refused = await old.refused(database_url)
    assert "where the column mill_sacks.origin needs a value that this release does not write" in refused


async def test_a_release_works_on_a_schema_with_a_column_that_has_a_default(
    database_url: str, tmp_path: Path, old: Release
) -> None:
    new = Release(tmp_path / "new", SACKS, DEFAULT_ORIGIN, origin=sa.Text)
    async with new.open(database_url):
        pass
    async with old.open(database_url) as database:
        await old.store(database, 1, grain="rye")
        assert await new.stored(database) == [(1, "rye", "?")]


@pytest.mark.parametrize("oldest", ["0003", "1", None])
async def test_a_mark_that_names_no_revision_is_refused_and_changes_nothing(
    database_url: str, tmp_path: Path, old: Release, oldest: Any
) -> None:
    async with old.open(database_url):
        pass
    new = Release(tmp_path / "new", SACKS, "pass", ADD_BINS)
    path = new.migrations / "0002_step.py"
    path.write_text(path.read_text() + f"\ncompatible_from = {oldest!r}\n")
    with pytest.raises(BadMark) as problem:
        async with new.open(database_url):
            pass
    assert str(problem.value).startswith(
        f"{path}: compatible_from = {oldest!r} names no revision up to 0002; write the oldest one"
    )
    assert problem.value.status is ExitStatus.BAD_SERVICE
    with capture_logs() as logs:
        async with old.open(database_url):
            pass
    assert logs == []


# While others use the tables


async def test_a_migration_waits_for_a_transaction_of_an_old_release_and_is_then_done(
    database_url: str, tmp_path: Path, old: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_module, "_LOCK_TIMEOUT", "50ms")
    new = Release(tmp_path / "new", SACKS, ADD_BINS, ADD_ORIGIN, origin=sa.Text)
    with capture_logs() as logs:
        async with asyncio.timeout(PATIENCE), old.open(database_url) as running:
            monkeypatch.setattr(sqlite, "_WAIT_SECONDS", 0.05)  # of connections from now on
            async with running.transaction() as connection:
                await connection.execute(old.sacks.insert().values(id=1, grain="rye"))
                migrating = asyncio.create_task(started(new, database_url))
                await eventually(lambda: "migration_waits" in [line["event"] for line in logs])
            await migrating
            assert await new.stored(running) == [(1, "rye", None)]


async def test_a_migration_that_is_ended_by_a_deadlock_is_tried_again(
    postgres_url: str, tmp_path: Path, old: Release
) -> None:
    first = Release(tmp_path / "first", SACKS, ADD_BINS)
    add_to_bins = ADD_ORIGIN.replace("mill_sacks", "mill_bins")
    new = Release(tmp_path / "new", SACKS, ADD_BINS, add_to_bins, ADD_ORIGIN, origin=sa.Text)
    with capture_logs() as logs:
        async with (
            asyncio.timeout(PATIENCE),
            first.open(postgres_url) as running,
            running.reading() as watching,
        ):
            async with running.transaction() as connection:
                await connection.execute(first.sacks.insert().values(id=1, grain="rye"))
                migrating = asyncio.create_task(started(new, postgres_url))
                await eventually(lambda: is_waited_for(watching, "mill_sacks"))
                # PostgreSQL ends the transaction that has waited longer.
                await connection.execute(sa.text("SELECT id FROM mill_bins"))
            await migrating
    [waited] = {line["error"] for line in logs if line["event"] == "migration_waits"}
    assert "40P01" in waited


async def started(release: Release, url: str) -> None:
    async with release.open(url):
        pass


async def is_waited_for(connection: AsyncConnection, table: str) -> bool:
    query = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = CAST(:table AS regclass)"
    return bool(await connection.scalar(sa.text(query), {"table": table}))
