"""Many rows in one statement: the same effect on SQLite and on PostgreSQL."""

from collections.abc import AsyncIterator
from typing import Any, Final

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from towpath.servicekit.storage import bulk
from towpath.testkit.dispatching import counted_statements

METADATA: Final = sa.MetaData()
PEOPLE: Final = sa.Table(
    "people",
    METADATA,
    sa.Column("city", sa.String(20), primary_key=True),
    sa.Column("name", sa.String(20), primary_key=True),
    sa.Column("note", sa.Text),
    sa.Column("age", sa.BigInteger),
    sa.Column("is_connected", sa.Boolean, nullable=False, server_default=sa.false()),
)


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[AsyncConnection]:
    engine = create_async_engine(database_url)
    try:
        async with engine.connect() as connection:
            await connection.run_sync(METADATA.create_all)
            yield connection
    finally:
        await engine.dispose()


def a_person(number: int, **more: Any) -> dict[str, Any]:
    return {"city": "Ulm", "name": f"p{number}", "note": None, "age": number, "is_connected": True} | more


async def people(connection: AsyncConnection) -> list[tuple[Any, ...]]:
    found = await connection.execute(sa.select(PEOPLE).order_by(PEOPLE.c.age))
    return [tuple(row) for row in found]


async def test_rows_are_stored_as_given(connection: AsyncConnection) -> None:
    odd = "ü, {\"curly\"} 'quoted' \\ NULL"
    rows = [a_person(1, note=odd), a_person(2, is_connected=False), a_person(2**40)]
    await bulk.insert(connection, PEOPLE, rows)
    assert await people(connection) == [
        ("Ulm", "p1", odd, 1, True),
        ("Ulm", "p2", None, 2, False),
        ("Ulm", f"p{2**40}", None, 2**40, True),
    ]


async def test_unnamed_columns_get_their_default(connection: AsyncConnection) -> None:
    await bulk.insert(connection, PEOPLE, [{"city": "Ulm", "name": "ana", "age": 1}])
    assert await people(connection) == [("Ulm", "ana", None, 1, False)]


async def test_only_named_columns_change_and_only_for_the_whole_key(
    connection: AsyncConnection,
) -> None:
    await bulk.insert(connection, PEOPLE, [a_person(n, note="old") for n in range(4)])
    changes: list[dict[str, Any]] = [
        {"city": "Ulm", "name": "p1", "note": "new"},
        {"city": "Ulm", "name": "p2", "note": None},
        {"city": "Bonn", "name": "p3", "note": "elsewhere"},
    ]
    await bulk.update(connection, PEOPLE, changes, key=["city", "name"])
    assert [(age, note) for _, _, note, age, _ in await people(connection)] == [
        (0, "old"),
        (1, "new"),
        (2, None),
        (3, "old"),
    ]


async def test_one_existing_row_fails_the_whole_insert(connection: AsyncConnection) -> None:
    await bulk.insert(connection, PEOPLE, [a_person(1)])
    await connection.commit()
    with pytest.raises(IntegrityError):
        await bulk.insert(connection, PEOPLE, [a_person(2), a_person(1)])
    await connection.rollback()
    assert len(await people(connection)) == 1


@pytest.mark.parametrize("count", [0, 1, 700])
async def test_the_number_of_statements_does_not_grow(connection: AsyncConnection, count: int) -> None:
    rows = [a_person(number) for number in range(count)]
    with counted_statements() as statements:
        await bulk.insert(connection, PEOPLE, rows)
        await bulk.update(connection, PEOPLE, rows, key=["city", "name"])
    assert len(statements) == (2 if count else 0)
    assert len(await people(connection)) == count
