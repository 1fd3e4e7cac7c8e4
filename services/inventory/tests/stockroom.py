"""Builders of what the inventory gets: stock that is set, and events of orders."""

from typing import Any, Final

from towpath.testkit.dispatching import Incoming, ServiceUnderTest, a_command, an_event

#: The scope of a token that may set stock.
WRITER: Final = "inventory inventory:write"


def a_set(sku: str, on_hand: int, **more: Any) -> Incoming:
    """``inventory.set`` by a user with the right to do it."""
    return a_command("inventory.set", sku=sku, on_hand=on_hand, **({"by": "clerk", "scope": WRITER} | more))


def created(order_id: str, user: str = "ana", /, **quantities: int) -> Incoming:
    """``order.created`` of the orders service, with so many of each item."""
    items = [{"sku": sku, "quantity": quantity, "unit_price": "1.00"} for sku, quantity in quantities.items()]
    return moved("created", order_id, user, items=items)


def undecided(order_id: str, user: str = "ana", /, **quantities: int) -> Incoming:
    """``order.undecided`` of the orders service."""
    items = [{"sku": sku, "quantity": quantity, "unit_price": "1.00"} for sku, quantity in quantities.items()]
    return moved("undecided", order_id, user, items=items or None)


def moved(event: str, order_id: str, user: str = "ana", **more: Any) -> Incoming:
    """Another event of an order, from the orders service."""
    return an_event(f"order.{event}", service="orders", order_id=order_id, user_id=user, **more)


async def stock(inventory: ServiceUnderTest, sku: str) -> tuple[int, int, int]:
    """How many are on hand, reserved and available, as a user is answered."""
    msg_id = f"stock-{len(inventory.heard)}"
    await inventory.dispatch(a_command("inventory.get", sku=sku, msg_id=msg_id))
    data = inventory.answer(msg_id).data
    return data["on_hand"], data["reserved"], data["available"]
