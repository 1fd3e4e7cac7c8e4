"""The clock that all replicas of a service share: that of their database."""

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from towpath.protocol.envelope import now_ms


def now(connection: AsyncConnection) -> sa.ColumnElement[int]:
    """Unix milliseconds of a clock that all replicas share; with SQLite they share a machine."""
    if connection.dialect.name == "postgresql":
        # `clock_timestamp`, not `now`: that is the start of the transaction, which may have waited for the row.
        # https://www.postgresql.org/docs/current/functions-datetime.html#FUNCTIONS-DATETIME-CURRENT
        seconds = sa.extract("epoch", sa.func.clock_timestamp())
        return sa.cast(seconds * 1000, sa.BigInteger)
    return sa.literal(now_ms(), sa.BigInteger)
