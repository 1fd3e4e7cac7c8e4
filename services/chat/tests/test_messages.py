"""Messages that are said otherwise, or taken back."""

import asyncio
from typing import Any

import pytest

from towpath.chat.app import CHAT
from towpath.chat.reading import HISTORY_BYTES
from towpath.chat.tables import MESSAGES, STREAMS
from towpath.protocol.envelope import Envelope
from towpath.testkit.dispatching import Incoming, ServiceUnderTest, a_command

ROOM = "weavers"


def a_send(text: str = "helo", **more: Any) -> Incoming:
    return a_command("chat.send", room=ROOM, text=text, **more)


def an_edit(seq: int = 3, text: str = "hello", **more: Any) -> Incoming:
    return a_command("chat.edit", **{"room": ROOM, "seq": seq, "text": text, **more})


def a_delete(seq: int = 3, **more: Any) -> Incoming:
    return a_command("chat.delete", **{"room": ROOM, "seq": seq, **more})


async def history(chat: ServiceUnderTest, room: str = ROOM, **asked: Any) -> list[dict[str, Any]]:
    await chat.dispatch(a_command("chat.history", room=room, msg_id="history", **asked))
    messages: list[dict[str, Any]] = chat.answers("history")[-1].data["messages"]
    return messages


def last(pushes: list[Envelope]) -> tuple[str, str | None, int | None, Any]:
    push = pushes[-1]
    return push.action, push.stream, push.seq, push.data


@pytest.fixture(autouse=True)
async def a_conversation(chat: ServiceUnderTest) -> None:
    """Alice and bob have come (seq 1 and 2), and alice has said ``helo`` (seq 3)."""
    await chat.dispatch(
        a_command("chat.join", room=ROOM),
        a_command("chat.join", room=ROOM, by="bob", on="c-2"),
        a_send(client_ref="draft-1", msg_id="said"),
    )


async def test_an_edit_is_answered_pushed_and_stored(chat: ServiceUnderTest) -> None:
    await chat.dispatch(an_edit(msg_id="m-1"))
    assert (chat.answer("m-1").action, chat.answer("m-1").data) == (
        "chat.edit.ok",
        {"room": ROOM, "seq": 3},
    )
    pushes = chat.pushes("group.chat:weavers")
    (message,) = await history(chat)
    told = {"room": ROOM, "seq": 3, "user": "alice", "text": "hello", "edited_at": message["edited_at"]}
    assert last(pushes) == ("chat.edited", "chat:weavers", 4, told)
    said = chat.answer("said").data["sent_at"]
    assert message == told | {"sent_at": said, "client_ref": "draft-1"}
    assert message["edited_at"] >= said


async def test_a_deletion_is_answered_and_pushed_and_the_text_is_removed(chat: ServiceUnderTest) -> None:
    await chat.dispatch(an_edit(), a_delete(msg_id="m-1"))
    assert (chat.answer("m-1").action, chat.answer("m-1").data) == (
        "chat.delete.ok",
        {"room": ROOM, "seq": 3},
    )
    pushes = chat.pushes("group.chat:weavers")
    (message,) = await history(chat)
    told = {"room": ROOM, "seq": 3, "user": "alice", "deleted_at": message["deleted_at"]}
    assert last(pushes) == ("chat.deleted", "chat:weavers", 5, told)
    assert message["text"] == ""
    assert message.items() >= told.items()
    assert [row.text for row in await chat.rows(MESSAGES)] == [""]


async def test_a_resume_replays_the_leave_of_a_deleted_room(chat: ServiceUnderTest) -> None:
    await chat.dispatch(an_edit())
    await chat.dispatch(a_delete())
    edited, deleted = chat.pushes("group.chat:weavers")[-2:]
    await chat.dispatch(
        a_command("chat.resume", by="bob", on="c-9", positions={"chat:weavers": 3}, msg_id="m-1")
    )
    without_text = edited.model_copy(update={"data": {**edited.data, "text": "", "deleted": True}})
    assert chat.replayed("c-9") == [without_text, deleted]
    assert chat.answer("m-1").data["streams"] == {"chat:weavers": {"seq": 5, "complete": True}}


async def test_a_message_may_be_edited_twice_and_keeps_the_last_text(chat: ServiceUnderTest) -> None:
    await chat.dispatch(an_edit(text="one"), an_edit(text="two"))
    await chat.dispatch(an_edit(text="three"))
    assert [message["text"] for message in await history(chat)] == ["three"]
    assert [push.data["text"] for push in chat.pushes(action="chat.edited")] == ["one", "two", "three"]


@pytest.mark.parametrize("change", [an_edit, a_delete])
async def test_only_the_author_may_and_only_on_existing_messages(chat: ServiceUnderTest, change: Any) -> None:
    chat.forget()
    await chat.dispatch(
        change(by="bob", msg_id="m-1"),
        change(by="mallory", msg_id="m-2"),
        change(room="nowhere", msg_id="m-3"),
        change(99, msg_id="m-4"),
        change(1, msg_id="m-5"),  # alice's arrival: of the stream, but no message
        change(0, msg_id="m-6"),
    )
    codes = [chat.error(f"m-{n}") for n in range(1, 7)]
    assert codes == ["forbidden"] * 3 + ["not_found"] * 3
    assert chat.pushes() == []
    assert [row.text for row in await chat.rows(MESSAGES)] == ["helo"]


@pytest.mark.parametrize("together", [True, False])
async def test_a_deleted_message_remains_deleted(chat: ServiceUnderTest, together: bool) -> None:
    story = [a_delete(), an_edit(msg_id="m-1"), a_delete(msg_id="m-2"), a_delete(by="bob", msg_id="m-3")]
    for batch in [story] if together else [[message] for message in story]:
        await chat.dispatch(*batch)
    assert [chat.error(f"m-{n}") for n in (1, 2, 3)] == ["conflict", "conflict", "forbidden"]
    assert [message["text"] for message in await history(chat)] == [""]
    assert len(await chat.rows(STREAMS.entries)) == 4


async def test_one_batch_may_send_edit_and_delete(chat: ServiceUnderTest) -> None:
    await chat.dispatch(a_send("one"), a_send("two"), an_edit(4, "uno"), a_delete(5), a_send("three"))
    assert [(message["seq"], message["text"]) for message in await history(chat)] == [
        (3, "helo"),
        (4, "uno"),
        (5, ""),
        (8, "three"),
    ]


async def test_a_former_member_cannot_change_messages(chat: ServiceUnderTest) -> None:
    await chat.dispatch(a_command("chat.leave", room=ROOM), an_edit(msg_id="m-1"))
    await chat.dispatch(a_delete(msg_id="m-2"))
    assert [chat.error(msg_id) for msg_id in ("m-1", "m-2")] == ["forbidden", "forbidden"]


async def test_in_a_room_of_two_both_get_presence(chat: ServiceUnderTest) -> None:
    room = "dm:alice:bob"
    await chat.dispatch(a_command("chat.direct", to="bob", text="psst"))
    chat.forget()
    await chat.dispatch(an_edit(1, "hush", room=room), a_delete(1, room=room))
    assert [push.action for push in chat.pushes("user.bob")] == ["chat.edited", "chat.deleted"]
    assert chat.pushes("user.alice") == chat.pushes("user.bob")
    assert [message["text"] for message in await history(chat, room)] == [""]


@pytest.mark.parametrize(
    "data", [{"text": ""}, {"text": "x" * 4001}, {"text": "nul \x00"}, {"seq": -1}, {"seq": "3"}]
)
async def test_an_invalid_text_is_refused_with_the_field(
    chat: ServiceUnderTest, data: dict[str, Any]
) -> None:
    await chat.dispatch(an_edit(msg_id="m-1", **data))
    assert chat.error("m-1") == "invalid_data"
    assert [found["field"] for found in chat.answer("m-1").data["details"]["fields"]] == list(data)


async def test_edited_messages_are_in_answers_of_bounded_size(chat: ServiceUnderTest) -> None:
    await chat.dispatch(*[a_send("x") for _ in range(99)])
    await chat.dispatch(*[an_edit(seq, "\x01" * 4000) for seq in range(4, 103)])
    assert len(str(await history(chat, limit=200)).replace("\\x01", "\\u0001")) < HISTORY_BYTES + 30_000


async def test_the_author_changes_a_message_on_two_replicas_at_once(database_url: str) -> None:
    async with ServiceUnderTest.running(CHAT, database_url, replicas=2) as chat:
        # The conversation of the fixture is in the same database.
        await asyncio.gather(
            chat.dispatch(*[an_edit(text=f"{number}") for number in range(10)], replica=0),
            chat.dispatch(*[a_send() for _ in range(10)], a_delete(), replica=1),
        )
        assert chat.retried() == []
        assert [row.text for row in await chat.rows(MESSAGES) if row.seq == 3] == [""]
        seqs = [push.seq or 0 for push in chat.pushes("group.chat:weavers")]
        assert sorted(seqs) == list(range(4, 4 + len(seqs)))
        (deleted,) = chat.pushes(action="chat.deleted")
        assert all((push.seq or 0) < (deleted.seq or 0) for push in chat.pushes(action="chat.edited"))
