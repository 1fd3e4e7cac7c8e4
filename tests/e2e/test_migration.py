"""A database of before goes on with everything in it, after one start of the whole."""

import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, Final

import pytest
import sqlalchemy as sa
from alembic import command
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from towpath.chat.app import CHAT
from towpath.chat.tables import INBOX as CHAT_INBOX
from towpath.chat.tables import MESSAGES
from towpath.chat.tables import STREAMS as CHAT_STREAMS
from towpath.orders.app import ORDERS
from towpath.orders.tables import INBOX as ORDERS_INBOX
from towpath.orders.tables import ORDERS as ORDERS_TABLE
from towpath.protocol.envelope import now_ms
from towpath.servicekit.service import Service
from towpath.servicekit.storage.migrations import history
from towpath.testkit.client import WireClient
from towpath.testkit.eventually import eventually
from towpath.testkit.postgres import Postgres
from towpath.testkit.processes import Processes, free_port
from towpath.testkit.tokens import SECRET, a_token

#: So many orders, of so many users; so many messages, so many in a room. ``ana`` wrote all of them.
MANY: Final = 100_000
USERS: Final = 1_000
IN_ROOM: Final = 1_000
CURRENCIES: Final = {"EUR": 2, "USD": 2, "KWD": 3, "GBP": 2}
STATUSES: Final = ("submitted", "paid", "shipped", "delivered")


def an_envelope(action: str, **fields: Any) -> dict[str, Any]:
    return {"msg_id": "e", "timestamp": 1, "action": action, "version": "1.0", **fields}


def written(value: dict[str, Any]) -> str:
    # Numbers, too, have to be filled in.
    return json.dumps(value, separators=(",", ":")).replace('"#', "").replace('#"', "")


PUSH: Final = an_envelope(
    "chat.message",
    data={"room": "room-<room>", "seq": "#<seq>#", "user": "ana", "text": "text <n>", "sent_at": 1},
    stream="chat:room-<room>",
    seq="#<seq>#",
)
SENT: Final = an_envelope(
    "chat.send.ok",
    data={"room": "room-<room>", "seq": "#<seq>#", "sent_at": 1},
    correlation_id="m-<n>",
)
SUBMITTED: Final = an_envelope(
    "order.submit.ok",
    data={"order_id": "O-<n>", "status": "submitted", "revision": 1, "amount": "1.00", "currency": "EUR"},
    correlation_id="m-<n>",
)
#: The values of the row ``n``, from 0.
PLACES: Final = {
    "<n>": "n",
    "<room>": f"n / {IN_ROOM}",
    "<seq>": f"n % {IN_ROOM} + 1",
    "<user>": f"n % {USERS}",
}

#: Table → rows, and how each column is filled: a text with the places of above, or SQL in brackets.
Tables = Mapping[str, tuple[int, Mapping[str, str]]]
CHAT_OF_BEFORE: Final[Tables] = {
    "chat_rooms": (
        MANY // IN_ROOM,
        {"room": "room-<n>", "title": "Room <n>", "created_by": "ana", "created_at": "(1)", "members": "(1)"},
    ),
    "chat_members": (MANY // IN_ROOM, {"room": "room-<n>", "user_id": "ana", "read_seq": "(0)"}),
    "chat_streams": (MANY // IN_ROOM, {"stream": "chat:room-<n>", "head": f"({IN_ROOM})"}),
    "chat_messages": (
        MANY,
        {
            "room": "room-<room>",
            "seq": f"({PLACES['<seq>']})",
            "user_id": "ana",
            "text": "text <n>",
            "sent_at": "(1)",
            "size": "(100)",
        },
    ),
    "chat_stream_entries": (
        MANY,
        {
            "stream": "chat:room-<room>",
            "seq": f"({PLACES['<seq>']})",
            "envelope": written(PUSH),
            "created_at": "(:now)",
        },
    ),
    "chat_inbox": (
        MANY,
        {
            "sender": "ana",
            "msg_id": "m-<n>",
            "outcome": written(
                {"answer": SENT, "outgoing": [["towpath.push", "group.chat:room-<room>", PUSH]]}
            ),
            "created_at": "(:now)",
        },
    ),
}
ORDERS_OF_BEFORE: Final[Tables] = {
    "orders": (
        MANY,
        {
            "order_id": "O-<n>",
            "user_id": "user-<user>",
            "status": "(CASE n % 4 {} END)".format(
                " ".join(f"WHEN {place} THEN '{status}'" for place, status in enumerate(STATUSES))
            ),
            "revision": "(3)",
            "seen_revision": "(n % 3)",
            "cents": "(n)",
            "currency": "(CASE n % 4 {} END)".format(
                " ".join(f"WHEN {place} THEN '{currency}'" for place, currency in enumerate(CURRENCIES))
            ),
            "created_at": "(n + 1)",
            "updated_at": "(n + 2)",
        },
    ),
    "orders_streams": (USERS, {"stream": "order:user-<n>", "head": "(7)"}),
    "orders_inbox": (
        MANY,
        {
            "sender": "user-<user>",
            "msg_id": "m-<n>",
            "outcome": written({"answer": SUBMITTED}),
            "created_at": "(:now)",
        },
    ),
}


async def fill(connection: AsyncConnection, tables: Tables) -> None:
    for table, (rows, columns) in tables.items():
        sql = ", ".join(
            column if column.startswith("(") else _filled(f":{name}") for name, column in columns.items()
        )
        statement = (
            f"WITH RECURSIVE numbers(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM numbers WHERE n < {rows - 1})"
            f" INSERT INTO {table} ({', '.join(columns)}) SELECT {sql} FROM numbers"
        )
        values: dict[str, Any] = {
            name: column for name, column in columns.items() if not column.startswith("(")
        }
        if "(:now)" in columns.values():
            values["now"] = now_ms()
        bound = sa.text(statement.replace(":now", "CAST(:now AS BIGINT)"))
        await connection.execute(bound, values)


def _filled(text: str) -> str:
    filled = f"CAST({text} AS TEXT)"
    for place, value in PLACES.items():
        filled = f"REPLACE({filled}, '{place}', CAST({value} AS TEXT))"
    return filled


async def a_database_of_before(url: str, service: Service[Any], revision: str, tables: Tables) -> None:
    """Bring the database to the schema that ``service`` had, and fill it."""
    storage = service.storage
    assert storage is not None

    def upgrade(connection: sa.Connection) -> None:
        assert storage.migrations is not None
        command.upgrade(history(connection, service.name, storage.migrations), revision)

    engine = create_async_engine(url)
    async with engine.begin() as connection:
        await connection.run_sync(upgrade)
        await fill(connection, tables)
    await engine.dispose()


async def rows_of(url: str, *columns: sa.ColumnElement[Any]) -> list[tuple[Any, ...]]:
    engine = create_async_engine(url)
    async with engine.connect() as connection:
        rows = [tuple(row) for row in await connection.execute(sa.select(*columns))]
    await engine.dispose()
    return rows


@contextlib.asynccontextmanager
async def databases(
    kind: str, folder: Path, request: pytest.FixtureRequest
) -> AsyncIterator[tuple[str, str]]:
    """Where chat and orders store, as ``towpath dev`` has it: a file each, or one database of PostgreSQL."""
    if kind == "sqlite":
        yield f"sqlite+aiosqlite:///{folder}/chat.db", f"sqlite+aiosqlite:///{folder}/orders.db"
        return
    postgres: Postgres = request.getfixturevalue("postgres")
    async with postgres.database() as url:
        yield url, url


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
async def test_100000_existing_orders_and_100000_messages_are_migrated_in_one_start(
    kind: str, request: pytest.FixtureRequest, processes: Processes, tmp_path: Path
) -> None:
    """``towpath dev`` over what the last version left, and nothing is lost."""
    folder = tmp_path / "towpath"
    folder.mkdir()
    async with databases(kind, folder, request) as (chat_url, orders_url):
        await a_database_of_before(chat_url, CHAT, "0006", CHAT_OF_BEFORE)
        await a_database_of_before(orders_url, ORDERS, "0001", ORDERS_OF_BEFORE)
        given = {} if kind == "sqlite" else {"database_url": chat_url}
        await go_on_with(folder, processes, **given)
        await check_messages(chat_url)
        await check_orders(orders_url)


async def go_on_with(folder: Path, processes: Processes, **given: str) -> None:
    """Start everything once, ask for what was there before, and stop."""
    port = free_port()
    dev = processes.launch(
        *("towpath", "dev", "--broker", "memory", "--data", str(folder)),
        name="towpath dev",
        port=port,
        web_port=free_port(),
        auth_secret=SECRET,
        **given,
    )

    def is_ready() -> bool:
        assert dev.status is None, dev.output
        return "Ready." in dev.output

    await eventually(is_ready, timeout=60)

    lines = [
        json.loads(line) for file in (folder / "logs").iterdir() for line in file.read_text().splitlines()
    ]
    orders = [line for line in lines if line["event"] == "migrating_orders"]
    assert (orders[-1]["done"], orders[-1]["total"]) == (MANY, MANY)
    assert [line["rows"] for line in lines if line["event"] == "migrating"][-1] == MANY

    async with (
        WireClient.connect(f"ws://127.0.0.1:{port}/ws", token=a_token("ana")) as ana,
        WireClient.connect(f"ws://127.0.0.1:{port}/ws", token=a_token("user-7")) as user,
    ):
        again = await ana.request("chat.send", {"room": "room-7", "text": "?"}, msg_id="m-7010")
        assert again["data"] == {"room": "room-7", "seq": 11, "sent_at": 1}
        page = (await ana.request("chat.history", {"room": "room-99", "limit": 200}))["data"]
        assert [one["text"] for one in page["messages"]] == [f"text {n}" for n in range(99_800, MANY)]
        at = await ana.request("chat.resume", {"positions": {"chat:room-7": IN_ROOM - 2}})
        assert at["data"]["streams"]["chat:room-7"] == {"seq": IN_ROOM, "complete": True}
        assert [push["data"]["text"] for push in ana.pushes("chat.message")] == ["text 7998", "text 7999"]
        again = await user.request("order.submit", {"order_id": "O-7", "amount": "1.00"}, msg_id="m-7")
        assert again["data"] == SUBMITTED["data"] | {"order_id": "O-7"}
        listed = (await user.request("order.list", {"limit": 200}))["data"]["orders"]
        assert [one["order_id"] for one in listed] == [f"O-{n}" for n in range(99_007, 0, -USERS)]
        assert (listed[-1]["amount"], listed[-1]["currency"], listed[-1]["status"]) == (
            "0.07",
            "GBP",
            "delivered",
        )
    assert await dev.terminate(timeout=60) == 0


async def check_messages(url: str) -> None:
    """All messages, their pushes and their answers are there."""
    messages = await rows_of(url, MESSAGES.c.room, MESSAGES.c.seq, MESSAGES.c.text)
    assert len(messages) == MANY
    assert set(messages) == {(f"room-{n // IN_ROOM}", n % IN_ROOM + 1, f"text {n}") for n in range(MANY)}
    entries = await rows_of(url, CHAT_STREAMS.entries.c.stream, CHAT_STREAMS.entries.c.seq)
    assert len(set(entries)) == MANY
    known = await rows_of(url, CHAT_INBOX.c.sender, CHAT_INBOX.c.msg_id)
    assert set(known) >= {("user:ana", f"m-{n}") for n in range(MANY)}


async def check_orders(url: str) -> None:
    """All orders with what they cost, and their answers, are there."""
    columns = [
        ORDERS_TABLE.c[name] for name in ("user_id", "order_id", "status", "amount", "decimals", "currency")
    ]
    orders = await rows_of(url, *columns)
    assert len(orders) == MANY
    places = list(enumerate(CURRENCIES.items()))
    assert set(orders) == {
        (f"user-{n % USERS}", f"O-{n}", STATUSES[place], n * 10 ** (decimals - 2), decimals, currency)
        for n in range(MANY)
        for place, (currency, decimals) in [places[n % 4]]
    }
    known = await rows_of(url, ORDERS_INBOX.c.sender, ORDERS_INBOX.c.msg_id)
    assert set(known) >= {(f"user:user-{n % USERS}", f"m-{n}") for n in range(MANY)}
