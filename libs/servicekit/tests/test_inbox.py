"""The inbox: one outcome per sender and id, stored once and found unchanged."""

from collections.abc import AsyncIterator
from typing import Final

import msgspec
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from towpath.protocol.envelope import make
from towpath.servicekit.messaging.publication import Publication
from towpath.servicekit.storage.inbox import Key, find, inbox_table, store
from towpath.servicekit.storage.retention import delete_old
from towpath.servicekit.storage.stored_outcome import StoredOutcome

METADATA: Final = sa.MetaData()
INBOX: Final = inbox_table(METADATA, "test")

# No user id holds U+0000: the gateway and the models refuse it.
names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1, max_size=12)
ids = st.from_regex(r"[A-Za-z0-9._:-]{1,8}", fullmatch=True)
envelopes = st.dictionaries(names, names, max_size=2).map(
    lambda data: msgspec.Raw(make("order.updated", data).to_json())
)
outcomes = st.builds(
    StoredOutcome,
    answer=envelopes,
    outgoing=st.lists(st.builds(Publication, names, names, envelopes), max_size=2),
    subscribe=st.lists(names, max_size=2),
    unsubscribe=st.lists(names, max_size=2),
    replay=st.dictionaries(names, st.integers(0, 2**63 - 1), max_size=2),
)
ODD: Final = [
    "ana",
    "Ana",
    "ana ",
    "o'hara",
    'say "hi"',
    "back\\slash",
    "zoë",
    "用户",
    "🚣",
    "%",
    "_",
    "null",
    "1",
]


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[AsyncConnection]:
    engine = create_async_engine(database_url)
    async with engine.begin() as connection:
        await connection.run_sync(METADATA.create_all)
        yield connection
    await engine.dispose()


def an_outcome(text: str = "done") -> StoredOutcome:
    return StoredOutcome(answer=msgspec.Raw(make("order.submit.ok", {"text": text}).to_json()))


@given(
    st.dictionaries(st.tuples(names, ids), outcomes, max_size=5), st.sets(st.tuples(names, ids), max_size=3)
)
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
async def test_stored_outcomes_are_found_unchanged(
    connection: AsyncConnection, stored: dict[Key, StoredOutcome], others: set[Key]
) -> None:
    await connection.execute(INBOX.delete())
    await store(connection, INBOX, stored)
    found = await find(connection, INBOX, [*stored, *others, *stored])
    assert found.keys() == stored.keys()
    assert {key: msgspec.json.encode(outcome) for key, outcome in found.items()} == {
        key: msgspec.json.encode(outcome) for key, outcome in stored.items()
    }


async def test_an_outcome_without_an_answer_is_stored(connection: AsyncConnection) -> None:
    await store(connection, INBOX, {("event:backend", "m-1"): StoredOutcome(subscribe=["chat:lobby"])})
    found = await find(connection, INBOX, [("event:backend", "m-1")])
    assert not found["event:backend", "m-1"].answer
    assert found["event:backend", "m-1"].subscribe == ["chat:lobby"]


async def test_similar_or_odd_names_are_different_senders(connection: AsyncConnection) -> None:
    await store(connection, INBOX, {(name, "m-1"): an_outcome(name) for name in ODD})
    found = await find(connection, INBOX, [(name, "m-1") for name in ODD])
    texts = {key: msgspec.json.decode(outcome.answer)["data"]["text"] for key, outcome in found.items()}
    assert texts == {(name, "m-1"): name for name in ODD}
    assert await find(connection, INBOX, [("bo", "m-1"), ("ana", "m-2"), ("m-1", "ana")]) == {}


async def test_ids_of_different_senders_never_meet(connection: AsyncConnection) -> None:
    await store(connection, INBOX, {("ana", "m-1"): an_outcome("ana's")})
    assert await find(connection, INBOX, [("bo", "m-1")]) == {}
    await store(connection, INBOX, {("bo", "m-1"): an_outcome("bo's")})
    assert len(await find(connection, INBOX, [("ana", "m-1"), ("bo", "m-1")])) == 2


async def test_a_second_outcome_for_the_same_request_fails(connection: AsyncConnection) -> None:
    await store(connection, INBOX, {("ana", "m-1"): an_outcome("first")})
    with pytest.raises(IntegrityError):
        async with connection.begin_nested():
            await store(
                connection, INBOX, {("ana", "m-2"): an_outcome(), ("ana", "m-1"): an_outcome("again")}
            )
    found = await find(connection, INBOX, [("ana", "m-1"), ("ana", "m-2")])
    assert [msgspec.json.decode(outcome.answer)["data"] for outcome in found.values()] == [{"text": "first"}]


async def test_empty_batches_are_accepted(connection: AsyncConnection) -> None:
    await store(connection, INBOX, {})
    assert await find(connection, INBOX, []) == {}


async def test_the_largest_unit_of_work_is_found_in_one_call(connection: AsyncConnection) -> None:
    keys = [(f"user-{number}", "m-1") for number in range(5000)]
    await store(connection, INBOX, dict.fromkeys(keys, an_outcome()))
    assert (await find(connection, INBOX, keys)).keys() == set(keys)


async def test_old_outcomes_are_deleted_in_steps(connection: AsyncConnection) -> None:
    await store(connection, INBOX, {("ana", f"m-{number}"): an_outcome() for number in range(5)})
    await connection.execute(INBOX.update().values(created_at=1))
    await store(connection, INBOX, {("ana", "new"): an_outcome()})
    steps = [await delete_old(connection, INBOX, older_than_ms=60_000, limit=2) for _ in range(4)]
    assert steps == [2, 2, 1, 0]
    assert (await find(connection, INBOX, [("ana", "m-1"), ("ana", "new")])).keys() == {("ana", "new")}
