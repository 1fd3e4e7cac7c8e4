"""Refunds are entries with their own amounts, which add up to at most the order's amount."""

import asyncio
import random
from typing import Any

import pytest

from towpath.orders.app import ORDERS as ORDERS_SERVICE
from towpath.orders.tables import ORDERS, REFUNDS
from towpath.testkit.dispatching import Incoming, ServiceUnderTest, a_command, an_event


def a_refund(**data: Any) -> Incoming:
    return an_event("order.refunded", order_id="O-1", user_id="ana", **data)


async def an_order(orders: ServiceUnderTest, amount: str = "100.00", currency: str = "EUR") -> None:
    await orders.dispatch(
        a_command("order.submit", by="ana", order_id="O-1", amount=amount, currency=currency)
    )
    orders.forget()


async def shown(orders: ServiceUnderTest) -> dict[str, Any]:
    await orders.dispatch(a_command("order.get", by="ana", order_id="O-1"))
    await orders.dispatch(a_command("order.get", by="ana", order_id="O-1", msg_id="get"))
    return dict(orders.answers("get")[-1].data)


async def test_a_refund_does_not_change_the_orders_amount(orders: ServiceUnderTest) -> None:
    await an_order(orders)
    await orders.dispatch(a_refund(amount="5.00"))
    (push,) = orders.pushes("user.ana")
    order = await shown(orders)
    for said in (push.data, order):
        assert (said["status"], said["amount"], said["refunded"]) == ("refunded", "100.00", "5.00")


async def test_several_refunds_add_up(orders: ServiceUnderTest) -> None:
    await an_order(orders)
    for amount in ("5.00", "7.5", 20):
        await orders.dispatch(a_refund(amount=amount))
    assert [push.data["refunded"] for push in orders.pushes("user.ana")] == ["5.00", "12.50", "32.50"]
    await orders.dispatch(a_refund())
    assert (await shown(orders))["refunded"] == "100.00"
    assert [(row.number, row.amount, row.decimals) for row in await orders.rows(REFUNDS)] == [
        (1, 500, 2),
        (2, 750, 2),
        (3, 2000, 2),
        (4, 6750, 2),
    ]


async def test_a_refund_without_an_amount_is_the_remaining_amount(orders: ServiceUnderTest) -> None:
    await an_order(orders, "500", "JPY")
    await orders.dispatch(a_refund(amount="120"), a_refund())
    assert [push.data["refunded"] for push in orders.pushes()] == ["120", "500"]


@pytest.mark.parametrize("together", [True, False])
async def test_a_refund_above_the_remaining_amount_is_parked_and_changes_nothing(
    orders: ServiceUnderTest, together: bool
) -> None:
    await an_order(orders)
    refunds = [
        a_refund(amount="60.00"),
        a_refund(amount="40.01", detail="too much"),
        a_refund(amount="40.00"),
    ]
    for batch in [refunds] if together else [[refund] for refund in refunds]:
        await orders.dispatch(*batch)
    (reason,) = orders.parked()
    assert reason.startswith("TooMuchRefunded")
    assert [push.data["refunded"] for push in orders.pushes()] == ["60.00", "100.00"]
    assert len(await orders.rows(REFUNDS)) == 2


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ({"amount": "5.00", "currency": "USD"}, "CurrencyDiffers"),
        ({"amount": "1.234"}, "WrongDecimals"),
        ({"amount": "1.234", "currency": "EUR"}, "InvalidData"),
        ({"amount": "5.00", "currency": "ZZZ"}, "InvalidData"),
        ({"amount": "-5.00"}, "InvalidData"),
        ({"amount": "0.00"}, "NothingRefunded"),
        ({"amount": "100.01"}, "TooMuchRefunded"),
    ],
)
async def test_an_invalid_refund_is_parked_with_its_reason(
    orders: ServiceUnderTest, data: dict[str, str], reason: str
) -> None:
    await an_order(orders)
    await orders.dispatch(a_refund(**data))
    (parked,) = orders.parked()
    assert parked.startswith(reason)
    assert orders.pushes() == []
    assert (await orders.rows(REFUNDS)) == []
    assert (await shown(orders))["status"] == "submitted"


async def test_a_refund_is_booked_once_by_its_sender_and_msg_id(orders: ServiceUnderTest) -> None:
    await an_order(orders)
    refund = a_refund(amount="5.00", msg_id="r-1")
    await orders.dispatch(refund, refund)
    await orders.dispatch(refund)
    await orders.dispatch(refund, redelivered=True)
    assert (await shown(orders))["refunded"] == "5.00"
    await orders.dispatch(a_refund(amount="5.00", msg_id="r-1", sender="shop"), a_refund(amount="5.00"))
    assert (await shown(orders))["refunded"] == "15.00"


@pytest.mark.parametrize("together", [True, False])
async def test_the_same_revision_of_the_same_sender_is_the_same_refund(
    orders: ServiceUnderTest, together: bool
) -> None:
    await an_order(orders)
    refunds = [
        a_refund(amount="5.00", revision=3),
        a_refund(amount="5.00", revision=3),
        a_refund(amount="5.00", revision=3, sender="shop"),
    ]
    for batch in [refunds] if together else [[refund] for refund in refunds]:
        await orders.dispatch(*batch)
    assert (await shown(orders))["refunded"] == "10.00"
    assert orders.parked() == []


async def test_a_late_refund_counts(orders: ServiceUnderTest) -> None:
    await an_order(orders)
    await orders.dispatch(a_refund(amount="5.00", revision=8))
    await orders.dispatch(a_refund(amount="3.00", revision=7))
    assert (await shown(orders))["refunded"] == "8.00"


async def test_the_remaining_amount_is_refunded_once_the_amount_is_known(orders: ServiceUnderTest) -> None:
    await orders.dispatch(a_refund(amount="5.00", currency="EUR"), a_refund())
    order = await shown(orders)
    assert (order["status"], order["refunded"], order.get("amount")) == ("refunded", "5.00", None)
    await orders.dispatch(a_refund(amount="1.00"))
    assert [reason.partition(":")[0] for reason in orders.parked()] == ["TooMuchRefunded"]
    await orders.dispatch(
        an_event("order.created", order_id="O-1", user_id="ana", amount="20", currency="EUR")
    )
    order = await shown(orders)
    assert (order["status"], order["refunded"], order["amount"]) == ("refunded", "20.00", "20.00")
    assert [row.amount for row in await orders.rows(REFUNDS)] == [500, 1500]


async def test_a_refund_of_a_fully_refunded_order_changes_nothing(orders: ServiceUnderTest) -> None:
    await an_order(orders)
    await orders.dispatch(a_refund())
    orders.forget()
    await orders.dispatch(a_refund(), a_refund(sender="shop"))
    assert orders.heard == []


@pytest.mark.parametrize("status", ["rejected", "cancelled", "delivered"])
async def test_an_order_is_refunded_from_any_state(orders: ServiceUnderTest, status: str) -> None:
    await an_order(orders)
    await orders.dispatch(an_event(f"order.{status}", order_id="O-1", user_id="ana"), a_refund(amount="1.00"))
    order = await shown(orders)
    assert (order["status"], order["refunded"]) == ("refunded", "1.00")


async def test_lists_show_refunds_and_leave_them_out_where_none_exist(orders: ServiceUnderTest) -> None:
    await an_order(orders)
    await orders.dispatch(a_command("order.submit", by="ana", order_id="O-2", amount="1"))
    await orders.dispatch(a_refund(amount="5.00"))
    await orders.dispatch(a_command("order.list", by="ana", msg_id="list"))
    listed = {order["order_id"]: order.get("refunded") for order in orders.answer("list").data["orders"]}
    assert listed == {"O-1": "5.00", "O-2": None}


@pytest.mark.parametrize("seed", range(4))
async def test_amounts_add_up_for_any_refunds(orders: ServiceUnderTest, seed: int) -> None:
    chance = random.Random(seed)
    await an_order(orders)
    for _ in range(12):
        refunds = [
            a_refund(amount=f"{chance.randrange(1, 4_000) / 100:.2f}", revision=chance.choice([None, 1, 2]))
            for _ in range(chance.randrange(1, 4))
        ]
        await orders.dispatch(*refunds)
    (order,), entries = await orders.rows(ORDERS), await orders.rows(REFUNDS)
    assert sum(entry.amount for entry in entries) == order.refunded <= order.amount == 10_000
    assert sorted(entry.number for entry in entries) == list(range(1, order.refund_count + 1))


async def test_refunds_that_two_replicas_book_at_once_never_pass_the_amount(database_url: str) -> None:
    async with ServiceUnderTest.running(ORDERS_SERVICE, database_url, replicas=2) as orders:
        await an_order(orders)
        for _ in range(10):
            await asyncio.gather(
                *(orders.dispatch(a_refund(amount="9.00"), replica=replica) for replica in (0, 1))
            )
        (order,), entries = await orders.rows(ORDERS), await orders.rows(REFUNDS)
        assert sum(entry.amount for entry in entries) == order.refunded == 9_900
        assert len(orders.parked()) == 9
        assert [push.seq for push in orders.pushes("user.ana")] == list(range(2, 13))
