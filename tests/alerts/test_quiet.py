"""No alert fires in an hour of honest load, in fast time."""

import asyncio
import math
import random
from pathlib import Path
from typing import Any, Final

import pytest

from tests.faults.mails import PostOffice
from tests.faults.postgres_server import PostgresServer
from towpath.testkit.client import WireClient
from towpath.testkit.postbox import Postbox
from towpath.testkit.processes import Processes, free_port
from towpath.testkit.rabbitmq import Rabbit
from towpath.testkit.system import LOAD_RATES, System
from towpath.tools.rabbitmq_node import RabbitNode

from .conftest import READY, Watch
from .picture import draw
from .prometheus import FACTOR

#: An hour, in fast time.
HOUR: Final = 3600 / FACTOR
PEOPLE: Final = 14
ROOMS: Final = 5
#: Seconds between two actions of one person in the middle of the hour, about.
PAUSE: Final = 0.8


async def metrics_of(node: RabbitNode) -> int:
    """Let RabbitMQ show its own metrics, as its image does; returns the port."""
    port = free_port()
    plugins = node.folder / "enabled_plugins"
    plugins.write_text("[rabbitmq_prometheus].\n")
    for expression in (
        f'application:set_env(rabbitmq_prometheus, tcp_config, [{{port, {port}}}, {{ip, "127.0.0.1"}}], '
        f"[{{persistent, true}}])",
        f'rabbit_plugins:ensure("{plugins}")',
    ):
        await asyncio.to_thread(node.evaluate, expression)
    return port


class Day:
    """People who connect, talk and order, and leave again: more of them towards the middle of the hour.

    Attributes:
        requests: The number that was answered.
    """

    def __init__(self, system: System) -> None:
        self.requests = 0
        self._system = system
        self._chance = random.Random(15)
        self._begun = asyncio.get_running_loop().time()

    async def pass_by(self) -> None:
        """All of them, for an hour."""
        async with asyncio.TaskGroup() as people:
            tasks = [people.create_task(self._live(number)) for number in range(PEOPLE)]
            await asyncio.sleep(HOUR)  # the trial itself
            for task in tasks:
                task.cancel()

    @property
    def _rush(self) -> float:
        """From 0.3 at the ends of the hour to 1 in its middle."""
        passed = (asyncio.get_running_loop().time() - self._begun) / HOUR
        return 0.3 + 0.7 * math.sin(math.pi * min(passed, 1.0)) ** 2

    async def _live(self, number: int) -> None:
        chance, user = self._chance, f"user-{number}"
        await asyncio.sleep(chance.uniform(0, HOUR / 6))  # they do not all come at once
        while True:
            async with self._system.connect(user, number % len(self._system.gateways)) as person:
                await self._ask(person, "notification.preferences", email=f"{user}@example.com")
                rooms = [f"room-{one}" for one in chance.sample(range(ROOMS), 2)]
                for room in rooms:
                    await self._ask(person, "chat.join", room=room)
                for turn in range(chance.randrange(10, 40)):
                    await self._ask(person, "chat.send", room=chance.choice(rooms), text=f"text {turn}")
                    if chance.random() < 0.2:
                        order = f"{user}-{self.requests}"
                        await self._ask(person, "order.submit", order_id=order, amount="9.00")
                    await asyncio.sleep(chance.uniform(0.5, 1.5) * PAUSE / self._rush)  # a person types
            await asyncio.sleep(chance.uniform(1, 6))  # a person is away

    async def _ask(self, person: WireClient, action: str, **data: Any) -> None:
        answer = await person.request(action, data)
        assert answer["action"] == f"{action}.ok", answer
        self.requests += 1


@pytest.mark.timeout(900)
async def test_no_alert_fires_in_an_hour_of_honest_load_and_one_does_when_a_service_is_gone(
    watch: Watch,
    processes: Processes,
    own_node: RabbitNode,
    server: PostgresServer,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    async with Rabbit.on(own_node) as rabbitmq, Postbox.open() as box:
        system = System(rabbitmq, processes, tmp_path, **LOAD_RATES)
        system.gateways = [system.launch_gateway() for _ in range(2)]
        mails = PostOffice(box).settings | {"mail_window": 5}
        system.chat, system.orders, notifications = (
            system.launch_service(name, database_url=server.create(name), **settings)
            for name, settings in (("chat", {}), ("orders", {}), ("notifications", mails))
        )
        everyone = [*system.gateways, system.chat, system.orders, notifications]
        await asyncio.gather(*(one.ready(timeout=READY) for one in everyone))
        prometheus = await watch(
            gateway=system.gateways, chat=system.chat, orders=system.orders, notifications=notifications
        )
        prometheus.watch_rabbitmq(await metrics_of(own_node))
        await prometheus.sees_all()
        day = Day(system)
        await day.pass_by()
        if (path := request.config.getoption("dashboard")) is not None:
            subtitle = (
                "Drawn from the samples of a trial run: an hour of chat and orders in two minutes; two gateways, "
                "three services, RabbitMQ and PostgreSQL on one machine."
            )
            path.write_text(await draw(lambda asked: prometheus.over_time(asked, HOUR), subtitle, 60))
        assert await prometheus.ever_fired() == set()
        assert day.requests > 500

        # Now there is an hour of samples of a program that is taken away.
        await system.orders.terminate()
        prometheus.watch("towpath-orders", [])
        await prometheus.fires("ProgramMissing")
