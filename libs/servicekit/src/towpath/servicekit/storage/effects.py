"""The rows of effects: calls to the outside, stored with the changes that cause them.

A row is *waiting* until it ends: *done*, or *parked* for an operator. A replica leases a waiting row for one attempt,
by moving ``due_at`` to the end of the lease: a replica that dies gives it back by doing nothing.

Guarantees: an effect is stored if, and only if, the transaction commits. Its name and key together are unique for as
long as its row is kept, also after its end. One lease at a time is valid, by the database's clock, and only its
holder ends or delays the row. An attempt is counted before it begins. The data of a row that is done are deleted; its
key stays. Effects have no order among each other.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from towpath.protocol.envelope import now_ms
from towpath.servicekit.storage import clock

#: The longest name and the longest key.
NAME_MAX: Final = 64
KEY_MAX: Final = 512
#: Rows are counted up to this number only: a count reads each row.
COUNTED_UP_TO: Final = 10_000

WAITING: Final = "waiting"
DONE: Final = "done"
PARKED: Final = "parked"


class LeaseLost(Exception):
    """Another replica has taken the row since, or an operator has changed it."""


@dataclass(frozen=True, slots=True)
class Asked:
    """An effect to store.

    Attributes:
        data: JSON.
        wait: Milliseconds until its first attempt.
    """

    effect: str
    key: str
    data: str
    traceparent: str
    wait: int = 0


@dataclass(frozen=True, slots=True)
class Taken:
    """A leased row.

    Attributes:
        holder: The name of the lease; each has its own.
        attempts: The number of this attempt, from 1.
        result: JSON; the call has succeeded, and only its result has not been handled yet.
    """

    effect: str
    key: str
    holder: str
    attempts: int
    data: str
    result: str | None
    traceparent: str


def effects_table(metadata: sa.MetaData, prefix: str) -> sa.Table:
    """Declare ``<prefix>_effects``.

    Example:
        >>> effects_table(sa.MetaData(), "orders").name
        'orders_effects'
    """
    return sa.Table(
        f"{prefix}_effects",
        metadata,
        sa.Column("effect", sa.String(NAME_MAX), primary_key=True),
        sa.Column("key", sa.String(KEY_MAX), primary_key=True),
        sa.Column("state", sa.String(8), nullable=False),
        # Unix milliseconds: the next attempt, or the end of the lease; of an ended row the time of its end.
        sa.Column("due_at", sa.BigInteger, nullable=False),
        sa.Column("holder", sa.String(64)),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("data", sa.Text, nullable=False),
        sa.Column("result", sa.Text),
        sa.Column("error", sa.Text),
        sa.Column("traceparent", sa.String(64), nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Index(f"ix_{prefix}_effects_due", "effect", "state", "due_at"),
    )


async def put(connection: AsyncConnection, table: sa.Table, asked: Sequence[Asked]) -> None:
    """Store ``asked``; one whose name and key exist already is left out, whatever its state."""
    if not asked:
        return
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    wait = sa.bindparam("wait", type_=sa.BigInteger)
    insert = dialect.insert(table).values(
        state=WAITING, attempts=0, created_at=now_ms(), due_at=clock.now(connection) + wait
    )
    await connection.execute(
        insert.on_conflict_do_nothing(),
        # In one order in all replicas: the second insert of a key waits for the end of the first one's transaction.
        [
            {
                "effect": one.effect,
                "key": one.key,
                "data": one.data,
                "traceparent": one.traceparent,
                "wait": one.wait,
            }
            for one in sorted(asked, key=lambda one: (one.effect, one.key))
        ],
    )


async def due(connection: AsyncConnection, table: sa.Table, names: Collection[str]) -> list[str]:
    """Those of ``names`` of which a row is due."""
    if not names:
        return []
    now = clock.now(connection)
    found = (
        await connection.execute(
            sa.select(*(sa.exists(_due(table, name, now)).label(name) for name in names))
        )
    ).one()
    return [name for name, is_due in zip(names, found, strict=True) if is_due]


async def take(
    connection: AsyncConnection, table: sa.Table, name: str, *, holder: str, seconds: float, limit: int
) -> list[Taken]:
    """Lease at most ``limit`` due rows for ``seconds``, those that are due longest first."""
    now = clock.now(connection)
    select = _due(table, name, now, table.c.key).order_by(table.c.due_at).limit(limit)
    # Two replicas never wait for each other here. As a statement of its own: PostgreSQL may run a subselect with a
    # limit again, and then locks other rows. https://www.postgresql.org/docs/current/sql-select.html#SQL-FOR-UPDATE-SHARE
    keys = (await connection.execute(select.with_for_update(skip_locked=True))).scalars().all()
    if not keys:
        return []
    columns = table.c
    update = (
        table.update()
        .where(columns.effect == name, columns.key.in_(keys))
        .values(holder=holder, due_at=now + int(seconds * 1000), attempts=columns.attempts + 1)
        .returning(columns.key, columns.attempts, columns.data, columns.result, columns.traceparent)
    )
    return [
        Taken(name, row.key, holder, row.attempts, row.data, row.result, row.traceparent)
        for row in await connection.execute(update)
    ]


async def end(connection: AsyncConnection, table: sa.Table, taken: Taken) -> None:
    """The effect is done: only its key is kept.

    Raises:
        LeaseLost
    """
    change = {"state": DONE, "due_at": clock.now(connection), "data": "", "result": None, "error": None}
    await _change(connection, table, taken, change)


async def park(
    connection: AsyncConnection, table: sa.Table, taken: Taken, error: str, result: str | None = None
) -> None:
    """The effect has failed for good; an operator finds it.

    Args:
        result: As for :func:`delay`.

    Raises:
        LeaseLost
    """
    change = {"state": PARKED, "due_at": clock.now(connection), "error": error}
    await _change(connection, table, taken, change if result is None else {**change, "result": result})


async def delay(
    connection: AsyncConnection,
    table: sa.Table,
    taken: Taken,
    *,
    seconds: float,
    error: str | None = None,
    result: str | None = None,
) -> None:
    """The effect is due again in ``seconds``.

    Args:
        error: Of the last attempt; ``None`` if it did not fail.
        result: JSON, if the call has succeeded.

    Raises:
        LeaseLost
    """
    change: dict[str, Any] = {"due_at": clock.now(connection) + int(seconds * 1000)}
    if error is not None:
        change["error"] = error
    if result is not None:
        change["result"] = result
    await _change(connection, table, taken, change)


async def count(connection: AsyncConnection, table: sa.Table, name: str, state: str) -> int:
    """The number of rows in ``state``, up to :data:`COUNTED_UP_TO`."""
    some = sa.select(table.c.key).where(table.c.effect == name, table.c.state == state).limit(COUNTED_UP_TO)
    return int(
        (await connection.execute(sa.select(sa.func.count()).select_from(some.subquery()))).scalar_one()
    )


async def delete_ended(
    connection: AsyncConnection, table: sa.Table, name: str, *, seconds: Mapping[str, float], limit: int
) -> int:
    """Delete at most ``limit`` rows of each state that ended ``seconds[state]`` ago; returns their number."""
    columns, deleted = table.c, 0
    for state, kept in seconds.items():
        old = (
            sa.select(columns.key)
            .where(
                columns.effect == name,
                columns.state == state,
                columns.due_at < clock.now(connection) - int(kept * 1000),
            )
            .limit(limit)
        )
        gone = table.delete().where(columns.effect == name, columns.state == state, columns.key.in_(old))
        deleted += int((await connection.execute(gone)).rowcount)
    return deleted


def _due(
    table: sa.Table, name: str, now: sa.ColumnElement[int], *columns: sa.Column[Any]
) -> sa.Select[tuple[Any, ...]]:
    chosen = columns or (sa.literal(1),)
    return sa.select(*chosen).where(table.c.effect == name, table.c.state == WAITING, table.c.due_at <= now)


async def _change(
    connection: AsyncConnection, table: sa.Table, taken: Taken, change: Mapping[str, Any]
) -> None:
    columns = table.c
    here = sa.and_(columns.effect == taken.effect, columns.key == taken.key, columns.holder == taken.holder)
    changed = await connection.execute(table.update().where(here).values(holder=None, **change))
    if not changed.rowcount:
        raise LeaseLost(f"the effect {taken.effect} {taken.key!r} was taken by another replica")
