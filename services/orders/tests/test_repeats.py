"""Published again: an order that no service decides, and a cancel, for services whose queue was missing."""

from collections.abc import AsyncIterator

import pytest_asyncio

from towpath.orders.app import configured
from towpath.orders.repeats import STEP, Repeats
from towpath.orders.settings import OrdersSettings
from towpath.protocol.envelope import Envelope, now_ms
from towpath.testkit.dispatching import Incoming, ServiceUnderTest, a_command, an_event

MINUTE = 60
ITEMS = [{"sku": "anvil", "quantity": 2, "unit_price": "1.00"}]


def submitted(order_id: str = "O-1", user: str = "ana") -> Incoming:
    return a_command("order.submit", by=user, order_id=order_id, items=ITEMS)


def cancelled(order_id: str = "O-1") -> Incoming:
    return a_command("order.cancel", by="ana", order_id=order_id)


@pytest_asyncio.fixture
async def orders(database_url: str) -> AsyncIterator[ServiceUnderTest]:
    settings = OrdersSettings(amqp_url="memory://", database_url=database_url)
    async with ServiceUnderTest.running(configured(settings), database_url, replicas=2) as orders:
        yield orders


async def after(seconds: float, orders: ServiceUnderTest, *, replica: int = 0) -> list[Envelope]:
    """The events of a round, as if so many seconds had passed."""
    orders.forget()
    repeats = Repeats(clock=lambda: now_ms() + int(seconds * 1000))
    while await orders.turn(repeats.round, replica=replica):
        pass
    return orders.events()


async def test_an_undecided_order_is_published_again_ever_more_rarely_for_a_day(
    orders: ServiceUnderTest,
) -> None:
    await orders.dispatch(submitted())
    created = orders.events()[0]
    assert await after(MINUTE - 5, orders) == []
    (event,) = await after(MINUTE + 1, orders)
    assert (event.action, event.data) == ("order.undecided", created.data)
    assert event.msg_id != created.msg_id, "the decision is repeated, also where the first event was heard"
    assert await after(3 * MINUTE, orders) == []
    found = [bool(await after(60 * minutes, orders)) for minutes in (5, 10, 30, 130, 600, 7 * 1440)]
    assert found == [True, False, True, True, True, False], "a day is over"


async def test_an_order_that_is_decided_or_ended_is_not_published_again(orders: ServiceUnderTest) -> None:
    ends = ("confirmed", "rejected", "paid", "shipped", "refunded")
    await orders.dispatch(*(submitted(f"O-{end}") for end in ends))
    await orders.dispatch(*(an_event(f"order.{end}", order_id=f"O-{end}", user_id="ana") for end in ends))
    assert await after(MINUTE + 1, orders) == []


async def test_an_order_without_items_and_one_of_another_backend_are_left_alone(
    orders: ServiceUnderTest,
) -> None:
    await orders.dispatch(
        a_command("order.submit", by="ana", order_id="O-1", amount="9.00"),
        an_event("order.created", order_id="O-2", user_id="ana", amount="9.00"),
    )
    assert await after(MINUTE + 1, orders) == []


async def test_a_cancel_is_published_once_more_as_the_same_event(orders: ServiceUnderTest) -> None:
    await orders.dispatch(submitted())
    orders.forget()
    await orders.dispatch(cancelled())
    (first,) = orders.events()
    (again,) = await after(MINUTE + 1, orders)
    assert (again.action, again.msg_id, again.data) == (first.action, first.msg_id, first.data)
    assert await after(7 * 86_400, orders) == []


async def test_a_cancelled_order_that_has_changed_since_is_not_published_again(
    orders: ServiceUnderTest,
) -> None:
    # A repeated msg_id with other data would be a conflict for those who have heard it.
    await orders.dispatch(submitted())
    await orders.dispatch(cancelled())
    await orders.dispatch(an_event("order.refunded", order_id="O-1", user_id="ana"))
    assert await after(MINUTE + 1, orders) == []


async def test_many_are_published_in_steps_and_replicas_divide_them(orders: ServiceUnderTest) -> None:
    names = [f"O-{number}" for number in range(STEP + 3)]
    await orders.dispatch(*(submitted(name) for name in names))
    repeats = Repeats(clock=lambda: now_ms() + 61_000)
    orders.forget()
    assert await orders.turn(repeats.round, replica=0), "there is more"
    assert len(orders.events()) == STEP
    assert not await orders.turn(repeats.round, replica=1)
    assert sorted(event.data["order_id"] for event in orders.events()) == sorted(names)
