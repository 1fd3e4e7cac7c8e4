"""Numbers of membership changes: one order for all changes of groups.

Changes for one connection and changes for all connections of a user reach the gateways on two routes, and from
several replicas. So a service numbers its membership changes, and at a gateway the higher number wins.

Guarantees:

* Numbers grow in commit order: each transaction that changes groups takes its number last, and holds the row lock
  until its commit. A number is at least the current time, so numbers still grow after an older copy of the database
  was restored.
* A read after :func:`read_number` sees all changes up to that number.
"""

from collections.abc import Awaitable, Callable, Collection, Set
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from towpath.protocol.envelope import now_ms

#: Given pairs of a user and a group or stream, returns the pairs in which the user may receive it now.
MayReceive = Callable[[AsyncConnection, Collection[tuple[str, str]]], Awaitable[Set[tuple[str, str]]]]


_THE_ROW: Final = 1


@dataclass(frozen=True, slots=True)
class Groups:
    """Settings of a service that subscribes connections to groups. It answers ``session.started`` with all groups.

    Attributes:
        numbers: ``group_numbers`` of the service's :class:`~towpath.servicekit.storage.kit_tables.KitTables`.
        may_receive: Called once per batch, if a repetition names groups or several requests name the same group, and
            once per read of stream entries that are replayed.

    Example:
        >>> from collections.abc import Collection
        >>> async def may_receive(
        ...     connection: AsyncConnection, pairs: Collection[tuple[str, str]]
        ... ) -> set[tuple[str, str]]:
        ...     return {(user, group) for user, group in pairs if group == f"team:{user}"}
        >>> Groups(numbers_table(sa.MetaData(), "teams"), may_receive).numbers.name
        'teams_group_numbers'
    """

    numbers: sa.Table
    may_receive: MayReceive


def numbers_table(metadata: sa.MetaData, prefix: str) -> sa.Table:
    """Declare ``<prefix>_group_numbers``, which has one row.

    Args:
        metadata: That of the service's own tables.
        prefix: The name of the service.

    Example:
        >>> [column.name for column in numbers_table(sa.MetaData(), "chat").columns]
        ['id', 'number']
    """
    return sa.Table(
        f"{prefix}_group_numbers",
        metadata,
        sa.Column("id", sa.SmallInteger, primary_key=True, autoincrement=False),
        sa.Column("number", sa.BigInteger, nullable=False),
    )


async def next_number(connection: AsyncConnection, table: sa.Table) -> int:
    """The number of this transaction's changes; other transactions wait for theirs until it has ended."""
    return int((await connection.execute(_next(table), {"now": now_ms()})).scalar_one())


async def read_number(connection: AsyncConnection, table: sa.Table) -> int:
    """The number of the last change that is committed or was made by this transaction."""
    return int((await connection.execute(_read(table))).scalar_one())


@lru_cache(maxsize=256)
def _next(table: sa.Table) -> sa.Update:
    number, now = table.c.number, sa.bindparam("now", type_=sa.BigInteger)
    # The clock only when it is ahead: a number never falls, also if the clock does.
    following = sa.case((number >= now, number + 1), else_=now)
    # One statement reads and writes the row: its lock is held until COMMIT, so the next number is given in the order
    # of commits. https://www.postgresql.org/docs/current/explicit-locking.html#LOCKING-ROWS
    return table.update().where(table.c.id == _THE_ROW).values(number=following).returning(number)


@lru_cache(maxsize=256)
def _read(table: sa.Table) -> sa.Select[int]:
    return sa.select(table.c.number)
