"""One service's own database: SQLite by default, PostgreSQL where it grows, through SQLAlchemy Core.

Guarantees: :meth:`Database.transaction` is serialised against writers of the same rows (SQLite: one writer at a
time, ``BEGIN IMMEDIATE``; PostgreSQL: row locks that the caller takes with ``FOR UPDATE``); a commit survives a crash
of the machine (SQLite: ``synchronous=FULL``). The schema is migrated on open; replicas that start together migrate
one after another, also while replicas of an earlier release work. If PostgreSQL cannot be reached on open, the
program waits for it, as for the broker; a refusal of user, password or database is a wrong setting.
"""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path
from time import perf_counter
from typing import Final

import sqlalchemy as sa
import structlog
from alembic.util.exc import CommandError
from sqlalchemy import Connection, text
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from towpath.servicekit.runtime.backoff import attempts
from towpath.servicekit.runtime.error_text import describe_error
from towpath.servicekit.runtime.settings import BadSetting, RefusedLogin
from towpath.servicekit.runtime.telemetry import Telemetry
from towpath.servicekit.runtime.tls import TlsFiles
from towpath.servicekit.storage import migrations as kit
from towpath.servicekit.storage import postgresql, sqlite
from towpath.servicekit.storage.declared_tables import check_tables
from towpath.servicekit.storage.leaves import ConfirmedLeaves, with_confirmed_leaves
from towpath.servicekit.storage.pool import PoolMetrics
from towpath.servicekit.storage.writability import Writability

log = structlog.get_logger(__name__)

_PING_SECONDS: Final = 5.0
#: Time limits of a PostgreSQL statement; a statement of a migration may go through millions of rows.
_STATEMENT_SECONDS: Final = 30.0
_MIGRATION_SECONDS: Final = 3600.0
#: The longest wait of a migration for a table that others use: they queue behind it.
#: https://www.postgresql.org/docs/current/runtime-config-client.html#GUC-LOCK-TIMEOUT
_LOCK_TIMEOUT: Final = "5s"
#: A lock was not given in time, or a deadlock was ended: the transaction may be run again.
_POSTGRESQL_CONTENTION: Final = ("55P03", "40P01")
#: Connections, resources, shutdown, system: https://www.postgresql.org/docs/current/errcodes-appendix.html
#: and 25006, read-only: a standby, or a server that was set read-only for a while.
_POSTGRESQL_LACKS: Final = ("08", "25006", "53", "57P0", "58")
#: An arbitrary constant: the advisory lock that serialises replicas migrating the same PostgreSQL database.
_MIGRATION_LOCK: Final = 7_046_029
_NO_FILES: Final = TlsFiles("TOWPATH_DATABASE")


class Database:
    """A pool of connections; made with :meth:`open`."""

    def __init__(self, engine: AsyncEngine, telemetry: Telemetry | None = None) -> None:
        #: Leaves of groups that RabbitMQ knows; units of work find them by their connection, see `leaves`.
        self.confirmed_leaves = ConfirmedLeaves()
        self._engine = engine.execution_options(**with_confirmed_leaves(self.confirmed_leaves))
        self._sqlite = engine.dialect.name == "sqlite"
        connections = sqlite.CONNECTIONS_MAX if self._sqlite else postgresql.CONNECTIONS_MAX
        self._pool = None if telemetry is None else PoolMetrics(engine, connections, telemetry)
        self._writer = asyncio.Lock()
        #: A write that changes nothing, for the probe; set after the migration, when the row it updates exists.
        self._no_change: sa.Executable = text("SELECT 1")
        self.writability = Writability()

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        url: str,
        *,
        service: str,
        migrations: Path | None = None,
        metadata: sa.MetaData | None = None,
        tls: TlsFiles = _NO_FILES,
        telemetry: Telemetry | None = None,
    ) -> AsyncIterator["Database"]:
        """Open ``url`` and bring its schema up to date.

        Args:
            url: A URL of SQLAlchemy; ``{service}`` in it is replaced by ``service``.
            service: The name of the service, which its version tables and the kit's tables have in front: services
                may share a database.
            migrations: The folder with the revisions of the service's own tables, if it has any.
            metadata: The tables that the service declares: the database must have all of them, with their columns.
            tls: Certificate files, for PostgreSQL with ``ssl=verify-full``.
            telemetry: Gets the metrics of the pool.

        Raises:
            MissingMigration: A table or column of ``metadata`` is missing after all migrations; nothing is changed.
            NewerSchema: A newer release has changed the schema so that this one cannot work on it.
            BadSetting: The database cannot be opened and waiting would not help, or its schema is not one of the
                service; or PostgreSQL's certificate is not trusted.
            RefusedLogin: PostgreSQL refuses the account, or it lacks a right.
        """
        url = url.replace("{service}", service)
        engine = _checked_engine(url, tls)
        try:
            database = cls(engine, telemetry)
            try:
                _make_folder(engine.url)
                migrating = _engine(url, tls, statement_seconds=_MIGRATION_SECONDS)
                try:
                    await database._migrate(migrating, service, migrations, metadata)
                finally:
                    await migrating.dispose()
            except (DBAPIError, OSError) as error:
                kind = RefusedLogin if postgresql.is_refusal(error) else BadSetting
                raise kind(
                    "TOWPATH_DATABASE_URL", _shown(engine.url), f"cannot be opened: {_cause(error)}"
                ) from error
            except CommandError as error:
                raise BadSetting(
                    "TOWPATH_DATABASE_URL", None, f"holds a schema this version does not know: {error}"
                ) from error
            yield database
        finally:
            await engine.dispose()

    @classmethod
    @asynccontextmanager
    async def existing(
        cls, url: str, *, service: str, tls: TlsFiles = _NO_FILES
    ) -> AsyncIterator["Database"]:
        """Open ``url`` as it is, for an operator's look at the tables of a service: nothing is migrated.

        Args:
            url, service, tls: As for :meth:`open`.

        Raises:
            BadSetting: The URL cannot be read, or names a file that does not exist.
        """
        engine = _checked_engine(url.replace("{service}", service), tls)
        try:
            if _is_missing(engine.url):
                raise BadSetting(
                    "TOWPATH_DATABASE_URL", _shown(engine.url), "does not exist; start the service once"
                )
            yield cls(engine)
        finally:
            await engine.dispose()

    @property
    def name(self) -> str:
        """``sqlite`` or ``postgresql``."""
        return self._engine.dialect.name

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncConnection]:
        """A transaction that may write; commits on exit, rolls back on an exception."""
        try:
            # SQLite has one writer. The lock queues the writers of this process in order; without it each waits
            # inside SQLite, in no order. https://www.sqlite.org/lang_transaction.html
            async with (
                self._writer if self._sqlite else nullcontext(),
                self._connected() as connection,
                connection.begin(),
            ):
                yield connection
        except (DBAPIError, OSError) as error:
            if lacks_something(error) or is_away(error):
                self.writability.failed(error)
            raise

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """A transaction that only reads; never waits for writers."""
        async with self._connected() as connection:
            # See `sqlite._begin`: a reader takes no write lock. PostgreSQL ignores the option.
            reader = await connection.execution_options(towpath_reads=True)
            async with reader.begin():
                yield reader

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[AsyncConnection]:
        started = perf_counter()
        async with self._engine.connect() as connection:
            if self._pool is not None:
                self._pool.taken(perf_counter() - started)
            yield connection

    async def is_database_failure(self, error: BaseException) -> bool:
        """Whether ``error`` is a failure of the database (unreachable, full, short of a resource) that may pass.

        Otherwise the statement is the cause, and fails again each time.
        """
        return lacks_something(error) or not await self.answers()

    async def answers(self) -> bool:
        """Whether the database can be reached and written to right now."""
        return await self._probe(_PING_SECONDS) is None

    async def probe(self, limit: float) -> None:
        """Commit a write that changes nothing, for :attr:`writability`.

        Args:
            limit: Seconds that it may take.
        """
        self.writability.probed(await self._probe(limit))

    async def _probe(self, limit: float) -> Exception | None:
        # Not through transaction(): the result of a probe counts until the next probe only.
        try:
            async with (
                asyncio.timeout(limit),
                self._writer if self._sqlite else nullcontext(),
                self._engine.begin() as connection,
            ):
                await connection.execute(self._no_change)
        except (sa.exc.SQLAlchemyError, OSError) as error:
            return error
        return None

    async def _migrate(
        self, engine: AsyncEngine, service: str, migrations: Path | None, metadata: sa.MetaData | None
    ) -> None:
        """Bring the schema up to date; waits while the server cannot be reached, or others use its tables."""
        # No time limit, as for the broker: programs of one machine start in any order.
        async for _ in attempts():
            try:
                async with engine.connect() as connection, sqlite.in_thread(connection):
                    await connection.run_sync(_migrate, service, migrations, metadata)
                self._no_change = _rewrite(kit.kit_version_table(service))
                return
            except (DBAPIError, OSError) as error:
                if is_contention(error):
                    log.warning("migration_waits", service=service, error=describe_error(error, letters=300))
                    continue
                # A file that cannot be opened, or a certificate that is not trusted, is a wrong setting, which
                # waiting hides; a server may be starting.
                if self._sqlite or postgresql.is_untrusted(error):
                    raise
                if not (lacks_something(error) or is_away(error)):
                    raise
                log.warning(
                    "database_unreachable",
                    url=_shown(self._engine.url),
                    error=describe_error(error, letters=300),
                )


def _rewrite(version_table: str) -> sa.Update:
    """An update of the one row that every schema has, with its current value."""
    table = sa.table(version_table, sa.column("version_num"))
    return table.update().values(version_num=table.c.version_num)


def is_away(error: BaseException) -> bool:
    """Whether a database could not be reached, or its connection broke."""
    return isinstance(error, OSError) or (isinstance(error, DBAPIError) and error.connection_invalidated)


def lacks_something(error: BaseException) -> bool:
    """Whether the database reports a missing resource, such as disk space; it may still answer reads."""
    codes, states = _codes(error)
    return bool(codes & sqlite.LACKS) or any(state.startswith(_POSTGRESQL_LACKS) for state in states)


def is_contention(error: BaseException) -> bool:
    """Whether another transaction was in the way for too long."""
    codes, states = _codes(error)
    return sqlite3.SQLITE_BUSY in codes or any(state in _POSTGRESQL_CONTENTION for state in states)


def _codes(error: BaseException) -> tuple[set[int], set[str]]:
    """SQLite's primary codes and PostgreSQL's states of an error."""
    # SQLAlchemy wraps the driver's error, and drivers wrap again: the code may be at any depth.
    causes: list[BaseException] = []
    while error not in causes:
        causes.append(error)
        error = getattr(error, "orig", None) or error.__cause__ or error
    codes = {
        # Extended codes have the primary code in the lowest byte: https://www.sqlite.org/rescode.html
        code & 0xFF
        for cause in causes
        if isinstance(code := getattr(cause, "sqlite_errorcode", None), int)
    }
    return codes, {state for cause in causes if isinstance(state := getattr(cause, "sqlstate", None), str)}


def _checked_engine(url: str, tls: TlsFiles) -> AsyncEngine:
    try:
        return _engine(url, tls)
    except (ArgumentError, ValueError):
        raise BadSetting(
            "TOWPATH_DATABASE_URL", None, "is not like postgresql://user:password@host:port/database"
        ) from None


def _engine(url: str, tls: TlsFiles, *, statement_seconds: float = _STATEMENT_SECONDS) -> AsyncEngine:
    if url.startswith("sqlite"):
        return sqlite.engine(url)
    return postgresql.engine(url, tls, statement_seconds=statement_seconds)


def _make_folder(url: sa.URL) -> None:
    if url.get_backend_name() == "sqlite" and url.database:
        Path(url.database).parent.mkdir(parents=True, exist_ok=True)


def _migrate(
    connection: Connection, service: str, migrations: Path | None, metadata: sa.MetaData | None
) -> None:
    # The lock of this transaction serialises replicas: SQLite's one writer (BEGIN IMMEDIATE), or an advisory lock,
    # because PostgreSQL has no row or table to lock before the first migration.
    with connection.begin():
        if connection.dialect.name == "postgresql":
            # Released by COMMIT or ROLLBACK, so a replica that dies leaves no lock.
            # https://www.postgresql.org/docs/current/explicit-locking.html#ADVISORY-LOCKS
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})
            # Not before: another replica may migrate for an hour.
            connection.execute(text(f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT}'"))
        ahead = kit.migrate(connection, service, migrations)
        if metadata is not None:
            check_tables(connection, service, migrations, metadata, ahead)
    if ahead:
        log.warning("schema_is_newer", service=service, ahead=", ".join(map(str, ahead)))


def _is_missing(url: sa.URL) -> bool:
    """Whether it is a file that does not exist: SQLite would make an empty one."""
    return url.get_backend_name() == "sqlite" and not Path(url.database or "").is_file()


def _shown(url: sa.URL) -> str:
    """The address for logs and errors, without the password."""
    return url.set(query={}).render_as_string(hide_password=True)


def _cause(error: BaseException) -> str:
    original = getattr(error, "orig", None) or error
    return str(original).splitlines()[0] if str(original) else type(original).__name__
