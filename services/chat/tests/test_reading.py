"""Histories and lists of rooms."""

import json
from typing import Any

import pytest

from towpath.chat.app import configured
from towpath.chat.reading import HISTORY_BYTES, ROOMS_LISTED, UNREAD_COUNTED
from towpath.chat.settings import ChatSettings
from towpath.testkit.dispatching import Incoming, ServiceUnderTest, a_command

ROOM = "weavers"


def a_send(text: str, **more: Any) -> Incoming:
    return a_command("chat.send", room=ROOM, text=text, **more)


async def read(chat: ServiceUnderTest, **asked: Any) -> dict[str, Any]:
    chat.forget()
    await chat.dispatch(a_command("chat.history", room=ROOM, msg_id="read", **asked))
    return chat.answer("read").data


async def rooms(chat: ServiceUnderTest, user: str = "alice") -> list[dict[str, Any]]:
    chat.forget()
    await chat.dispatch(a_command("chat.rooms", by=user, msg_id="rooms"))
    found: list[dict[str, Any]] = chat.answer("rooms").data["rooms"]
    return found


def seqs(page: dict[str, Any]) -> list[int]:
    return [message["seq"] for message in page["messages"]]


class TestHistory:
    @pytest.fixture(autouse=True)
    async def ten_messages(self, chat: ServiceUnderTest) -> None:
        """Seq 1 is alice's arrival; 2 to 11 are messages."""
        await chat.dispatch(
            a_command("chat.join", room=ROOM), *[a_send(f"no. {number}") for number in range(2, 12)]
        )

    async def test_the_newest_messages_are_listed_oldest_first(self, chat: ServiceUnderTest) -> None:
        page = await read(chat, limit=3)
        assert (seqs(page), page["has_more"], page["room"]) == ([9, 10, 11], True, ROOM)
        assert page["messages"][0].items() >= {"user": "alice", "text": "no. 9", "room": ROOM}.items()
        whole = await read(chat)
        assert (seqs(whole), whole["has_more"]) == (list(range(2, 12)), False)

    @pytest.mark.parametrize(
        ("asked", "found", "more"),
        [
            ({"before_seq": 9, "limit": 3}, [6, 7, 8], True),
            ({"before_seq": 4, "limit": 3}, [2, 3], False),
            ({"before_seq": 5, "limit": 3}, [2, 3, 4], False),
            ({"before_seq": 2}, [], False),
            ({"before_seq": 0}, [], False),
            ({"before_seq": 2**63 - 1, "limit": 2}, [10, 11], True),
            ({"after_seq": 2, "limit": 3}, [3, 4, 5], True),
            ({"after_seq": 8, "limit": 3}, [9, 10, 11], False),
            ({"after_seq": 9, "limit": 3}, [10, 11], False),
            ({"after_seq": 11}, [], False),
            ({"after_seq": 0, "limit": 1}, [2], True),
            ({"after_seq": 2**63 - 1}, [], False),
        ],
    )
    async def test_ranges_exclude_their_bounds(
        self, chat: ServiceUnderTest, asked: dict[str, int], found: list[int], more: bool
    ) -> None:
        page = await read(chat, **asked)
        assert (seqs(page), page["has_more"]) == (found, more)

    async def test_only_members_read(self, chat: ServiceUnderTest) -> None:
        await chat.dispatch(
            a_command("chat.history", room=ROOM, by="mallory", msg_id="m-1"),
            a_command("chat.history", room="nowhere", msg_id="m-2"),
        )
        assert (chat.error("m-1"), chat.error("m-2")) == ("forbidden", "forbidden")

    @pytest.mark.parametrize(
        "asked", [{"limit": 0}, {"limit": 201}, {"before_seq": 3, "after_seq": 1}, {"after_seq": -1}]
    )
    async def test_an_invalid_question_is_refused(
        self, chat: ServiceUnderTest, asked: dict[str, int]
    ) -> None:
        assert (await read(chat, **asked))["code"] == "invalid_data"

    async def test_a_history_contains_earlier_messages_and_no_later_ones(
        self, chat: ServiceUnderTest
    ) -> None:
        asked: dict[str, Any] = {"room": ROOM, "after_seq": 11}
        await chat.dispatch(
            a_send("before"),
            a_command("chat.history", msg_id="m-1", **asked),
            a_send("after"),
            a_command("chat.leave", room=ROOM),
        )
        assert [message["text"] for message in chat.answer("m-1").data["messages"]] == ["before"]

    @pytest.mark.parametrize("letter", ["x", "😀", "\x01"])
    @pytest.mark.parametrize("direction", ["back", "forth"])
    async def test_long_messages_are_in_answers_of_bounded_size(
        self, chat: ServiceUnderTest, letter: str, direction: str
    ) -> None:
        await chat.dispatch(*[a_send(letter * 4000) for _ in range(80)])
        read_so_far: list[int] = []
        asked: dict[str, int] = {} if direction == "back" else {"after_seq": 0}
        more = True
        while more:
            page = await read(chat, limit=200, **asked)
            assert len(json.dumps(page, ensure_ascii=False)) < HISTORY_BYTES + 30_000
            if direction == "back":
                read_so_far, asked = seqs(page) + read_so_far, {"before_seq": seqs(page)[0]}
            else:
                read_so_far, asked = read_so_far + seqs(page), {"after_seq": seqs(page)[-1]}
            more = page["has_more"]
        assert read_so_far == list(range(2, 92))

    async def test_hundreds_may_read_at_once(self, chat: ServiceUnderTest) -> None:
        readers = range(450)
        await chat.dispatch(*[a_command("chat.join", room=ROOM, by=f"user-{number}") for number in readers])
        await chat.dispatch(
            *[
                a_command(
                    "chat.history",
                    by=f"user-{number}",
                    room=ROOM,
                    before_seq=number,
                    limit=200,
                    msg_id=f"h-{number}",
                )
                for number in readers
            ]
        )
        for number in readers:
            assert seqs(chat.answer(f"h-{number}").data) == list(range(2, min(number, 12)))

    async def test_more_histories_at_once_than_one_user_may_have_are_answered_busy(
        self, chat: ServiceUnderTest
    ) -> None:
        await chat.dispatch(*[a_command("chat.history", room=ROOM, msg_id=f"h-{n}") for n in range(20)])
        answers = [chat.answer(f"h-{n}") for n in range(20)]
        assert [answer.action for answer in answers[:16]] == ["chat.history.ok"] * 16
        assert [answer.data["code"] for answer in answers[16:]] == ["busy"] * 4
        assert all(answer.data["retry_after_ms"] > 0 for answer in answers[16:])


class TestRooms:
    async def test_rooms_are_listed_by_name_with_unread_counts(self, chat: ServiceUnderTest) -> None:
        await chat.dispatch(
            *[a_command("chat.join", room=room, by=user) for room in ("b", "a") for user in ("alice", "bob")],
            *[a_command("chat.send", room="a", text="hello", by="bob") for _ in range(3)],
            a_command("chat.direct", by="bob", to="alice", text="psst"),
        )
        assert await rooms(chat) == [
            {"room": "a", "title": "a", "seq": 5, "read_seq": 1, "unread": 3},
            {"room": "b", "title": "b", "seq": 2, "read_seq": 1, "unread": 0},
            {"room": "dm:alice:bob", "title": "bob", "seq": 1, "read_seq": 0, "unread": 1},
        ]
        assert [(room["title"], room["unread"]) for room in await rooms(chat, "bob")] == [
            ("a", 0),
            ("b", 0),
            ("alice", 0),
        ]
        assert await rooms(chat, "stranger") == []

    async def test_a_sender_has_read_the_earlier_messages_of_a_room_of_two(
        self, chat: ServiceUnderTest
    ) -> None:
        await chat.dispatch(
            a_command("chat.direct", by="bob", to="alice", text="psst"),
            a_command("chat.direct", to="bob", text="what?"),
            a_command("chat.direct", by="bob", to="alice", text="later"),
        )
        (room,) = await rooms(chat)
        assert (room["seq"], room["read_seq"], room["unread"]) == (3, 2, 1)

    async def test_a_left_room_is_not_listed(self, chat: ServiceUnderTest) -> None:
        await chat.dispatch(a_command("chat.join", room="a"), a_command("chat.leave", room="a"))
        assert await rooms(chat) == []

    async def test_lists_and_counts_have_an_end(self, database_url: str) -> None:
        many = ROOMS_LISTED + 1
        settings = ChatSettings(rooms_per_user=2 * many, rooms_made_per_day=2 * many)
        async with ServiceUnderTest.running(configured(settings), database_url) as chat:
            await chat.dispatch(
                *[a_command("chat.join", room=f"room-{number:04}", by="bob") for number in range(many)],
                a_command("chat.join", room="a"),
                a_command("chat.join", room="a", by="bob"),
                *[a_command("chat.send", room="a", text="hm", by="bob") for _ in range(UNREAD_COUNTED + 1)],
            )
            assert len(await rooms(chat, "bob")) == ROOMS_LISTED
            assert [room["unread"] for room in await rooms(chat)] == [UNREAD_COUNTED]


class TestResume:
    async def test_a_replay_of_more_than_a_mebibyte_is_not_complete_and_sends_nothing(
        self, chat: ServiceUnderTest
    ) -> None:
        await chat.dispatch(a_command("chat.join", room=ROOM), a_command("chat.join", room="quay"))
        for _ in range(3):
            await chat.dispatch(*[a_send("x" * 4000) for _ in range(100)])
        await chat.dispatch(a_command("chat.send", room="quay", text="short"))
        chat.forget()
        positions = {f"chat:{ROOM}": 1, "chat:quay": 1}
        await chat.dispatch(a_command("chat.resume", positions=positions, msg_id="m-1"))
        assert chat.answer("m-1").data["streams"] == {
            f"chat:{ROOM}": {"seq": 301, "complete": False},
            "chat:quay": {"seq": 2, "complete": True},
        }
        assert [entry.data["text"] for entry in chat.replayed()] == ["short"]

    async def test_a_replay_within_the_bound_is_complete_and_in_order_before_the_answer(
        self, chat: ServiceUnderTest
    ) -> None:
        await chat.dispatch(
            a_command("chat.join", room=ROOM), *[a_send(f"no. {number}") for number in range(450)]
        )
        chat.forget()
        await chat.dispatch(a_command("chat.resume", positions={f"chat:{ROOM}": 1}, msg_id="m-1"))
        assert chat.answer("m-1").data["streams"] == {f"chat:{ROOM}": {"seq": 451, "complete": True}}
        assert [entry.data["text"] for entry in chat.replayed()] == [f"no. {number}" for number in range(450)]
        assert b"chat.resume.ok" in chat.heard[-1].item

    async def test_a_resume_and_a_leave_are_answered_in_order(self, chat: ServiceUnderTest) -> None:
        await chat.dispatch(a_command("chat.join", room=ROOM))
        chat.forget()
        await chat.dispatch(
            a_command("chat.resume", positions={f"chat:{ROOM}": 1}, msg_id="m-1"),
            a_command("chat.leave", room=ROOM, msg_id="m-2"),
        )
        assert chat.answer("m-1").data["streams"][f"chat:{ROOM}"]["complete"]
        assert chat.groups(user="alice") == set()

    async def test_a_running_resume_does_not_delay_requests_of_others(self, chat: ServiceUnderTest) -> None:
        await chat.dispatch(a_command("chat.join", room=ROOM), a_command("chat.join", room=ROOM, by="bob"))
        await chat.dispatch(*[a_send(f"no. {number}") for number in range(450)])
        chat.forget()
        await chat.dispatch(
            a_command("chat.resume", positions={f"chat:{ROOM}": 1}, msg_id="m-1"),
            a_send("meanwhile", by="bob", msg_id="m-2"),
        )
        answered = [
            heard.item for heard in chat.heard if heard.is_directed and b"correlation_id" in heard.item
        ]
        assert [b"m-2" in item for item in answered] == [True, False]
