"""Database: migrated on open, one writer at a time, reads that wait for no writer, failures by their cause."""

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from pathlib import Path
from typing import Final

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from structlog.testing import capture_logs

from towpath.servicekit.runtime.exit_status import ExitStatus
from towpath.servicekit.runtime.settings import BadSetting, RefusedLogin, ServiceSettings
from towpath.servicekit.storage.database import Database, lacks_something
from towpath.servicekit.storage.writability import MEMORY, Writability
from towpath.testkit.eventually import eventually
from towpath.testkit.postgres import Postgres

COUNTERS: Final = sa.table("counters", sa.column("name"), sa.column("value"))
REVISION: Final = """
import sqlalchemy as sa
from alembic import op
revision, down_revision = {revision!r}, {before!r}
def upgrade():
    op.create_table(
        {table!r},
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("value", sa.BigInteger, nullable=False),
    )
    {more}
"""
PATIENCE: Final = 20.0

Open = Callable[[], AbstractAsyncContextManager[Database]]


def write_migrations(folder: Path, *tables: str, more: str = "") -> Path:
    """A folder of migrations with a revision a table."""
    folder.mkdir(parents=True)
    for number, table in enumerate(tables):
        before = str(number) if number else None
        text = REVISION.format(revision=str(number + 1), before=before, table=table, more=more)
        (folder / f"{number + 1}.py").write_text(text)
    return folder


@pytest.fixture
def migrations(tmp_path: Path) -> Path:
    return write_migrations(tmp_path / "migrations", "counters")


@pytest.fixture
def open_database(database_url: str, migrations: Path) -> Open:
    return lambda: Database.open(database_url, service="test", migrations=migrations)


@pytest.fixture
async def database(open_database: Open) -> AsyncIterator[Database]:
    async with open_database() as database:
        yield database


async def put(connection: AsyncConnection, name: str, value: int) -> None:
    await connection.execute(COUNTERS.insert().values(name=name, value=value))


async def value_of(connection: AsyncConnection, name: str, *, lock: bool = False) -> int | None:
    query = sa.select(COUNTERS.c.value).where(COUNTERS.c.name == name)
    value: int | None = await connection.scalar(query.with_for_update() if lock else query)
    return value


# Opening


async def test_opening_migrates_the_schema_and_keeps_the_rows(open_database: Open) -> None:
    async with open_database() as database, database.transaction() as connection:
        await put(connection, "a", 1)
    async with open_database() as database, database.reading() as connection:
        assert await value_of(connection, "a") == 1


async def test_replicas_that_start_together_migrate_one_after_another(open_database: Open) -> None:
    async with asyncio.timeout(PATIENCE), AsyncExitStack() as stack:
        replicas = await asyncio.gather(*(stack.enter_async_context(open_database()) for _ in range(6)))
        for number, replica in enumerate(replicas):
            async with replica.transaction() as connection:
                await put(connection, str(number), number)


async def test_services_may_share_a_database(database_url: str, tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        for name in ("chat", "orders"):
            folder = write_migrations(tmp_path / name, f"{name}_counters")
            await stack.enter_async_context(Database.open(database_url, service=name, migrations=folder))


async def test_a_migration_that_fails_leaves_nothing_behind(database_url: str, tmp_path: Path) -> None:
    broken = write_migrations(tmp_path / "broken", "counters", more="raise ZeroDivisionError")
    with pytest.raises(ZeroDivisionError):
        async with Database.open(database_url, service="test", migrations=broken):
            pass
    mended = write_migrations(tmp_path / "mended", "counters")
    async with (
        Database.open(database_url, service="test", migrations=mended) as database,
        database.transaction() as connection,
    ):
        await put(connection, "a", 1)


#: Waits in a statement, for two seconds at most, until the event loop has turned.
WAITING: Final = """
    import asyncio, threading
    turned, loop = threading.Event(), asyncio.get_running_loop()
    raw = op.get_bind().connection.driver_connection._connection
    raw.create_function("wait_for_a_turn", 0, lambda: turned.wait(2))
    loop.call_soon_threadsafe(turned.set)
    op.execute("INSERT INTO counters SELECT 'turned', wait_for_a_turn()")
"""


async def test_a_long_migration_does_not_block_the_event_loop(tmp_path: Path) -> None:
    migrations = write_migrations(tmp_path / "migrations", "counters", more=WAITING)
    async with (
        Database.open(
            f"sqlite+aiosqlite:///{tmp_path}/towpath.db", service="test", migrations=migrations
        ) as database,
        database.reading() as connection,
    ):
        assert await value_of(connection, "turned") == 1


#: Writes down how many seconds the driver gives a statement.
TIME_LIMIT: Final = """
    limit = int(op.get_bind().connection.driver_connection._config.command_timeout)
    op.execute(f"INSERT INTO counters VALUES ('limit', {limit})")
"""


async def test_a_statement_of_a_migration_has_an_hour(postgres_url: str, tmp_path: Path) -> None:
    migrations = write_migrations(tmp_path / "migrations", "counters", more=TIME_LIMIT)
    async with (
        Database.open(postgres_url, service="test", migrations=migrations) as database,
        database.reading() as connection,
    ):
        assert await value_of(connection, "limit") == 3600


async def refusal(url: str, migrations: Path) -> str:
    with pytest.raises(BadSetting) as bad:
        async with asyncio.timeout(PATIENCE), Database.open(url, service="test", migrations=migrations):
            pass
    told = str(bad.value)
    assert told.startswith("TOWPATH_DATABASE_URL")
    assert "\n" not in told
    assert "hunter2" not in told
    return told


async def test_an_account_that_postgresql_refuses_is_a_refusal(postgres_url: str, migrations: Path) -> None:
    url = sa.make_url(postgres_url).set(username="stranger", password="hunter2")
    with pytest.raises(RefusedLogin, match="stranger") as refused:
        async with Database.open(
            url.render_as_string(hide_password=False), service="test", migrations=migrations
        ):
            pass
    assert refused.value.status is ExitStatus.REFUSED
    assert "hunter2" not in str(refused.value)


async def test_a_file_that_cannot_be_opened_is_a_bad_setting(tmp_path: Path, migrations: Path) -> None:
    (tmp_path / "file").write_text("no database at all, and long enough to be seen as such")
    assert "unable to open" in await refusal(f"sqlite+aiosqlite:///{tmp_path}", migrations)
    assert "cannot be opened" in await refusal(f"sqlite+aiosqlite:///{tmp_path}/file/towpath.db", migrations)
    assert "not a database" in await refusal(f"sqlite+aiosqlite:///{tmp_path}/file", migrations)


async def test_the_folder_of_the_file_is_created(tmp_path: Path, migrations: Path) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path}/some/where/towpath.db"
    async with Database.open(url, service="test", migrations=migrations):
        assert (tmp_path / "some" / "where" / "towpath.db").exists()


async def test_each_service_has_a_file_of_its_own_by_default(
    tmp_path: Path, migrations: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for service in ("mill", "lock"):
        async with Database.open(ServiceSettings().database_url, service=service):
            pass
    assert all((tmp_path / f"towpath-{service}.db").exists() for service in ("mill", "lock"))


async def test_a_server_that_cannot_be_used_is_a_bad_setting(postgres: Postgres, migrations: Path) -> None:
    assert "does not exist" in await refusal(postgres.url("nowhere"), migrations)
    describe_error = f"postgresql+asyncpg:///nowhere?host={postgres.host}&user=postgres&password=hunter2"
    assert "nowhere" in await refusal(describe_error, migrations)


async def test_opening_waits_for_an_unreachable_server(
    postgres: Postgres, postgres_url: str, migrations: Path, tmp_path: Path
) -> None:
    socket = tmp_path / "run"
    database = sa.make_url(postgres_url).database
    url = f"postgresql+asyncpg:///{database}?host={socket}&user=postgres&password=hunter2"

    async def open_and_read() -> int | None:
        async with (
            Database.open(url, service="test", migrations=migrations) as database,
            database.reading() as connection,
        ):
            return await value_of(connection, "a")

    with capture_logs() as lines:
        opening = asyncio.create_task(open_and_read())
        await eventually(lambda: len(lines) >= 2)
        assert not opening.done()
        socket.symlink_to(postgres.host)
        async with asyncio.timeout(PATIENCE):
            assert await opening is None
    assert {line["event"] for line in lines} == {"database_unreachable"}
    assert "hunter2" not in str(lines)


@pytest.mark.parametrize(
    "url", ["postgresql+asyncpg://ana:hunter2@db:port/towpath", "postgresql+asyncpg://ana:hunter2"]
)
async def test_a_malformed_url_is_a_bad_setting(url: str, migrations: Path) -> None:
    assert "postgresql://user:password@host:port/database" in await refusal(url, migrations)


# Transactions


async def test_concurrent_writers_are_serialised_and_all_succeed(open_database: Open) -> None:
    async def count(database: Database) -> None:
        for _ in range(10):
            async with database.transaction() as connection:
                value = await value_of(connection, "a", lock=True)
                assert value is not None
                await connection.execute(COUNTERS.update().values(value=value + 1))

    async with asyncio.timeout(PATIENCE), open_database() as one, open_database() as other:
        async with one.transaction() as connection:
            await put(connection, "a", 0)
        async with asyncio.TaskGroup() as tasks:
            for number in range(10):
                tasks.create_task(count((one, other)[number % 2]))
        async with one.reading() as connection:
            assert await value_of(connection, "a") == 100


async def test_readers_do_not_wait_for_a_writer_and_see_committed_rows(database: Database) -> None:
    async with asyncio.timeout(PATIENCE):
        async with database.transaction() as writer:
            await put(writer, "a", 1)
            for _ in range(10):
                async with database.reading() as reader:
                    assert await value_of(reader, "a") is None
        async with database.reading() as reader:
            assert await value_of(reader, "a") == 1


async def test_many_readers_run_beside_one_writer(database: Database) -> None:
    async def look() -> int | None:
        async with database.reading() as reader:
            return await value_of(reader, "a")

    async with asyncio.timeout(PATIENCE):
        async with database.transaction() as writer:
            await put(writer, "a", 1)
            assert set(await asyncio.gather(*(look() for _ in range(40)))) == {None}


async def test_a_failed_transaction_is_rolled_back(database: Database) -> None:
    async def put_and_fail() -> None:
        async with database.transaction() as connection:
            await put(connection, "a", 1)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await put_and_fail()
    async with database.reading() as connection:
        assert await value_of(connection, "a") is None


async def test_a_cancelled_transaction_is_rolled_back_and_the_next_one_succeeds(database: Database) -> None:
    written = asyncio.Event()

    async def write_and_wait() -> None:
        async with database.transaction() as connection:
            await put(connection, "a", 1)
            written.set()
            await asyncio.Event().wait()

    async with asyncio.timeout(PATIENCE):
        for _ in range(10):  # more often than there are connections
            written.clear()
            writing = asyncio.create_task(write_and_wait())
            await written.wait()
            writing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await writing
        async with database.transaction() as connection:
            await put(connection, "a", 2)


# Going away


async def test_a_reachable_database_answers(database: Database) -> None:
    assert await database.answers()
    assert database.name in ("sqlite", "postgresql")


async def test_a_database_that_commits_writes_is_writable(database: Database) -> None:
    await database.probe(PATIENCE)
    assert database.writability.is_writable
    async with database.transaction() as connection:
        await put(connection, "a", 1)
    assert database.writability.is_writable


async def test_a_database_that_was_made_read_only_is_not_writable_until_it_is_made_writable(
    postgres: Postgres, postgres_url: str, migrations: Path
) -> None:
    name = sa.make_url(postgres_url).database
    leave = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"
    server = create_async_engine(postgres.url("postgres"), isolation_level="AUTOCOMMIT")
    async with (
        Database.open(postgres_url, service="test", migrations=migrations) as database,
        server.connect() as admin,
    ):
        for read_only in ("on", "off", "on", "off"):
            await admin.execute(
                sa.text(f"ALTER DATABASE {name} SET default_transaction_read_only = {read_only}")
            )
            await admin.execute(sa.text(leave))
            await database.probe(PATIENCE)
            assert database.writability.is_writable is (read_only == "off")
            assert await database.answers() is (read_only == "off")
    await server.dispose()


async def test_a_write_to_a_read_only_database_is_a_failure_of_the_database(database: Database) -> None:
    read_only = "PRAGMA query_only = ON" if database.name == "sqlite" else "SET TRANSACTION READ ONLY"

    async def write() -> None:
        async with database.transaction() as connection:
            await connection.execute(sa.text(read_only))
            await put(connection, "a", 1)

    with pytest.raises(sa.exc.DBAPIError) as failed:
        await write()
    assert await database.is_database_failure(failed.value)
    assert not database.writability.is_writable


async def test_a_file_locked_by_another_program_is_not_writable(tmp_path: Path, migrations: Path) -> None:
    path = tmp_path / "locked.db"
    async with Database.open(
        f"sqlite+aiosqlite:///{path}", service="test", migrations=migrations
    ) as database:
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            await database.probe(0.2)
            assert not database.writability.is_writable
            other.execute("ROLLBACK")
        await database.probe(PATIENCE)
        assert database.writability.is_writable


async def test_a_failed_transaction_counts_as_not_writable_for_a_while(
    tmp_path: Path, migrations: Path
) -> None:
    now = 0.0
    url = f"sqlite+aiosqlite:///{tmp_path}/full.db"
    async with Database.open(url, service="test", migrations=migrations) as database:
        database.writability = Writability(clock=lambda: now)

        async def fill() -> None:
            async with database.transaction() as connection:
                await connection.execute(sa.text("PRAGMA max_page_count = 1"))
                rows = [{"name": f"n{number}", "value": number} for number in range(2_000)]
                await connection.execute(COUNTERS.insert(), rows)

        with capture_logs() as lines:
            for _ in range(20):
                with pytest.raises(sa.exc.OperationalError, match="full"):
                    await fill()
                now += MEMORY / 2
                await database.probe(PATIENCE)  # which needs no more room, and is committed
                assert not database.writability.is_writable
            now += MEMORY / 2
            await database.probe(PATIENCE)
            assert database.writability.is_writable
    # Once a minute at most: a hundred seconds are two lines.
    assert [line["event"] for line in lines] == ["database_not_writable"] * 2 + ["database_writable"]


async def test_a_wrong_statement_does_not_count_against_the_database(database: Database) -> None:
    row = {"name": "twice", "value": 1}
    with pytest.raises(sa.exc.IntegrityError):
        async with database.transaction() as connection:
            await connection.execute(COUNTERS.insert(), [row, row])
    assert database.writability.is_writable


async def test_broken_connections_are_replaced(postgres_url: str, migrations: Path) -> None:
    others = sa.text(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    async with Database.open(postgres_url, service="test", migrations=migrations) as database:
        for _ in range(3):
            async with asyncio.timeout(PATIENCE):
                async with database.transaction() as one, database.transaction() as two:
                    await one.execute(sa.text("SELECT 1"))
                    await two.execute(sa.text("SELECT 1"))
                async with database.transaction() as connection:
                    await connection.execute(others)
        assert await database.answers()


async def test_a_database_that_refuses_logins_does_not_answer(
    postgres: Postgres, postgres_url: str, migrations: Path
) -> None:
    name = sa.make_url(postgres_url).database
    leave = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"
    server = create_async_engine(postgres.url("postgres"), isolation_level="AUTOCOMMIT")
    async with (
        Database.open(postgres_url, service="test", migrations=migrations) as database,
        server.connect() as admin,
    ):
        await admin.execute(sa.text(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false"))
        await admin.execute(sa.text(leave))
        assert not await database.answers()
        await admin.execute(sa.text(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true"))
        assert await database.answers()
    await server.dispose()


async def test_a_full_disk_is_a_failure_of_a_database_that_still_answers(
    tmp_path: Path, migrations: Path
) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path}/full.db"
    async with Database.open(url, service="test", migrations=migrations) as database:
        rows = [{"name": f"n{number}", "value": number} for number in range(2_000)]

        async def fill() -> None:
            async with database.transaction() as connection:
                await connection.execute(sa.text("PRAGMA max_page_count = 1"))
                await connection.execute(COUNTERS.insert(), rows)

        with pytest.raises(sa.exc.OperationalError, match="full") as full:
            await fill()
        assert await database.answers()
        assert await database.is_database_failure(full.value)


async def test_a_violated_constraint_is_not_a_failure_of_the_database(database: Database) -> None:
    row = {"name": "twice", "value": 1}
    with pytest.raises(sa.exc.IntegrityError) as twice:
        async with database.transaction() as connection:
            await connection.execute(COUNTERS.insert(), [row, row])
    assert not await database.is_database_failure(twice.value)


async def test_a_server_shutdown_during_a_statement_is_a_failure_of_the_database(
    postgres_url: str, migrations: Path
) -> None:
    async with Database.open(postgres_url, service="test", migrations=migrations) as database:
        with pytest.raises(sa.exc.DBAPIError) as ended:
            async with database.transaction() as connection:
                await connection.execute(sa.text("SELECT pg_terminate_backend(pg_backend_pid())"))
        assert lacks_something(ended.value)


async def test_a_replica_frozen_in_a_transaction_loses_its_locks(postgres_url: str, migrations: Path) -> None:
    at_once = sa.text("SET idle_in_transaction_session_timeout = '100ms'")
    query = sa.text("SHOW idle_in_transaction_session_timeout")

    async def freeze(database: Database, locked: asyncio.Event, thawed: asyncio.Event) -> None:
        async with database.transaction() as connection:
            assert await connection.scalar(query) == "15s"
            await connection.execute(at_once)
            await put(connection, "a", 1)
            locked.set()
            await thawed.wait()

    async with Database.open(postgres_url, service="test", migrations=migrations) as database:
        locked, thawed = asyncio.Event(), asyncio.Event()
        frozen = asyncio.create_task(freeze(database, locked, thawed))
        async with asyncio.timeout(PATIENCE):
            await locked.wait()
            async with database.transaction() as connection:
                await put(connection, "a", 2)
        thawed.set()
        with pytest.raises(sa.exc.DBAPIError):
            await frozen
        async with database.reading() as connection:
            assert await value_of(connection, "a") == 2
