"""An order is known by its owner and its id: two users may use the same id and never learn of each other's."""

import asyncio
import random
from typing import Any, Final

import pytest

from towpath.orders.app import ORDERS as SERVICE
from towpath.orders.handlers import COMMANDS
from towpath.orders.tables import ORDERS
from towpath.testkit.dispatching import Incoming, ServiceUnderTest, a_command, an_event


def a_submit(by: str, **more: Any) -> Incoming:
    return a_command("order.submit", by=by, **{"order_id": "O-1", "amount": "9.00", **more})


def a_get(by: str, order_id: str = "O-1") -> Incoming:
    return a_command("order.get", by=by, order_id=order_id, msg_id=f"get-{by}")


@pytest.mark.parametrize("together", [True, False])
async def test_two_users_may_use_the_same_id(orders: ServiceUnderTest, together: bool) -> None:
    submits = [a_submit(user, amount=amount, msg_id="m") for user, amount in (("ana", "1"), ("ben", "2"))]
    for batch in [submits] if together else [[submit] for submit in submits]:
        await orders.dispatch(*batch)
    assert [answer.action for answer in orders.answers("m")] == ["order.submit.ok"] * 2
    await orders.dispatch(a_get("ana"), a_get("ben"))
    assert [orders.answer(f"get-{user}").data["amount"] for user in ("ana", "ben")] == ["1.00", "2.00"]


async def test_another_users_order_is_not_found(orders: ServiceUnderTest) -> None:
    await orders.dispatch(a_submit("ana"))
    nothing = a_command("order.get", by="eve", order_id="O-2", msg_id="nothing")
    theirs = a_command("order.get", by="eve", order_id="O-1", msg_id="theirs")
    cancel = a_command("order.cancel", by="eve", order_id="O-1", msg_id="cancel")
    await orders.dispatch(nothing, theirs, cancel, a_get("ana"))
    told = [orders.answer(msg_id).data for msg_id in ("nothing", "theirs", "cancel")]
    assert [data["code"] for data in told] == ["not_found"] * 3
    assert told[0]["message"].replace("O-2", "O-1") == told[1]["message"] == told[2]["message"]
    assert orders.answer("get-ana").data["status"] == "submitted"


async def test_the_first_user_of_an_order_id_blocks_no_other_and_gets_none_of_their_pushes(
    orders: ServiceUnderTest,
) -> None:
    await orders.dispatch(a_submit("eve"))
    orders.forget()
    await orders.dispatch(
        an_event("order.created", order_id="O-1", user_id="ana", amount="5", currency="EUR"),
        an_event("order.paid", order_id="O-1", user_id="ana", detail="card 1234"),
    )
    assert orders.parked() == []
    assert [push.data["status"] for push in orders.pushes("user.ana")] == ["submitted", "paid"]
    assert orders.pushes("user.eve") == []
    await orders.dispatch(a_get("eve"), a_get("ana"))
    assert orders.answer("get-eve").data["status"] == "submitted"
    assert "detail" not in orders.answer("get-eve").data
    assert orders.answer("get-ana").data["detail"] == "card 1234"


@pytest.mark.parametrize(
    "event", ["order.created", "order.paid", "order.shipped", "order.cancelled", "order.refunded"]
)
async def test_an_event_without_a_user_is_parked_even_if_the_id_is_unique(
    orders: ServiceUnderTest, event: str
) -> None:
    await orders.dispatch(a_submit("ana"))
    orders.forget()
    await orders.dispatch(an_event(event, order_id="O-1"))
    (reason,) = orders.parked()
    assert "user_id" in reason
    assert orders.pushes() == []
    assert [row.status for row in await orders.rows(ORDERS)] == ["submitted"]


@pytest.mark.parametrize("user_id", ["", None, 7, "x" * 129, ["ana"], "a\nb", "ü" * 34])
async def test_an_event_of_an_invalid_user_is_parked(orders: ServiceUnderTest, user_id: object) -> None:
    await orders.dispatch(an_event("order.paid", order_id="O-1", user_id=user_id))
    (reason,) = orders.parked()
    assert "user_id" in reason
    assert await orders.rows(ORDERS) == []


async def test_cancelling_ones_own_leaves_the_others(orders: ServiceUnderTest) -> None:
    await orders.dispatch(a_submit("ana"), a_submit("ben"))
    await orders.dispatch(a_command("order.cancel", by="ana", order_id="O-1"))
    assert {row.user_id: row.status for row in await orders.rows(ORDERS)} == {
        "ana": "cancelled",
        "ben": "submitted",
    }


async def test_refunds_and_revisions_of_one_user_do_not_count_for_another(orders: ServiceUnderTest) -> None:
    await orders.dispatch(a_submit("ana"), a_submit("ben"))
    await orders.dispatch(
        an_event("order.refunded", order_id="O-1", user_id="ana", revision=9),
        an_event("order.refunded", order_id="O-1", user_id="ben", revision=9, amount="1.00"),
        an_event("order.refunded", order_id="O-1", user_id="ben", revision=8, amount="2.00"),
    )
    await orders.dispatch(a_get("ana"), a_get("ben"))
    assert orders.parked() == []
    assert [orders.answer(f"get-{user}").data["refunded"] for user in ("ana", "ben")] == ["9.00", "3.00"]


async def test_pages_of_the_list_contain_each_order_of_the_user_once(
    orders: ServiceUnderTest,
) -> None:
    ids = [f"O-{number}" for number in range(12)]
    for user in ("ana", "ben", "cyd"):
        await orders.dispatch(*[a_submit(user, order_id=order_id) for order_id in ids])
    assert await listed(orders, "ben") == sorted(ids)


async def test_pages_hold_each_order_once_even_if_its_time_of_creation_comes_in_between(
    orders: ServiceUnderTest,
) -> None:
    ids = [f"O-{number}" for number in range(9)]
    for order_id in ids:
        await orders.dispatch(an_event("order.paid", order_id=order_id, user_id="ben"))
    created = [an_event("order.created", order_id=order_id, user_id="ben", amount="5") for order_id in ids]
    assert await listed(orders, "ben", between=created) == sorted(ids)


async def listed(orders: ServiceUnderTest, user: str, *, between: list[Incoming] | None = None) -> list[str]:
    """The ids of all pages of a user's list, sorted; one event of ``between`` comes before each page."""
    found: list[str] = []
    cursor: dict[str, str] = {}
    for page in range(20):
        if between:
            await orders.dispatch(between.pop())
        await orders.dispatch(a_command("order.list", by=user, limit=2, msg_id=f"page-{page}", **cursor))
        answer = orders.answer(f"page-{page}").data
        found += [order["order_id"] for order in answer["orders"]]
        if "cursor" not in answer:
            return sorted(found)
        cursor = {"cursor": answer["cursor"]}
    raise AssertionError("the list has no end")


async def test_an_order_that_two_replicas_receive_at_once_is_one_order(database_url: str) -> None:
    async with ServiceUnderTest.running(SERVICE, database_url, replicas=2) as orders:
        for number in range(10):
            order_id = f"O-{number}"
            paid = an_event("order.paid", order_id=order_id, user_id="ana", amount="9.00", currency="USD")
            submit = a_submit("ana", order_id=order_id, msg_id=f"m-{number}")
            await asyncio.gather(orders.dispatch(submit), orders.dispatch(paid, replica=1))
        rows = await orders.rows(ORDERS)
        assert {(row.order_id, row.status, row.amount) for row in rows} == {
            (f"O-{number}", "paid", 900) for number in range(10)
        }
        codes = [orders.answer(f"m-{number}").data.get("code") for number in range(10)]
        assert set(codes) <= {None, "conflict"}
        assert orders.parked() == orders.retried() == []


@pytest.mark.parametrize("seed", range(5))
async def test_a_user_sees_the_same_orders_beside_users_of_the_same_ids(
    orders: ServiceUnderTest, seed: int
) -> None:
    chance = random.Random(seed)
    story = [
        (number, chance.choice(["ana", "ben"]), chance.choice(["O-1", "O-2"]), chance.choice(list(STEPS)))
        for number in range(40)
    ]
    for number, user, order_id, step in story:
        await orders.dispatch(a_step(number, user, order_id, step))
    for number, user, order_id, step in story:
        await orders.dispatch(a_step(number, f"{user}-alone", order_id, step))
    for user in ("ana", "ben"):
        numbers = [number for number, who, _, _ in story if who == user]
        assert seen_by(orders, user, numbers) == seen_by(orders, f"{user}-alone", numbers)


STEPS: Final[dict[str, dict[str, Any]]] = {
    "order.submit": {"amount": "9.00", "currency": "EUR"},
    "order.cancel": {},
    "order.get": {},
    "order.created": {"amount": "7.00", "currency": "USD"},
    "order.paid": {"revision": 3, "detail": "by card"},
    "order.shipped": {"revision": 2},
    "order.refunded": {"amount": "5.00"},
}


def a_step(number: int, user: str, order_id: str, step: str) -> Incoming:
    data = {"order_id": order_id, **STEPS[step]}
    if step in COMMANDS:
        return a_command(step, by=user, msg_id=f"{user}-{number}", **data)
    return an_event(step, user_id=user, **data)


def seen_by(orders: ServiceUnderTest, user: str, numbers: list[int]) -> list[tuple[str, dict[str, Any]]]:
    """The pushes and answers of a user, without what differs from run to run."""
    told = orders.pushes(f"user.{user}") + [
        answer for number in numbers for answer in orders.answers(f"{user}-{number}")
    ]
    clock = ("updated_at", "created_at", "trace_id")
    return [
        (one.action, {name: value for name, value in one.data.items() if name not in clock}) for one in told
    ]
