"""The owner of a private room removes members, hands the room over, and deletes it."""

import asyncio
import itertools
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import create_async_engine

from towpath.chat.app import CHAT, STORAGE
from towpath.chat.crowds import Crowds
from towpath.chat.gone import GoneRoomSweeper
from towpath.chat.limits import MOST_LISTED, Limits
from towpath.chat.repository import Rooms
from towpath.chat.tables import GONE, INVITATIONS, MEMBERS, MESSAGES, ROOMS, STREAMS
from towpath.testkit.dispatching import GATEWAY, Incoming, ServiceUnderTest, a_command, an_event

ROOM = "den"
STREAM = "chat:den"
GROUP = "group.chat:den"
NUMBERS = itertools.count()


def a_remove(user: str = "bob", by: str = "alice", **more: Any) -> Incoming:
    return a_command("chat.remove", by=by, room=ROOM, user=user, **more)


def a_transfer(user: str = "bob", by: str = "alice", **more: Any) -> Incoming:
    return a_command("chat.transfer", by=by, room=ROOM, user=user, **more)


def a_drop(by: str = "alice", **more: Any) -> Incoming:
    return a_command("chat.drop", by=by, room=ROOM, **more)


def a_leave(by: str, **more: Any) -> Incoming:
    return a_command("chat.leave", by=by, room=ROOM, **more)


def a_send(text: str, by: str = "alice", **more: Any) -> Incoming:
    return a_command("chat.send", by=by, room=ROOM, text=text, **more)


def a_create(by: str = "alice", **more: Any) -> Incoming:
    return a_command("chat.create", by=by, room=ROOM, private=True, **more)


def coming(*users: str, by: str = "alice") -> list[Incoming]:
    """Invitations and joins."""
    return [
        step
        for user in users
        for step in (
            a_command("chat.invite", by=by, room=ROOM, user=user),
            a_command("chat.join", by=user, room=ROOM, on=f"c-{user}"),
        )
    ]


async def a_den(chat: ServiceUnderTest, *users: str) -> None:
    """A private room of alice with ``users``, who came one after another."""
    await chat.dispatch(a_create(on="c-alice"))
    for user in users:
        await chat.dispatch(*coming(user))
        await asyncio.sleep(0.002)  # the clock of the joins has milliseconds


async def ask(chat: ServiceUnderTest, action: str, by: str, **data: Any) -> dict[str, Any]:
    msg_id = f"asked-{next(NUMBERS)}"
    await chat.dispatch(a_command(action, by=by, on=f"c-{by}", msg_id=msg_id, **data))
    return dict(chat.answer(msg_id).data)


async def owner(chat: ServiceUnderTest, by: str) -> str | None:
    owners: dict[str, str | None] = {
        room["room"]: room.get("owner") for room in (await ask(chat, "chat.rooms", by))["rooms"]
    }
    return owners[ROOM]


def in_batches(story: list[Incoming], together: bool) -> list[list[Incoming]]:
    return [story] if together else [[step] for step in story]


class TestRemove:
    async def test_a_removed_member_and_the_room_get_the_push(self, chat: ServiceUnderTest) -> None:
        await a_den(chat, "bob")
        chat.forget()
        await chat.dispatch(a_remove(msg_id="m-1"))
        assert chat.answer("m-1").data == {"room": ROOM, "user": "bob"}
        change = {"room": ROOM, "seq": 3, "user": "bob", "by": "alice"}
        for key in (GROUP, "user.bob"):
            (push,) = chat.pushes(key)
            assert (push.action, push.stream, push.seq, push.data) == ("chat.left", STREAM, 3, change)

    @pytest.mark.parametrize("together", [False, True])
    async def test_a_removed_member_gets_nothing_afterwards(
        self, chat: ServiceUnderTest, together: bool
    ) -> None:
        await a_den(chat, "bob", "zoe")
        for batch in in_batches([a_remove(), a_send("a secret")], together):
            await chat.dispatch(*batch)
        assert chat.groups("c-bob", user="bob") == set()
        # The unsubscribe is published before the next push to the group.
        keys = [heard.routing_key for heard in chat.heard]
        secret = next(n for n, heard in enumerate(chat.heard) if b"a secret" in heard.item)
        assert "control.bob" in keys[:secret]
        assert (await ask(chat, "chat.history", "bob", room=ROOM))["code"] == "forbidden"
        assert (await ask(chat, "chat.send", "bob", room=ROOM, text="hm"))["code"] == "forbidden"
        assert await ask(chat, "chat.rooms", "bob") == {"rooms": []}
        answer = await ask(chat, "chat.resume", "bob", positions={STREAM: 2})
        assert answer == {"streams": {STREAM: {"seq": 2, "complete": False}}}
        await chat.dispatch(
            an_event("session.started", user_id="bob", connection_id="c-9", gateway_id=GATEWAY)
        )
        assert chat.groups("c-9", user="bob") == set()

    @pytest.mark.parametrize("together", [False, True])
    async def test_a_removed_member_needs_a_new_invitation(
        self, chat: ServiceUnderTest, together: bool
    ) -> None:
        await a_den(chat, "bob")
        story = [
            a_remove(),
            a_command("chat.join", by="bob", room=ROOM, msg_id="m-1"),
            a_command("chat.invite", room=ROOM, user="bob"),
            a_command("chat.join", by="bob", room=ROOM, msg_id="m-2"),
        ]
        for batch in in_batches(story, together):
            await chat.dispatch(*batch)
        assert chat.error("m-1") == "forbidden"
        assert chat.answer("m-2").data["members"] == ["alice", "bob"]

    async def test_an_invited_user_is_removed_by_ending_the_invitation(self, chat: ServiceUnderTest) -> None:
        await a_den(chat)
        await chat.dispatch(coming("bob")[0], a_remove(msg_id="m-1"))
        assert chat.answer("m-1").data == {"room": ROOM, "user": "bob"}
        assert await chat.rows(INVITATIONS) == []
        assert (await ask(chat, "chat.join", "bob", room=ROOM))["code"] == "forbidden"
        # It is one open invitation less.
        await chat.dispatch(a_command("chat.invite", room=ROOM, user="bob", msg_id="m-2"))
        assert chat.answer("m-2").action == "chat.invite.ok"

    async def test_only_the_owner_removes_and_only_others(self, chat: ServiceUnderTest) -> None:
        await a_den(chat, "bob", "zoe")
        await chat.dispatch(
            a_command("chat.join", by="bob", room="hall"), a_command("chat.join", room="hall")
        )
        chat.forget()
        await chat.dispatch(
            a_remove("zoe", by="bob", msg_id="m-1"),
            a_remove("zoe", by="mallory", msg_id="m-2"),
            a_remove("alice", msg_id="m-3"),
            a_remove("mallory", msg_id="m-4"),
            a_command("chat.remove", room="hall", user="bob", msg_id="m-5"),
            a_command("chat.remove", room="dm:alice:bob", user="bob", msg_id="m-6"),
        )
        codes = [chat.error(f"m-{n}") for n in range(1, 7)]
        assert codes == ["forbidden", "forbidden", "conflict", "not_found", "forbidden", "forbidden"]
        assert chat.pushes() == []
        assert len(await chat.rows(MEMBERS)) == 5

    async def test_a_user_removed_from_a_crowd_does_not_get_its_next_count(self, database_url: str) -> None:
        unit = partial(Rooms, limits=Limits(crowd_members=2))
        service = replace(CHAT, storage=replace(STORAGE, unit=unit))
        async with ServiceUnderTest.running(service, database_url) as chat:
            await a_den(chat, "bob", "zoe", "eve")
            await chat.dispatch(a_remove())
            left = {"room": ROOM, "seq": 2, "user": "bob", "by": "alice"}
            (push,) = chat.pushes("user.bob", action="chat.left")
            assert (push.stream, push.data) == (None, left)
            assert chat.groups("c-bob", user="bob") == set()
            await chat.turn(Crowds().round)
            assert [push.data["members"] for push in chat.pushes(GROUP, action="chat.crowd")][-1] == 3


class TestTransfer:
    async def test_a_member_becomes_the_owner(self, chat: ServiceUnderTest) -> None:
        await a_den(chat, "bob")
        assert await owner(chat, "bob") == "alice"
        chat.forget()
        await chat.dispatch(a_transfer(msg_id="m-1"), a_transfer(msg_id="m-2"))
        assert chat.answer("m-1").data == {"room": ROOM, "owner": "bob"}
        assert chat.error("m-2") == "forbidden"
        (push,) = chat.pushes(GROUP)
        assert (push.action, push.stream, push.seq) == ("chat.owner", STREAM, 3)
        assert push.data == {"room": ROOM, "seq": 3, "user": "bob"}
        assert await owner(chat, "alice") == "bob"

    async def test_a_room_is_handed_to_members_only(self, chat: ServiceUnderTest) -> None:
        await a_den(chat, "bob")
        chat.forget()
        await chat.dispatch(
            a_transfer("zoe", msg_id="m-1"),
            a_transfer("bob", by="bob", msg_id="m-2"),
            a_transfer("bob", by="zoe", msg_id="m-3"),
            a_transfer("alice", msg_id="m-4"),
        )
        assert [chat.error(f"m-{n}") for n in (1, 2, 3)] == ["not_found", "forbidden", "forbidden"]
        assert chat.answer("m-4").data == {"room": ROOM, "owner": "alice"}
        assert chat.pushes() == []

    @pytest.mark.parametrize("together", [False, True])
    async def test_an_owner_who_leaves_is_followed_by_the_longest_member(
        self, chat: ServiceUnderTest, together: bool
    ) -> None:
        await a_den(chat, "zoe", "bob", "carol", "dan")
        for batch in in_batches([a_leave("zoe"), a_leave("alice")], together):
            await chat.dispatch(*batch)
        assert await owner(chat, "carol") == "bob"
        assert [push.data["user"] for push in chat.pushes(GROUP, action="chat.owner")] == ["bob"]
        for batch in in_batches([a_leave("bob"), a_leave("carol")], together):
            await chat.dispatch(*batch)
        assert await owner(chat, "dan") == "dan"
        await chat.dispatch(a_leave("dan"))
        assert await chat.rows(ROOMS) == []

    @pytest.mark.parametrize("together", [False, True])
    async def test_a_member_who_returns_is_the_last_to_follow(
        self, chat: ServiceUnderTest, together: bool
    ) -> None:
        await a_den(chat, "bob", "zoe")
        story = [a_leave("bob"), *coming("bob"), a_leave("alice")]
        for batch in in_batches(story, together):
            await chat.dispatch(*batch)
        assert await owner(chat, "bob") == "zoe"

    async def test_a_public_room_has_no_owner(self, chat: ServiceUnderTest) -> None:
        await chat.dispatch(a_command("chat.create", room=ROOM), a_command("chat.join", by="bob", room=ROOM))
        assert await owner(chat, "bob") is None
        await chat.dispatch(
            a_transfer(msg_id="m-1"), a_drop(msg_id="m-2"), a_leave("alice"), a_drop("bob", msg_id="m-3")
        )
        assert [chat.error(f"m-{n}") for n in (1, 2, 3)] == ["forbidden"] * 3
        assert await owner(chat, "bob") is None


class TestDrop:
    async def test_every_member_gets_the_push_and_leaves_the_group(self, chat: ServiceUnderTest) -> None:
        await a_den(chat, "bob", "zoe")
        chat.forget()
        await chat.dispatch(a_drop(on="c-alice", msg_id="m-1"))
        assert chat.answer("m-1").data == {"room": ROOM}
        assert chat.pushes(GROUP) == []
        for user in ("alice", "bob", "zoe"):
            (push,) = chat.pushes(f"user.{user}")
            assert (push.action, push.stream, push.data) == (
                "chat.dropped",
                None,
                {"room": ROOM, "by": "alice"},
            )
            assert f"control.{user}" in {heard.routing_key for heard in chat.heard}
            assert chat.groups(f"c-{user}", user=user) == set()

    @pytest.mark.parametrize("together", [False, True])
    async def test_the_name_is_free_and_nothing_of_the_old_room_is_visible(
        self, chat: ServiceUnderTest, together: bool
    ) -> None:
        await a_den(chat, "bob")
        story = [
            a_send("a secret"),
            coming("eve")[0],
            a_drop(),
            a_create("mallory", msg_id="m-1"),
            a_command("chat.join", by="bob", room=ROOM, msg_id="m-2"),
            a_command("chat.join", by="eve", room=ROOM, msg_id="m-3"),
            a_send("new", by="mallory"),
        ]
        for batch in in_batches(story, together):
            await chat.dispatch(*batch)
        assert chat.answer("m-1").action == "chat.create.ok"
        assert [chat.error(msg_id) for msg_id in ("m-2", "m-3")] == ["forbidden", "forbidden"]
        assert await owner(chat, "mallory") == "mallory"
        assert chat.groups("c-bob", user="bob") == set()
        for user, known in (("bob", 2), ("mallory", 3)):
            answer = await ask(chat, "chat.resume", user, positions={STREAM: known})
            assert answer["streams"][STREAM]["complete"] is False
        messages = (await ask(chat, "chat.history", "mallory", room=ROOM))["messages"]
        assert [message["text"] for message in messages] == ["new"]
        assert [row.user_id for row in await chat.rows(MEMBERS)] == ["mallory"]
        while await chat.turn(GoneRoomSweeper().round):
            pass
        assert [row.text for row in await chat.rows(MESSAGES)] == ["new"]
        assert await chat.rows(INVITATIONS) == []
        assert "a secret" not in str(await chat.rows(STREAMS.entries))
        assert len(await chat.rows(GONE)) == 1

    async def test_only_the_owner_drops_a_room(self, chat: ServiceUnderTest) -> None:
        await a_den(chat, "bob")
        await chat.dispatch(a_drop("bob", msg_id="m-1"), a_drop("mallory", msg_id="m-2"))
        assert [chat.error(msg_id) for msg_id in ("m-1", "m-2")] == ["forbidden", "forbidden"]
        assert len(await chat.rows(MEMBERS)) == 2

    async def test_a_user_who_becomes_the_owner_in_the_batch_drops_all_of_the_room(
        self, chat: ServiceUnderTest
    ) -> None:
        await a_den(chat, "bob", "zoe", "dan")
        await chat.dispatch(*coming("carol"), a_transfer("carol"), a_drop("carol", msg_id="m-1"))
        assert chat.answer("m-1").action == "chat.drop.ok"
        assert await chat.rows(MEMBERS) == await chat.rows(ROOMS) == []

    async def test_a_repeated_drop_does_not_drop_a_new_room(self, chat: ServiceUnderTest) -> None:
        await a_den(chat, "bob")
        drop = a_drop(msg_id="m-1")
        await chat.dispatch(drop)
        await chat.dispatch(a_create(on="c-alice"))
        for redelivered in (False, True):
            await chat.dispatch(drop, redelivered=redelivered)
        assert [answer.action for answer in chat.answers("m-1")] == ["chat.drop.ok"] * 3
        assert [row.user_id for row in await chat.rows(MEMBERS)] == ["alice"]
        assert chat.groups("c-alice", user="alice") == {STREAM}

    async def test_a_room_of_too_many_members_is_not_dropped(self, chat: ServiceUnderTest) -> None:
        await a_den(chat)
        for part in range(0, MOST_LISTED, 250):
            users = [f"user-{n:04}" for n in range(part, part + 250)]
            await chat.dispatch(*[coming(user)[0] for user in users])
            await chat.dispatch(*[coming(user)[1] for user in users])
        assert len(await chat.rows(MEMBERS)) == MOST_LISTED + 1
        await chat.dispatch(a_drop(msg_id="m-1"))
        assert chat.error("m-1") == "conflict"
        chat.forget()
        await chat.dispatch(a_leave("user-0000"), a_drop(msg_id="m-2"))
        assert chat.answer("m-2").action == "chat.drop.ok"
        assert len(chat.pushes(action="chat.dropped")) == MOST_LISTED
        assert await chat.rows(MEMBERS) == []


class TestDecline:
    @pytest.mark.parametrize("together", [False, True])
    async def test_a_declined_invitation_admits_no_user_and_can_be_made_again(
        self, chat: ServiceUnderTest, together: bool
    ) -> None:
        await a_den(chat)
        chat.forget()
        story = [
            coming("bob")[0],
            a_command("chat.decline", by="bob", room=ROOM, msg_id="m-1"),
            a_command("chat.decline", by="bob", room=ROOM, msg_id="m-2"),
            a_command("chat.join", by="bob", room=ROOM, msg_id="m-3"),
            a_command("chat.invite", room=ROOM, user="bob", msg_id="m-4"),
            a_command("chat.join", by="bob", room=ROOM, msg_id="m-5"),
        ]
        for batch in in_batches(story, together):
            await chat.dispatch(*batch)
        assert chat.answer("m-1").data == {"room": ROOM}
        assert [chat.error(msg_id) for msg_id in ("m-2", "m-3")] == ["not_found", "forbidden"]
        assert chat.answer("m-4").action == "chat.invite.ok"
        assert chat.answer("m-5").data["members"] == ["alice", "bob"]
        assert [push.action for push in chat.pushes("user.bob")] == ["chat.invited", "chat.invited"]
        assert chat.pushes("user.alice") == []

    async def test_a_decline_frees_the_place_of_the_inviter(self, chat: ServiceUnderTest) -> None:
        await a_den(chat)
        await chat.dispatch(a_command("chat.create", room="attic", private=True), coming("bob")[0])
        other = a_command("chat.invite", room="attic", user="bob", msg_id="m-1")
        await chat.dispatch(other)
        assert chat.error("m-1") == "conflict"
        await chat.dispatch(
            a_command("chat.decline", by="bob", room=ROOM),
            a_command("chat.invite", room="attic", user="bob", msg_id="m-2"),
        )
        assert chat.answer("m-2").action == "chat.invite.ok"


class TestNames:
    @pytest.mark.parametrize("name", ["den\u202e", "d\u200ben", "\u2800", " ", "de\u00adn", "\U000e0041den"])
    async def test_names_and_titles_with_hidden_characters_are_refused_for_new_rooms(
        self, chat: ServiceUnderTest, name: str
    ) -> None:
        await chat.dispatch(
            a_command("chat.create", room=name, msg_id="m-1"),
            a_command("chat.create", room=ROOM, title=name, msg_id="m-2"),
            a_command("chat.join", room=name, msg_id="m-3"),
        )
        assert [chat.error(f"m-{n}") for n in (1, 2, 3)] == ["invalid_data"] * 3
        fields = [chat.answer(f"m-{n}").data["details"]["fields"][0]["field"] for n in (1, 2, 3)]
        assert fields == ["room", "title", "room"]
        assert await chat.rows(ROOMS) == await chat.rows(STREAMS.heads) == []

    async def test_a_room_with_such_a_name_remains_reachable(
        self, chat: ServiceUnderTest, database_url: str
    ) -> None:
        name = "d\u200ben"
        engine = create_async_engine(database_url)
        async with engine.begin() as connection:
            await connection.execute(ROOMS.insert().values(room=name, created_at=1, members=0))
            await connection.execute(STREAMS.heads.insert().values(stream=f"chat:{name}", head=0))
        await engine.dispose()
        await chat.dispatch(
            a_command("chat.join", room=name, msg_id="m-1"),
            a_command("chat.send", room=name, text="still here", msg_id="m-2"),
        )
        assert chat.answer("m-1").action == "chat.join.ok"
        assert chat.answer("m-2").action == "chat.send.ok"
