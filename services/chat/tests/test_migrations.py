"""A database that an earlier version filled goes on as it is."""

import json
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import command
from sqlalchemy.ext.asyncio import create_async_engine
from structlog.testing import capture_logs

from towpath.chat.app import CHAT
from towpath.chat.gone import GoneRoomSweeper
from towpath.chat.tables import INBOX, KIT, MESSAGES, METADATA, ROOMS, STREAMS
from towpath.protocol.envelope import make, now_ms
from towpath.servicekit.storage.migrations import history
from towpath.testkit.dispatching import ServiceUnderTest, a_command

FIRST = [
    "INSERT INTO chat_rooms (room, created_at) VALUES ('weavers', 1)",
    "INSERT INTO chat_members (room, user_id, read_seq) VALUES ('weavers', 'alice', 1), ('weavers', 'bob', 0)",
    "INSERT INTO chat_streams (stream, head) VALUES ('chat:weavers', 2)",
    "INSERT INTO chat_messages (room, seq, user_id, text, sent_at, size)"
    " VALUES ('weavers', 2, 'bob', 'hello', 1, 100)",
]


def upgrade(connection: sa.Connection, migrations: Path | None, revision: str) -> None:
    assert migrations is not None
    command.upgrade(history(connection, "chat", migrations), revision)


def downgrade(connection: sa.Connection, migrations: Path | None, revision: str) -> None:
    assert migrations is not None
    command.downgrade(history(connection, "chat", migrations), revision)


async def an_early_database(url: str) -> None:
    """Bring the database to revision 0001, and one room with two members and a message into it."""
    assert CHAT.storage is not None
    engine = create_async_engine(url)
    async with engine.begin() as connection:
        await connection.run_sync(upgrade, CHAT.storage.migrations, "0001")
        for statement in FIRST:
            await connection.execute(sa.text(statement))
    await engine.dispose()


async def test_rooms_of_the_first_version_are_public_and_called_by_their_names(database_url: str) -> None:
    await an_early_database(database_url)
    async with ServiceUnderTest.running(CHAT, database_url) as chat:
        await chat.dispatch(a_command("chat.rooms", msg_id="m-1"))
        summary = {"room": "weavers", "title": "weavers", "seq": 2, "read_seq": 1, "unread": 1}
        assert chat.answer("m-1").data == {"rooms": [summary]}
        await chat.dispatch(a_command("chat.join", by="zoe", room="weavers", msg_id="m-2"))
        assert chat.answer("m-2").data["members"] == ["alice", "bob", "zoe"]


async def test_members_of_the_first_version_are_counted(database_url: str) -> None:
    await an_early_database(database_url)
    async with ServiceUnderTest.running(CHAT, database_url) as chat:
        assert [row.members for row in await chat.rows(ROOMS)] == [2]


async def test_messages_of_the_first_version_are_read_and_edited(database_url: str) -> None:
    await an_early_database(database_url)
    async with ServiceUnderTest.running(CHAT, database_url) as chat:
        asked: dict[str, Any] = {"room": "weavers", "seq": 2}
        await chat.dispatch(a_command("chat.history", room="weavers", msg_id="m-1"))
        told = {"room": "weavers", "seq": 2, "user": "bob", "text": "hello", "sent_at": 1}
        assert chat.answer("m-1").data["messages"] == [told]
        await chat.dispatch(a_command("chat.edit", by="bob", text="hi", msg_id="m-2", **asked))
        assert chat.answer("m-2").data == asked


async def test_the_outbox_can_be_downgraded_and_migrated_again(database_url: str) -> None:
    assert CHAT.storage is not None
    await an_early_database(database_url)
    engine = create_async_engine(database_url)
    async with engine.begin() as connection:
        before = set(await connection.run_sync(lambda sync: sa.inspect(sync).get_table_names()))
        for change, revision in ((upgrade, "0003"), (upgrade, "0004"), (downgrade, "0003")):
            await connection.run_sync(change, CHAT.storage.migrations, revision)
            after = set(await connection.run_sync(lambda sync: sa.inspect(sync).get_table_names()))
            outbox = {"chat_outbox", "chat_outbox_lease"} if revision == "0004" else set()
            assert {name for name in after - before if "outbox" in name} == outbox
    await engine.dispose()
    async with ServiceUnderTest.running(CHAT, database_url) as chat:
        assert await chat.rows(KIT.outbox.items) == []


OLD_TEXTS = ["a deleted text", "an edited text", "a text between"]


def a_push(room: str, place: int, action: str, **data: Any) -> str:
    return make(action, {"room": room, **data}, stream=f"chat:{room}", seq=place).to_json().decode()


def before_texts_were_gone() -> list[tuple[str, dict[str, Any]]]:
    """The data of version 0006: a message, one that was edited twice, one that was deleted; an empty private room."""
    entries = {
        1: a_push("weavers", 1, "chat.joined", seq=1, user="alice"),
        2: a_push("weavers", 2, "chat.message", seq=2, user="bob", text="hello", sent_at=1),
        3: a_push("weavers", 3, "chat.message", seq=3, user="bob", text=OLD_TEXTS[0], sent_at=1),
        4: a_push("weavers", 4, "chat.message", seq=4, user="bob", text=OLD_TEXTS[1], sent_at=1),
        5: a_push("weavers", 5, "chat.edited", seq=4, user="bob", text=OLD_TEXTS[2], edited_at=2),
        6: a_push("weavers", 6, "chat.edited", seq=4, user="bob", text="by now", edited_at=3),
        7: a_push("weavers", 7, "chat.deleted", seq=3, user="bob", deleted_at=4),
    }
    entry = "INSERT INTO chat_stream_entries (stream, seq, envelope, created_at) VALUES (:stream, :seq, :envelope, 1)"
    message = (
        "INSERT INTO chat_messages (room, seq, user_id, text, sent_at, size, edited_at, deleted_at)"
        " VALUES (:room, :seq, 'bob', :text, 1, 100, :edited, :deleted)"
    )
    outcome = (
        "INSERT INTO chat_inbox (sender, msg_id, outcome, created_at) VALUES ('bob', :msg_id, :outcome, :now)"
    )
    made = "INSERT INTO chat_rooms (room, created_at, private, members) VALUES ('den', 1, true, 0)"
    kept: list[tuple[str, dict[str, Any]]] = [
        ("UPDATE chat_streams SET head = 7", {}),
        (made, {}),
        ("INSERT INTO chat_streams (stream, head) VALUES ('chat:den', 2)", {}),
        (message, {"room": "den", "seq": 1, "text": "in the den", "edited": None, "deleted": None}),
        (entry, {"stream": "chat:den", "seq": 1, "envelope": a_push("den", 1, "chat.message", seq=1)}),
        (entry, {"stream": "chat:den", "seq": 2, "envelope": a_push("den", 2, "chat.left", seq=2)}),
        (
            "INSERT INTO chat_invitations (room, user_id, invited_by, created_at) VALUES ('den', 'zoe', 'a', 1)",
            {},
        ),
        (message, {"room": "weavers", "seq": 3, "text": "", "edited": None, "deleted": 4}),
        (message, {"room": "weavers", "seq": 4, "text": "by now", "edited": 3, "deleted": None}),
    ]
    for seq, envelope in entries.items():
        kept.append((entry, {"stream": "chat:weavers", "seq": seq, "envelope": envelope}))
        answer = (
            make("chat.send.ok", {"room": "weavers", "seq": seq, "sent_at": 1}, correlation_id=f"m-{seq}")
            .to_json()
            .decode()
        )
        pushed = f'["towpath.push","group.chat:weavers",{envelope}]'
        settled = f'{{"answer":{answer},"outgoing":[{pushed}]}}'
        kept.append((outcome, {"msg_id": f"m-{seq}", "outcome": settled, "now": now_ms()}))
    return kept


async def a_database_with_old_texts(url: str) -> None:
    assert CHAT.storage is not None
    await an_early_database(url)
    engine = create_async_engine(url)
    async with engine.begin() as connection:
        await connection.run_sync(upgrade, CHAT.storage.migrations, "0006")
        for statement, values in before_texts_were_gone():
            await connection.execute(sa.text(statement), values)
    await engine.dispose()


async def test_old_texts_leave_the_stream_and_the_inbox(database_url: str) -> None:
    await a_database_with_old_texts(database_url)
    async with ServiceUnderTest.running(CHAT, database_url) as chat:
        rows = [str(row) for table in METADATA.sorted_tables for row in await chat.rows(table)]
        assert [text for text in OLD_TEXTS if text in "\n".join(rows)] == []
        await chat.dispatch(a_command("chat.resume", positions={"chat:weavers": 0}, msg_id="resume"))
        assert chat.answer("resume").data["streams"]["chat:weavers"] == {"seq": 7, "complete": True}
        told = [(push.seq, push.action, push.data.get("text")) for push in chat.replayed()]
        assert told == [
            (1, "chat.joined", None),
            (2, "chat.message", "hello"),
            (3, "chat.message", ""),
            (4, "chat.message", "by now"),
            (5, "chat.edited", "by now"),
            (6, "chat.edited", "by now"),
            (7, "chat.deleted", None),
        ]


async def test_existing_outcomes_are_published_again(database_url: str) -> None:
    await a_database_with_old_texts(database_url)
    async with ServiceUnderTest.running(CHAT, database_url) as chat:
        for seq in (2, 3):
            again = a_command("chat.send", by="bob", room="weavers", text="?", msg_id=f"m-{seq}")
            await chat.dispatch(again, redelivered=True)
            assert chat.answer(f"m-{seq}").data == {"room": "weavers", "seq": seq, "sent_at": 1}
        assert [push.data["text"] for push in chat.pushes("group.chat:weavers")] == ["hello", ""]


async def test_an_existing_private_room_without_members_is_deleted(database_url: str) -> None:
    await a_database_with_old_texts(database_url)
    async with ServiceUnderTest.running(CHAT, database_url) as chat:
        await chat.dispatch(a_command("chat.join", room="den", msg_id="m-1"))
        assert chat.answer("m-1").data == {"room": "den", "seq": 3, "members": ["alice"]}
        await chat.dispatch(a_command("chat.history", room="den", msg_id="m-2"))
        assert chat.answer("m-2").data["messages"] == []
        await chat.dispatch(a_command("chat.rooms", by="zoe", msg_id="m-3"))
        assert chat.answer("m-3").data == {"rooms": []}
        while await chat.turn(GoneRoomSweeper().round):
            pass
        assert [row.room for row in await chat.rows(MESSAGES)] == ["weavers"] * 3


async def test_deleted_rooms_can_be_downgraded_and_migrated_again(database_url: str) -> None:
    assert CHAT.storage is not None
    await a_database_with_old_texts(database_url)
    engine = create_async_engine(database_url)
    async with engine.begin() as connection:
        for change, revision in ((upgrade, "0007"), (downgrade, "0006"), (upgrade, "0007")):
            await connection.run_sync(change, CHAT.storage.migrations, revision)
    await engine.dispose()
    async with ServiceUnderTest.running(CHAT, database_url) as chat:
        again = a_command("chat.send", by="bob", room="weavers", text="?", msg_id="m-2")
        await chat.dispatch(again, redelivered=True)
        assert chat.answer("m-2").data == {"room": "weavers", "seq": 2, "sent_at": 1}
        assert chat.pushes() == []


#: Statements that fill a database of version 0006 with so many messages; every tenth was edited.
MANY = 100_000
NUMBERS = (
    "WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {many})"
    " SELECT {columns} FROM numbers"
)
FILL = {
    "chat_messages (room, seq, user_id, text, sent_at, size, edited_at)": (
        "'weavers', n + 10, 'bob', CASE WHEN n % 10 = 0 THEN 'new' ELSE 'old text' END, 1, 100,"
        " CASE WHEN n % 10 = 0 THEN 2 END"
    ),
    "chat_stream_entries (stream, seq, envelope, created_at)": (
        "CAST(:stream AS VARCHAR), n + 10, REPLACE(CAST(:push AS VARCHAR), '77', CAST(n + 10 AS VARCHAR)), 1"
    ),
    "chat_inbox (sender, msg_id, outcome, created_at)": (
        "'bob', 'n-' || CAST(n AS VARCHAR),"
        " REPLACE(CAST(:outcome AS VARCHAR), '77', CAST(n + 10 AS VARCHAR)), CAST(:now AS BIGINT)"
    ),
}


async def test_a_database_with_100000_messages_is_migrated_in_one_start(database_url: str) -> None:
    assert CHAT.storage is not None
    await an_early_database(database_url)
    push = a_push("weavers", 77, "chat.message", seq=77, user="bob", text="old text", sent_at=1)
    head = {"msg_id": "m", "timestamp": 1, "version": "1.0"}
    push = json.dumps(json.loads(push) | head, separators=(",", ":"))
    answer = {
        **head,
        "action": "chat.send.ok",
        "data": {"room": "weavers", "seq": 77, "sent_at": 1},
        "correlation_id": "n-10",
    }
    outcome = f'{{"answer":{json.dumps(answer)},"outgoing":[["towpath.push","group.chat:weavers",{push}]]}}'
    values = {"stream": "chat:weavers", "push": push, "outcome": outcome, "now": now_ms()}
    engine = create_async_engine(database_url)
    async with engine.begin() as connection:
        await connection.run_sync(upgrade, CHAT.storage.migrations, "0006")
        for table, columns in FILL.items():
            numbered = NUMBERS.format(many=MANY, columns=columns)
            named = {name: value for name, value in values.items() if f":{name} " in columns}
            await connection.execute(sa.text(f"INSERT INTO {table} {numbered}"), named)
        await connection.execute(sa.text(f"UPDATE chat_streams SET head = {MANY + 10}"))
    await engine.dispose()
    with capture_logs() as logs:
        async with ServiceUnderTest.running(CHAT, database_url) as chat:
            progress = [line["rows"] for line in logs if line["event"] == "migrating"]
            texts = [row.text for row in await chat.rows(MESSAGES)]
            envelopes = [row.envelope for row in await chat.rows(STREAMS.entries)]
            outcomes = [row.outcome for row in await chat.rows(INBOX)]
            again = a_command("chat.send", by="bob", room="weavers", text="?", msg_id="n-10")
            await chat.dispatch(again, redelivered=True)
            assert chat.answer("n-10").data == {"room": "weavers", "seq": 20, "sent_at": 1}
            (pushed,) = chat.pushes("group.chat:weavers")
    assert progress == [20_000, 40_000, 60_000, 80_000, 100_000]
    assert len(texts) == MANY + 1
    assert len(envelopes) == len(outcomes) == MANY
    assert (
        sum("old text" in envelope for envelope in envelopes) == texts.count("old text") == MANY - MANY // 10
    )
    assert sum("old text" in outcome for outcome in outcomes) == 0
    assert (pushed.seq, pushed.data["text"]) == (20, "new")


OWNERLESS = [
    "INSERT INTO chat_rooms (room, created_at, private, created_by, members) VALUES"
    " ('den', 1, true, 'zoe', 2), ('attic', 1, true, 'gone', 2), ('hall', 1, false, 'zoe', 1)",
    "INSERT INTO chat_members (room, user_id, read_seq) VALUES"
    " ('den', 'alice', 1), ('den', 'zoe', 1), ('attic', 'bob', 1), ('attic', 'alice', 1), ('hall', 'zoe', 1)",
    "INSERT INTO chat_streams (stream, head) VALUES ('chat:den', 2), ('chat:attic', 2), ('chat:hall', 1)",
    "INSERT INTO chat_invitations (room, user_id, invited_by, created_at, seq) VALUES ('den', 'eve', 'zoe', 1, 2)",
]


async def test_private_rooms_of_an_earlier_version_get_an_owner(database_url: str) -> None:
    assert CHAT.storage is not None
    await an_early_database(database_url)
    engine = create_async_engine(database_url)
    async with engine.begin() as connection:
        await connection.run_sync(upgrade, CHAT.storage.migrations, "0009")
        for statement in OWNERLESS:
            await connection.execute(sa.text(statement))
    await engine.dispose()
    async with ServiceUnderTest.running(CHAT, database_url) as chat:
        owners = {row.room: row.owner for row in await chat.rows(ROOMS)}
        assert owners == {"den": "zoe", "attic": "alice", "hall": None, "weavers": None}
        await chat.dispatch(a_command("chat.rooms", by="eve", msg_id="m-1"))
        assert chat.answer("m-1").data["invitations"] == [{"room": "den", "title": "den", "by": "zoe"}]
        # The order of the joins was not stored: the first by name follows.
        await chat.dispatch(
            a_command("chat.leave", by="alice", room="attic"), a_command("chat.leave", by="zoe", room="den")
        )
        assert {push.data["user"] for push in chat.pushes(action="chat.owner")} == {"bob", "alice"}
