"""Messages that break a service are parked, all others are handled, and after the fix they are replayed."""

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Final

import aio_pika

from towpath.testkit.eventually import eventually
from towpath.testkit.processes import Process, Processes
from towpath.testkit.rabbitmq import Rabbit
from towpath.testkit.system import System

from .broker import Broker
from .conftest import StartSystem
from .evidence import Asked, Outcome
from .journal import Journal
from .trial import Trial

_PROGRAM: Final = Path(__file__).parent.parent / "e2e" / "poisonous.py"
_KINDS: Final = ("exit", "sleep", "bug", "regex", "constraint")
_UNREADABLE: Final = (
    b"",
    b"not JSON",
    b"[1, 2]",
    b'{"session": 1, "envelope": 2}',
    b"\xff\xfe",
    b"[" * 10_000,
)


class Deployment:
    """Orders under a supervisor: started again whenever it ends."""

    def __init__(self, system: System, processes: Processes) -> None:
        self._processes = processes
        self._settings = {
            name.removeprefix("TOWPATH_").lower(): value for name, value in system.orders.settings.items()
        }
        self._arguments: tuple[str, ...] = ()
        self.process: Process | None = None

    @classmethod
    @contextlib.asynccontextmanager
    async def replacing(
        cls, system: System, processes: Processes, broker: Broker
    ) -> AsyncIterator["Deployment"]:
        """The version with poison in it, instead of the orders that ``system`` began with."""
        assert await system.orders.terminate() == 0
        for name in await broker.queues("orders.retry."):
            await broker.delete_queue(name)  # it waits for a moment only, before another try
        deployment = cls(system, processes)
        keeping = asyncio.create_task(deployment._keep())
        try:
            yield deployment
        finally:
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)

    async def fix(self) -> None:
        """Deploy the version without."""
        assert self.process is not None
        self._arguments = ("--fixed",)
        await self.process.terminate()

    async def _keep(self) -> None:
        settings = self._settings | {"handler_time_limit": "1", "unit_time_limit": "2"}
        while True:
            self.process = self._processes.launch(
                sys.executable, str(_PROGRAM), *self._arguments, name="orders", **settings
            )
            await self.process.ended(timeout=3600)


async def parked(url: str, service: str) -> int:
    """How many messages a service has put aside."""
    async with await aio_pika.connect(url) as connection:
        channel = await connection.channel()
        queue = await channel.declare_queue(f"{service}.dead", passive=True)
        return queue.declaration_result.message_count or 0


def poison_orders(journal: Journal, system: System) -> Iterator[tuple[str, str]]:
    """An order of each kind of poison; each is to have its effect once in the end."""
    for number, kind in enumerate(_KINDS):
        order_id = f"{kind}-1"
        journal.asked.append(Asked("eve", number, "order.submit", "eve", order_id, "", Outcome.DONE))
        yield kind, order_id


async def test_poison_is_parked_while_other_messages_flow_and_a_replay_takes_effect_once(
    rabbitmq: Rabbit, broker: Broker, start_system: StartSystem, processes: Processes, trial: Trial
) -> None:
    system = await start_system(rabbitmq)
    async with (
        Deployment.replacing(system, processes, broker) as deployment,
        system.connect("eve") as eve,
        trial.of("poison: crash, hang, bug, endless regex, broken row", system) as load,
    ):
        for kind, order_id in poison_orders(load.journal, system):
            await eve.send("order.submit", {"order_id": order_id, "amount": "1"}, msg_id=kind, key=kind)
            await load.flows(10, timeout=60)

        async def all_parked() -> bool:
            return await parked(rabbitmq.url, "orders") == len(_KINDS)

        await eventually(all_parked, timeout=60, every=0.2)
        await load.flows(20)
        await deployment.fix()
        for _ in range(2):  # a second replay finds nothing left
            tool = processes.launch("towpath", "dead-letters", "replay", "orders", amqp_url=rabbitmq.url)
            assert await tool.ended() == 0, tool.output
        assert await parked(rabbitmq.url, "orders") == 0
        # Someone asks with the same ids once more: the answer is that of the one effect.
        async with system.connect("eve", 1) as again:
            for kind in _KINDS:
                order = {"order_id": f"{kind}-1", "amount": "1"}
                answer = await again.request("order.submit", order, msg_id=kind, key=kind, timeout=30)
                assert answer["action"] == "order.submit.ok", answer


async def test_an_unreadable_message_is_parked_and_the_others_flow(
    system: System, rabbitmq: Rabbit, trial: Trial
) -> None:
    async with trial.of("unreadable commands and events", system) as load:
        async with await aio_pika.connect(rabbitmq.url) as connection:
            channel = await connection.channel()
            commands = await channel.get_exchange("towpath.commands", ensure=False)
            events = await channel.get_exchange("towpath.events", ensure=False)
            for number, body in enumerate(_UNREADABLE):
                for domain in ("chat", "order"):
                    await commands.publish(aio_pika.Message(body), f"{domain}.{number % 8}")
                await events.publish(aio_pika.Message(body), "order.paid")
                await load.flows(10)

        async def all_parked() -> bool:
            counts = [await parked(rabbitmq.url, name) for name in ("chat", "orders")]
            # A batch is parked member by member, and an empty one has none.
            return counts[0] >= len(_UNREADABLE) - 1 and counts[1] >= 2 * (len(_UNREADABLE) - 1)

        await eventually(all_parked, timeout=20, every=0.2)
        await load.flows(30)
