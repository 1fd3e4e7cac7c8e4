"""Finding public rooms by the beginning of their names."""

from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine

from towpath.chat.finding import statement_of
from towpath.chat.tables import ROOMS
from towpath.protocol.chat import FindRooms
from towpath.testkit.dispatching import ServiceUnderTest, a_command


async def found(chat: ServiceUnderTest, *, by: str = "zoe", **asked: Any) -> dict[str, Any]:
    chat.forget()
    await chat.dispatch(a_command("chat.find", by=by, msg_id="find", **asked))
    return chat.answer("find").data


def names(page: dict[str, Any]) -> list[str]:
    return [room["room"] for room in page["rooms"]]


async def test_public_rooms_are_found_by_the_beginning_of_their_names(chat: ServiceUnderTest) -> None:
    await chat.dispatch(
        a_command("chat.create", room="harbour", title="The harbour"),
        *[a_command("chat.join", room=room) for room in ("hare", "Harbour", "lock", "har", "ha_bour", "h%")],
        a_command("chat.join", by="bob", room="hare"),
    )
    assert await found(chat, prefix="har") == {
        "rooms": [
            {"room": "har", "title": "har", "members": 1},
            {"room": "harbour", "title": "The harbour", "members": 1},
            {"room": "hare", "title": "hare", "members": 2},
        ]
    }
    assert names(await found(chat, prefix="h%")) == ["h%"]
    assert names(await found(chat)) == ["Harbour", "h%", "ha_bour", "har", "harbour", "hare", "lock"]
    assert await found(chat, prefix="quay") == {"rooms": []}


async def test_private_rooms_and_rooms_of_two_are_found_by_no_one(chat: ServiceUnderTest) -> None:
    await chat.dispatch(
        a_command("chat.create", room="den", private=True),
        a_command("chat.direct", to="bob", text="psst"),
        a_command("chat.join", room="dock"),
    )
    for user in ("alice", "bob", "zoe"):
        for prefix in ("", "d", "de", "den", "dm:", "dm:alice:bob"):
            assert set(names(await found(chat, by=user, prefix=prefix))) <= {"dock"}


async def test_a_private_room_that_is_gone_is_found_once_its_name_is_a_public_room(
    chat: ServiceUnderTest,
) -> None:
    await chat.dispatch(
        a_command("chat.create", room="den", private=True), a_command("chat.leave", room="den")
    )
    assert names(await found(chat)) == []
    await chat.dispatch(a_command("chat.join", by="bob", room="den"))
    assert names(await found(chat)) == ["den"]


async def test_pages_have_every_room_once_in_the_order_of_code_points(chat: ServiceUnderTest) -> None:
    rooms = [f"r{letter}" for letter in "Aaé\u00df\u4e2d\ufffd\U0001f6a3~_-. 0"] + ["r", "rr", "r" * 100]
    await chat.dispatch(*[a_command("chat.join", room=room) for room in rooms])
    listed, cursor, pages = [], None, 0
    while pages == 0 or cursor is not None:
        page = await found(chat, prefix="r", limit=4, **({"cursor": cursor} if cursor else {}))
        listed += names(page)
        cursor, pages = page.get("cursor"), pages + 1
    assert listed == sorted(rooms)
    assert pages == -(-len(rooms) // 4)
    # A cursor from before the prefix lists nothing from before it.
    assert names(await found(chat, prefix="rr", cursor="a")) == ["rr", "r" * 100]


async def test_many_requests_in_a_batch_get_their_own_pages(chat: ServiceUnderTest) -> None:
    await chat.dispatch(*[a_command("chat.join", room=f"room {number:03}") for number in range(60)])
    chat.forget()
    asked = [a_command("chat.find", by=f"u{n}", prefix=f"room {n:03}", msg_id=f"m-{n}") for n in range(250)]
    await chat.dispatch(*asked)
    for number in range(250):
        expected = [f"room {number:03}"] if number < 60 else []
        assert names(chat.answer(f"m-{number}").data) == expected


@pytest.mark.parametrize(
    "asked", [{"limit": 0}, {"limit": 101}, {"prefix": "x" * 129}, {"prefix": "a\x00"}, {"cursor": ""}]
)
async def test_a_page_has_bounds(chat: ServiceUnderTest, asked: dict[str, Any]) -> None:
    await chat.dispatch(a_command("chat.find", msg_id="find", **asked))
    assert chat.error("find") == "invalid_data"


async def test_a_page_is_read_from_the_index_of_public_rooms(
    chat: ServiceUnderTest, database_url: str
) -> None:
    """With so many private rooms that reading all would cost more."""
    engine = create_async_engine(database_url)
    rows = [
        {"room": f"room {number}", "created_at": 1, "private": number % 10 > 0} for number in range(5_000)
    ]
    statement, parameters = statement_of(engine.dialect.name, [(0, FindRooms(prefix="room 4", limit=5))])
    explain = "EXPLAIN QUERY PLAN " if engine.dialect.name == "sqlite" else "EXPLAIN "
    async with engine.begin() as connection:
        await connection.execute(ROOMS.insert(), rows)
        if engine.dialect.name == "postgresql":
            await connection.execute(sa.text("ANALYZE chat_rooms"))
        plan = (await connection.execute(sa.text(explain + statement), parameters)).all()
    await engine.dispose()
    steps = "\n".join(str(row[-1]) for row in plan)
    assert "ix_chat_rooms_public" in steps
    assert not any(word in steps for word in ("Sort", "TEMP B-TREE", "Seq Scan")), steps
