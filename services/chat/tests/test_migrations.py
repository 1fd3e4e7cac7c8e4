"""A database that an earlier version filled goes on as it is."""

from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from sqlalchemy.ext.asyncio import create_async_engine

from towpath.chat.app import CHAT
from towpath.chat.tables import OUTBOX, ROOMS
from towpath.testkit.dispatching import ServiceUnderTest, a_command

FIRST = [
    "INSERT INTO chat_rooms (room, created_at) VALUES ('weavers', 1)",
    "INSERT INTO chat_members (room, user_id, read_seq) VALUES ('weavers', 'alice', 1), ('weavers', 'bob', 0)",
    "INSERT INTO chat_streams (stream, head) VALUES ('chat:weavers', 2)",
    "INSERT INTO chat_messages (room, seq, user_id, text, sent_at, size)"
    " VALUES ('weavers', 2, 'bob', 'hello', 1, 100)",
]


def upgrade(connection: sa.Connection, migrations: Path, revision: str) -> None:
    command.upgrade(alembic(connection, migrations), revision)


def downgrade(connection: sa.Connection, migrations: Path, revision: str) -> None:
    command.downgrade(alembic(connection, migrations), revision)


def alembic(connection: sa.Connection, migrations: Path) -> Config:
    config = Config()
    config.set_main_option("script_location", str(migrations))
    config.attributes.update(connection=connection, version_table="chat_version")
    return config


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


async def test_the_outbox_can_be_taken_back_and_made_again(database_url: str) -> None:
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
        assert await chat.rows(OUTBOX.items) == []
