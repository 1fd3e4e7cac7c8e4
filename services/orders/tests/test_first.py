from towpath.orders.app import ORDERS
from towpath.testkit.dispatching import ServiceUnderTest, a_command, an_event
from towpath.testkit.schema import schema_differences


async def test_x(database_url):
    async with ServiceUnderTest.running(ORDERS, database_url) as orders:
        await orders.dispatch(
            a_command("order.submit", amount="9.00", msg_id="m-1"),
            an_event("order.created", order_id="X", user_id="bob"),
        )
        print(orders.answer("m-1"))
        for h in orders.heard:
            print(h)
        print(orders.groups())
        await orders.dispatch(a_command("order.submit", amount="9.00", msg_id="m-1"), redelivered=True)
        for h in orders.heard:
            print(h)


async def test_y(database_url):
    assert await schema_differences(ORDERS.storage, database_url) == []
