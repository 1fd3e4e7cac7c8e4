"""Streams with concurrent appenders: no number twice, none left out, every replay complete."""

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Any, Final

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from towpath.protocol.envelope import parse
from towpath.servicekit.storage.database import Database
from towpath.servicekit.storage.replays import Asked, replay
from towpath.servicekit.storage.retention import delete_old
from towpath.servicekit.storage.streams import Replay, Streams, StreamTables, read_heads

METADATA: Final = sa.MetaData()
TABLES: Final = StreamTables.define(METADATA, "test")
NAMES: Final = ["chat:a", "chat:b", "chat:c", "order:ana"]
PATIENCE: Final = 30.0
PLENTY: Final = 1024 * 1024


@pytest.fixture
async def replicas(database_url: str) -> AsyncIterator[list[Database]]:
    """Two programs on the same database."""
    async with (
        Database.open(database_url, service="test") as one,
        Database.open(database_url, service="test") as other,
    ):
        yield [one, other]


async def append(database: Database, names: list[str], *, fail: bool = False) -> None:
    """One unit of work that appends an entry a name (a name may stand there twice)."""
    async with database.transaction() as connection:
        streams = Streams(connection, TABLES)
        await streams.load(names)
        for name in names:
            streams.append(name, "chat.told", lambda seq: {"n": seq})
        await streams.save()
        if fail:
            raise ZeroDivisionError


async def seqs(database: Database) -> dict[str, list[int]]:
    """The numbers of all entries, after a look at each of them."""
    async with database.reading() as connection:
        rows = await connection.execute(sa.select(TABLES.entries).order_by(TABLES.entries.c.seq))
        found: dict[str, list[int]] = {}
        for row in rows:
            envelope = parse(row.envelope)
            assert (envelope.stream, envelope.seq, envelope.data) == (row.stream, row.seq, {"n": row.seq})
            found.setdefault(row.stream, []).append(row.seq)
        assert await read_heads(connection, TABLES, found) == {
            name: len(all_) for name, all_ in found.items()
        }
    return found


async def test_numbers_grow_by_one_for_concurrent_appenders(replicas: list[Database]) -> None:
    chance = random.Random(7)
    units = [chance.choices(NAMES, k=chance.randint(1, 6)) for _ in range(60)]
    expected = {name: sum(unit.count(name) for unit in units) for name in NAMES}

    async def work(database: Database, mine: list[list[str]]) -> None:
        for unit in mine:
            await append(database, unit)

    # Streams that are not there yet are made by one of those who want them.
    async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as tasks:
        for number in range(6):
            tasks.create_task(work(replicas[number % 2], units[number::6]))
    assert await seqs(replicas[0]) == {name: list(range(1, count + 1)) for name, count in expected.items()}


async def test_a_rolled_back_append_leaves_no_gap(replicas: list[Database]) -> None:
    async def fail(number: int) -> None:
        with pytest.raises(ZeroDivisionError):
            await append(replicas[number % 2], NAMES[:2], fail=True)

    async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as tasks:
        for number in range(12):
            tasks.create_task(fail(number))
            tasks.create_task(append(replicas[number % 2], NAMES[:1]))
    assert await seqs(replicas[0]) == {NAMES[0]: list(range(1, 13))}


async def test_concurrent_readers_see_a_stream_without_gaps(replicas: list[Database]) -> None:
    done = asyncio.Event()

    async def look(database: Database) -> int:
        looks = position = 0
        while not done.is_set():
            async with database.reading() as connection:
                [found] = await replay(
                    connection, TABLES, [Asked({NAMES[0]: position})], limit=1000, max_bytes=PLENTY
                )
            stream = found[NAMES[0]]
            assert stream.complete
            assert [parse(entry).seq for entry in stream.entries] == list(range(position + 1, stream.seq + 1))
            looks, position = looks + 1, stream.seq
        return looks

    async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as tasks:
        looking = [tasks.create_task(look(database)) for database in replicas]
        for number in range(30):
            await append(replicas[number % 2], NAMES[:1] * 3)
        done.set()
    assert all(task.result() > 0 for task in looking)


steps = st.lists(
    st.tuples(st.just("append"), st.lists(st.sampled_from(NAMES), min_size=1, max_size=5))
    | st.tuples(st.just("forget"), st.integers(1, 4))
    | st.tuples(
        st.just("replay"),
        st.lists(st.dictionaries(st.sampled_from([*NAMES, "chat:x"]), st.integers(0, 8)), max_size=3),
        st.integers(1, 10),
    ),
    max_size=12,
)


@given(steps)
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
async def test_a_replay_equals_the_list_of_all_entries(replicas: list[Database], steps: list[Any]) -> None:
    database = replicas[0]
    heads: dict[str, int] = {}
    kept: list[tuple[str, int]] = []  # oldest first
    async with database.transaction() as connection:
        await connection.execute(TABLES.entries.delete())
        await connection.execute(TABLES.heads.delete())
    for step in steps:
        if step[0] == "append":
            await append(database, step[1])
            for name in step[1]:
                heads[name] = heads.get(name, 0) + 1
                kept.append((name, heads[name]))
        elif step[0] == "forget":
            gone, kept = kept[: step[1]], kept[step[1] :]
            async with database.transaction() as connection:
                entries = TABLES.entries
                for name, seq in gone:
                    old = entries.update().where(entries.c.stream == name, entries.c.seq == seq)
                    await connection.execute(old.values(created_at=1))
                assert await delete_old(connection, TABLES.entries, older_than_ms=60_000, limit=100) == len(
                    gone
                )
        else:
            _, asked, limit = step
            async with database.reading() as connection:
                given_back = await replay(
                    connection, TABLES, list(map(Asked, asked)), limit=limit, max_bytes=PLENTY
                )
            for positions, answer in zip(asked, given_back, strict=True):
                assert answer.keys() == positions.keys()
                assert sum(len(stream.entries) for stream in answer.values()) <= limit
                room = limit
                for name, position in positions.items():
                    head = heads.get(name, 0)
                    wanted = list(range(position + 1, head + 1))
                    fits = len(wanted) <= room
                    room -= len(wanted) if fits else 0
                    whole = position <= head and fits and all((name, seq) in kept for seq in wanted)
                    stream: Replay = answer[name]
                    assert (stream.seq, stream.complete) == (head, whole)
                    assert [parse(entry).seq for entry in stream.entries] == (wanted if whole else [])
