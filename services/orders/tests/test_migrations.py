"""A database that an earlier version filled goes on as it is, with all of its orders."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import pytest
import sqlalchemy as sa
from alembic import command
from sqlalchemy.ext.asyncio import create_async_engine
from structlog.testing import capture_logs

from towpath.orders.app import ORDERS
from towpath.orders.tables import INBOX, REFUNDS, STREAMS
from towpath.orders.tables import ORDERS as TABLE
from towpath.servicekit.storage import bulk
from towpath.servicekit.storage.database import Database
from towpath.servicekit.storage.migrations import history
from towpath.testkit.dispatching import ServiceUnderTest, a_command, an_event

MANY: Final = 100_000
BEFORE: Final = sa.Table(
    "orders",
    sa.MetaData(),
    *(sa.Column(name, sa.Text) for name in ("order_id", "user_id", "status", "currency", "items", "detail")),
    *(sa.Column(name, sa.BigInteger) for name in ("revision", "seen_revision", "cents")),
    *(sa.Column(name, sa.BigInteger) for name in ("created_at", "updated_at")),
)


def upgrade_to_first(connection: sa.Connection, migrations: Path | None) -> None:
    assert migrations is not None
    command.upgrade(history(connection, "orders", migrations), "0001")


def an_old_order(order_id: str, cents: int, currency: str, **more: Any) -> dict[str, Any]:
    order = {
        "order_id": order_id,
        "user_id": "ana",
        "status": "paid",
        "revision": 3,
        "seen_revision": 2,
        "cents": cents,
        "currency": currency,
        "items": None,
        "detail": None,
        "created_at": 1_000,
        "updated_at": 2_000,
    }
    return order | more


async def a_database_of_before(url: str, orders: Iterable[dict[str, Any]]) -> None:
    """Bring the database to the schema of before, and ``orders`` into it."""
    assert ORDERS.storage is not None
    engine = create_async_engine(url)
    async with engine.begin() as connection:
        await connection.run_sync(upgrade_to_first, ORDERS.storage.migrations)
        rows = list(orders)
        for start in range(0, len(rows), 20_000):
            await bulk.insert(connection, BEFORE, rows[start : start + 20_000])
    await engine.dispose()


@pytest.mark.parametrize(
    ("cents", "currency", "amount"),
    [
        (9990, "EUR", "99.90"),
        (0, "USD", "0.00"),
        (50_000, "JPY", "500"),
        (1_230, "KWD", "12.300"),
        (5, "CLF", "0.0500"),
        (999_999_999_999_999, "KWD", "9999999999999.990"),
        # Amounts that do not fit their currency stay unchanged.
        (9_990, "JPY", "99.90"),
        (1_000, "ZZZ", "10.00"),
        (1_000, "XAU", "10.00"),
        (1_000, "HRK", "10.00"),
    ],
)
async def test_an_existing_order_keeps_its_price(
    database_url: str, cents: int, currency: str, amount: str
) -> None:
    await a_database_of_before(database_url, [an_old_order("O-1", cents, currency)])
    async with ServiceUnderTest.running(ORDERS, database_url) as orders:
        await orders.dispatch(a_command("order.get", by="ana", order_id="O-1", msg_id="m-1"))
        assert orders.answer("m-1").data == {
            "order_id": "O-1",
            "seq": 0,
            "status": "paid",
            "revision": 3,
            "amount": amount,
            "currency": currency,
            "created_at": 1_000,
            "updated_at": 2_000,
        }


@pytest.mark.parametrize(("cents", "currency"), [(9_990, "JPY"), (1_000, "ZZZ"), (50_000, "JPY")])
async def test_an_existing_order_continues_with_any_currency(
    database_url: str, cents: int, currency: str
) -> None:
    await a_database_of_before(database_url, [an_old_order("O-1", cents, currency)])
    async with ServiceUnderTest.running(ORDERS, database_url) as orders:
        await orders.dispatch(
            an_event("order.shipped", order_id="O-1", user_id="ana", revision=1),
            an_event("order.refunded", order_id="O-1", user_id="ana", amount="1"),
            an_event("order.refunded", order_id="O-1", user_id="ana"),
        )
        assert orders.parked() == []
        shipped, _, refunded = orders.pushes("user.ana")
        assert shipped.data["status"] == "shipped"
        assert refunded.data["refunded"] == refunded.data["amount"] == shipped.data["amount"]


async def test_the_prices_of_items_of_before_have_the_decimals_of_the_currency(database_url: str) -> None:
    def items(*prices: str) -> str:
        return json.dumps([{"sku": "bolt", "quantity": 1, "unit_price": price} for price in prices])

    old = {
        "O-1": ("EUR", items("0.10", "5.00")),
        "O-2": ("JPY", items("100.00", "0.00")),
        "O-3": ("KWD", items("1.50")),
        "O-4": ("JPY", items("99.90", "0.10")),
    }
    await a_database_of_before(
        database_url,
        [an_old_order(order_id, 10_000, currency, items=text) for order_id, (currency, text) in old.items()],
    )
    async with ServiceUnderTest.running(ORDERS, database_url) as orders:
        await orders.dispatch(a_command("order.list", by="ana", msg_id="m-1"))
        listed = {order["order_id"]: order["items"] for order in orders.answer("m-1").data["orders"]}
    prices = {order_id: [item["unit_price"] for item in items] for order_id, items in listed.items()}
    assert prices == {
        "O-1": ["0.10", "5.00"],
        "O-2": ["100", "0"],
        "O-3": ["1.500"],
        "O-4": ["99.90", "0.10"],
    }


async def test_an_order_that_was_refunded_before_has_nothing_left_to_refund(database_url: str) -> None:
    await a_database_of_before(
        database_url, [an_old_order("O-1", 500, "EUR", status="refunded", detail='"broken"')]
    )
    async with ServiceUnderTest.running(ORDERS, database_url) as orders:
        await orders.dispatch(an_event("order.refunded", order_id="O-1", user_id="ana", amount="1.00"))
        assert len(orders.parked()) == 1
        await orders.dispatch(a_command("order.get", by="ana", order_id="O-1", msg_id="m-1"))
        shown = orders.answer("m-1").data
        assert (shown["amount"], shown["refunded"], shown["detail"]) == ("5.00", "5.00", "broken")
        assert [(row.number, row.amount, row.decimals) for row in await orders.rows(REFUNDS)] == [(1, 500, 2)]


async def test_existing_streams_and_answers_are_kept(database_url: str) -> None:
    await a_database_of_before(database_url, [an_old_order("O-1", 990, "EUR")])
    engine = create_async_engine(database_url)
    async with engine.begin() as connection:
        await connection.execute(STREAMS.heads.insert(), [{"stream": "order:ana", "head": 4}])
        row = {"sender": "ana", "msg_id": "m-0", "outcome": "{}", "created_at": 1}
        await connection.execute(sa.insert(INBOX), [row])
    await engine.dispose()
    async with ServiceUnderTest.running(ORDERS, database_url) as orders:
        await orders.dispatch(an_event("order.shipped", order_id="O-1", user_id="ana"))
        assert [push.seq for push in orders.pushes("user.ana")] == [5]
        assert ("user:ana", "m-0") in {(row.sender, row.msg_id) for row in await orders.rows(INBOX)}


async def test_a_hundred_thousand_orders_are_migrated_in_one_start_and_none_is_lost(
    database_url: str,
) -> None:
    currencies = ("EUR", "JPY", "KWD", "ZZZ")
    statuses = ("submitted", "paid", "shipped", "refunded")
    await a_database_of_before(
        database_url,
        (
            an_old_order(
                f"O-{number}",
                number * 100,
                currencies[number % 4],
                user_id=f"user-{number % 1_000}",
                status=statuses[number // 4 % 4],
                created_at=number,
                seen_revision=number % 3,
            )
            for number in range(MANY)
        ),
    )
    assert ORDERS.storage is not None
    with capture_logs() as logs:
        async with (
            Database.open(database_url, service="orders", migrations=ORDERS.storage.migrations) as database,
            database.reading() as connection,
        ):
            rows = (await connection.execute(sa.select(TABLE))).all()
            refunds = await connection.scalar(sa.select(sa.func.count()).select_from(REFUNDS))
    scale = {"EUR": 2, "JPY": 0, "KWD": 3, "ZZZ": 2}
    assert {
        (row.order_id, row.user_id, row.amount, row.decimals, row.currency, row.created_at) for row in rows
    } == {
        (f"O-{number}", f"user-{number % 1_000}", number * 10 ** scale[code], scale[code], code, number)
        for number in range(MANY)
        for code in [currencies[number % 4]]
    }
    assert len(rows) == MANY
    assert refunds == MANY / 4
    progress = [line for line in logs if line["event"] == "migrating_orders"]
    assert (progress[-1]["done"], progress[-1]["total"]) == (MANY, MANY)


async def test_a_database_without_orders_is_migrated_without_a_log_line(database_url: str) -> None:
    await a_database_of_before(database_url, [])
    with capture_logs() as logs:
        async with ServiceUnderTest.running(ORDERS, database_url) as orders:
            assert await orders.rows(TABLE) == []
    assert [line for line in logs if line["event"] == "migrating_orders"] == []
