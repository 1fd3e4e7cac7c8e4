"""Programs that stop receiving without an error: they detect it, and lose nothing."""

import asyncio
import re
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any, Final

import aiohttp
import pytest

from towpath.testkit.eventually import eventually
from towpath.testkit.network import Proxy
from towpath.testkit.processes import Process
from towpath.testkit.rabbitmq import Rabbit
from towpath.testkit.system import System

from .broker import Broker
from .conftest import StartSystem
from .journal import now
from .trial import Trial
from .workload import Load

#: Seconds within which a loss is found.
_FOUND: Final = 15.0
#: Seconds without a further finding, after which all is found.
_SETTLED: Final = 1.5

_SINGLE: Final = [("queue",), ("binding",), ("consumer",), ("channel",), ("connection",)]
_PAIRS: Final = [
    ("queue", "connection"),
    ("binding", "consumer"),
    ("binding", "channel"),
    ("consumer", "connection"),
    ("channel", "connection"),
]


class Deafened:
    """A program behind a proxy of its own, and what is taken away from it."""

    def __init__(self, process: Process, proxy: Proxy, broker: Broker, queues: str, load: Load) -> None:
        self._process = process
        self._proxy = proxy
        self._broker = broker
        self._queues = queues
        self._load = load

    async def lose(self, what: Sequence[str]) -> float:
        """Take ``what`` away, and wait until the program has found it; returns the seconds that took."""
        before = await self._found()
        for one in what:
            await self._take(one)
        struck = now()

        async def is_found() -> bool:
            return await self._found() > before

        try:
            await eventually(is_found, timeout=_FOUND, every=0.1)
        except AssertionError:
            raise AssertionError(f"{' and '.join(what)}: not found within {_FOUND:g} s") from None
        return now() - struck

    async def settled(self) -> None:
        """Wait until nothing more is found: one loss may show as another as well, such as the whole connection."""
        before, since = await self._found(), now()
        while now() - since < _SETTLED:
            await asyncio.sleep(0.2)  # between two looks
            if (found := await self._found()) != before:
                before, since = found, now()

    async def _take(self, what: str) -> None:
        broker, queues = self._broker, self._queues
        if what == "connection":
            self._proxy.half_open()
            return
        if what == "queue":
            # RabbitMQ deletes the messages in a queue with it. The user asks a command again; an event was
            # confirmed to the backend, and would be lost.
            async with self._load.without_events():
                for name in await eventually(lambda: broker.queues(queues), every=0.2):
                    await broker.delete_queue(name)
            return
        take: Callable[[str], Coroutine[Any, Any, int]] = {
            "binding": broker.unbind,
            "consumer": broker.cancel_consumers,
            "channel": broker.end_channels,
        }[what]
        # Earlier losses are repaired step by step, unnoticed by users.
        await eventually(lambda: take(queues), every=0.2)

    async def _found(self) -> float:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as http,
            http.get(f"{self._process.admin_url}/metrics") as response,
        ):
            lines = (await response.text()).splitlines()
        return sum(float(line.split()[-1]) for line in lines if re.match("deaf_found_total[{]", line))


async def _try_all(trial: Trial, load: Load, deafened: Deafened, losses: Sequence[Sequence[str]]) -> None:
    longest = 0.0
    for what in losses:
        longest = max(longest, await deafened.lose(what))
        trial.strike()
        found = now()
        await deafened.settled()
        await trial.recovers()
        await trial.until(partial(load.events_shown, since=found))
    trial.note(f"found within {longest:.1f} s")


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("kind", "losses"), [("one at a time", _SINGLE), ("in pairs", _PAIRS)])
async def test_a_gateway_without_deliveries_detects_it_and_loses_nothing(
    rabbitmq: Rabbit,
    broker: Broker,
    start_system: StartSystem,
    trial: Trial,
    kind: str,
    losses: Sequence[Sequence[str]],
) -> None:
    async with Proxy.before(rabbitmq.url) as proxy:
        system = await start_system(rabbitmq, gateways=1)
        deaf = system.launch_gateway(amqp_url=proxy.instead_of(rabbitmq.url), gateway_id="deaf")
        await deaf.ready(timeout=60)
        system.gateways.append(deaf)
        async with trial.of(f"losses of a gateway's inbox, {kind}", system, within=20) as load:
            await _try_all(trial, load, Deafened(deaf, proxy, broker, "gateway.deaf.", load), losses)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("queues", ["chat.commands.", "chat.events", "orders.commands.", "orders.events"])
@pytest.mark.parametrize(("kind", "losses"), [("one at a time", _SINGLE), ("in pairs", _PAIRS)])
async def test_a_service_without_deliveries_detects_it_and_loses_nothing(
    rabbitmq: Rabbit,
    broker: Broker,
    start_system: StartSystem,
    trial: Trial,
    queues: str,
    kind: str,
    losses: Sequence[Sequence[str]],
) -> None:
    name = queues.partition(".")[0]
    async with Proxy.before(rabbitmq.url) as proxy:
        system = await start_system(rabbitmq)
        service = await _behind(proxy, system, name)
        fault = f"losses of {queues.rstrip('.')}, {kind}"
        async with trial.of(fault, system, within=20, mandatory=True) as load:
            await _try_all(trial, load, Deafened(service, proxy, broker, queues, load), losses)
            if name == "chat":
                await _hears_as_a_newcomer(system)


async def _behind(proxy: Proxy, system: System, name: str) -> Process:
    """Start a service again, with RabbitMQ behind a proxy of its own."""
    assert await getattr(system, name).terminate() == 0
    service = system.launch_service(name, amqp_url=proxy.instead_of(system.rabbitmq.url))
    setattr(system, name, service)
    await service.ready(timeout=60)
    return service


async def _hears_as_a_newcomer(system: System) -> None:
    """A user who connects after all that is subscribed to the rooms, and receives their messages."""
    async with system.connect("eve") as eve:
        await eve.request("chat.join", {"room": "lobby"}, key="lobby", timeout=30)
    async with system.connect("eve", 1) as eve:
        await eve.next("chat.message", timeout=30)


@pytest.mark.faults_short
async def test_a_half_open_connection_of_a_service_is_found(
    rabbitmq: Rabbit, broker: Broker, start_system: StartSystem, trial: Trial
) -> None:
    async with Proxy.before(rabbitmq.url) as proxy:
        system = await start_system(rabbitmq)
        await _behind(proxy, system, "chat")
        async with trial.of("a service's links to RabbitMQ half-open", system, within=20) as load:
            await _try_all(
                trial, load, Deafened(system.chat, proxy, broker, "chat.", load), [("connection",)]
            )


async def test_a_broker_that_is_paused_for_20_s_loses_no_service(
    own_node: Any, start_system: StartSystem, trial: Trial
) -> None:
    system = await start_system(Rabbit(own_node, "/", own_node.url()))
    async with trial.of("RabbitMQ frozen for 20 s (SIGSTOP)", system, within=20):
        own_node.pause()
        await asyncio.sleep(20)
        own_node.resume()
        trial.strike()
        await trial.recovers()
    for process in (system.chat, system.orders):
        assert "broker_lost" not in process.output
        assert "broker_silent" in process.output
