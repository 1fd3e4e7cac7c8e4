"""A process dies, stops answering, or is replaced."""

import asyncio

import pytest

from towpath.testkit.rabbitmq import Rabbit
from towpath.testkit.system import System

from .conftest import StartSystem
from .trial import Trial


@pytest.mark.faults_short
async def test_a_killed_gateway_costs_its_people_nothing(system: System, trial: Trial) -> None:
    async with trial.of("gateway killed (SIGKILL)", system, within=10):
        await system.gateways[0].kill()
        trial.strike()


async def test_who_is_on_a_frozen_gateway_goes_on_elsewhere_and_hears_nothing_stale_when_it_thaws(
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
async def test_a_service_that_is_killed_again_and_again_does_everything_once(
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
async def test_a_second_replica_takes_over_and_what_the_first_did_counts_once(
    system: System, postgres_url: str, trial: Trial, end: str
) -> None:
    url = postgres_url.replace("+asyncpg", "")
    await system.chat.terminate()
    system.chat = system.launch_service("chat", database_url=url)
    await system.chat.ready()
    second = system.launch_service("chat", database_url=url)
    await second.ready()
    # RabbitMQ gives up who is silent after two heartbeats of 10 s, and looks every 5 s.
    within = {"killed": 5, "frozen": 35}[end]
    async with trial.of(f"active one of two chat replicas {end}", system, within=within) as load:
        if end == "killed":
            await system.chat.kill()
            trial.strike()
        else:
            system.chat.pause()
            trial.strike()
            await trial.recovers()
            system.chat.resume()  # it finds its link gone, and what it had in hand done by the other
            await load.flows(60)


async def test_what_is_asked_while_a_service_is_away_is_answered_when_it_is_back(
    system: System, trial: Trial
) -> None:
    async with trial.of("both services away for 8 s", system, within=15):
        await asyncio.gather(system.chat.terminate(), system.orders.terminate())
        await asyncio.sleep(8)
        system.chat, system.orders = system.launch_service("chat"), system.launch_service("orders")
        await asyncio.gather(system.chat.ready(), system.orders.ready())
        trial.strike()
