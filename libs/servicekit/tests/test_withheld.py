"""Entries whose fields are withheld: blank where they are stored, filled in when they are published again."""

import json
from collections.abc import Collection
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.ext.asyncio import AsyncConnection

from towpath.protocol.envelope import make
from towpath.servicekit.storage.withheld import (
    EntryId,
    Fields,
    Hidden,
    fill_page,
    filled,
    is_withheld,
    published_with,
    read_by,
    withhold,
)

texts = st.text(max_size=20)
datas = st.dictionaries(
    st.text("abcdef", min_size=1, max_size=5), texts | st.integers(-(2**63), 2**63), max_size=5
)
NO_CONNECTION: Any = None


def an_entry(data: dict[str, Any], seq: int = 7) -> str:
    return make("chat.message", data, stream="chat:lobby", seq=seq).to_json().decode()


class Row:
    def __init__(self, seq: int, envelope: str) -> None:
        self.stream, self.seq, self.envelope = "chat:lobby", seq, envelope


async def new_text(_: AsyncConnection, places: Collection[EntryId]) -> dict[EntryId, Fields]:
    return {place: {"text": f"new {place[1]}"} for place in places}


async def gone(_: AsyncConnection, places: Collection[EntryId]) -> dict[EntryId, Fields]:
    return {}


async def unchanged(_: AsyncConnection, places: Collection[EntryId]) -> dict[EntryId, Fields]:
    return {place: {} for place in places}


@given(datas, texts, st.integers(1, 2**62))
def test_only_withheld_fields_change(data: dict[str, Any], text: str, about: int) -> None:
    entry = an_entry({**data, "text": text})
    stored = withhold(entry, about, {"text": ""})
    assert is_withheld(stored)
    assert not is_withheld(entry)
    before = json.loads(entry)
    assert json.loads(stored) == {**before, "about": about, "data": {**before["data"], "text": ""}}
    assert withhold(stored, about, {"text": ""}) == stored


async def test_only_the_filled_in_fields_of_a_published_entry_change() -> None:
    entry = an_entry({"amount": 99.90, "text": "old", "user": "é"})
    stored = withhold(entry, 3, {"text": ""})
    place = ("chat:lobby", 7)
    published = await filled(NO_CONNECTION, new_text, [(place, stored)])
    assert published == {place: entry.replace('"old"', '"new 3"').encode()}


async def test_entries_without_withheld_fields_are_published_byte_for_byte() -> None:
    entry = an_entry({"amount": 99.90, "text": "said"})
    place = ("chat:lobby", 7)
    assert await filled(NO_CONNECTION, unchanged, [(place, entry)]) == {place: entry.encode()}


async def test_deleted_entries_are_not_published() -> None:
    assert await filled(NO_CONNECTION, gone, [(("chat:lobby", 7), an_entry({"text": "said"}))]) == {}


@pytest.mark.parametrize("fill", [new_text, gone])
async def test_a_page_keeps_its_order_and_omits_missing_entries(fill: Any) -> None:
    rows = [Row(seq, an_entry({"text": f"old {seq}"}, seq)) for seq in (1, 2, 3)]
    rows[1].envelope = withhold(rows[1].envelope, 2, {"text": ""})
    page = await fill_page(NO_CONNECTION, fill, rows)
    told = [(place[1], json.loads(text)["data"]["text"]) for place, text in page if isinstance(text, bytes)]
    assert told == (
        [(1, "old 1"), (2, "new 2"), (3, "old 3")] if fill is new_text else [(1, "old 1"), (3, "old 3")]
    )


async def test_a_page_without_withheld_fields_needs_no_query() -> None:
    async def refuse(_: AsyncConnection, places: Collection[EntryId]) -> dict[EntryId, Fields]:
        raise AssertionError(f"asked about {places}")

    rows = [Row(seq, an_entry({"text": "said"}, seq)) for seq in (1, 2)]
    assert [text for _, text in await fill_page(NO_CONNECTION, refuse, rows)] == [
        row.envelope.encode() for row in rows
    ]


async def test_one_user_gets_other_fields_than_all_others() -> None:
    entry = an_entry({"user": "ana", "text": "secret"})
    place = ("chat:lobby", 7)

    async def hidden(_: AsyncConnection, places: Collection[EntryId]) -> dict[EntryId, Fields | Hidden]:
        return {one: Hidden({"text": "secret"}, "ben", {"text": ""}) for one in places}

    [found] = (await filled(NO_CONNECTION, hidden, [(place, withhold(entry, 7, {"text": ""}))])).values()
    assert read_by("ana", [found]) == [entry.encode()]
    assert read_by("ben", [found]) == [entry.replace("secret", "").encode()]
    assert published_with(found, "user.ana") == published_with(found, "group.chat:lobby") == entry.encode()
    assert published_with(found, "user.ben") == entry.replace("secret", "").encode()
