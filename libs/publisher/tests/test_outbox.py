"""Events in a transaction of SQLAlchemy, sync and async, on PostgreSQL and on SQLite."""

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from towpath.publisher import BadEvent, make
from towpath.publisher.outbox import OutboxMissing, add_event, outbox_table

METADATA = sa.MetaData()
PAYMENTS = sa.Table("payments", METADATA, sa.Column("order_id", sa.Text, primary_key=True))
OUTBOX = outbox_table(METADATA)


async def stored(engine: AsyncEngine) -> list[tuple[str, str | None, Any]]:
    async with engine.connect() as connection:
        found = await connection.execute(sa.select(OUTBOX).order_by(OUTBOX.c.id))
        return [
            (row.msg_id, row.aggregate, json.loads(row.data) if isinstance(row.data, str) else row.data)
            for row in found
        ]


async def test_a_commit_keeps_the_event_and_a_rollback_does_not(database_url: str) -> None:
    engine = create_async_engine(database_url)
    async with engine.begin() as connection:
        await connection.run_sync(METADATA.create_all)
    async with AsyncSession(engine) as session:
        await session.execute(sa.insert(PAYMENTS).values(order_id="o-1"))
        first = await add_event(
            session, "order.paid", {"order_id": "o-1"}, aggregate="order:o-1", msg_id="m-1"
        )
        await session.commit()
        await add_event(session, "order.paid", {"order_id": "o-2"})
        await session.rollback()

        def pay(sync: Session) -> str:
            return add_event(sync, make("order.paid", {"order_id": "o-3"}, msg_id="m-3"))

        second = await session.run_sync(pay)
        await session.commit()
    async with engine.begin() as connection:
        third = await add_event(connection, ("order.paid", {"order_id": "o-4"}))
    assert (first, second) == ("m-1", "m-3")
    assert await stored(engine) == [
        ("m-1", "order:o-1", {"order_id": "o-1"}),
        ("m-3", None, {"order_id": "o-3"}),
        (third, None, {"order_id": "o-4"}),
    ]
    await engine.dispose()


def test_a_sync_engine_works_too(tmp_path: Path) -> None:
    engine = sa.create_engine(f"sqlite:///{tmp_path}/shop.db")
    METADATA.create_all(engine)
    with Session(engine) as session, session.begin():
        add_event(session, "order.paid", {"amount": Decimal("9.90")}, msg_id="m-1")
    with engine.begin() as connection:
        add_event(connection, "order.paid", {}, msg_id="m-2")
    with engine.connect() as connection:
        rows = connection.execute(sa.select(OUTBOX.c.msg_id, OUTBOX.c.data).order_by(OUTBOX.c.id)).all()
    assert [tuple(row) for row in rows] == [("m-1", '{"amount":9.90}'), ("m-2", "{}")]
    engine.dispose()


async def test_a_database_without_an_outbox_names_the_command(database_url: str) -> None:
    engine = create_async_engine(database_url)
    async with AsyncSession(engine) as session:
        with pytest.raises(OutboxMissing, match="Run `towpath-relay install`"):
            await add_event(session, "order.paid", {})
    await engine.dispose()


@pytest.mark.parametrize(
    ("event", "data", "aggregate", "problem"),
    [
        ("Order paid", {}, None, "action"),
        ("ping", {}, None, r"domain\.verb"),
        ("order.paid", {"at": object()}, None, "cannot be sent as JSON"),
        ("order.paid", {"text": "a\0b"}, None, r"U\+0000"),
        ("order.paid", {"text": "x" * 1024 * 1024}, None, "more than 1048576"),
        ("order.paid", {}, "", "1 to 255 bytes"),
        ("order.paid", {}, "ü" * 128, "1 to 255 bytes"),
        (make("order.paid", {}, key="k"), None, None, "key would be lost"),
    ],
)
def test_an_event_that_is_none_is_refused_before_it_is_added(
    event: Any, data: Any, aggregate: str | None, problem: str, tmp_path: Path
) -> None:
    engine = sa.create_engine(f"sqlite:///{tmp_path}/shop.db")
    METADATA.create_all(engine)
    with Session(engine) as session:
        with pytest.raises(BadEvent, match=problem):
            add_event(session, event, data, aggregate=aggregate)
        session.commit()
        assert session.execute(sa.select(sa.func.count()).select_from(OUTBOX)).scalar_one() == 0
    engine.dispose()
