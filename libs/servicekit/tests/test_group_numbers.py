"""Groups: numbers in the order of commits, and what a batch does to groups is right by then."""

import asyncio
from collections.abc import AsyncIterator, Collection, Set
from typing import Final

import pytest_asyncio
import sqlalchemy as sa
from pydantic import BaseModel
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from towpath.protocol.envelope import now_ms
from towpath.servicekit.handling.memberships import correct
from towpath.servicekit.handling.outcome import Outcome
from towpath.servicekit.handling.requests import Handler
from towpath.servicekit.handling.result import Result
from towpath.servicekit.storage.group_numbers import next_number, numbers_table, read_number
from towpath.servicekit.storage.leaves import Leave
from towpath.servicekit.storage.stored_outcome import StoredOutcome
from towpath.testkit.arrivals import a_request

METADATA: Final = sa.MetaData()
NUMBERS: Final = numbers_table(METADATA, "test")


class Join(BaseModel):
    pass


@pytest_asyncio.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    engine = create_async_engine(database_url)
    async with engine.begin() as connection:
        await connection.run_sync(METADATA.create_all)
        await connection.execute(NUMBERS.insert().values(id=1, number=1))
    yield engine
    await engine.dispose()


async def test_numbers_grow_and_are_at_least_the_time(engine: AsyncEngine) -> None:
    began = now_ms()
    async with engine.begin() as connection:
        numbers = [await next_number(connection, NUMBERS) for _ in range(3)]
        assert await read_number(connection, NUMBERS) == numbers[-1]
    assert began <= numbers[0] < numbers[1] < numbers[2]


async def test_numbers_grow_when_the_clock_goes_back(engine: AsyncEngine) -> None:
    ahead = now_ms() + 3_600_000
    async with engine.begin() as connection:
        await connection.execute(NUMBERS.update().values(number=ahead))
        assert await next_number(connection, NUMBERS) == ahead + 1


async def test_a_later_transaction_waits_for_its_number_until_the_earlier_commit(
    engine: AsyncEngine,
) -> None:
    if engine.dialect.name == "sqlite":  # one writer at a time, by the database itself
        return
    numbers: list[int] = []
    taken, go_on = asyncio.Event(), asyncio.Event()

    async def first() -> None:
        async with engine.begin() as connection:
            numbers.append(await next_number(connection, NUMBERS))
            taken.set()
            await go_on.wait()

    async def second() -> None:
        await taken.wait()
        async with engine.begin() as connection:
            go_on.set()
            numbers.append(await next_number(connection, NUMBERS))

    async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
        tasks.create_task(first())
        tasks.create_task(second())
    assert numbers == sorted(numbers)
    assert numbers[0] != numbers[1]


async def _only_ana_hears_a(_: AsyncConnection, wanted: Collection[tuple[str, str]]) -> Set[tuple[str, str]]:
    return {("ana", "a")} & set(wanted)


async def test_a_repetition_joins_only_allowed_groups_and_leaves_only_others(
    engine: AsyncEngine,
) -> None:
    gone = Leave("bob", "a", "t-1")
    back = Leave("ana", "a", "t-2")
    settled = StoredOutcome(
        subscribe=["a", "b"], unsubscribe=["a", "c"], replay={"a": 1, "b": 1}, leaves=[gone, back]
    )
    handlers = {"room.join": Handler(Join, lambda *_: Outcome())}
    result = Result(a_request(handlers, "room.join"), settled, "")
    async with engine.begin() as connection:
        await correct(connection, _only_ana_hears_a, [result])
    assert result.stored.subscribe == ["a"]
    assert result.stored.unsubscribe == ["c"]
    assert result.stored.replay == {"a": 1}
    assert result.stored.leaves == [gone]
