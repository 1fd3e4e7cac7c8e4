"""A subscription knows which of its deliveries are unsettled; on each implementation of the broker."""

import asyncio

from towpath.servicekit.broker.interface import Broker, BrokerState
from towpath.testkit.eventually import eventually

from .contract import GRACE, PATIENCE, WORK, BrokerUnderTest, bound, is_in, publish_all


async def test_settled_waits_for_the_deliveries_that_were_handed_out(broker: Broker) -> None:
    await broker.declare(bound(WORK))
    async with asyncio.timeout(PATIENCE), broker.subscribe(WORK, prefetch=10) as subscription:
        await subscription.settled()
        await publish_all(broker, WORK, "one", "two", "three")
        first = await anext(subscription)
        second = await anext(subscription)
        waiting = asyncio.create_task(subscription.settled())
        first.ack()
        first.ack()  # counts once
        await asyncio.sleep(GRACE)
        assert (subscription.unsettled, waiting.done()) == (1, False)
        second.requeue()
        await waiting
        assert subscription.unsettled == 0, "a delivery that was not taken is not waited for"


async def test_settled_waits_for_stale_deliveries_too(server: BrokerUnderTest, broker: Broker) -> None:
    await broker.declare(bound(WORK))
    async with asyncio.timeout(PATIENCE), broker.subscribe(WORK, prefetch=10) as subscription:
        await publish_all(broker, WORK, "one")
        stale = await anext(subscription)
        await server.stop()
        await eventually(lambda: is_in(broker, BrokerState.CONNECTING))
        await server.start()
        again = await anext(subscription)
        again.ack()
        assert subscription.unsettled == 1
        waiting = asyncio.create_task(subscription.settled())
        await asyncio.sleep(GRACE)
        assert not waiting.done(), "its holder still handles it"
        stale.ack()
        await waiting
