"""A text that was deleted, or replaced by an edit, is nowhere any more once that is answered."""

from typing import Any

import pytest

from towpath.chat.app import CHAT
from towpath.chat.tables import METADATA
from towpath.protocol.envelope import Envelope
from towpath.servicekit.handling.outcome import to_group
from towpath.servicekit.handling.timers import TimerRun
from towpath.testkit.dispatching import Incoming, ServiceUnderTest, a_command, counted_statements

ROOM = "weavers"
STREAM = "chat:weavers"
SECRET = "the password is swordfish"


def a_send(text: str = SECRET, **more: Any) -> Incoming:
    return a_command("chat.send", **{"room": ROOM, "text": text, **more})


def an_edit(seq: int = 3, text: str = "hello", **more: Any) -> Incoming:
    return a_command("chat.edit", **{"room": ROOM, "seq": seq, "text": text, **more})


def a_delete(seq: int = 3, **more: Any) -> Incoming:
    return a_command("chat.delete", **{"room": ROOM, "seq": seq, **more})


async def stored(chat: ServiceUnderTest) -> str:
    """Every row of every table, as text."""
    return "\n".join([str(row) for table in METADATA.sorted_tables for row in await chat.rows(table)])


async def replayed(chat: ServiceUnderTest, after: int = 0) -> list[Envelope]:
    """The entries for a connection that resumes from ``after``."""
    chat.forget()
    await chat.dispatch(
        a_command("chat.resume", by="bob", on="c-9", positions={STREAM: after}, msg_id="resume")
    )
    assert chat.answer("resume").data["streams"][STREAM]["complete"] is True
    return chat.replayed("c-9")


def told(push: Envelope) -> tuple[Any, ...]:
    return push.action, push.seq, push.data.get("text"), push.data.get("deleted")


@pytest.fixture(autouse=True)
async def a_conversation(chat: ServiceUnderTest) -> None:
    """Alice and bob have come (seq 1 and 2), and alice has said the secret (seq 3)."""
    await chat.dispatch(
        a_command("chat.join", room=ROOM),
        a_command("chat.join", room=ROOM, by="bob", on="c-2"),
        a_send(client_ref="draft-1", msg_id="said"),
    )


async def test_a_deleted_text_is_in_no_table(chat: ServiceUnderTest) -> None:
    assert SECRET in await stored(chat)
    await chat.dispatch(a_delete())
    assert SECRET not in await stored(chat)


async def test_a_text_replaced_by_an_edit_is_in_no_table(chat: ServiceUnderTest) -> None:
    await chat.dispatch(an_edit(text="a slip of the tongue"))
    await chat.dispatch(an_edit(text="hello"))
    rows = await stored(chat)
    assert SECRET not in rows
    assert "a slip of the tongue" not in rows
    assert rows.count("hello") == 1


async def test_the_texts_of_all_edits_are_deleted_with_the_message(chat: ServiceUnderTest) -> None:
    texts = [f"version {number} of it" for number in range(5)]
    for text in texts:
        await chat.dispatch(an_edit(text=text))
    await chat.dispatch(a_delete())
    rows = await stored(chat)
    assert not [text for text in (SECRET, *texts) if text in rows]


async def test_one_batch_that_sends_edits_and_deletes_leaves_no_text(chat: ServiceUnderTest) -> None:
    await chat.dispatch(
        a_send("first draft"), an_edit(4, "second draft"), an_edit(4, "third draft"), a_delete(4), a_delete()
    )
    rows = await stored(chat)
    assert "draft" not in rows.replace("draft-1", "")
    assert SECRET not in rows


async def test_a_deleted_text_is_removed_from_a_room_of_two(chat: ServiceUnderTest) -> None:
    await chat.dispatch(a_command("chat.direct", to="bob", text="psst, between us", msg_id="m-1"))
    await chat.dispatch(a_delete(1, room="dm:alice:bob"))
    assert "psst" not in await stored(chat)


async def test_a_new_member_who_resumes_from_the_start_gets_no_deleted_text(chat: ServiceUnderTest) -> None:
    await chat.dispatch(an_edit(text="hello"))
    await chat.dispatch(a_delete())
    pushes = await replayed(chat)
    assert [told(push) for push in pushes[2:]] == [
        ("chat.message", 3, "", True),
        ("chat.edited", 4, "", True),
        ("chat.deleted", 5, None, None),
    ]


async def test_older_pushes_of_an_edited_message_are_replayed_with_the_new_text(
    chat: ServiceUnderTest,
) -> None:
    await chat.dispatch(an_edit(text="one"), an_edit(text="two"))
    await chat.dispatch(an_edit(text="three"))
    pushes = await replayed(chat)
    assert [told(push) for push in pushes[2:]] == [
        ("chat.message", 3, "three", None),
        *[("chat.edited", seq, "three", None) for seq in (4, 5, 6)],
    ]
    assert len({push.data["edited_at"] for push in pushes[2:]}) == 1


async def test_a_replayed_push_keeps_all_but_its_text(chat: ServiceUnderTest) -> None:
    (said,) = chat.pushes(action="chat.message")
    await chat.dispatch(a_delete())
    assert (await replayed(chat))[2] == said.model_copy(
        update={"data": {**said.data, "text": "", "deleted": True}}
    )


async def test_unchanged_messages_are_replayed_unchanged(chat: ServiceUnderTest) -> None:
    await chat.dispatch(a_send("another"), a_delete(3))
    live = chat.pushes("group.chat:weavers")
    pushes = await replayed(chat)
    assert [pushes[0], pushes[1], pushes[3], pushes[4]] == [live[0], live[1], live[3], live[4]]


async def test_a_repetition_of_the_old_message_is_answered_as_before(chat: ServiceUnderTest) -> None:
    before = chat.answer("said")
    await chat.dispatch(a_delete())
    chat.forget()
    await chat.dispatch(a_send(client_ref="draft-1", msg_id="said"))
    assert chat.answer("said") == before
    assert chat.pushes() == []


@pytest.mark.parametrize("change", ["edit", "delete"])
async def test_a_redelivered_message_pushes_no_old_text(chat: ServiceUnderTest, change: str) -> None:
    before = chat.answer("said")
    await chat.dispatch(an_edit(text="hello") if change == "edit" else a_delete())
    chat.forget()
    await chat.dispatch(a_send(client_ref="draft-1", msg_id="said"), redelivered=True)
    assert chat.answer("said") == before
    (push,) = chat.pushes("group.chat:weavers")
    assert told(push) == ("chat.message", 3, *(("hello", None) if change == "edit" else ("", True)))


async def test_a_redelivered_edit_pushes_no_old_text(chat: ServiceUnderTest) -> None:
    await chat.dispatch(an_edit(text="one", msg_id="m-1"))
    await chat.dispatch(an_edit(text="two"))
    chat.forget()
    await chat.dispatch(an_edit(text="one", msg_id="m-1"), redelivered=True)
    assert chat.answer("m-1").data == {"room": ROOM, "seq": 3}
    (push,) = chat.pushes("group.chat:weavers")
    assert told(push) == ("chat.edited", 4, "two", None)


async def test_a_redelivered_batch_of_new_and_old_messages_pushes_each_once(chat: ServiceUnderTest) -> None:
    await chat.dispatch(a_delete())
    chat.forget()
    await chat.dispatch(
        a_send(client_ref="draft-1", msg_id="said"), a_send("new", msg_id="m-2"), redelivered=True
    )
    assert [told(push) for push in chat.pushes(action="chat.message")] == [
        ("chat.message", 3, "", True),
        ("chat.message", 5, "new", None),
    ]


async def test_a_push_in_the_outbox_is_published_without_its_deleted_text(chat: ServiceUnderTest) -> None:
    (said,) = chat.pushes(action="chat.message")
    chat.forget()

    async def remind_then_delete(run: TimerRun) -> bool:
        async with run.transaction() as connection:
            await run.publish(connection, [to_group(STREAM, said)])
        await chat.dispatch(a_delete())
        assert SECRET not in await stored(chat)
        return False

    await chat.turn(remind_then_delete)
    assert [told(push) for push in chat.pushes(action="chat.message")] == [("chat.message", 3, "", True)]


async def test_a_refused_delete_leaves_the_text(chat: ServiceUnderTest) -> None:
    await chat.dispatch(a_delete(by="bob"), an_edit(by="bob"))
    assert [told(push) for push in (await replayed(chat))[2:]] == [("chat.message", 3, SECRET, None)]


async def test_a_text_shared_with_another_message_remains_there(chat: ServiceUnderTest) -> None:
    await chat.dispatch(a_send(by="bob"))
    await chat.dispatch(a_delete())
    texts = [push.data["text"] for push in await replayed(chat) if push.action == "chat.message"]
    assert texts == ["", SECRET]


async def test_two_replicas_that_edit_and_delete_leave_no_text(database_url: str) -> None:
    async with ServiceUnderTest.running(CHAT, database_url, replicas=2) as chat:
        await chat.dispatch(an_edit(text="said on one replica"), replica=0)
        await chat.dispatch(a_delete(), replica=1)
        rows = await stored(chat)
        assert SECRET not in rows
        assert "said on" not in rows


@pytest.mark.parametrize("change", ["edit", "delete"])
async def test_the_number_of_statements_does_not_grow_with_the_number_of_changes(
    chat: ServiceUnderTest, change: str
) -> None:
    await chat.dispatch(*[a_send(f"text {number}") for number in range(40)])
    counts = []
    for seqs in (range(4, 6), range(6, 40)):
        with counted_statements() as statements:
            await chat.dispatch(*[an_edit(seq) if change == "edit" else a_delete(seq) for seq in seqs])
        counts.append(len(statements))
    assert counts[0] == counts[1]
    with counted_statements() as statements:
        await replayed(chat)
    # The resume, its heads, pages of entries, and one statement a page for what was changed.
    assert len(statements) < 20


async def test_a_message_without_changes_costs_no_further_statement(chat: ServiceUnderTest) -> None:
    with counted_statements() as statements:
        await chat.dispatch(a_send("plain"))
    assert not [
        statement
        for statement in statements
        if "gone" in statement or "UPDATE chat_stream_entries" in statement
    ]
