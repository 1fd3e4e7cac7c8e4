"""No alert fires in an hour of honest load, in fast time."""

import asyncio
import contextlib
import random
from typing import Final

import pytest

from towpath.testkit.eventually import eventually
from towpath.testkit.system import System

from .conftest import Watch
from .picture import draw
from .prometheus import FACTOR

#: An hour, in fast time.
HOUR: Final = 3600 / FACTOR


@pytest.mark.timeout(420)
async def test_no_alert_fires_in_an_hour_of_honest_load_and_one_does_when_a_service_is_gone(
    watch: Watch, system: System, request: pytest.FixtureRequest
) -> None:
    prometheus = await watch(gateway=system.gateways, chat=system.chat, orders=system.orders)
    chance = random.Random(15)
    said = 0

    async def a_person(user: str) -> None:
        """Connects, talks and orders for some seconds, leaves, and reconnects after a while."""
        nonlocal said
        while True:
            async with system.connect(user) as person:
                await person.request("chat.join", {"room": f"room-{chance.randrange(5)}"})
                for number in range(chance.randrange(5, 40)):
                    room = f"room-{chance.randrange(5)}"
                    await person.request("chat.join", {"room": room})
                    await person.request("chat.send", {"room": room, "text": f"text {number}"})
                    said += 1
                    if chance.random() < 0.2:
                        order = f"{user}-{said}"
                        await person.request("order.submit", {"order_id": order, "amount": "9.00"})
                    await asyncio.sleep(chance.uniform(0.05, 0.5))
            await asyncio.sleep(chance.uniform(0.5, 3))

    async with asyncio.TaskGroup() as people:
        tasks = [people.create_task(a_person(f"user-{number}")) for number in range(20)]
        await asyncio.sleep(HOUR)
        for task in tasks:
            task.cancel()
    assert await prometheus.ever_fired() == set()
    assert said > 500
    if (path := request.config.getoption("dashboard")) is not None:
        path.write_text(await draw(lambda expression: prometheus.over_time(expression, HOUR)))

    # Now there is an hour of samples of a program that is taken away.
    await system.orders.terminate()
    prometheus.watch("towpath-orders", [])
    await prometheus.fires("ProgramMissing")

    async def only_that() -> bool:
        return await prometheus.firing() == {"ProgramMissing"}

    with contextlib.suppress(AssertionError):
        await eventually(only_that, timeout=5)
    assert await prometheus.ever_fired() <= {"ProgramMissing", "ProgramDown"}
