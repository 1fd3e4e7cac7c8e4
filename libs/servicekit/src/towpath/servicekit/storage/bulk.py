"""Bulk statements: many rows in one statement, for SQLite and PostgreSQL.

Statements are built once and run with other parameters each time, for SQLAlchemy takes longer to build one than to
run it. So build those of a service in a function with :func:`functools.cache`, with :func:`pairs` and :func:`one_of`.

PostgreSQL gets one array per column (``unnest``), so that it plans and runs one statement: a tenth of the work of one
statement per row. For SQLite, which runs within this process, one statement per row is the fastest.
https://www.postgresql.org/docs/current/functions-array.html

Example:
    >>> import asyncio
    >>> from sqlalchemy.ext.asyncio import create_async_engine
    >>> metadata = sa.MetaData()
    >>> rooms = sa.Table(
    ...     "rooms",
    ...     metadata,
    ...     sa.Column("owner", sa.Text, primary_key=True),
    ...     sa.Column("name", sa.Text, primary_key=True),
    ...     sa.Column("members", sa.Integer),
    ... )
    >>> async def members() -> list[int]:
    ...     engine = create_async_engine("sqlite+aiosqlite://")
    ...     async with engine.begin() as connection:
    ...         await connection.run_sync(metadata.create_all)
    ...         rows = [{"owner": "ana", "name": name, "members": 1} for name in ("harbour", "lock")]
    ...         await insert(connection, rooms, rows)
    ...         await update(connection, rooms, [rows[1] | {"members": 5}], key=("owner", "name"))
    ...         found = await find(connection, rooms, ("owner", "name"), {("ana", "lock"), ("ana", "weir")})
    ...     await engine.dispose()
    ...     return [row.members for row in found]
    >>> asyncio.run(members())
    [5]
"""

import json
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection

Row = Mapping[str, Any]


async def insert(connection: AsyncConnection, table: sa.Table, rows: Sequence[Row]) -> None:
    """Insert ``rows``, which all have the same columns; does nothing without rows.

    Raises:
        IntegrityError: One row violates a constraint; no row is inserted then.
    """
    if not rows:
        return
    if connection.dialect.name == "postgresql":
        names = tuple(rows[0])
        # One parameter per column, for any number of rows: no limit on parameters, and one prepared statement.
        await connection.execute(_insert(table, names), _columns(rows, names))
    else:
        await connection.execute(_insert_each(table), rows)


async def update(
    connection: AsyncConnection, table: sa.Table, rows: Sequence[Row], *, key: Sequence[str]
) -> None:
    """Update the rows with the same ``key`` columns as ``rows``; all ``rows`` have the same columns.

    A row that the table does not have is left out.

    Args:
        key: Columns that identify a row; the others are set.
    """
    if not rows:
        return
    names = tuple(rows[0])
    if connection.dialect.name == "postgresql":
        await connection.execute(_update_together(table, names, tuple(key)), _columns(rows, names))
    else:
        # Named `new_…`, because SQLAlchemy reserves the names of the columns in an update.
        each = [{f"new_{name}": row[name] for name in names} for row in rows]
        await connection.execute(_update_each(table, names, tuple(key)), each)


async def find(
    connection: AsyncConnection, table: sa.Table, key: tuple[str, str], wanted: Collection[tuple[str, str]]
) -> Sequence[sa.Row[Any]]:
    """The rows of ``table`` whose two columns ``key`` are one of ``wanted``; no query if ``wanted`` is empty."""
    if not wanted:
        return []
    statement = _find(connection.dialect.name, table, key)
    return list(await connection.execute(statement, pair_values(connection, wanted)))


def pairs(dialect: str) -> sa.Select[Any]:
    """A select of the pairs of texts that the parameters name (:func:`pair_values`): any number, one statement.

    SQLite scans the whole table for a list of row values, but uses the index for a subselect:
    https://www.sqlite.org/rowvalue.html#row_value_in_operators

    Args:
        dialect: ``connection.dialect.name``.
    """
    if dialect == "postgresql":
        return _unnested(*(sa.bindparam(side, type_=ARRAY(sa.Text)) for side in ("one", "other")))
    return _extracted(sa.bindparam("wanted", type_=sa.Text))


def pair_values(connection: AsyncConnection, wanted: Collection[tuple[str, str]]) -> dict[str, Any]:
    """The parameters of a statement with :func:`pairs`."""
    if connection.dialect.name == "postgresql":
        return {"one": [one for one, _ in wanted], "other": [other for _, other in wanted]}
    return {"wanted": json.dumps(list(wanted))}


def one_of(dialect: str, column: sa.ColumnElement[Any]) -> sa.ColumnElement[bool]:
    """Whether a text ``column`` is one of the names in the parameters (:func:`name_values`), in one statement.

    Args:
        dialect: ``connection.dialect.name``.
    """
    if dialect == "postgresql":
        return column == sa.any_(sa.bindparam("names", type_=ARRAY(sa.Text)))
    each = sa.func.json_each(sa.bindparam("names", type_=sa.Text)).table_valued("value")
    return column.in_(sa.select(each.c.value))


def name_values(connection: AsyncConnection, wanted: Collection[str]) -> dict[str, Any]:
    """The parameters of a statement with :func:`one_of`."""
    return {"names": list(wanted) if connection.dialect.name == "postgresql" else json.dumps(list(wanted))}


def _unnested(one: sa.ColumnElement[Any], other: sa.ColumnElement[Any]) -> sa.Select[Any]:
    both = sa.func.unnest(one, other).table_valued("one", "other").render_derived()
    return sa.select(both.c.one, both.c.other)


def _extracted(wanted: sa.ColumnElement[str]) -> sa.Select[Any]:
    each = sa.func.json_each(wanted).table_valued("value")
    return sa.select(sa.func.json_extract(each.c.value, "$[0]"), sa.func.json_extract(each.c.value, "$[1]"))


@lru_cache(maxsize=256)
def _find(dialect: str, table: sa.Table, key: tuple[str, str]) -> sa.Select[Any]:
    return sa.select(table).where(sa.tuple_(*(table.c[name] for name in key)).in_(pairs(dialect)))


@lru_cache(maxsize=256)
def _insert_each(table: sa.Table) -> sa.Insert:
    return table.insert()


def _columns(rows: Sequence[Row], names: Sequence[str]) -> dict[str, list[Any]]:
    return {f"new_{name}": [row[name] for row in rows] for name in names}


def _values(table: sa.Table, names: Sequence[str]) -> sa.TableValuedAlias:
    arrays = [sa.bindparam(f"new_{name}", type_=ARRAY(table.c[name].type)) for name in names]
    return sa.func.unnest(*arrays).table_valued(*names, name="new").render_derived()


@lru_cache(maxsize=256)
def _insert(table: sa.Table, names: tuple[str, ...]) -> sa.Insert:
    values = _values(table, names)
    return table.insert().from_select(list(names), sa.select(*(values.c[name] for name in names)))


@lru_cache(maxsize=256)
def _update_together(table: sa.Table, names: tuple[str, ...], key: tuple[str, ...]) -> sa.Update:
    values = _values(table, names)
    changes = {name: values.c[name] for name in names if name not in key}
    return table.update().where(*(table.c[name] == values.c[name] for name in key)).values(changes)


@lru_cache(maxsize=256)
def _update_each(table: sa.Table, names: tuple[str, ...], key: tuple[str, ...]) -> sa.Update:
    changes: dict[str, Any] = {name: sa.bindparam(f"new_{name}") for name in names if name not in key}
    here = (table.c[name] == sa.bindparam(f"new_{name}") for name in key)
    return table.update().where(*here).values(changes)
