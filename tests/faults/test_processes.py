"""A process dies, stops answering, or is replaced."""

import asyncio
import random
import re
from typing import Any, Final

import aiohttp
import pytest

from towpath.testkit.eventually import eventually
from towpath.testkit.processes import Process
from towpath.testkit.rabbitmq import Rabbit
from towpath.testkit.system import System

from .conftest import StartSystem
from .journal import now
from .trial import Trial

#: Seconds until replicas share again, whatever happened to one of them.
_SHARED: Final = 15.0
_PARTITIONS: Final = 8
_CHANGES: Final = 20
_MOST_REPLICAS: Final = 4
#: Many people with a device each, two in a room, at different gateways: some 500 operations a second on two cores.
_BUSY: Final[dict[str, Any]] = {
    "users": [f"user{number}" for number in range(302)],
    "rooms": ["room"],
    "circles": 151,
    "devices": 1,
    "pause": 0.3,
}


class Replicas:
    """Replicas of one service on one PostgreSQL, in place of the system's single one."""

    def __init__(self, system: System, service: str, postgres_url: str) -> None:
        self._system = system
        self._service = service
        self._url = postgres_url.replace("+asyncpg", "")
        self.running: list[Process] = []

    async def start(self, count: int) -> None:
        """Stop the single one, and start ``count`` that share."""
        await getattr(self._system, self._service).terminate()
        for _ in range(count):
            await self.come()
        setattr(self._system, self._service, self.running[0])
        await self.share(within=_SHARED)

    async def come(self) -> None:
        """Start one more."""
        replica = self._system.launch_service(self._service, database_url=self._url)
        self.running.append(replica)
        await replica.ready()

    async def share(self, *, within: float) -> float:
        """Wait until each command queue has a consumer, and each replica its share; returns the seconds it took."""
        started = now()
        least, rest = divmod(_PARTITIONS, len(self.running))
        fair = [least] * (len(self.running) - rest) + [least + 1] * rest
        events = 1  # the queue of events, which one of them has besides

        async def is_shared() -> bool:
            counts = [await _queues_of(replica) for replica in self.running]
            return sum(counts) == _PARTITIONS + events and all(
                count - part in (0, events) for count, part in zip(sorted(counts), fair, strict=True)
            )

        await eventually(is_shared, timeout=within, every=0.2)
        return now() - started


def some_changes(chance: random.Random, count: int, replicas: int) -> list[str]:
    """The changes of replicas, one after the other: from one to four of them run."""
    changes: list[str] = []
    while len(changes) < count:
        # Of each as many, and one more comes: two of them go.
        block = ["come", "come", "go", "die", "freeze"]
        chance.shuffle(block)
        running, least = replicas, {"come": 0, "freeze": 2}
        for change in block:
            if running < least.get(change, 2) or (change == "come" and running >= _MOST_REPLICAS):
                break
            running += {"come": 1, "freeze": 0}.get(change, -1)
        else:
            changes += block
    return changes[:count]


async def _queues_of(replica: Process) -> int:
    async with aiohttp.ClientSession() as http, http.get(f"{replica.admin_url}/metrics") as response:
        found = re.search(r"^queues_consumed(?:\{.*\})? (\d+)", await response.text(), re.MULTILINE)
        return int(float(found[1])) if found else 0


@pytest.mark.faults_short
async def test_a_killed_gateway_loses_nothing_for_its_users(system: System, trial: Trial) -> None:
    async with trial.of("gateway killed (SIGKILL)", system, within=10):
        await system.gateways[0].kill()
        trial.strike()


async def test_users_of_a_frozen_gateway_continue_on_another_and_get_nothing_stale_when_it_thaws(
    rabbitmq: Rabbit, start_system: StartSystem, trial: Trial
) -> None:
    system = await start_system(rabbitmq, heartbeat=2, heartbeat_timeout=2)
    async with trial.of("gateway frozen for 35 s (SIGSTOP)", system, within=20) as load:
        system.gateways[0].pause()
        trial.strike()
        await asyncio.sleep(35)  # the broker gives it up after two heartbeats of 10 s
        system.gateways[0].resume()
        await system.gateways[0].ready(timeout=30)
        await load.flows(60)


@pytest.mark.parametrize("service", ["chat", "orders"])
async def test_a_service_killed_repeatedly_makes_every_effect_happen_once(
    system: System, trial: Trial, service: str
) -> None:
    chance = trial.chance
    async with trial.of(f"{service} killed five times (SIGKILL)", system, within=20) as load:
        for _ in range(5):
            await load.flows(chance.randrange(5, 25))
            await asyncio.sleep(chance.uniform(0, 0.05))  # anywhere within the handling of a request
            await getattr(system, service).kill()
            trial.strike()
            setattr(system, service, system.launch_service(service))
            await getattr(system, service).ready()


@pytest.mark.parametrize("end", ["killed", "frozen"])
async def test_a_second_replica_takes_over_without_repeating_effects(
    system: System, postgres_url: str, trial: Trial, end: str
) -> None:
    replicas = Replicas(system, "chat", postgres_url)
    await replicas.start(2)
    # RabbitMQ closes the connection of a frozen replica after two to three heartbeats of 4 s.
    within = {"killed": 5, "frozen": 15}[end]
    async with trial.of(f"one of two chat replicas {end}", system, within=within) as load:
        if end == "killed":
            await replicas.running[0].kill()
            trial.strike()
        else:
            replicas.running[0].pause()
            trial.strike()
            await trial.recovers()
            replicas.running[0].resume()  # it finds its link gone, and what it had in hand done by the other
            await replicas.share(within=_SHARED)
            await load.flows(60)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("service", ["chat", "orders"])
async def test_replicas_that_start_stop_die_and_freeze_share_the_work_once_and_in_order(
    system: System, postgres_url: str, trial: Trial, service: str
) -> None:
    replicas = Replicas(system, service, postgres_url)
    await replicas.start(2)
    chance, longest = trial.chance, 0.0
    changes = some_changes(chance, _CHANGES, len(replicas.running))
    async with trial.of(
        f"{service} replicas come, go, die and freeze, {_CHANGES} times", system, within=30, **_BUSY
    ) as load:
        before = load.counted()
        for change in changes:
            await load.flows(chance.randrange(5, 500))  # anywhere within a second or so
            trial.strike()
            match change:
                case "come":
                    await replicas.come()
                case "go":
                    await replicas.running.pop(0).terminate()
                case "die":
                    await replicas.running.pop(0).kill()
                case "freeze":
                    frozen = replicas.running.pop(0)
                    frozen.pause()
                    longest = max(longest, await replicas.share(within=_SHARED))
                    frozen.resume()
                    replicas.running.append(frozen)
            longest = max(longest, await replicas.share(within=_SHARED))
        after = load.counted()
        trial.note(f"at {after.rate(before)}, shared again within {longest:.1f} s")


async def test_requests_during_an_outage_of_a_service_are_answered_after_it(
    system: System, trial: Trial
) -> None:
    async with trial.of("both services away for 8 s", system, within=15):
        await asyncio.gather(system.chat.terminate(), system.orders.terminate())
        await asyncio.sleep(8)
        system.chat, system.orders = system.launch_service("chat"), system.launch_service("orders")
        await asyncio.gather(system.chat.ready(), system.orders.ready())
        trial.strike()
