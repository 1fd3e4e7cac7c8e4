"""Joining, leaving, talking: what people in rooms see."""

from typing import Any

import pytest

from towpath.chat.tables import MEMBERS, MESSAGES, ROOMS, STREAMS
from towpath.testkit.dispatching import GATEWAY, Incoming, ServiceUnderTest, a_command, an_event


def a_join(room: str = "weavers", **more: Any) -> Incoming:
    return a_command("chat.join", room=room, **more)


def a_send(text: str = "hello", room: str = "weavers", **more: Any) -> Incoming:
    return a_command("chat.send", room=room, text=text, **more)


class TestJoin:
    async def test_joining_a_missing_room_creates_it(self, chat: ServiceUnderTest) -> None:
        await chat.dispatch(a_join(msg_id="m-1"))
        assert chat.answer("m-1").action == "chat.join.ok"
        assert chat.answer("m-1").data == {"room": "weavers", "seq": 1, "members": ["alice"]}
        (push,) = chat.pushes("group.chat:weavers")
        assert (push.action, push.stream, push.seq) == ("chat.joined", "chat:weavers", 1)
        assert push.data == {"room": "weavers", "seq": 1, "user": "alice"}
        assert chat.groups("c-1") == {"chat:weavers"}
        assert chat.groups("c-2", user="alice") == {"chat:weavers"}
        assert len(await chat.rows(ROOMS)) == 1

    async def test_a_later_member_sees_present_members(self, chat: ServiceUnderTest) -> None:
        await chat.dispatch(a_join(by="zoe"), a_join(by="bob"))
        await chat.dispatch(a_join(msg_id="m-1"))
        assert chat.answer("m-1").data == {"room": "weavers", "seq": 3, "members": ["alice", "bob", "zoe"]}

    async def test_a_repeated_join_pushes_nothing_and_subscribes_this_connection(
        self, chat: ServiceUnderTest
    ) -> None:
        await chat.dispatch(a_join(), a_send())
        chat.forget()
        await chat.dispatch(a_join(on="c-2", msg_id="m-1"))
        assert chat.answer("m-1").data == {"room": "weavers", "seq": 2, "members": ["alice"]}
        assert chat.pushes() == []
        assert chat.groups("c-2") == {"chat:weavers"}

    async def test_messages_before_the_subscription_are_replayed(self, chat: ServiceUnderTest) -> None:
        await chat.dispatch(a_join(by="bob"))
        join = a_join(on="c-9", msg_id="m-1")
        await chat.dispatch(join)
        await chat.dispatch(a_send(by="bob"))
        assert chat.replayed("c-9") == []
        await chat.dispatch(join, redelivered=True)
        assert {answer.data["seq"] for answer in chat.answers("m-1")} == {2}
        assert chat.replayed("c-9") == chat.pushes(action="chat.message")

    async def test_members_who_join_together_are_published_once(self, chat: ServiceUnderTest) -> None:
        crowd = [a_join(by=f"user-{number}", on=f"c-{number}") for number in range(50)]
        await chat.dispatch(*crowd)
        assert len(chat.pushes("group.chat:weavers")) == 50
        assert [chat.replayed(f"c-{number}") for number in range(50)] == [[]] * 50

    async def test_a_room_of_two_cannot_be_joined(self, chat: ServiceUnderTest) -> None:
        await chat.dispatch(a_command("chat.direct", to="bob", text="psst"))
        await chat.dispatch(
            a_join("dm:alice:bob", by="mallory", msg_id="m-1"),
            a_join("dm:alice:zoe", msg_id="m-2"),
            a_command("chat.leave", room="dm:alice:bob", msg_id="m-3"),
        )
        assert [chat.error(msg_id) for msg_id in ("m-1", "m-2", "m-3")] == ["forbidden"] * 3
        assert len(await chat.rows(MEMBERS)) == 2

    @pytest.mark.parametrize("room", ["", "a\x00b", "line\nbreak", "x" * 129, "ü" * 80, 7])
    async def test_a_name_that_cannot_be_a_room_is_refused(self, chat: ServiceUnderTest, room: Any) -> None:
        await chat.dispatch(a_join(room, msg_id="m-1"), a_join(msg_id="m-2"))
        assert chat.error("m-1") == "invalid_data"
        assert chat.answer("m-2").action == "chat.join.ok"


class TestLeave:
    async def test_every_member_gets_a_leave_and_so_does_the_leaver(self, chat: ServiceUnderTest) -> None:
        await chat.dispatch(a_join(), a_join(by="bob", on="c-2"))
        await chat.dispatch(a_command("chat.leave", room="weavers", msg_id="m-1"))
        assert chat.answer("m-1").data == {"room": "weavers"}
        (left,) = chat.pushes("user.alice")
        assert chat.pushes("group.chat:weavers")[-1] == left
        assert (left.action, left.seq) == ("chat.left", 3)
        assert left.data == {"room": "weavers", "seq": 3, "user": "alice"}
        assert chat.groups("c-1", user="alice") == set()
        assert chat.groups("c-2", user="bob") == {"chat:weavers"}
        assert [row.user_id for row in await chat.rows(MEMBERS)] == ["bob"]

    async def test_a_user_cannot_leave_a_room_without_being_a_member(self, chat: ServiceUnderTest) -> None:
        await chat.dispatch(a_join(by="bob"))
        await chat.dispatch(
            a_command("chat.leave", room="weavers", msg_id="m-1"),
            a_command("chat.leave", room="nowhere", msg_id="m-2"),
        )
        assert [chat.error(msg_id) for msg_id in ("m-1", "m-2")] == ["forbidden", "forbidden"]

    @pytest.mark.parametrize("together", [True, False])
    async def test_joins_and_leaves_end_in_the_last_state(
        self, chat: ServiceUnderTest, together: bool
    ) -> None:
        story = [
            a_join(),
            a_command("chat.leave", room="weavers"),
            a_send("from outside", msg_id="m-1"),
            a_join(msg_id="m-2"),
            a_send("back again", msg_id="m-3"),
        ]
        for batch in [story] if together else [[message] for message in story]:
            await chat.dispatch(*batch)
        assert chat.error("m-1") == "forbidden"
        assert chat.answer("m-2").data == {"room": "weavers", "seq": 3, "members": ["alice"]}
        assert chat.answer("m-3").data["seq"] == 4
        assert [push.seq for push in chat.pushes("group.chat:weavers")] == [1, 2, 3, 4]
        assert chat.groups("c-1") == {"chat:weavers"}
        (member,) = await chat.rows(MEMBERS)
        assert member.read_seq == 4


class TestSend:
    async def test_a_message_is_answered_pushed_and_stored(self, chat: ServiceUnderTest) -> None:
        await chat.dispatch(a_join(), a_send("good morning ☀", client_ref="draft-1", msg_id="m-1"))
        answer = chat.answer("m-1").data
        assert answer == {"room": "weavers", "seq": 2, "sent_at": answer["sent_at"]}
        (push,) = chat.pushes("group.chat:weavers", action="chat.message")
        assert (push.stream, push.seq) == ("chat:weavers", 2)
        assert push.data == {
            "room": "weavers",
            "seq": 2,
            "user": "alice",
            "text": "good morning ☀",
            "sent_at": answer["sent_at"],
            "client_ref": "draft-1",
        }
        (row,) = await chat.rows(MESSAGES)
        assert (row.room, row.seq, row.user_id, row.text) == ("weavers", 2, "alice", "good morning ☀")

    async def test_only_members_may_and_other_users_do_not_learn_of_rooms(
        self, chat: ServiceUnderTest
    ) -> None:
        await chat.dispatch(a_join("secret", by="bob"))
        await chat.dispatch(a_send(room="secret", msg_id="m-1"), a_send(room="nowhere", msg_id="m-2"))
        there, nowhere = chat.answer("m-1").data, chat.answer("m-2").data
        assert there["code"] == nowhere["code"] == "forbidden"
        assert there["message"].replace("secret", "nowhere") == nowhere["message"]
        assert await chat.rows(MESSAGES) == []
        assert [row.stream for row in await chat.rows(STREAMS.heads)] == ["chat:secret"]

    @pytest.mark.parametrize(
        "data",
        [
            {"text": ""},
            {"text": "x" * 4001},
            {"text": "nul \x00"},
            {"text": 7},
            {"text": "hello", "client_ref": "x" * 129},
            {"text": "hello", "room": "nul \x00"},
            {"text": "hello", "room": "x" * 501},
            {"room": "weavers"},
        ],
    )
    async def test_an_invalid_request_is_refused_with_the_field(
        self, chat: ServiceUnderTest, data: dict[str, Any]
    ) -> None:
        await chat.dispatch(a_join())
        await chat.dispatch(
            a_command("chat.send", msg_id="m-1", **{"room": "weavers", **data}), a_send(msg_id="m-2")
        )
        assert chat.error("m-1") == "invalid_data"
        assert chat.answer("m-1").data["details"]["fields"][0]["field"] in ("text", "client_ref", "room")
        assert chat.answer("m-2").data["seq"] == 2


class TestDirect:
    async def test_every_connection_of_both_receives_it(self, chat: ServiceUnderTest) -> None:
        await chat.dispatch(
            a_command("chat.direct", to="bob", text="psst", msg_id="m-1"),
            a_command("chat.direct", by="bob", to="alice", text="what?", msg_id="m-2"),
        )
        assert [(chat.answer(m).data["room"], chat.answer(m).data["seq"]) for m in ("m-1", "m-2")] == [
            ("dm:alice:bob", 1),
            ("dm:alice:bob", 2),
        ]
        assert [push.data["text"] for push in chat.pushes("user.alice")] == ["psst", "what?"]
        assert chat.pushes("user.alice") == chat.pushes("user.bob")
        assert len(chat.pushes()) == 4
        assert len(await chat.rows(MESSAGES)) == len(await chat.rows(STREAMS.entries)) == 2

    async def test_a_user_may_write_to_themselves(self, chat: ServiceUnderTest) -> None:
        await chat.dispatch(a_command("chat.direct", to="alice", text="buy milk", msg_id="m-1"))
        assert chat.answer("m-1").data["room"] == "dm:alice:alice"
        assert len(chat.pushes()) == 1
        assert len(await chat.rows(MEMBERS)) == 1

    async def test_the_room_is_a_room_for_its_two_only(self, chat: ServiceUnderTest) -> None:
        await chat.dispatch(a_command("chat.direct", to="bob", text="psst"))
        chat.forget()
        room = "dm:alice:bob"
        await chat.dispatch(
            a_send("hm", room, by="bob", msg_id="m-1"),
            a_send("hm", room, by="mallory", msg_id="m-2"),
            a_command("chat.history", room=room, by="mallory", msg_id="m-3"),
            a_command("chat.typing", room=room, by="mallory", msg_id="m-4"),
            a_command("chat.resume", positions={"chat:dm:alice:bob": 0}, by="mallory", msg_id="m-5"),
        )
        assert chat.answer("m-1").data["seq"] == 2
        assert [chat.error(msg_id) for msg_id in ("m-2", "m-3", "m-4")] == ["forbidden"] * 3
        streams = chat.answer("m-5").data["streams"]
        assert streams == {"chat:dm:alice:bob": {"seq": 0, "complete": False}}
        assert {push.data["text"] for push in chat.pushes("user.alice")} == {"hm"}
        assert chat.pushes("user.mallory") == []

    async def test_a_name_too_long_for_a_room_of_two_is_refused(self, chat: ServiceUnderTest) -> None:
        await chat.dispatch(
            a_command("chat.direct", by=":" * 128, to=":" * 128, text="psst", msg_id="m-1"),
            a_command("chat.direct", to="bob", text="psst", msg_id="m-2"),
        )
        assert chat.error("m-1") == "invalid_data"
        assert chat.answer("m-2").action == "chat.direct.ok"

    async def test_users_with_odd_names_have_rooms_of_their_own(self, chat: ServiceUnderTest) -> None:
        await chat.dispatch(
            a_command("chat.direct", by="a:b", to="c", text="one"),
            a_command("chat.direct", by="a", to="b:c", text="other"),
        )
        assert [push.data["text"] for push in chat.pushes("user.c")] == ["one"]
        assert [push.data["text"] for push in chat.pushes("user.b:c")] == ["other"]
        assert len(await chat.rows(ROOMS)) == 2


class TestTyping:
    async def test_the_room_gets_a_push_and_nothing_is_stored(self, chat: ServiceUnderTest) -> None:
        await chat.dispatch(a_join())
        chat.forget()
        await chat.dispatch(a_command("chat.typing", room="weavers", msg_id="m-1"))
        assert (chat.answer("m-1").action, chat.answer("m-1").data) == ("chat.typing.ok", {})
        (push,) = chat.pushes("group.chat:weavers")
        assert (push.action, push.data) == ("chat.typing", {"room": "weavers", "user": "alice"})
        assert (push.stream, push.seq) == (None, None)
        assert len(await chat.rows(STREAMS.entries)) == 1

    async def test_in_a_room_of_two_the_other_gets_the_read_position(self, chat: ServiceUnderTest) -> None:
        await chat.dispatch(
            a_command("chat.direct", to="bob", text="psst"), a_command("chat.direct", to="alice", text="hm")
        )
        chat.forget()
        await chat.dispatch(
            a_command("chat.typing", room="dm:alice:bob"),
            a_command("chat.typing", room="dm:alice:alice", msg_id="m-1"),
        )
        (push,) = chat.pushes()
        assert chat.pushes("user.bob") == [push]
        assert chat.answer("m-1").action == "chat.typing.ok"

    async def test_a_user_who_is_not_a_member_causes_no_push(self, chat: ServiceUnderTest) -> None:
        await chat.dispatch(a_join(by="bob"))
        chat.forget()
        await chat.dispatch(a_command("chat.typing", room="weavers", msg_id="m-1"))
        assert chat.error("m-1") == "forbidden"
        assert chat.pushes() == []


class TestResume:
    async def test_missed_entries_are_replayed_before_the_answer(self, chat: ServiceUnderTest) -> None:
        await chat.dispatch(a_join(), a_join("dyers"), a_send("one"), a_send("two"))
        await chat.dispatch(a_command("chat.direct", by="bob", to="alice", text="psst"))
        weavers, direct = chat.pushes("group.chat:weavers"), chat.pushes("user.alice")
        positions = {"chat:weavers": 1, "chat:dm:alice:bob": 0, "chat:secret": 5, "chat:dyers": 9}
        await chat.dispatch(a_command("chat.resume", positions=positions, on="c-9", msg_id="m-1"))
        assert chat.replayed("c-9") == weavers[1:] + direct
        assert chat.answer("m-1").data == {
            "streams": {
                "chat:weavers": {"seq": 3, "complete": True},
                "chat:dm:alice:bob": {"seq": 1, "complete": True},
                "chat:secret": {"seq": 5, "complete": False},
                "chat:dyers": {"seq": 1, "complete": False},
            }
        }
        assert chat.groups("c-9") == {"chat:weavers", "chat:dyers"}

    async def test_a_room_of_others_reveals_nothing(self, chat: ServiceUnderTest) -> None:
        await chat.dispatch(a_join("secret", by="bob"), a_send(room="secret", by="bob"))
        chat.forget()
        await chat.dispatch(a_command("chat.resume", positions={"chat:secret": 0}, msg_id="m-1"))
        assert chat.answer("m-1").data == {"streams": {"chat:secret": {"seq": 0, "complete": False}}}
        assert chat.replayed() == []
        assert chat.groups() == set()

    async def test_a_stream_with_an_invalid_name_is_refused(self, chat: ServiceUnderTest) -> None:
        await chat.dispatch(a_command("chat.resume", positions={"chat:\x00": 0}, msg_id="m-1"))
        assert chat.error("m-1") == "invalid_data"

    async def test_a_user_receives_no_pushes_of_a_left_room(self, chat: ServiceUnderTest) -> None:
        odd = ["x" * 400, "chat:é\U0001f9f6", "order:alice"]
        await chat.dispatch(a_join("dyers"), a_join("secret", by="bob"))
        chat.forget()
        positions = dict.fromkeys(["chat:secret", "chat:dyers", *odd], 0)
        await chat.dispatch(a_command("chat.resume", positions=positions, on="c-9", msg_id="m-1"))
        assert chat.groups("c-9") == {"chat:dyers"}
        [item] = [item for item in chat.directed("c-9") if item.subscribe]
        assert item.complete, "the gateway takes the connection out of all other rooms"
        assert item.as_of


class TestNewConnections:
    async def test_a_new_connection_is_subscribed_to_its_users_rooms(self, chat: ServiceUnderTest) -> None:
        await chat.dispatch(a_join(), a_join("dyers"), a_join("secret", by="bob"))
        await chat.dispatch(a_command("chat.direct", to="bob", text="psst"))
        chat.forget()
        await chat.dispatch(
            an_event("session.started", user_id="alice", connection_id="c-7", gateway_id=GATEWAY),
            an_event("session.started", user_id="stranger", connection_id="c-8", gateway_id=GATEWAY),
        )
        assert chat.groups("c-7") == {"chat:dyers", "chat:weavers"}
        assert chat.groups("c-8") == set()
        assert {heard.routing_key for heard in chat.heard} == {f"connection.{GATEWAY}"}

    async def test_a_left_room_is_not_among_them(self, chat: ServiceUnderTest) -> None:
        await chat.dispatch(a_join(), a_join("dyers"), a_command("chat.leave", room="weavers"))
        await chat.dispatch(
            an_event("session.started", user_id="alice", connection_id="c-7", gateway_id=GATEWAY)
        )
        assert chat.groups("c-7") == {"chat:dyers"}

    async def test_an_unreadable_event_is_parked_and_the_next_are_applied(
        self, chat: ServiceUnderTest
    ) -> None:
        await chat.dispatch(an_event("session.started", user_id="alice"))
        (parked,) = chat.parked()
        assert parked.startswith("InvalidData")


async def test_the_first_greeting_of_a_new_database_is_a_complete_list_too(chat: ServiceUnderTest) -> None:
    await chat.dispatch(an_event("session.started", user_id="alice", connection_id="c-7", gateway_id=GATEWAY))
    [item] = chat.directed("c-7")
    assert item.complete
    assert item.as_of > 0


@pytest.mark.parametrize("inbox", [10**30, 2**63, -1])
async def test_a_session_event_with_an_inbox_out_of_range_is_parked_and_others_are_greeted(
    chat: ServiceUnderTest, inbox: int
) -> None:
    session = {"user_id": "alice", "gateway_id": GATEWAY}
    await chat.dispatch(
        an_event("session.started", connection_id="c-7", inbox=inbox, **session),
        an_event("session.started", connection_id="c-8", **session),
    )
    assert len(chat.parked()) == 1
    assert chat.directed("c-7") == []
    assert len(chat.directed("c-8")) == 1
