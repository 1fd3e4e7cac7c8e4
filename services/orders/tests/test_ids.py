"""Ids belong to their sender, and mean one request."""

from typing import Any

import pytest

from towpath.testkit.dispatching import Incoming, ServiceUnderTest, a_command, an_event


def paid(order_id: str, **more: Any) -> Incoming:
    return an_event("order.paid", order_id=order_id, **{"user_id": "ana", "msg_id": "m-1", **more})


@pytest.mark.parametrize("user", ["event:billing", "backend:billing", "service:billing", "billing"])
async def test_a_user_named_like_a_backend_uses_none_of_its_ids(orders: ServiceUnderTest, user: str) -> None:
    await orders.dispatch(
        a_command("order.submit", by=user, msg_id="m-1", order_id="O-1", amount="5"),
        paid("O-2", sender="billing"),
    )
    assert orders.answer("m-1").action == "order.submit.ok"
    assert [push.data["order_id"] for push in orders.pushes("user.ana")] == ["O-2"]


async def test_equal_ids_of_two_backends_are_two_events(orders: ServiceUnderTest) -> None:
    await orders.dispatch(
        paid("O-1", sender="billing"), paid("O-2", sender="shop"), paid("O-3", service="billing")
    )
    assert [push.data["order_id"] for push in orders.pushes("user.ana")] == ["O-1", "O-2", "O-3"]


async def test_without_a_name_two_events_about_two_orders_are_two_events(orders: ServiceUnderTest) -> None:
    await orders.dispatch(
        paid("O-1", sender=None), paid("O-2", sender=None), paid("O-1", sender=None, user_id="ben")
    )
    assert len(orders.pushes("user.ana")) == 2
    assert len(orders.pushes("user.ben")) == 1
    await orders.dispatch(paid("O-1", sender=None))
    assert len(orders.pushes("user.ana")) == 2, "a repetition"


async def test_events_of_a_backend_named_like_the_service_are_consumed(
    orders: ServiceUnderTest,
) -> None:
    await orders.dispatch(paid("O-1", sender="orders"))
    assert [push.data["status"] for push in orders.pushes("user.ana")] == ["paid"]


@pytest.mark.parametrize(
    "other",
    [
        a_command("order.submit", by="ana", msg_id="m-1", order_id="O-1", amount="6"),
        a_command("order.submit", by="ana", msg_id="m-1", order_id="O-2", amount="5"),
        a_command("order.cancel", by="ana", msg_id="m-1", order_id="O-1"),
    ],
    ids=["another amount", "another order", "another action"],
)
@pytest.mark.parametrize("together", [True, False])
async def test_an_id_with_another_request_is_a_conflict(
    orders: ServiceUnderTest, other: Incoming, together: bool
) -> None:
    first = a_command("order.submit", by="ana", msg_id="m-1", order_id="O-1", amount="5")
    for batch in ([first, other],) if together else ([first], [other]):
        await orders.dispatch(*batch)
    answers = [(answer.action, answer.data.get("code")) for answer in orders.answers("m-1")]
    assert answers == [("order.submit.ok", None), ("error", "conflict")]
    assert [push.data["status"] for push in orders.pushes("user.ana")] == ["submitted"]
    await orders.dispatch(first)
    assert orders.answers("m-1")[-1].action == "order.submit.ok", "the first one's id still answers for it"


async def test_an_event_under_the_id_of_another_is_parked(orders: ServiceUnderTest) -> None:
    await orders.dispatch(paid("O-1"), paid("O-2"))
    assert [push.data["order_id"] for push in orders.pushes("user.ana")] == ["O-1"]
    (parked,) = orders.parked()
    assert parked.startswith("Conflict")


async def test_a_request_has_one_fingerprint_for_any_order_of_its_fields(orders: ServiceUnderTest) -> None:
    data = {"order_id": "O-1", "amount": "5", "currency": "EUR"}
    await orders.dispatch(
        a_command("order.submit", by="ana", msg_id="m-1", **data),
        a_command("order.submit", by="ana", msg_id="m-1", **dict(reversed(data.items()))),
    )
    assert [answer.action for answer in orders.answers("m-1")] == ["order.submit.ok"] * 2
