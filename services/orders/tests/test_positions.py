"""An answer names the position that it includes, whatever is committed while it is read."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from towpath.orders.app import ORDERS
from towpath.testkit.dispatching import ServiceUnderTest, a_command, an_event

#: More than any of these reads has statements.
_MANY = 12


@pytest_asyncio.fixture
async def orders(database_url: str) -> AsyncIterator[ServiceUnderTest]:
    async with ServiceUnderTest.running(ORDERS, database_url, replicas=2) as orders:
        yield orders


async def ask(orders: ServiceUnderTest, action: str, **data: Any) -> dict[str, Any]:
    orders.forget()
    await orders.dispatch(a_command(action, msg_id="ask", **data))
    return orders.answer("ask").data


async def test_a_list_includes_every_entry_up_to_its_position(orders: ServiceUnderTest) -> None:
    submitted = 0

    async def submit() -> None:
        nonlocal submitted
        submitted += 1
        await orders.dispatch(a_command("order.submit", order_id=f"O-{submitted}", amount="1"), replica=1)

    await submit()
    for number in range(1, _MANY):
        with orders.before_statement(number, submit) as statements:
            page = await ask(orders, "order.list", limit=200)
        listed = {order["order_id"] for order in page["orders"]}
        assert listed >= {f"O-{seq}" for seq in range(1, page["seq"] + 1)}, f"before {statements[number - 1]}"
        assert submitted - 1 <= page["seq"] <= submitted
        if len(statements) < number:
            break
    assert submitted > 2, "something was committed between two statements"
    assert (await ask(orders, "order.list"))["seq"] == submitted


async def test_an_order_includes_every_entry_up_to_its_position(orders: ServiceUnderTest) -> None:
    await orders.dispatch(a_command("order.submit", order_id="O-1", amount="1"))
    revision = 1

    async def move() -> None:
        nonlocal revision
        revision += 1
        moved = an_event(
            "order.confirmed", order_id="O-1", user_id="alice", revision=revision, detail=revision
        )
        await orders.dispatch(moved, replica=1)

    for number in range(1, _MANY):
        with orders.before_statement(number, move) as statements:
            order = await ask(orders, "order.get", order_id="O-1")
        assert order["revision"] >= order["seq"] >= revision - 1
        if len(statements) < number:
            break
    assert revision > 2, "something was committed between two statements"
    assert (await ask(orders, "order.get", order_id="O-1"))["seq"] == revision


async def test_a_user_without_orders_is_at_the_beginning(orders: ServiceUnderTest) -> None:
    assert await ask(orders, "order.list") == {"orders": [], "seq": 0}


@pytest.mark.parametrize("action", ["order.list", "order.get"])
async def test_the_position_is_that_of_the_own_stream(orders: ServiceUnderTest, action: str) -> None:
    for user, number in [("ben", 1), ("ben", 2), ("alice", 3)]:
        await orders.dispatch(a_command("order.submit", by=user, order_id=f"O-{number}", amount="1"))
    asked = {"order_id": "O-3"} if action == "order.get" else {}
    assert (await ask(orders, action, **asked))["seq"] == 1
