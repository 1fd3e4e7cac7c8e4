"""A private room without members is deleted: its name is free, and nothing of it is visible."""

import asyncio
from typing import Any

import pytest

from towpath.chat.app import CHAT, configured
from towpath.chat.gone import STEP, GoneRoomSweeper
from towpath.chat.settings import ChatSettings
from towpath.chat.tables import GONE, INVITATIONS, MEMBERS, MESSAGES, ROOMS, STREAMS
from towpath.testkit.dispatching import (
    GATEWAY,
    Incoming,
    ServiceUnderTest,
    a_command,
    an_event,
    counted_statements,
)

ROOM = "den"
STREAM = "chat:den"
SECRET = "a message of the old den"
DAY = 86_400_000


def a_create(room: str = ROOM, *, private: bool = True, **more: Any) -> Incoming:
    return a_command("chat.create", room=room, private=private, **more)


def an_invite(user: str = "bob", room: str = ROOM, **more: Any) -> Incoming:
    return a_command("chat.invite", room=room, user=user, **more)


def a_join(by: str = "bob", room: str = ROOM, **more: Any) -> Incoming:
    return a_command("chat.join", by=by, room=room, **more)


def a_leave(by: str = "alice", room: str = ROOM, **more: Any) -> Incoming:
    return a_command("chat.leave", by=by, room=room, **more)


def a_send(text: str = SECRET, by: str = "alice", **more: Any) -> Incoming:
    return a_command("chat.send", by=by, room=ROOM, text=text, **more)


async def ask(chat: ServiceUnderTest, action: str, by: str = "bob", **data: Any) -> dict[str, Any]:
    chat.forget()
    await chat.dispatch(a_command(action, by=by, on="c-9", msg_id="asked", **data))
    return dict(chat.answer("asked").data)


async def cleared(chat: ServiceUnderTest, clearing: GoneRoomSweeper | None = None) -> int:
    """Give the timer its turns until there is nothing to do; returns how many it took."""
    turns = 1
    while await chat.turn((clearing or GoneRoomSweeper()).round):
        turns += 1
    return turns


#: Alice makes a den, says something there (seq 2), invites zoe and leaves (seq 3).
OLD_DEN = [
    a_create(title="Whispers", msg_id="o-1"),
    a_send(msg_id="o-2"),
    an_invite("zoe"),
    a_leave(msg_id="o-3"),
]


@pytest.fixture(params=["at once", "cleared"])
async def old_den(chat: ServiceUnderTest, request: pytest.FixtureRequest) -> ServiceUnderTest:
    """A service with a room that is gone, before and after its rows are deleted."""
    for message in OLD_DEN:
        await chat.dispatch(message)
    if request.param == "cleared":
        await cleared(chat)
    chat.forget()
    return chat


async def test_the_last_leaver_gets_the_push_and_the_room_is_deleted(chat: ServiceUnderTest) -> None:
    await chat.dispatch(a_create(), a_leave(msg_id="m-1"))
    assert chat.answer("m-1").data == {"room": ROOM}
    (left,) = chat.pushes("user.alice", action="chat.left")
    assert (left.stream, left.seq, left.data) == (STREAM, 2, {"room": ROOM, "seq": 2, "user": "alice"})
    assert chat.groups("c-1", user="alice") == set()
    assert await chat.rows(ROOMS) == await chat.rows(MEMBERS) == []


async def test_joining_the_name_of_a_deleted_room_creates_a_public_room(old_den: ServiceUnderTest) -> None:
    await old_den.dispatch(a_join(msg_id="m-1"), a_join("eve", msg_id="m-2"))
    assert old_den.answer("m-1").data == {"room": ROOM, "seq": 4, "members": ["bob"]}
    assert old_den.answer("m-2").data == {"room": ROOM, "seq": 5, "members": ["bob", "eve"]}
    (room,) = await old_den.rows(ROOMS)
    assert (room.title, room.private, room.created_by, room.members) == (None, False, "bob", 2)


async def test_the_name_of_a_deleted_room_can_be_used_again(old_den: ServiceUnderTest) -> None:
    await old_den.dispatch(a_create(by="bob", title="Mine", msg_id="m-1"), a_join("eve", msg_id="m-2"))
    assert old_den.answer("m-1").data == {"room": ROOM}
    assert old_den.error("m-2") == "forbidden"
    (summary,) = (await ask(old_den, "chat.rooms"))["rooms"]
    whole = {"room": ROOM, "title": "Mine", "seq": 4, "read_seq": 4, "unread": 0, "private": True}
    assert summary == {**whole, "owner": "bob"}


async def test_the_history_of_the_new_room_has_no_old_message(old_den: ServiceUnderTest) -> None:
    await old_den.dispatch(a_join(), a_send("hello", by="bob"))
    questions: list[dict[str, Any]] = [{}, {"after_seq": 0}, {"before_seq": 5}, {"before_seq": 9}]
    for asked in questions:
        history = await ask(old_den, "chat.history", room=ROOM, **asked)
        texts = [message["text"] for message in history["messages"]]
        assert texts == ([] if asked == {"before_seq": 5} else ["hello"])
        assert history["has_more"] is False


async def test_a_position_in_the_old_stream_is_not_complete_in_the_new_one(old_den: ServiceUnderTest) -> None:
    await old_den.dispatch(a_join(), a_send("hello", by="bob"))
    for position in (0, 1, 2):
        answer = await ask(old_den, "chat.resume", positions={STREAM: position})
        assert answer == {"streams": {STREAM: {"seq": 5, "complete": False}}}
        assert old_den.replayed("c-9") == []


async def test_a_resume_from_the_last_position_of_the_old_stream_gets_the_new_room_only(
    old_den: ServiceUnderTest,
) -> None:
    await old_den.dispatch(a_join(), a_send("hello", by="bob"))
    answer = await ask(old_den, "chat.resume", positions={STREAM: 3})
    assert answer == {"streams": {STREAM: {"seq": 5, "complete": True}}}
    assert [push.action for push in old_den.replayed("c-9")] == ["chat.joined", "chat.message"]


async def test_an_invitation_to_the_deleted_room_is_deleted(old_den: ServiceUnderTest) -> None:
    assert await ask(old_den, "chat.rooms", by="zoe") == {"rooms": []}
    await old_den.dispatch(a_create(by="bob"))
    assert await ask(old_den, "chat.rooms", by="zoe") == {"rooms": []}
    await old_den.dispatch(a_join("zoe", msg_id="m-1"))
    assert old_den.error("m-1") == "forbidden"


async def test_a_user_invited_to_the_old_room_can_be_invited_to_the_new_one(
    old_den: ServiceUnderTest,
) -> None:
    await old_den.dispatch(a_create(title="Again"), an_invite("zoe", msg_id="m-1"))
    assert old_den.answer("m-1").action == "chat.invite.ok"
    assert len(old_den.pushes("user.zoe", action="chat.invited")) == 1
    told = (await ask(old_den, "chat.rooms", by="zoe"))["invitations"]
    assert told == [{"room": ROOM, "title": "Again", "by": "alice"}]
    await cleared(old_den)
    await old_den.dispatch(a_join("zoe", msg_id="m-2"))
    assert old_den.answer("m-2").data["members"] == ["alice", "zoe"]
    assert await old_den.rows(INVITATIONS) == []


async def test_the_author_cannot_change_a_message_of_a_deleted_room(old_den: ServiceUnderTest) -> None:
    await old_den.dispatch(a_join("alice"))
    await old_den.dispatch(
        a_command("chat.edit", room=ROOM, seq=2, text="hm", msg_id="m-1"),
        a_command("chat.delete", room=ROOM, seq=2, msg_id="m-2"),
    )
    assert [old_den.error(msg_id) for msg_id in ("m-1", "m-2")] == ["not_found", "not_found"]


async def test_its_messages_are_not_unread_in_the_new_room(old_den: ServiceUnderTest) -> None:
    await old_den.dispatch(a_join(), a_send("hello", by="bob"), a_join("eve"))
    (summary,) = (await ask(old_den, "chat.rooms", by="eve"))["rooms"]
    assert summary["unread"] == 0


async def test_redelivered_old_requests_push_nothing_to_the_new_room(old_den: ServiceUnderTest) -> None:
    await old_den.dispatch(a_join())
    old_den.forget()
    await old_den.dispatch(*OLD_DEN[:2], OLD_DEN[3], redelivered=True)
    assert [old_den.answer(msg_id).action for msg_id in ("o-1", "o-2", "o-3")] == [
        "chat.create.ok",
        "chat.send.ok",
        "chat.leave.ok",
    ]
    assert old_den.pushes("group.chat:den") == []
    assert SECRET not in str(old_den.heard)
    assert old_den.groups("c-1", user="alice") == set()


async def test_a_new_connection_does_not_get_the_deleted_room(old_den: ServiceUnderTest) -> None:
    await old_den.dispatch(a_join())
    await old_den.dispatch(
        an_event("session.started", user_id="alice", connection_id="c-5", gateway_id=GATEWAY)
    )
    assert old_den.groups("c-5", user="alice") == set()


@pytest.mark.parametrize("together", [True, False])
async def test_a_room_can_be_deleted_and_created_repeatedly(chat: ServiceUnderTest, together: bool) -> None:
    story = []
    for number in range(3):
        story += [a_create(title=f"den {number}"), an_invite(), a_send(f"secret {number}"), a_leave()]
    story += [a_create(by="bob", msg_id="m-1"), a_join("zoe", msg_id="m-2")]
    for batch in [story] if together else [[message] for message in story]:
        await chat.dispatch(*batch)
    assert chat.answer("m-1").action == "chat.create.ok"
    assert chat.error("m-2") == "forbidden"
    assert (await ask(chat, "chat.history", room=ROOM))["messages"] == []
    assert await ask(chat, "chat.rooms", by="alice") == {"rooms": []}
    await cleared(chat)
    assert await chat.rows(MESSAGES) == await chat.rows(INVITATIONS) == []
    assert [row.seq for row in await chat.rows(STREAMS.entries)] == [10]
    assert [(row.room, row.created_by) for row in await chat.rows(ROOMS)] == [(ROOM, "bob")]


async def test_a_leave_of_one_user_does_not_affect_the_other(chat: ServiceUnderTest) -> None:
    await chat.dispatch(a_create(), an_invite(), a_join(), a_send())
    await chat.dispatch(a_leave())
    assert [message["text"] for message in (await ask(chat, "chat.history", room=ROOM))["messages"]] == [
        SECRET
    ]
    assert await chat.rows(GONE) == []


async def test_a_public_room_without_members_keeps_its_messages(chat: ServiceUnderTest) -> None:
    await chat.dispatch(a_join("alice"), a_send(), a_leave(), a_join())
    assert [message["text"] for message in (await ask(chat, "chat.history", room=ROOM))["messages"]] == [
        SECRET
    ]


async def test_simultaneous_leaves_of_the_last_two_delete_the_room(database_url: str) -> None:
    async with ServiceUnderTest.running(CHAT, database_url, replicas=2) as chat:
        await chat.dispatch(a_create(), an_invite(), a_join())
        await asyncio.gather(
            *(chat.dispatch(a_leave(user), replica=n) for n, user in enumerate(["alice", "bob"]))
        )
        assert await chat.rows(ROOMS) == await chat.rows(MEMBERS) == []
        # One entry more if alice left first: bob was the owner then.
        assert [row.seq for row in await chat.rows(GONE)] in ([4], [5])


async def test_a_guest_who_joins_during_the_last_leave_is_in_the_old_or_the_new_room(
    database_url: str,
) -> None:
    async with ServiceUnderTest.running(CHAT, database_url, replicas=2) as chat:
        await chat.dispatch(a_create(), an_invite(), a_send())
        await asyncio.gather(
            chat.dispatch(a_leave(), replica=0), chat.dispatch(a_join(msg_id="m-1"), replica=1)
        )
        assert chat.answer("m-1").action == "chat.join.ok"
        (room,) = await chat.rows(ROOMS)
        texts = [message["text"] for message in (await ask(chat, "chat.history", room=ROOM))["messages"]]
        assert texts == ([SECRET] if room.private else [])


async def test_a_deleted_room_counts_for_the_daily_limit_of_its_creator(database_url: str) -> None:
    service = configured(ChatSettings(amqp_url="memory://", rooms_made_per_day=3))
    async with ServiceUnderTest.running(service, database_url) as chat:
        for _ in range(3):
            await chat.dispatch(a_create(), a_leave())
        await chat.dispatch(a_create(msg_id="m-1"))
        assert chat.error("m-1") == "rate_limited"
        await cleared(chat)
        await chat.dispatch(a_create("attic", msg_id="m-2"))
        assert chat.error("m-2") == "rate_limited"


async def test_a_large_room_is_deleted_in_bounded_steps_and_invisible_at_once(chat: ServiceUnderTest) -> None:
    await chat.dispatch(a_create())
    await chat.dispatch(*[a_send(f"{number}") for number in range(2 * STEP)])
    with counted_statements() as leaving:
        await chat.dispatch(a_leave())
    assert len(leaving) < 25
    await chat.dispatch(a_join())
    assert (await ask(chat, "chat.history", room=ROOM, after_seq=0))["messages"] == []
    with counted_statements() as clearing:
        assert await chat.turn(GoneRoomSweeper().round)
    assert len(clearing) < 12
    assert len(await chat.rows(MESSAGES)) == STEP
    await cleared(chat)
    assert await chat.rows(MESSAGES) == []
    assert [row.seq for row in await chat.rows(STREAMS.entries)] == [2 * STEP + 3]


async def test_a_timer_run_without_work_needs_one_query(chat: ServiceUnderTest) -> None:
    with counted_statements() as statements:
        assert not await chat.turn(GoneRoomSweeper().round)
    assert len([statement for statement in statements if "chat_gone_rooms" in statement]) == 1
    assert not [statement for statement in statements if "DELETE" in statement]


async def test_a_deleted_room_is_forgotten_after_a_day(chat: ServiceUnderTest) -> None:
    await chat.dispatch(a_create(), a_leave())
    [gone] = await chat.rows(GONE)
    tomorrow = GoneRoomSweeper(lambda: gone.created_at + DAY + 1)
    await chat.turn(tomorrow.forget)
    assert len(await chat.rows(GONE)) == 1  # its rows are not deleted yet
    await cleared(chat)
    await chat.turn(GoneRoomSweeper(lambda: gone.created_at + DAY - 1).forget)
    assert len(await chat.rows(GONE)) == 1
    await chat.turn(tomorrow.forget)
    assert await chat.rows(GONE) == []
