"""The rows of effects as an operator sees and changes them.

Guarantees: an effect whose call may be running is not changed: its lease has to end first. A retried effect keeps
its key, and so the id of its call; if the call has succeeded before, only its result is handled again. A dropped
effect is done without a call: its data are deleted, and its key is kept as that of any other, so that the same effect
is not declared again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from towpath.servicekit.storage import clock
from towpath.servicekit.storage.effects import DONE, PARKED, WAITING


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which effects.

    Attributes:
        keys: Those with these keys; all if empty.
        effect: Those of this name; ``None`` for all.
        states: Those in these states.
    """

    keys: frozenset[str] = frozenset()
    effect: str | None = None
    states: Sequence[str] = (PARKED,)

    def where(self, table: sa.Table) -> sa.ColumnElement[bool]:
        """The same as a condition."""
        columns = table.c
        conditions: list[sa.ColumnElement[bool]] = [columns.state.in_(self.states)]
        if self.effect is not None:
            conditions.append(columns.effect == self.effect)
        if self.keys:
            conditions.append(columns.key.in_(sorted(self.keys)))
        return sa.and_(*conditions)


@dataclass(frozen=True, slots=True)
class Row:
    """One effect.

    Attributes:
        due_at: When its next attempt is due, or its present one is given up; of a parked one when it was parked. Unix
            milliseconds.
        is_called: Whether the call has succeeded, and its result could not be handled.
        data: JSON.
    """

    effect: str
    key: str
    state: str
    attempts: int
    due_at: int
    created_at: int
    error: str
    is_called: bool
    data: str


async def find(
    connection: AsyncConnection, table: sa.Table, wanted: Wanted, *, limit: int
) -> tuple[list[Row], int]:
    """The first of ``wanted``, those that are due longest first, and how many there are."""
    where, columns = wanted.where(table), table.c
    count = (await connection.execute(sa.select(sa.func.count()).where(where))).scalar_one()
    chosen = sa.select(table).where(where).order_by(columns.due_at, columns.effect, columns.key).limit(limit)
    rows = [
        Row(
            row.effect,
            row.key,
            row.state,
            row.attempts,
            row.due_at,
            row.created_at,
            row.error or "",
            row.result is not None,
            row.data,
        )
        for row in await connection.execute(chosen)
    ]
    return rows, count


async def retry(connection: AsyncConnection, table: sa.Table, wanted: Wanted) -> list[tuple[str, str]]:
    """Make ``wanted`` due now, with all their attempts; returns name and key of each."""
    change = {"state": WAITING, "attempts": 0, "due_at": clock.now(connection)}
    return await _change(connection, table, wanted, change)


async def drop(connection: AsyncConnection, table: sa.Table, wanted: Wanted) -> list[tuple[str, str]]:
    """End ``wanted`` without a call; returns name and key of each."""
    change = {"state": DONE, "due_at": clock.now(connection), "data": "", "result": None, "error": None}
    return await _change(connection, table, wanted, change)


async def _change(
    connection: AsyncConnection, table: sa.Table, wanted: Wanted, change: Mapping[str, object]
) -> list[tuple[str, str]]:
    columns = table.c
    is_leased = sa.and_(
        columns.state == WAITING, columns.holder.is_not(None), columns.due_at > clock.now(connection)
    )
    update = (
        table.update()
        .where(wanted.where(table), ~is_leased)
        .values(holder=None, **change)
        .returning(columns.effect, columns.key)
    )
    return sorted((row.effect, row.key) for row in await connection.execute(update))
