"""Results go behind a group change if they must not overtake it, and no others."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from towpath.protocol.routes import EVENTS, PUSH, group_key, user_key
from towpath.servicekit.handling.behind import Behind
from towpath.servicekit.handling.result import Result
from towpath.servicekit.messaging.confirms import PendingConfirms
from towpath.servicekit.messaging.publication import Publication
from towpath.servicekit.storage.stored_outcome import StoredOutcome
from towpath.testkit.arrivals import SHELF, a_request

_TEXT = msgspec.Raw(b"{}")


def a_result(
    user: str = "ana",
    *,
    key: str | None = None,
    joins: Sequence[str] = (),
    tells: Sequence[str] = (),
    says: str = "",
) -> Result:
    """One that joins groups, pushes to groups, and publishes an event."""
    outgoing = [Publication(PUSH, group_key(group), _TEXT) for group in tells]
    if says:
        outgoing.append(Publication(EVENTS, says, _TEXT))
    stored = StoredOutcome(subscribe=list(joins), outgoing=outgoing)
    return Result(a_request(SHELF, "shelf.put", user, key=key), stored, "")


def test_nothing_goes_behind_unless_a_group_changes() -> None:
    results = [a_result(), a_result("ben", tells=["a"])]
    assert Behind().divide(results) == (results, None)


def test_its_sequence_and_its_groups_go_behind_a_group_change() -> None:
    before, join, same_sequence = a_result("cleo", tells=["a"]), a_result(joins=["a"]), a_result()
    same_group, other = a_result("ben", tells=["a"]), a_result("ben", key="b", tells=["b"])
    same_event = a_result("dan", says="shelf.put")
    behind = Behind()
    now, part = behind.divide([before, join, same_sequence, same_group, other, same_event])
    assert now == [other, same_event]
    assert part is not None
    assert part.results == [before, join, same_sequence, same_group]


class Publishing:
    """Publishes one part for each permit."""

    def __init__(self) -> None:
        self.permits = asyncio.Semaphore(0)
        self.published: list[Result] = []

    async def publish(self, results: Sequence[Result]) -> PendingConfirms:
        await self.permits.acquire()
        self.published.extend(results)
        return PendingConfirms()

    @asynccontextmanager
    async def running(self, behind: Behind) -> AsyncIterator[None]:
        """Parts are published; at the end all of them are."""
        running = asyncio.create_task(behind.run(self.publish))
        try:
            yield
            for _ in range(100):
                self.permits.release()
            async with asyncio.timeout(30):
                await behind.published()
        finally:
            running.cancel()


async def test_the_next_unit_goes_behind_as_well_until_the_change_is_published() -> None:
    behind, publishing = Behind(), Publishing()
    join, other = a_result(joins=["a"]), a_result("cleo", tells=["b"])
    told, again = a_result("ben", tells=["a"]), a_result("ben", tells=["a"])
    async with publishing.running(behind):
        behind.divide([join])
        now, part = behind.divide([told, other])
        assert now == [other]
        await asyncio.sleep(0.01)
        assert not publishing.published
    assert part is not None
    assert part.published.is_set()
    assert publishing.published == [join, told]
    assert behind.divide([again]) == ([again], None)


made = st.fixed_dictionaries(
    {
        "user": st.sampled_from(["ana", "ben"]),
        "key": st.sampled_from([None, "k"]),
        "joins": st.lists(st.sampled_from("abc"), max_size=1),
        "tells": st.lists(st.sampled_from("abc"), max_size=2, unique=True),
    }
)


@given(st.lists(st.tuples(st.lists(made, max_size=6), st.integers(0, 2)), max_size=6))
def test_sequences_and_pushes_with_one_routing_key_keep_their_order(
    steps: list[tuple[list[dict[str, Any]], int]],
) -> None:
    units = [([a_result(**one) for one in unit], confirms) for unit, confirms in steps]
    publishing = Publishing()
    published = publishing.published

    async def run() -> None:
        behind = Behind()
        async with publishing.running(behind):
            for unit, confirms in units:
                published.extend(behind.divide(unit)[0])
                for _ in range(confirms):
                    publishing.permits.release()
                    await asyncio.sleep(0)
                    await asyncio.sleep(0)

    asyncio.run(run())
    sent = [result for unit, _ in units for result in unit]
    assert sorted(map(id, published)) == sorted(map(id, sent))
    for key in {key for result in sent for key in _keys(result)}:
        expected = [result for result in sent if key in _keys(result)]
        assert [result for result in published if key in _keys(result)] == expected


def _keys(result: Result) -> set[object]:
    return {result.request.sequence_key, *(item.routing_key for item in result.stored.outgoing)}


def test_a_push_to_a_user_keeps_its_order_too() -> None:
    told = a_result("ben")
    told.stored = StoredOutcome(outgoing=[Publication(PUSH, user_key("ana"), _TEXT)])
    join = a_result(joins=["a"])
    join.stored = msgspec.structs.replace(join.stored, outgoing=told.stored.outgoing)
    now, part = Behind().divide([join, told])
    assert not now
    assert part is not None
    assert part.results == [join, told]
