"""A user cannot learn whether another user's order exists: answers about it and about none are equal."""

from typing import Any, Final

import pytest

from towpath.orders.app import ORDERS
from towpath.testkit.dispatching import ServiceUnderTest, a_command, an_event

THEIRS: Final = "O-1"
NONE: Final = "O-2"
#: Actions that name an order, and their data beside its id.
NAMING_AN_ORDER: Final[dict[str, dict[str, Any]]] = {
    "order.get": {},
    "order.cancel": {},
    "order.submit": {"amount": "5.00"},
}
NAMING_NONE: Final = frozenset({"order.list", "order.resume"})


def test_every_action_is_listed_here() -> None:
    assert ORDERS.commands.keys() == NAMING_AN_ORDER.keys() | NAMING_NONE


@pytest.mark.parametrize("action", NAMING_AN_ORDER)
@pytest.mark.parametrize("status", ["submitted", "shipped"])
async def test_an_answer_about_an_order_of_another_equals_one_about_none(
    orders: ServiceUnderTest, action: str, status: str
) -> None:
    await orders.dispatch(a_command("order.submit", by="ana", order_id=THEIRS, amount="9.00"))
    if status == "shipped":
        await orders.dispatch(an_event("order.shipped", order_id=THEIRS, user_id="ana"))
    for order_id in (THEIRS, NONE):
        await orders.dispatch(
            a_command(action, by="eve", msg_id=order_id, order_id=order_id, **NAMING_AN_ORDER[action])
        )
    answers = [orders.answer(order_id) for order_id in (THEIRS, NONE)]
    told = [{name: text for name, text in answer.data.items() if name != "trace_id"} for answer in answers]
    assert answers[0].action == answers[1].action
    assert f"{told[0]}".replace(THEIRS, NONE) == f"{told[1]}"


async def test_a_list_and_a_resume_show_nothing_of_another(orders: ServiceUnderTest) -> None:
    async def seen() -> list[str]:
        orders.forget()
        await orders.dispatch(
            a_command("order.list", by="eve", msg_id="list"),
            a_command("order.resume", by="eve", msg_id="resume", positions={"order:ana": 0, "order:eve": 0}),
        )
        return [f"{orders.answer(msg_id).data}" for msg_id in ("list", "resume")]

    before = await seen()
    await orders.dispatch(a_command("order.submit", by="ana", order_id=THEIRS, amount="9.00"))
    assert await seen() == before
