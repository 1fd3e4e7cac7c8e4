"""Statements are built once: SQLAlchemy takes longer to build one than to run it, and at low load a unit of work has
one request.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import Engine

from towpath.chat.app import configured as chat
from towpath.chat.settings import ChatSettings
from towpath.inventory.app import configured as inventory
from towpath.inventory.settings import InventorySettings
from towpath.notifications.app import configured as notifications
from towpath.notifications.settings import NotificationsSettings
from towpath.orders.app import configured as orders
from towpath.orders.settings import OrdersSettings
from towpath.servicekit import Service
from towpath.testkit.eventually import eventually
from towpath.testkit.stack import Stack

CHAT = chat(ChatSettings(amqp_url="memory://", presence_grace=0.1))
ORDERS = orders(OrdersSettings(amqp_url="memory://"))
INVENTORY = inventory(InventorySettings(amqp_url="memory://"))
NOTIFICATIONS = notifications(NotificationsSettings(amqp_url="memory://"))


@contextmanager
def executed() -> Iterator[list[Any]]:
    """The statements that SQLAlchemy runs meanwhile, as the objects that they are."""
    found: list[Any] = []

    def note(_: object, statement: Any, *__: object) -> None:
        # Texts are composed of checked integers, and cost less than a statement of objects (chat's `reading`).
        if not isinstance(statement, sa.TextClause):
            found.append(statement)

    event.listen(Engine, "before_execute", note)
    try:
        yield found
    finally:
        event.remove(Engine, "before_execute", note)


def built_again(statements: list[Any]) -> set[str]:
    """Those that are one object the first time, and another one later."""
    assert statements
    first: dict[str, Any] = {}
    return {text for one in statements if first.setdefault(text := str(one), one) is not one}


@pytest.mark.parametrize(
    ("service", "action", "data"),
    [
        (CHAT, "chat.send", {"room": "lock", "text": "hello"}),
        (CHAT, "chat.read", {"room": "lock", "seq": 1}),
        (CHAT, "chat.typing", {"room": "lock"}),
        (CHAT, "chat.join", {"room": "lock"}),
        (CHAT, "chat.members", {"room": "lock"}),
        (CHAT, "chat.rooms", {}),
        (CHAT, "chat.blocked", {}),
        (CHAT, "chat.block", {"user": "zoe"}),
        (CHAT, "chat.history", {"room": "lock"}),
        (CHAT, "chat.edit", {"room": "lock", "seq": 2, "text": "changed"}),
        (CHAT, "chat.resume", {"streams": {"chat:lock": 0}}),
        (CHAT, "chat.direct", {"user": "ben", "text": "hello"}),
        (ORDERS, "order.submit", {"amount": "9.90"}),
        (ORDERS, "order.list", {"limit": 5}),
        (INVENTORY, "inventory.list", {}),
        (INVENTORY, "inventory.watch", {"sku": "rope"}),
        (ORDERS, "order.get", {"order_id": "o-1"}),
        (ORDERS, "order.resume", {"streams": {"orders:ana": 0}}),
        (NOTIFICATIONS, "notification.list", {}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_a_request_that_is_sent_again_builds_no_statement(
    service: Service[Any], action: str, data: dict[str, Any]
) -> None:
    async with Stack.running(service) as stack, stack.connect("ana") as ana:
        if service is CHAT:
            await ana.request("chat.join", {"room": "lock"})
            await ana.request("chat.send", {"room": "lock", "text": "first"})
        with executed() as statements:
            for _ in range(3):
                await ana.request(action, data)
            await stack.settled()
        assert built_again(statements) == set()


async def test_timers_without_work_build_no_statement() -> None:
    async with Stack.running(CHAT, ORDERS) as stack:
        await stack.settled()
        with executed() as statements:
            await eventually(lambda: len(statements) >= 60, timeout=30)
        assert built_again(statements) == set()
