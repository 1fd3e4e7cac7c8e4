"""The network between the parts is slow, cut, or cut in one direction only."""

import asyncio
from contextlib import AsyncExitStack

import pytest

from towpath.testkit.network import Direction, Proxy
from towpath.testkit.rabbitmq import Rabbit
from towpath.testkit.system import System

from .broker import Broker
from .conftest import StartSystem
from .trial import Trial


@pytest.mark.parametrize("way", ["to_server", "to_client"])
async def test_a_gateway_cut_off_in_one_direction_answers_correctly_and_reconnects(
    rabbitmq: Rabbit, start_system: StartSystem, trial: Trial, way: str
) -> None:
    async with Proxy.before(rabbitmq.url) as proxy:
        system = await start_system(rabbitmq, gateways=1)
        cut_off = system.launch_gateway(amqp_url=proxy.instead_of(rabbitmq.url))
        await cut_off.ready()
        system.gateways.append(cut_off)
        name = {"to_server": "gateway to RabbitMQ", "to_client": "RabbitMQ to gateway"}[way]
        async with trial.of(f"{name} cut for 25 s, one way", system, within=20):
            direction: Direction = getattr(proxy, way)
            direction.hold()
            await asyncio.sleep(25)
            proxy.heal()
            trial.strike()


async def test_on_a_slow_network_everything_is_late_and_in_order(
    rabbitmq: Rabbit, start_system: StartSystem, trial: Trial
) -> None:
    async with Proxy.before(rabbitmq.url, seed=1) as proxy:
        system = await start_system(rabbitmq, amqp_url=proxy.instead_of(rabbitmq.url))
        async with trial.of("300 ms ± 100 ms and 1 Mbit/s to RabbitMQ, 15 s", system, within=20) as load:
            for direction in (proxy.to_server, proxy.to_client):
                direction.delay, direction.jitter, direction.rate = 0.2, 0.2, 125_000
            await asyncio.sleep(15)
            slow = [asked for asked in load.journal.asked if asked.attempts > 1]
            assert not slow, f"{len(slow)} were asked again, such as {slow[0]}"
            proxy.heal()
            trial.strike()


async def test_links_to_the_broker_that_are_reset_every_2_s_leave_nothing_behind(
    rabbitmq: Rabbit, broker: Broker, start_system: StartSystem, trial: Trial
) -> None:
    async with Proxy.before(rabbitmq.url) as proxy:
        system = await start_system(rabbitmq, amqp_url=proxy.instead_of(rabbitmq.url))
        async with trial.of("RST between all and RabbitMQ every 2 s", system, within=10):
            before = await broker.holdings()
            for _ in range(8):
                proxy.reset()
                trial.strike()
                await asyncio.sleep(2)
            await trial.recovers()
            await broker.returns_to(before)


async def test_a_half_open_link_to_the_broker_is_found(
    rabbitmq: Rabbit, start_system: StartSystem, trial: Trial
) -> None:
    async with Proxy.before(rabbitmq.url) as proxy:
        system = await start_system(rabbitmq, gateways=1)
        half = system.launch_gateway(amqp_url=proxy.instead_of(rabbitmq.url))
        await half.ready()
        system.gateways.append(half)
        async with trial.of("gateway's links to RabbitMQ half-open", system, within=20):
            proxy.half_open()
            trial.strike()


async def test_users_with_connections_reset_every_2_s_miss_nothing(system: System, trial: Trial) -> None:
    async with AsyncExitStack() as stack:
        proxies = [await stack.enter_async_context(Proxy.before(url)) for url in system.urls]
        urls = [proxy.instead_of(url) for proxy, url in zip(proxies, system.urls, strict=True)]
        async with trial.of("RST between users and gateways every 2 s", system, within=15, urls=urls):
            for _ in range(8):
                for proxy in proxies:
                    proxy.reset()
                trial.strike()
                await asyncio.sleep(2)


async def test_users_cut_off_within_a_frame_miss_nothing(system: System, trial: Trial) -> None:
    async with AsyncExitStack() as stack:
        proxies = [await stack.enter_async_context(Proxy.before(url)) for url in system.urls]
        urls = [proxy.instead_of(url) for proxy, url in zip(proxies, system.urls, strict=True)]
        chance = trial.chance
        async with trial.of("users cut off after 3 to 9 KB, for 15 s", system, within=15, urls=urls):
            for _ in range(5):
                for proxy in proxies:
                    proxy.to_client.cut_after(chance.randrange(3_000, 9_000))
                await asyncio.sleep(3)
            for proxy in proxies:
                proxy.heal()
            trial.strike()


async def test_users_of_an_unreachable_gateway_continue_on_another(
    rabbitmq: Rabbit, start_system: StartSystem, trial: Trial
) -> None:
    system = await start_system(rabbitmq, heartbeat=2, heartbeat_timeout=2)
    async with Proxy.before(system.urls[0]) as proxy:
        urls = [proxy.instead_of(system.urls[0]), system.urls[1]]
        async with trial.of("black hole between users and a gateway", system, within=25, urls=urls):
            proxy.hold()
            trial.strike()
