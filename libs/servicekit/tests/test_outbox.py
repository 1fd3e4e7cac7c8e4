"""The outbox: stored if the transaction commits, in order, numbers never reused; and one holder of its lease."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Final

import msgspec
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy.ext.asyncio import AsyncConnection

from towpath.protocol.envelope import make
from towpath.protocol.routes import EVENTS, PUSH
from towpath.servicekit.messaging.publication import Publication
from towpath.servicekit.storage import outbox
from towpath.servicekit.storage.database import Database
from towpath.servicekit.storage.outbox import OutboxTables
from towpath.testkit.eventually import eventually

METADATA: Final = sa.MetaData()
OUTBOX: Final = OutboxTables.define(METADATA, "test")
THINGS: Final = sa.Table("things", METADATA, sa.Column("name", sa.String(20), primary_key=True))
ANY: Final = 1_000_000

names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1, max_size=12)
items = st.dictionaries(names, names, max_size=2).map(
    lambda data: msgspec.Raw(make("test.told", data).to_json())
)
several = st.lists(st.builds(Publication, st.sampled_from([PUSH, EVENTS]), names, items), max_size=6)


@pytest.fixture
async def database(empty_database: Database) -> Database:
    async with empty_database.transaction() as connection:
        await connection.run_sync(METADATA.create_all)
        await connection.execute(THINGS.insert(), {"name": "thing"})
    return empty_database


@pytest.fixture
async def connection(database: Database) -> AsyncIterator[AsyncConnection]:
    async with database.transaction() as connection:
        yield connection


def numbered(number: int) -> Publication:
    return Publication(PUSH, "everyone", msgspec.Raw(b"%d" % number))


async def waiting(connection: AsyncConnection, limit: int = ANY, max_bytes: int = ANY) -> list[Publication]:
    found = await outbox.first(connection, OUTBOX, limit=limit, max_bytes=max_bytes)
    return [one.publication for one in found if one.publication is not None]


@given(st.lists(several, max_size=4), st.integers(1, 12), st.integers(1, 600))
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
async def test_messages_are_read_unchanged_in_order_and_in_bounded_parts(
    connection: AsyncConnection, puts: list[list[Publication]], limit: int, max_bytes: int
) -> None:
    await connection.execute(OUTBOX.items.delete())
    for part in puts:
        await outbox.put(connection, OUTBOX, part)
    left = [one for part in puts for one in part]
    assert await outbox.count(connection, OUTBOX) == len(left)
    while left:
        found = await outbox.first(connection, OUTBOX, limit=limit, max_bytes=max_bytes)
        assert 1 <= len(found) <= limit
        assert (
            len(found) == 1 or sum(len(one.publication.item) for one in found if one.publication) <= max_bytes
        )
        assert [one.publication for one in found] == left[: len(found)]
        await outbox.remove(connection, OUTBOX, [one.id for one in found])
        left = left[len(found) :]
    assert await waiting(connection) == []


async def test_many_messages_are_stored_in_order(connection: AsyncConnection) -> None:
    many = [numbered(number) for number in range(2500)]
    await outbox.put(connection, OUTBOX, many)
    assert await waiting(connection) == many


async def test_waiting_rows_are_counted_up_to_a_limit(connection: AsyncConnection) -> None:
    await outbox.put(connection, OUTBOX, [numbered(0)] * (outbox.COUNTED_UP_TO + 1))
    assert await outbox.count(connection, OUTBOX) == outbox.COUNTED_UP_TO


async def test_uncommitted_messages_are_not_stored(database: Database) -> None:
    async with AsyncExitStack() as stack:
        connection = await stack.enter_async_context(database.transaction())
        await outbox.put(connection, OUTBOX, [numbered(1)])
        await connection.rollback()
    async with database.reading() as connection:
        assert await waiting(connection) == []


async def test_rows_of_a_transaction_that_waited_for_a_lock_come_later(database: Database) -> None:
    locked = THINGS.select().with_for_update()
    first_has_it = asyncio.Event()

    async def second() -> None:
        await first_has_it.wait()
        async with database.transaction() as connection:
            await connection.execute(locked)
            await outbox.put(connection, OUTBOX, [numbered(2)])

    waits = asyncio.create_task(second())
    async with database.transaction() as connection:
        await connection.execute(locked)
        first_has_it.set()
        await asyncio.wait([waits], timeout=0.1)  # it may get as far as it can
        await outbox.put(connection, OUTBOX, [numbered(1)])
    await waits
    async with database.reading() as connection:
        assert await waiting(connection) == [numbered(1), numbered(2)]


async def test_a_number_is_never_assigned_twice(database: Database) -> None:
    numbers: list[int] = []
    for _ in range(3):
        async with database.transaction() as connection:
            await outbox.put(connection, OUTBOX, [numbered(1), numbered(2)])
            found = await outbox.first(connection, OUTBOX, limit=ANY, max_bytes=ANY)
            await outbox.remove(connection, OUTBOX, [one.id for one in found])
        numbers += [one.id for one in found]
    assert numbers == sorted(set(numbers))


class TestLease:
    async def test_one_holder_has_the_lease_until_it_releases_it(self, database: Database) -> None:
        async def hold(holder: str) -> bool:
            async with database.transaction() as connection:
                return await outbox.hold(connection, OUTBOX, holder, 60)

        async def release(holder: str) -> None:
            async with database.transaction() as connection:
                await outbox.release(connection, OUTBOX, holder)

        assert await hold("one")
        assert not await hold("other")
        assert await hold("one")
        await release("other")
        assert not await hold("other")
        await release("one")
        assert await hold("other")
        assert not await hold("one")

    async def test_one_of_many_concurrent_requests_gets_the_lease(self, database: Database) -> None:
        async def hold(holder: str) -> bool:
            async with database.transaction() as connection:
                return await outbox.hold(connection, OUTBOX, holder, 60)

        assert sum(await asyncio.gather(*(hold(f"replica-{number}") for number in range(8)))) == 1

    async def test_the_lease_expires(self, database: Database) -> None:
        async def hold(holder: str, seconds: float) -> bool:
            async with database.transaction() as connection:
                return await outbox.hold(connection, OUTBOX, holder, seconds)

        assert await hold("dead", 0.2)
        assert await eventually(lambda: hold("other", 60))
        assert not await hold("dead", 60)
