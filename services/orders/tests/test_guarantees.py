"""The delivery guarantees, for the handlers of orders."""

import pytest

from towpath.orders.app import ORDERS
from towpath.testkit import Example, Guarantee, a_command, an_event, guarantees

SUBMIT = a_command("order.submit", by="ana", order_id="O-1", amount="9.00")


@pytest.mark.parametrize(
    "guarantee",
    guarantees(
        ORDERS,
        SUBMIT,
        Example(message=a_command("order.cancel", by="ana", order_id="O-1"), after=[SUBMIT]),
        Example(message=an_event("order.paid", user_id="ana", order_id="O-1"), after=[SUBMIT]),
        stories=[
            [
                a_command("order.submit", by="ana", order_id=order, amount="9.00"),
                an_event("order.confirmed", user_id="ana", order_id=order),
                an_event("order.paid", user_id="ana", order_id=order),
            ]
            for order in ("O-1", "O-2")
        ],
        complete=False,  # the other events are handled by the same function
    ),
    ids=str,
)
async def test_orders_keep(guarantee: Guarantee) -> None:
    await guarantee.holds()
