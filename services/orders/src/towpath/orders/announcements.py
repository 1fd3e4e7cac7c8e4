"""The events that orders publishes about an order. No I/O."""

import hashlib

from towpath.orders.domain import Order
from towpath.orders.repository import state
from towpath.protocol.envelope import Envelope, make
from towpath.protocol.orders import Item, OrderAnnounced


def announced(
    name: str, order: Order, items: list[Item] | None = None, *, msg_id: str | None = None
) -> Envelope:
    """An event about the present state of an order."""
    data = OrderAnnounced(user_id=order.user_id, items=items, **state(order).model_dump())
    return make(name, data.model_dump(mode="json", exclude_none=True), msg_id=msg_id)


def cancelled(order: Order) -> Envelope:
    """``order.cancelled``: the same event however often it is made, since an order is cancelled once."""
    whose = f"{len(order.user_id)}:{order.user_id}:{order.order_id}".encode("utf-8", "surrogatepass")
    digest = hashlib.blake2b(whose, digest_size=16).hexdigest()
    return announced("order.cancelled", order, msg_id=f"cancelled-{digest}")
