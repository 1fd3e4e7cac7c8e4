"""The outbox in PostgreSQL, as the relay sees it: one connection, which also holds the lock of the active relay.

The lock is one of the session: PostgreSQL releases it when the connection ends, whatever ends it. A connection to a
relay whose machine is gone ends after 25 s, by keepalives.
"""

import asyncio
import ssl
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

import asyncpg

from towpath.publisher.relay.settings import PREFIX, BadSetting, DatabaseSettings
from towpath.publisher.sql import CHANNEL, TABLE, missing, quoted

_CONNECT_SECONDS: Final = 10.0
_STATEMENT_SECONDS: Final = 30.0
_CLOSE_SECONDS: Final = 2.0
#: Of PostgreSQL's side: the first probe after 10 s without a byte, then every 5 s, three times.
_SESSION: Final = {
    "application_name": "towpath-relay",
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
}
_REFUSED: Final = (
    asyncpg.InvalidAuthorizationSpecificationError,  # the wrong password among them
    asyncpg.InvalidCatalogNameError,
)

#: Of a connection or server that is away; all are tried again.
UNREACHABLE: Final = (
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,  # it stops, or starts up
    asyncpg.InsufficientResourcesError,
    asyncpg.InterfaceError,
    ConnectionError,
    OSError,
    TimeoutError,
)

# The oldest rows whose aggregate is not blocked, up to a number of bytes; one row at least.
_NEXT: Final = """
SELECT id, aggregate, msg_id, action, data::text AS data,
    (extract(epoch FROM created_at) * 1000)::bigint AS timestamp
FROM (
    SELECT *, sum(bytes::bigint) OVER (ORDER BY id) AS total, row_number() OVER (ORDER BY id) AS number
    FROM (
        SELECT * FROM {table} AS waiting
        WHERE parked_at IS NULL AND id <> ALL ($1::bigint[])
            AND (aggregate IS NULL OR aggregate <> ALL ($2::text[])) AND NOT EXISTS (
            SELECT FROM {table} AS parked
            WHERE parked.parked_at IS NOT NULL AND parked.aggregate = waiting.aggregate AND parked.id < waiting.id
        )
        ORDER BY id LIMIT $3
    ) AS next
) AS counted
WHERE total <= $4 OR number = 1
ORDER BY id
"""
_STATE: Final = """
SELECT (SELECT count(*) FROM {table} WHERE parked_at IS NOT NULL) AS parked,
    (SELECT extract(epoch FROM clock_timestamp() - created_at)::float8 FROM {table}
        WHERE parked_at IS NULL ORDER BY id LIMIT 1) AS age
"""


class OutboxMissing(Exception):
    """The database has no outbox, or this user may not use it; the text names the remedy."""


@dataclass(frozen=True, slots=True)
class Row:
    """An event of the outbox.

    Attributes:
        data: A JSON object, as text.
        timestamp: When it was added, in Unix milliseconds.
    """

    id: int
    aggregate: str | None
    msg_id: str
    action: str
    data: str
    timestamp: int


@dataclass(frozen=True, slots=True)
class ParkedRow:
    """An event that could not be published."""

    id: int
    aggregate: str | None
    msg_id: str
    action: str
    reason: str


@dataclass(frozen=True, slots=True)
class State:
    """Numbers for operators.

    Attributes:
        parked: Rows that wait for an operator.
        age: Seconds since the oldest other row was added; 0 if there is none.
    """

    parked: int
    age: float


class Outbox:
    """The outbox on one connection; made with :meth:`open`. Its calls are made one at a time.

    Attributes:
        lost: Set when the connection has ended.
    """

    def __init__(self, connection: "asyncpg.Connection[Any]", schema: str) -> None:
        self._connection = connection
        self._schema = schema
        self._table = f"{quoted(schema)}.{TABLE}"
        self.lost = asyncio.Event()
        connection.add_termination_listener(lambda _: self.lost.set())

    @classmethod
    async def open(cls, settings: DatabaseSettings) -> Self:
        """Connect.

        Raises:
            BadSetting: PostgreSQL refuses the user or the database, or its certificate is not trusted.
            UNREACHABLE
        """
        address, tls = settings.connection()
        try:
            connection = await asyncpg.connect(
                address,
                ssl=tls,
                timeout=_CONNECT_SECONDS,
                command_timeout=_STATEMENT_SECONDS,
                server_settings=_SESSION,
            )
        except _REFUSED as error:
            raise BadSetting(f"{PREFIX}DATABASE_URL: PostgreSQL refuses this program: {error}") from None
        except ssl.SSLCertVerificationError as error:
            raise BadSetting(
                f"{PREFIX}DATABASE_URL: no TLS connection to PostgreSQL: {error.verify_message}"
            ) from None
        except (ValueError, asyncpg.ClientConfigurationError) as error:
            raise BadSetting(
                f"{PREFIX}DATABASE_URL: is not an address of PostgreSQL: {type(error).__name__}"
            ) from None
        return cls(connection, settings.outbox_schema)

    async def close(self) -> None:
        """End the connection, which releases the lock."""
        try:
            await self._connection.close(timeout=_CLOSE_SECONDS)
        except UNREACHABLE:
            self._connection.terminate()

    async def check(self) -> None:
        """Check that the table and the function exist.

        Raises:
            OutboxMissing
        """
        found = await self._connection.fetchrow(
            "SELECT to_regclass($1) AS made, to_regprocedure($2) AS function, "
            "CASE WHEN to_regclass($1) IS NOT NULL THEN has_table_privilege($1, 'SELECT') "
            "AND has_table_privilege($1, 'DELETE') AND has_column_privilege($1, 'parked_at', 'UPDATE') END "
            "AS allowed",
            self._table,
            f"{quoted(self._schema)}.towpath_publish(text, jsonb, text, text)",
        )
        assert found is not None
        if found["made"] is None or found["function"] is None:
            raise OutboxMissing(missing(self._schema))
        if not found["allowed"]:
            raise OutboxMissing(
                f"the user of {PREFIX}DATABASE_URL may not read, park and delete rows of {self._schema}.{TABLE}: "
                "run `towpath-relay install --relay USER` as the user that owns the outbox"
            )

    async def become_active(self) -> bool:
        """Take the lock of the active relay, if no other relay has it."""
        taken: bool = await self._connection.fetchval(
            "SELECT pg_try_advisory_lock(hashtextextended('towpath-relay', to_regclass($1)::oid::bigint))",
            self._table,
        )
        return taken

    async def listen(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` whenever a transaction with an event is committed."""
        await self._connection.add_listener(CHANNEL, lambda *_: callback())

    async def next_rows(
        self, held: Collection[int], blocked: Collection[str], count: int, size: int
    ) -> Sequence[Row]:
        """The oldest rows in their order, without those that are parked, or behind a parked one.

        Args:
            held: Rows to leave out.
            blocked: Aggregates to leave out.
            count, size: Rows at most, and bytes of their data; one row at least.
        """
        rows = await self._connection.fetch(
            _NEXT.format(table=self._table), list(held), list(blocked), count, size
        )
        return [Row(**row) for row in rows]

    async def delete(self, ids: Collection[int]) -> None:
        """Delete rows whose events are confirmed, or were dropped."""
        await self._connection.execute(f"DELETE FROM {self._table} WHERE id = ANY ($1::bigint[])", list(ids))  # noqa: S608  # a quoted name

    async def park(self, reasons: Mapping[int, str]) -> None:
        """Park rows, each with its reason."""
        await self._connection.execute(
            f"UPDATE {self._table} AS outbox SET parked_at = clock_timestamp(), reason = given.reason "  # noqa: S608  # a quoted name
            "FROM unnest($1::bigint[], $2::text[]) AS given (id, reason) WHERE outbox.id = given.id",
            list(reasons),
            [reason.replace("\0", "") for reason in reasons.values()],
        )

    async def parked(self, most: int) -> Sequence[ParkedRow]:
        """The oldest parked rows."""
        rows = await self._connection.fetch(
            f"SELECT id, aggregate, msg_id, action, reason FROM {self._table} "  # noqa: S608  # a quoted name
            "WHERE parked_at IS NOT NULL ORDER BY id LIMIT $1",
            most,
        )
        return [ParkedRow(**row) for row in rows]

    async def retry(self, ids: Collection[int] | None) -> Sequence[int]:
        """Let parked rows be published again, all of them for ``None``; returns which."""
        rows = await self._connection.fetch(
            f"UPDATE {self._table} SET parked_at = NULL, reason = NULL "  # noqa: S608  # a quoted name
            "WHERE parked_at IS NOT NULL AND ($1::bigint[] IS NULL OR id = ANY ($1)) RETURNING id",
            None if ids is None else list(ids),
        )
        await self._wake()
        return sorted(row["id"] for row in rows)

    async def drop(self, ids: Collection[int]) -> Sequence[int]:
        """Delete parked rows without publishing them; returns which."""
        rows = await self._connection.fetch(
            f"DELETE FROM {self._table} WHERE parked_at IS NOT NULL AND id = ANY ($1::bigint[]) RETURNING id",  # noqa: S608  # a quoted name
            list(ids),
        )
        await self._wake()
        return sorted(row["id"] for row in rows)

    async def state(self) -> State:
        """The current numbers."""
        row = await self._connection.fetchrow(_STATE.format(table=self._table))
        assert row is not None
        return State(row["parked"], row["age"] or 0.0)

    async def run(self, statements: Sequence[str]) -> None:
        """Run statements in one transaction."""
        async with self._connection.transaction():
            for statement in statements:
                await self._connection.execute(statement)

    async def _wake(self) -> None:
        await self._connection.execute("SELECT pg_notify($1, '')", CHANNEL)
