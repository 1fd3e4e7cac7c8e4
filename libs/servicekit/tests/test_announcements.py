"""Announcements: what gateways learn of a service."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Final

import pytest
from pydantic import BaseModel

from towpath.protocol.envelope import Envelope, parse
from towpath.protocol.routes import EVENTS, SERVICE_ALIVE
from towpath.servicekit.broker.interface import Binding, Broker, Exchange, Inbox, Subscription, Topology
from towpath.servicekit.broker.memory import MemoryHub
from towpath.servicekit.handling.outcome import Outcome
from towpath.servicekit.handling.requests import Handler
from towpath.servicekit.messaging.announcements import Announcer, announcement
from towpath.servicekit.runtime.loops import keep_running

PATIENCE: Final = 10.0
SELDOM: Final = 3600.0


class Nothing(BaseModel):
    pass


def do_nothing(_: Nothing, __: object, ___: None) -> Outcome:
    return Outcome(answer={})


COMMANDS: Final = {
    "shelf.put": Handler(Nothing, do_nothing),
    "shelf.list": Handler(Nothing, do_nothing, changes=False, cost=20),
}


@pytest.fixture
async def gateway(broker: Broker) -> AsyncIterator[Subscription]:
    await broker.declare(Topology(exchanges=[Exchange(EVENTS)]))
    inbox = Inbox(name="gateway", bindings=[Binding(EVENTS, SERVICE_ALIVE)])
    async with broker.subscribe(inbox, prefetch=10) as subscription:
        yield subscription


@contextlib.asynccontextmanager
async def announcing(broker: Broker, interval: float) -> AsyncIterator[None]:
    announcer = Announcer(
        broker,
        "shelves",
        "shelf",
        {action: handler.cost for action, handler in COMMANDS.items()},
        interval=interval,
    )
    task = asyncio.create_task(keep_running("alive", announcer.step, pause=0))
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def heard(subscription: Subscription) -> Envelope:
    async with asyncio.timeout(PATIENCE):
        delivery = await anext(subscription)
    delivery.ack()
    return parse(delivery.body)


async def test_a_service_announces_the_costs_of_its_actions(broker: Broker, gateway: Subscription) -> None:
    async with announcing(broker, SELDOM):
        told = await heard(gateway)
    assert told.action == SERVICE_ALIVE
    assert told.data == {"service": "shelves", "domain": "shelf", "costs": {"shelf.list": 20.0}}


async def test_announcements_are_repeated(broker: Broker, gateway: Subscription) -> None:
    async with announcing(broker, 0.01):
        for _ in range(3):
            await heard(gateway)


async def test_a_service_announces_itself_at_once_when_the_broker_is_back(
    hub: MemoryHub, broker: Broker, gateway: Subscription
) -> None:
    async with announcing(broker, SELDOM):
        await heard(gateway)
        hub.stop()
        hub.start()
        assert (await heard(gateway)).action == SERVICE_ALIVE


def test_costs_of_one_are_left_out() -> None:
    assert announcement("shelves", "shelf", {"shelf.put": 1}).costs == {}


@pytest.mark.parametrize("cost", [0, 0.5, 101, float("nan"), float("inf")])
def test_a_cost_out_of_range_is_refused_when_the_table_is_made(cost: float) -> None:
    with pytest.raises(ValueError, match="cost="):
        Handler(Nothing, do_nothing, cost=cost)
