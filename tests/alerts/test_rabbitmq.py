"""The alerts on RabbitMQ fire when the fault happens to a real one."""

import asyncio

import pytest

from tests.faults.broker import Broker
from towpath.testkit.client import WireClient
from towpath.testkit.network import Proxy
from towpath.testkit.processes import Process
from towpath.testkit.rabbitmq import Rabbit
from towpath.testkit.system import LOAD_RATES, System, url_of
from towpath.testkit.tokens import a_token

from .causes import again_and_again, ready, watched
from .conftest import READY, Watch

pytestmark = pytest.mark.timeout(900)


async def unpaced_gateway(system: System, proxy: Proxy) -> Process:
    """A gateway behind the proxy, which reads on however many requests wait for their answer."""
    gateway = system.launch_gateway(
        **{**LOAD_RATES, "amqp_url": proxy.instead_of(system.rabbitmq.url), "inflight_paced": 100_000},
        inflight_per_user=100_000,
        inflight_per_connection=100_000,
    )
    await gateway.ready(timeout=READY)
    return gateway


async def test_a_broker_that_is_blocked_and_then_loses_its_connections_again_and_again(
    watch: Watch, parts: System, rabbitmq: Rabbit, broker: Broker
) -> None:
    orders = parts.launch_service("orders")
    await ready(orders)
    prometheus = await watch(orders=orders)
    await rabbitmq.block()
    await prometheus.fires("BrokerBlocked")
    await rabbitmq.unblock()
    await prometheus.ends("BrokerBlocked")

    async def close() -> None:
        await broker.close_connections()
        await asyncio.sleep(2)  # reconnects take 1 s at most

    async with again_and_again(close):
        await prometheus.fires("BrokerReconnects")


async def test_slow_confirms(watch: Watch, system: System, rabbitmq: Rabbit) -> None:
    async with Proxy.before(rabbitmq.url) as proxy:
        gateway = await unpaced_gateway(system, proxy)
        prometheus = await watch(gateway=gateway, chat=system.chat)
        proxy.to_client.delay = 2.0
        async with WireClient.connect(url_of(gateway), token=a_token("ana")) as ana:

            async def ask() -> None:
                for _ in range(10):
                    await ana.send("chat.rooms", {})
                await asyncio.sleep(0.2)  # the load between two looks

            async with again_and_again(ask):
                await prometheus.fires("ConfirmsSlow", timeout=90)


async def test_more_requests_than_the_broker_confirms(watch: Watch, parts: System, rabbitmq: Rabbit) -> None:
    async with Proxy.before(rabbitmq.url) as proxy:
        gateway = await unpaced_gateway(parts, proxy)
        prometheus = await watch(gateway=gateway)
        proxy.to_client.hold()
        async with WireClient.connect(url_of(gateway), token=a_token("ana")) as ana:
            for _ in range(8000):
                await ana.send("chat.send", {"room": "tea", "text": "!"})
            await prometheus.fires("LaneBacklog")


async def test_an_inbox_that_receives_nothing(watch: Watch, system: System, broker: Broker) -> None:
    # The probe finds it before the check of bindings does.
    gateway = system.launch_gateway(probe_interval=0.5)
    await gateway.ready(timeout=READY)
    prometheus = await watch(gateway=gateway)
    assert await prometheus.ever_fired() == set()
    assert await broker.unbind("gateway.")
    await prometheus.fires("InboxDeaf", "QueuesRepaired")


async def test_a_deleted_queue(watch: Watch, system: System, broker: Broker) -> None:
    prometheus = await watched(watch, system)
    await broker.delete_queue("orders.events")
    await prometheus.fires("QueuesRepaired")
