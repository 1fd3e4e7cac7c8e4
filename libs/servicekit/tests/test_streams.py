"""Streams: numbered without a gap, replayed byte for byte."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import Any, Final

import pytest_asyncio
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from towpath.servicekit.storage import bulk
from towpath.servicekit.storage.database import Database
from towpath.servicekit.storage.leaves import ConfirmedLeaves, Leave, to_store
from towpath.servicekit.storage.replays import Asked, replay
from towpath.servicekit.storage.retention import delete_old
from towpath.servicekit.storage.streams import Replay, Streams, StreamTables, read_heads

METADATA: Final = sa.MetaData()
TABLES: Final = StreamTables.define(METADATA, "test")
LIMIT: Final = 10
PLENTY: Final = 1024 * 1024


@pytest_asyncio.fixture
async def connection(database_url: str) -> AsyncIterator[AsyncConnection]:
    engine = create_async_engine(database_url)
    async with engine.begin() as connection:
        await connection.run_sync(METADATA.create_all)
        yield connection
    await engine.dispose()


async def append(connection: AsyncConnection, **counts: int) -> dict[str, list[bytes]]:
    """Append ``count`` entries to each stream; what was appended."""
    streams = Streams(connection, TABLES)
    await streams.load(counts)
    appended = {
        name: [streams.append(name, "test.said", lambda seq: {"n": seq}).to_json() for _ in range(count)]
        for name, count in counts.items()
    }
    await streams.save()
    return appended


@contextmanager
def rows_read(connection: AsyncConnection) -> Iterator[list[int]]:
    """How many rows each statement was allowed to return, by its ranges of ``seq``."""
    asked: list[int] = []

    def before(_: Any, __: Any, statement: str, parameters: Any, *___: Any) -> None:
        if "envelope" in statement:
            values = parameters.values() if isinstance(parameters, dict) else parameters
            bounds = [value for value in values if isinstance(value, int)]
            asked.append(sum(bounds[1::2]) - sum(bounds[::2]))

    sa.event.listen(connection.sync_connection, "before_cursor_execute", before)
    try:
        yield asked
    finally:
        sa.event.remove(connection.sync_connection, "before_cursor_execute", before)


async def test_seq_starts_at_one_and_grows_by_one(connection: AsyncConnection) -> None:
    for _ in range(2):
        await append(connection, a=3, b=1)
    rows = await connection.execute(sa.select(TABLES.entries.c.stream, TABLES.entries.c.seq))
    assert sorted(tuple(row) for row in rows) == [*(("a", n) for n in range(1, 7)), ("b", 1), ("b", 2)]
    assert await read_heads(connection, TABLES, ["a", "b", "c"]) == {"a": 6, "b": 2}


async def test_streams_loaded_if_they_exist_are_not_created(connection: AsyncConnection) -> None:
    await append(connection, a=2)
    streams = Streams(connection, TABLES)
    await streams.load(["b"], if_there=["a", "b", "c"])
    assert (streams.head("a"), streams.head("b")) == (2, 0)
    assert await read_heads(connection, TABLES, ["a", "b", "c"]) == {"a": 2, "b": 0}


async def test_each_request_gets_the_entries_after_its_own_position(connection: AsyncConnection) -> None:
    told = await append(connection, a=4, b=2)
    asked = [Asked(one) for one in ({"a": 1, "b": 0}, {"a": 3}, {"a": 4}, {"a": 5, "c": 0, "d": 7}, {})]
    assert await replay(connection, TABLES, asked, limit=LIMIT, max_bytes=PLENTY) == [
        {"a": Replay(told["a"][1:], 4, True), "b": Replay(told["b"], 2, True)},
        {"a": Replay(told["a"][3:], 4, True)},
        {"a": Replay([], 4, True)},
        {"a": Replay([], 4, False), "c": Replay([], 0, True), "d": Replay([], 0, False)},
        {},
    ]


async def test_the_limit_holds_for_each_request_alone(connection: AsyncConnection) -> None:
    told = await append(connection, a=LIMIT - 1, b=2, c=1)
    asked = [Asked({"a": 0, "b": 0, "c": 0})] * 50
    for answer in await replay(connection, TABLES, asked, limit=LIMIT, max_bytes=PLENTY):
        assert answer == {
            "a": Replay(told["a"], LIMIT - 1, True),
            "b": Replay([], 2, False),
            "c": Replay(told["c"], 1, True),
        }


async def test_a_replay_of_more_bytes_than_allowed_is_not_complete(connection: AsyncConnection) -> None:
    told = await append(connection, a=8, b=2)
    size = sum(map(len, told["b"]))
    asked = [Asked({"a": 0, "b": 0}), Asked({"b": 0}), Asked({"a": 7})]
    assert await replay(connection, TABLES, asked, limit=LIMIT, max_bytes=size) == [
        {"a": Replay([], 8, False), "b": Replay(told["b"], 2, True)},
        {"b": Replay(told["b"], 2, True)},
        {"a": Replay(told["a"][7:], 8, True)},
    ]


async def test_a_replay_that_is_too_large_reads_at_most_the_bound_and_a_page(
    connection: AsyncConnection,
) -> None:
    streams = Streams(connection, TABLES)
    await streams.load(["a"])
    for _ in range(1_000):
        streams.append("a", "test.said", lambda _: {"text": "x" * 4_000})
    await streams.save()
    with rows_read(connection) as read:
        [found] = await replay(connection, TABLES, [Asked({"a": 0})], limit=5_000, max_bytes=400_000)
    assert found == {"a": Replay([], 1_000, False)}
    assert sum(read) * 4_000 < 400_000 + 300_000


async def test_the_pages_of_a_replay_are_joined(connection: AsyncConnection) -> None:
    told = await append(connection, a=450, b=3)
    [found] = await replay(connection, TABLES, [Asked({"a": 10, "b": 1})], limit=5_000, max_bytes=PLENTY)
    assert found == {"a": Replay(told["a"][10:], 450, True), "b": Replay(told["b"][1:], 3, True)}


async def test_a_replay_from_before_the_retention_is_incomplete(connection: AsyncConnection) -> None:
    await append(connection, a=2)
    await connection.execute(TABLES.entries.update().values(created_at=1))
    told = await append(connection, a=2)
    assert await delete_old(connection, TABLES.entries, older_than_ms=1_000, limit=100) == 2
    (too_late, in_time) = await replay(
        connection, TABLES, [Asked({"a": 1}), Asked({"a": 2})], limit=LIMIT, max_bytes=PLENTY
    )
    assert too_late == {"a": Replay([], 4, False)}
    assert in_time == {"a": Replay(told["a"], 4, True)}


async def test_pairs_are_found_by_the_index(connection: AsyncConnection) -> None:
    for name in ("a", "quote'd", 'quote"d', "naïve ☀"):
        await append(connection, **{name: 1})
    key = sa.tuple_(TABLES.entries.c.stream, TABLES.entries.c.envelope)
    rows = (await connection.execute(sa.select(TABLES.entries.c.stream, TABLES.entries.c.envelope))).all()
    wanted = [(row.stream, row.envelope) for row in rows if row.stream != "a"]
    found = sa.select(TABLES.entries.c.stream).where(key.in_(bulk.pairs(connection.dialect.name)))
    asked = bulk.pair_values(connection, [*wanted, ("a", "other")])
    assert set((await connection.execute(found, asked)).scalars()) == {stream for stream, _ in wanted}
    if connection.dialect.name == "sqlite":
        found = found.params(**asked)
        statement = found.compile(connection.sync_connection, compile_kwargs={"literal_binds": True})
        plan = await connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}")
        assert any(row.detail.startswith("SEARCH test_stream_entries") for row in plan)


async def test_names_are_found_by_the_index(connection: AsyncConnection) -> None:
    for name in ("a", "quote'd", 'quote"d', "naïve ☀"):
        await append(connection, **{name: 1})
    found = sa.select(TABLES.heads.c.stream).where(
        bulk.one_of(connection.dialect.name, TABLES.heads.c.stream)
    )
    asked = bulk.name_values(connection, ["quote'd", 'quote"d', "naïve ☀", "other"])
    assert set((await connection.execute(found, asked)).scalars()) == {"quote'd", 'quote"d', "naïve ☀"}
    if connection.dialect.name == "sqlite":
        statement = found.params(**asked).compile(
            connection.sync_connection, compile_kwargs={"literal_binds": True}
        )
        plan = await connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}")
        assert any(row.detail.startswith("SEARCH test_streams") for row in plan)


async def _leaves(database: Database) -> list[str]:
    """The users who left the group of ``a``, as the next unit of work sees them."""
    async with database.transaction() as connection:
        streams = Streams(connection, TABLES)
        await streams.load(["a"])
        found = [leave.user_id for leave in streams.leaves("a")]
        await streams.save()
    return found


async def test_a_leave_is_seen_by_later_units_of_work_until_it_is_confirmed(
    open_empty_database: Callable[[], AbstractAsyncContextManager[Database]],
) -> None:
    async with open_empty_database() as here, open_empty_database() as elsewhere:
        async with here.transaction() as connection:
            streams = Streams(connection, TABLES)
            await streams.load(["a"])
            streams.append("a", "test.said", lambda seq: {"n": seq})
            streams.remove_member("a", "a", "ana")
            streams.remove_member("a", "a", "bob")
            await streams.save()
        assert await _leaves(elsewhere) == ["ana", "bob"]
        here.confirmed_leaves.add(leave for leave in streams.leaves("a") if leave.user_id == "ana")
        assert await _leaves(here) == ["bob"]
        assert await _leaves(elsewhere) == ["bob"], "a confirmed leave is removed from the database"


async def test_a_user_who_returns_is_removed_from_the_leaves_and_may_leave_again(
    empty_database: Database,
) -> None:
    async with empty_database.transaction() as connection:
        streams = Streams(connection, TABLES)
        await streams.load(["a"])
        streams.append("a", "test.said", lambda seq: {"n": seq})
        streams.remove_member("a", "a", "ana")
        empty_database.confirmed_leaves.add(streams.leaves("a"))
        streams.add_member("a", "ana")
        assert streams.leaves("a") == ()
        streams.remove_member("a", "a", "ana")
        await streams.save()
    assert await _leaves(empty_database) == ["ana"], "another leave, which is not confirmed"


def test_confirmed_leaves_are_forgotten_in_the_end() -> None:
    confirmed = ConfirmedLeaves()
    old = Leave("ana", "a", "first")
    confirmed.add([old])
    stored = to_store([old])
    assert confirmed.left_of(stored) == []
    confirmed.add(Leave("bob", "a", f"t-{n}") for n in range(10_000))
    assert confirmed.left_of(stored) == [old]
