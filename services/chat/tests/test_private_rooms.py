"""Rooms that are made: their titles, who may come in, and what the others learn (nothing)."""

import asyncio
from typing import Any

import pytest

from towpath.chat.app import CHAT
from towpath.chat.tables import INVITATIONS, MEMBERS, MESSAGES, ROOMS, STREAMS
from towpath.testkit.dispatching import GATEWAY, Incoming, ServiceUnderTest, a_command, an_event

ROOM = "den"


def a_create(room: str = ROOM, *, private: bool = True, **more: Any) -> Incoming:
    return a_command("chat.create", room=room, private=private, **more)


def an_invite(user: str = "bob", room: str = ROOM, **more: Any) -> Incoming:
    return a_command("chat.invite", room=room, user=user, **more)


def a_join(by: str = "bob", room: str = ROOM, **more: Any) -> Incoming:
    return a_command("chat.join", by=by, room=room, **more)


def a_leave(by: str = "bob", room: str = ROOM, **more: Any) -> Incoming:
    return a_command("chat.leave", by=by, room=room, **more)


async def listed(chat: ServiceUnderTest, user: str) -> dict[str, Any]:
    chat.forget()
    await chat.dispatch(a_command("chat.rooms", by=user, msg_id="rooms"))
    return dict(chat.answer("rooms").data)


class TestCreate:
    async def test_the_creator_of_a_room_is_a_member_and_gets_the_push(self, chat: ServiceUnderTest) -> None:
        await chat.dispatch(a_create(msg_id="m-1"))
        assert (chat.answer("m-1").action, chat.answer("m-1").data) == ("chat.create.ok", {"room": ROOM})
        (push,) = chat.pushes("group.chat:den")
        assert (push.action, push.stream, push.seq) == ("chat.joined", "chat:den", 1)
        assert push.data == {"room": ROOM, "seq": 1, "user": "alice"}
        assert chat.groups("c-1") == chat.groups("c-2", user="alice") == {"chat:den"}
        (room,) = await chat.rows(ROOMS)
        assert (room.room, room.title, room.private, room.created_by) == (ROOM, None, True, "alice")

    async def test_it_is_called_by_its_title(self, chat: ServiceUnderTest) -> None:
        await chat.dispatch(a_create(title="The den 🦊"), a_create("hall", private=False))
        assert await listed(chat, "alice") == {
            "rooms": [
                {
                    "room": ROOM,
                    "title": "The den 🦊",
                    "seq": 1,
                    "read_seq": 1,
                    "unread": 0,
                    "private": True,
                    "owner": "alice",
                },
                {"room": "hall", "title": "hall", "seq": 1, "read_seq": 1, "unread": 0},
            ]
        }

    @pytest.mark.parametrize("first", [a_create(by="bob"), a_join("bob")], ids=["made", "joined"])
    @pytest.mark.parametrize("together", [True, False])
    async def test_an_existing_name_is_a_conflict(
        self, chat: ServiceUnderTest, first: Incoming, together: bool
    ) -> None:
        second = a_create(title="mine", msg_id="m-1")
        for batch in [[first, second]] if together else [[first], [second]]:
            await chat.dispatch(*batch)
        assert chat.error("m-1") == "conflict"
        assert [row.user_id for row in await chat.rows(MEMBERS)] == ["bob"]
        assert [row.title for row in await chat.rows(ROOMS)] == [None]
        assert chat.groups("c-7", user="alice") == set()

    async def test_a_public_room_without_members_keeps_its_name(self, chat: ServiceUnderTest) -> None:
        await chat.dispatch(a_create(private=False), a_leave("alice"))
        await chat.dispatch(a_create(msg_id="m-1"))
        assert chat.error("m-1") == "conflict"

    async def test_a_public_room_is_open_to_every_user(self, chat: ServiceUnderTest) -> None:
        await chat.dispatch(a_create(private=False), a_join(msg_id="m-1"))
        assert chat.answer("m-1").data == {"room": ROOM, "seq": 2, "members": ["alice", "bob"]}

    async def test_a_room_of_two_cannot_be_created(self, chat: ServiceUnderTest) -> None:
        await chat.dispatch(a_create("dm:alice:bob", msg_id="m-1"))
        assert chat.error("m-1") == "forbidden"
        assert await chat.rows(ROOMS) == await chat.rows(STREAMS.heads) == []

    @pytest.mark.parametrize(
        "data",
        [
            {"room": ""},
            {"room": "x" * 129},
            {"title": ""},
            {"title": "x" * 201},
            {"title": "two\nlines"},
            {"title": 7},
            {"private": "yes"},
        ],
    )
    async def test_an_invalid_room_name_is_refused_with_the_field(
        self, chat: ServiceUnderTest, data: dict[str, Any]
    ) -> None:
        await chat.dispatch(a_command("chat.create", msg_id="m-1", **{"room": ROOM, **data}))
        assert chat.error("m-1") == "invalid_data"
        assert [found["field"] for found in chat.answer("m-1").data["details"]["fields"]] == list(data)

    async def test_two_replicas_make_it_once(self, database_url: str) -> None:
        async with ServiceUnderTest.running(CHAT, database_url, replicas=2) as chat:
            await asyncio.gather(
                chat.dispatch(a_create(msg_id="m-1"), replica=0),
                chat.dispatch(a_create(by="bob", msg_id="m-2"), replica=1),
            )
            actions = sorted(chat.answer(m).action for m in ("m-1", "m-2"))
            assert actions == ["chat.create.ok", "error"]
            (room,) = await chat.rows(ROOMS)
            (member,) = await chat.rows(MEMBERS)
            assert room.created_by == member.user_id


class TestInvite:
    async def test_an_invited_user_gets_a_push_and_may_join(self, chat: ServiceUnderTest) -> None:
        await chat.dispatch(a_create(title="The den"), an_invite(msg_id="m-1"))
        assert chat.answer("m-1").data == {"room": ROOM, "user": "bob"}
        (push,) = chat.pushes("user.bob")
        assert (push.action, push.stream, push.seq) == ("chat.invited", None, None)
        assert push.data == {"room": ROOM, "title": "The den", "by": "alice"}
        await chat.dispatch(a_join(msg_id="m-2"))
        assert chat.answer("m-2").data == {"room": ROOM, "seq": 2, "members": ["alice", "bob"]}
        assert await chat.rows(INVITATIONS) == []

    async def test_an_open_invitation_is_in_the_list_of_rooms(self, chat: ServiceUnderTest) -> None:
        await chat.dispatch(a_create(), an_invite(), a_create("attic", title="Up there", by="zoe"))
        await chat.dispatch(an_invite(room="attic", by="zoe"))
        assert await listed(chat, "bob") == {
            "rooms": [],
            "invitations": [
                {"room": "attic", "title": "Up there", "by": "zoe"},
                {"room": ROOM, "title": ROOM, "by": "alice"},
            ],
        }
        assert "invitations" not in await listed(chat, "alice")
        await chat.dispatch(a_join())
        after = await listed(chat, "bob")
        assert [room["room"] for room in after["rooms"]] == [ROOM]
        assert [invitation["room"] for invitation in after["invitations"]] == ["attic"]

    async def test_an_open_invitation_belongs_to_its_first_sender(self, chat: ServiceUnderTest) -> None:
        await chat.dispatch(a_create(), an_invite("zoe"), a_join("zoe"), an_invite())
        await chat.dispatch(an_invite(by="zoe"))
        assert len(chat.pushes("user.bob")) == 1
        assert (await listed(chat, "bob"))["invitations"][0]["by"] == "alice"

    async def test_any_member_may_invite_and_other_users_may_not(self, chat: ServiceUnderTest) -> None:
        await chat.dispatch(a_create(), an_invite(), a_join(), an_invite("zoe", by="bob", msg_id="m-1"))
        await chat.dispatch(
            an_invite("eve", by="mallory", msg_id="m-2"),
            an_invite("eve", room="nowhere", msg_id="m-3"),
            an_invite("mallory", by="mallory", msg_id="m-4"),
            an_invite("eve", by="zoe", msg_id="m-5"),
        )
        assert chat.answer("m-1").action == "chat.invite.ok"
        assert [chat.error(f"m-{n}") for n in (2, 3, 4, 5)] == ["forbidden"] * 4
        assert [row.user_id for row in await chat.rows(INVITATIONS)] == ["zoe"]

    async def test_an_invitation_of_a_member_is_a_conflict(self, chat: ServiceUnderTest) -> None:
        await chat.dispatch(a_create(), an_invite(), a_join())
        chat.forget()
        await chat.dispatch(an_invite(msg_id="m-1"), an_invite("alice", msg_id="m-2"))
        assert [chat.error(msg_id) for msg_id in ("m-1", "m-2")] == ["conflict", "conflict"]
        assert chat.pushes() == []

    async def test_a_public_room_may_be_recommended(self, chat: ServiceUnderTest) -> None:
        await chat.dispatch(a_create(private=False), an_invite(msg_id="m-1"))
        assert chat.answer("m-1").action == "chat.invite.ok"
        await chat.dispatch(a_join())
        assert "invitations" not in await listed(chat, "bob")

    async def test_an_invitation_to_a_room_of_two_is_refused(self, chat: ServiceUnderTest) -> None:
        await chat.dispatch(a_command("chat.direct", to="bob", text="psst"))
        await chat.dispatch(an_invite("zoe", room="dm:alice:bob", msg_id="m-1"))
        assert chat.error("m-1") == "forbidden"
        assert await chat.rows(INVITATIONS) == []

    @pytest.mark.parametrize("user", ["", "x" * 129, "a\nb", 7])
    async def test_a_name_that_cannot_be_a_user_is_refused(self, chat: ServiceUnderTest, user: Any) -> None:
        await chat.dispatch(a_create(), an_invite(user, msg_id="m-1"))
        assert chat.error("m-1") == "invalid_data"


class TestPrivateRoom:
    async def test_a_private_room_cannot_be_joined_without_an_invitation(
        self, chat: ServiceUnderTest
    ) -> None:
        await chat.dispatch(a_create(), an_invite("zoe"))
        await chat.dispatch(a_join("mallory", on="c-9", msg_id="m-1"))
        assert chat.error("m-1") == "forbidden"
        assert chat.groups("c-9", user="mallory") == set()
        assert [row.user_id for row in await chat.rows(MEMBERS)] == ["alice"]
        assert [row.seq for row in await chat.rows(STREAMS.entries)] == [1]

    async def test_a_member_may_join_with_another_connection(self, chat: ServiceUnderTest) -> None:
        await chat.dispatch(a_create(), a_join("alice", on="c-9", msg_id="m-1"))
        assert chat.answer("m-1").data == {"room": ROOM, "seq": 1, "members": ["alice"]}
        assert "chat:den" in chat.groups("c-9")

    @pytest.mark.parametrize("together", [True, False])
    async def test_a_former_member_needs_another_invitation(
        self, chat: ServiceUnderTest, together: bool
    ) -> None:
        story = [
            a_create(),
            an_invite(),
            a_join(),
            a_leave(),
            a_join(msg_id="m-1"),
            an_invite(msg_id="m-2"),
            a_join(msg_id="m-3"),
        ]
        for batch in [story] if together else [[message] for message in story]:
            await chat.dispatch(*batch)
        assert chat.error("m-1") == "forbidden"
        assert chat.answer("m-2").action == "chat.invite.ok"
        assert chat.answer("m-3").data == {"room": ROOM, "seq": 4, "members": ["alice", "bob"]}
        assert await chat.rows(INVITATIONS) == []

    async def test_an_invitation_after_a_leave_is_valid(self, chat: ServiceUnderTest) -> None:
        await chat.dispatch(a_create(), an_invite())
        await chat.dispatch(a_join(), a_leave(), an_invite())
        assert [row.user_id for row in await chat.rows(INVITATIONS)] == ["bob"]
        await chat.dispatch(a_join(msg_id="m-1"))
        assert chat.answer("m-1").action == "chat.join.ok"

    async def test_one_batch_may_invite_join_and_send(self, chat: ServiceUnderTest) -> None:
        await chat.dispatch(
            a_create(),
            a_command("chat.send", by="bob", room=ROOM, text="too early", msg_id="m-1"),
            an_invite(),
            a_join(),
            a_command("chat.send", by="bob", room=ROOM, text="hello", msg_id="m-2"),
        )
        assert chat.error("m-1") == "forbidden"
        assert chat.answer("m-2").data["seq"] == 3
        assert [row.text for row in await chat.rows(MESSAGES)] == ["hello"]
        assert [push.seq for push in chat.pushes("group.chat:den")] == [1, 2, 3]

    async def test_an_invitation_is_used_once_by_two_replicas(self, database_url: str) -> None:
        async with ServiceUnderTest.running(CHAT, database_url, replicas=2) as chat:
            await chat.dispatch(a_create(), an_invite())
            chat.forget()
            await asyncio.gather(*(chat.dispatch(a_join(on=f"c-{n}"), replica=n) for n in range(2)))
            assert len(chat.pushes(action="chat.joined")) == 1
            assert len(await chat.rows(MEMBERS)) == 2
            assert await chat.rows(INVITATIONS) == []
            assert chat.retried() == []

    async def test_a_private_room_is_invisible_from_outside(self, chat: ServiceUnderTest) -> None:
        await chat.dispatch(
            a_create(title="Whispers"), a_command("chat.send", room=ROOM, text="a secret", msg_id="sent")
        )
        await chat.dispatch(an_invite("guest"))
        chat.forget()
        for user in ("mallory", "guest"):  # an invited user is not a member yet
            cases: tuple[tuple[str, dict[str, Any]], ...] = (
                ("chat.history", {}),
                ("chat.members", {}),
                ("chat.typing", {}),
                ("chat.send", {"text": "hi"}),
                ("chat.edit", {"seq": 2, "text": "hi"}),
                ("chat.edit", {"seq": 99, "text": "hi"}),
                ("chat.delete", {"seq": 2}),
                ("chat.read", {"seq": 2}),
                ("chat.invite", {"user": "eve"}),
                ("chat.leave", {}),
            )
            for n, (action, data) in enumerate(cases):
                there = a_command(action, by=user, room=ROOM, msg_id=f"there-{n}", **data)
                nowhere = a_command(action, by=user, room="not", msg_id=f"nowhere-{n}", **data)
                await chat.dispatch(there, nowhere)
                refused, unknown = chat.answer(f"there-{n}").data, chat.answer(f"nowhere-{n}").data
                assert refused["code"] == unknown["code"] == "forbidden", action
                assert refused["message"].replace(ROOM, "not") == unknown["message"]
                assert chat.pushes() == []
                assert "secret" not in str(chat.heard)
                chat.forget()
            await chat.dispatch(
                a_command("chat.resume", by=user, on=user, positions={"chat:den": 0}, msg_id="m-1"),
                an_event("session.started", user_id=user, connection_id=user, gateway_id=GATEWAY),
            )
            assert chat.answer("m-1").data == {"streams": {"chat:den": {"seq": 0, "complete": False}}}
            assert chat.replayed(user) == []
            assert chat.groups(user, user=user) == set()
        assert await listed(chat, "mallory") == {"rooms": []}
        assert (await listed(chat, "guest"))["rooms"] == []
        assert [row.text for row in await chat.rows(MESSAGES)] == ["a secret"]
