"""How far people have read, what is unread, and who is in a room."""

import asyncio
import itertools
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from towpath.chat.app import CHAT
from towpath.chat.limits import Limits
from towpath.chat.tables import INBOX, MEMBERS
from towpath.testkit.dispatching import Incoming, ServiceUnderTest, a_command

ROOM = "weavers"
DIRECT = "dm:alice:bob"


def a_join(by: str = "alice", room: str = ROOM, **more: Any) -> Incoming:
    return a_command("chat.join", by=by, room=room, **more)


def a_send(by: str = "bob", room: str = ROOM, **more: Any) -> Incoming:
    return a_command("chat.send", by=by, room=room, text="hello", **more)


def a_read(seq: int, room: str = ROOM, **more: Any) -> Incoming:
    return a_command("chat.read", room=room, seq=seq, **more)


async def listed(chat: ServiceUnderTest, user: str = "alice", room: str = ROOM) -> tuple[int, int]:
    """How far a user has read in a room, and what is unread there."""
    await chat.dispatch(a_command("chat.rooms", by=user, msg_id="rooms"))
    (found,) = [one for one in chat.answers("rooms")[-1].data["rooms"] if one["room"] == room]
    return found["read_seq"], found["unread"]


class TestRead:
    """Alice's arrival is seq 1, bob's seq 2; seq 3 to 5 are of bob."""

    @pytest.fixture(autouse=True)
    async def three_messages(self, chat: ServiceUnderTest) -> None:
        await chat.dispatch(a_join(), a_join("bob", on="c-2"), *[a_send() for _ in range(3)])
        chat.forget()

    async def test_a_read_position_is_pushed_to_the_room(self, chat: ServiceUnderTest) -> None:
        await chat.dispatch(a_read(4, msg_id="m-1"))
        assert (chat.answer("m-1").action, chat.answer("m-1").data) == (
            "chat.read.ok",
            {"room": ROOM, "seq": 4},
        )
        (push,) = chat.pushes("group.chat:weavers")
        assert (push.action, push.stream, push.seq) == ("chat.read", None, None)
        assert push.data == {"room": ROOM, "user": "alice", "seq": 4}
        assert await listed(chat) == (4, 1)

    @pytest.mark.parametrize("together", [True, False])
    async def test_the_position_only_grows(self, chat: ServiceUnderTest, together: bool) -> None:
        story = [a_read(4, msg_id="m-1"), a_read(3, msg_id="m-2"), a_read(4, msg_id="m-3")]
        story += [a_read(0, msg_id="m-4")]
        for batch in [story] if together else [[message] for message in story]:
            await chat.dispatch(*batch)
        assert [chat.answer(f"m-{n}").data["seq"] for n in (1, 2, 3, 4)] == [4, 4, 4, 4]
        assert len(chat.pushes()) == 1
        assert await listed(chat) == (4, 1)

    async def test_a_read_position_ends_at_the_last_message(self, chat: ServiceUnderTest) -> None:
        await chat.dispatch(a_read(2**63 - 1, msg_id="m-1"))
        assert chat.answer("m-1").data["seq"] == 5
        assert [push.data["seq"] for push in chat.pushes()] == [5]
        await chat.dispatch(a_send())
        assert await listed(chat) == (5, 1)

    async def test_one_batch_may_send_and_read(self, chat: ServiceUnderTest) -> None:
        await chat.dispatch(a_send(), a_read(6, msg_id="m-1"), a_send())
        assert chat.answer("m-1").data["seq"] == 6
        assert await listed(chat) == (6, 1)

    async def test_a_sender_has_read_all_earlier_messages(self, chat: ServiceUnderTest) -> None:
        await chat.dispatch(a_send("alice"), a_read(5, msg_id="m-1"))
        assert chat.answer("m-1").data["seq"] == 6
        assert chat.pushes(action="chat.read") == []

    async def test_deleted_and_own_messages_are_not_unread(self, chat: ServiceUnderTest) -> None:
        assert await listed(chat) == (1, 3)
        await chat.dispatch(
            a_command("chat.delete", by="bob", room=ROOM, seq=4),
            a_command("chat.edit", by="bob", room=ROOM, seq=5, text="hm"),
        )
        assert await listed(chat) == (1, 2)
        assert await listed(chat, "bob") == (5, 0)
        await chat.dispatch(a_read(3))
        assert await listed(chat) == (3, 1)

    async def test_a_user_who_is_not_a_member_reads_nothing(self, chat: ServiceUnderTest) -> None:
        await chat.dispatch(a_read(1, by="mallory", msg_id="m-1"), a_read(1, "nowhere", msg_id="m-2"))
        assert [chat.error(msg_id) for msg_id in ("m-1", "m-2")] == ["forbidden", "forbidden"]
        assert chat.pushes() == []

    @pytest.mark.parametrize("seq", [-1, 2**63, "4", None])
    async def test_an_invalid_position_is_refused(self, chat: ServiceUnderTest, seq: Any) -> None:
        await chat.dispatch(a_read(seq, msg_id="m-1"))
        assert chat.error("m-1") == "invalid_data"

    async def test_a_repetition_is_pushed_once(self, chat: ServiceUnderTest) -> None:
        read = a_read(4, msg_id="m-1")
        await chat.dispatch(read, read)
        await chat.dispatch(a_read(5))
        await chat.dispatch(read)
        assert {answer.data["seq"] for answer in chat.answers("m-1")} == {4}
        assert [push.data["seq"] for push in chat.pushes()] == [4, 5]
        assert await listed(chat) == (5, 0)

    async def test_in_a_room_of_two_both_get_presence(self, chat: ServiceUnderTest) -> None:
        await chat.dispatch(a_command("chat.direct", by="bob", to="alice", text="psst"))
        chat.forget()
        await chat.dispatch(a_read(1, DIRECT))
        (push,) = chat.pushes("user.bob")
        assert push.data == {"room": DIRECT, "user": "alice", "seq": 1}
        assert chat.pushes("user.alice") == [push]
        assert await listed(chat, room=DIRECT) == (1, 0)


USERS = ("alice", "bob")
steps = st.one_of(
    st.tuples(st.just("send"), st.sampled_from(USERS), st.just(0)),
    st.tuples(st.sampled_from(["read", "delete"]), st.sampled_from(USERS), st.integers(0, 14)),
)
rooms = itertools.count()


class TestAnyStory:
    @given(st.lists(st.lists(steps, min_size=1, max_size=6), max_size=4))
    @settings(
        max_examples=30,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )
    async def test_unread_are_later_messages_of_others_that_are_not_deleted(
        self, chat: ServiceUnderTest, batches: list[list[tuple[str, str, int]]]
    ) -> None:
        room = f"room-{next(rooms)}"
        await chat.dispatch(*[a_join(user, room) for user in USERS])
        head, read, said = 2, {"alice": 1, "bob": 2}, dict[int, str]()
        for batch in batches:
            for verb, user, seq in batch:
                if verb == "send":
                    head += 1
                    said[head] = user
                    read[user] = head
                elif verb == "read":
                    read[user] = max(read[user], min(seq, head))
                elif said.get(seq) == user:
                    head += 1
                    del said[seq]
            more: dict[str, dict[str, Any]] = {"send": {"text": "hello"}, "read": {}, "delete": {}}
            await chat.dispatch(
                *[
                    a_command(f"chat.{verb}", by=user, room=room, **(more[verb] or {"seq": seq}))
                    for verb, user, seq in batch
                ]
            )
        for user in USERS:
            unread = [seq for seq, author in said.items() if author != user and seq > read[user]]
            assert await listed(chat, user, room) == (read[user], len(unread))


class TestMembers:
    async def test_members_are_listed_by_name_with_their_presence(self, chat: ServiceUnderTest) -> None:
        await chat.dispatch(a_join("zoe"), a_join("bob"), a_join())
        await chat.dispatch(a_command("chat.members", room=ROOM, msg_id="m-1"))
        answer = chat.answer("m-1")
        assert answer.action == "chat.members.ok"
        assert answer.data == {
            "room": ROOM,
            "members": [{"user": user, "online": False} for user in ("alice", "bob", "zoe")],
            "seq": 3,
        }

    async def test_a_room_of_two_has_two(self, chat: ServiceUnderTest) -> None:
        await chat.dispatch(a_command("chat.direct", to="bob", text="psst"))
        await chat.dispatch(a_command("chat.members", room=DIRECT, msg_id="m-1"))
        assert [member["user"] for member in chat.answer("m-1").data["members"]] == ["alice", "bob"]

    async def test_a_former_member_is_not_listed_and_gets_no_pushes(self, chat: ServiceUnderTest) -> None:
        await chat.dispatch(a_join(), a_join("bob"), a_command("chat.leave", by="bob", room=ROOM))
        await chat.dispatch(
            a_command("chat.members", room=ROOM, msg_id="m-1"),
            a_command("chat.members", room=ROOM, by="bob", msg_id="m-2"),
            a_command("chat.members", room="nowhere", msg_id="m-3"),
        )
        assert [member["user"] for member in chat.answer("m-1").data["members"]] == ["alice"]
        assert [chat.error(msg_id) for msg_id in ("m-2", "m-3")] == ["forbidden", "forbidden"]

    async def test_many_users_may_request_long_lists_at_once(self, chat: ServiceUnderTest) -> None:
        await chat.dispatch(
            *[a_join(f"user-{number:04}") for number in range(Limits.crowd_members + 1)], a_join()
        )
        await chat.dispatch(
            *[a_command("chat.members", room=ROOM, by="user-0000", msg_id=f"m-{n}") for n in range(3)]
        )
        for number in range(3):
            members = chat.answer(f"m-{number}").data["members"]
            assert len(members) == Limits.crowd_members
            assert [member["user"] for member in members[:2]] == ["alice", "user-0000"]
            assert chat.answer(f"m-{number}").data["count"] == Limits.crowd_members + 2

    async def test_a_read_stores_nothing(self, chat: ServiceUnderTest) -> None:
        await chat.dispatch(a_join())
        await chat.dispatch(a_command("chat.members", room=ROOM))
        assert len(await chat.rows(INBOX)) == 1


async def test_two_connections_read_on_two_replicas_and_the_further_one_counts(database_url: str) -> None:
    async with ServiceUnderTest.running(CHAT, database_url, replicas=2) as chat:
        await chat.dispatch(a_join(), a_join("bob"), *[a_send() for _ in range(18)])
        await asyncio.gather(
            *(
                chat.dispatch(*[a_read(seq) for seq in range(3 + number, 21, 2)], replica=number)
                for number in range(2)
            )
        )
        assert [row.read_seq for row in await chat.rows(MEMBERS) if row.user_id == "alice"] == [20]
        told = [push.data["seq"] for push in chat.pushes(action="chat.read")]
        assert max(told) == 20
        assert len(told) == len(set(told))
