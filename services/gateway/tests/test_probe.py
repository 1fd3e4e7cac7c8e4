"""The inbox probe: a replica finds a lost inbox, and only then recreates it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from time import perf_counter
from typing import Any

import pytest

from towpath.gateway.inbox.probe import Probe
from towpath.gateway.inbox.queue import inbox
from towpath.gateway.inbox.routing import Routing
from towpath.gateway.settings import GatewaySettings
from towpath.protocol.envelope import make
from towpath.protocol.routes import EXCHANGES, user_key
from towpath.servicekit.broker.interface import Broker, Delivery, Exchange, Topology
from towpath.servicekit.broker.memory import MemoryHub
from towpath.servicekit.broker.rabbitmq import RabbitBroker
from towpath.servicekit.runtime.settings import TelemetrySettings
from towpath.servicekit.runtime.telemetry import Telemetry
from towpath.testkit.client import WireClient
from towpath.testkit.eventually import eventually
from towpath.testkit.gateway import GatewayUnderTest, RunGateway, a_backend
from towpath.testkit.rabbitmq import Rabbit
from towpath.testkit.tokens import SECRET
from towpath.tools.rabbitmq_node import RabbitControl


class ProbeUnderTest:
    """A probe, and the reader of its inbox.

    Attributes:
        taker: Handles a delivery; a test may replace it.
        rebuilt: How often the broker's link was rebuilt.
    """

    def __init__(self, broker: Broker, telemetry: Telemetry) -> None:
        settings = GatewaySettings(
            amqp_url="memory://", auth_secret=SECRET, gateway_id="g1", probe_timeout=1.0
        )
        self.inbox = inbox("g1")
        self.rebuilt = 0
        self.taker: Callable[[Delivery], None] = self.take
        self._telemetry = telemetry
        routing = Routing(broker, self.inbox, settings, telemetry)
        self.found: list[str] = []
        self._probe = Probe(
            broker, routing.routes, settings, telemetry, lambda what, _: self.found.append(what.value)
        )
        broker.on_rebuilt(self._on_rebuilt)

    def take(self, delivery: Delivery) -> None:
        """The handling in a gateway."""
        self._probe.arrived()
        self._probe.received(delivery.routing_key)

    def arrived(self, _: Delivery) -> None:
        """The handling in a gateway that is behind."""
        self._probe.arrived()

    async def once(self) -> None:
        async with asyncio.timeout(10):
            await self._probe.once()
        await asyncio.sleep(0)  # for callbacks

    def count(self, name: str) -> float:
        lines = self._telemetry.exposition().decode().splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith(name))

    def _on_rebuilt(self) -> None:
        self.rebuilt += 1


@asynccontextmanager
async def a_probe(connecting: AbstractAsyncContextManager[Broker]) -> AsyncIterator[ProbeUnderTest]:
    async with (
        Telemetry.open("test", TelemetrySettings()) as telemetry,
        connecting as broker,
    ):
        await broker.declare(Topology([Exchange(name) for name in EXCHANGES]))
        probe = ProbeUnderTest(broker, telemetry)
        async with broker.subscribe(probe.inbox, prefetch=10) as subscription:

            async def take() -> None:
                async for delivery in subscription:
                    delivery.ack()
                    probe.taker(delivery)

            taking = asyncio.create_task(take())
            yield probe
        await taking


@pytest.fixture
def hub() -> MemoryHub:
    return MemoryHub()


@pytest.fixture
async def probe(hub: MemoryHub) -> AsyncIterator[ProbeUnderTest]:
    async with a_probe(hub.connect(name="gateway")) as probe:
        yield probe


async def test_a_probe_that_returns_changes_nothing(probe: ProbeUnderTest) -> None:
    for _ in range(3):
        await probe.once()
    assert probe.count("probe_round_trip_seconds_count") == 3
    assert probe.rebuilt == 0


async def test_an_inbox_without_bindings_is_recreated(hub: MemoryHub, probe: ProbeUnderTest) -> None:
    hub.lose_bindings()
    await probe.once()
    assert (probe.rebuilt, probe.count("probes_lost_total")) == (1, 1)
    assert probe.found == ["binding"]
    await probe.once()
    assert probe.rebuilt == 1


async def test_an_inbox_whose_consumer_is_stuck_is_recreated(probe: ProbeUnderTest) -> None:
    probe.taker = lambda _: None
    await probe.once()
    assert probe.rebuilt == 1
    probe.taker = probe.take
    await probe.once()
    assert probe.rebuilt == 1


async def test_an_inbox_with_arrivals_counts_as_late_and_not_as_lost(probe: ProbeUnderTest) -> None:
    probe.taker = probe.arrived
    await probe.once()
    assert probe.rebuilt == 0


async def test_a_late_event_loop_excuses_three_probes_and_no_more(
    probe: ProbeUnderTest,
) -> None:
    probe.taker = lambda _: None

    async def hold_the_loop_up() -> None:
        while True:
            until = perf_counter() + 0.3
            while perf_counter() < until:
                pass
            await asyncio.sleep(0)

    holding = asyncio.create_task(hold_the_loop_up())
    try:
        for _ in range(3):
            await probe.once()
        assert probe.rebuilt == 0
        await probe.once()
        assert probe.rebuilt == 1
    finally:
        holding.cancel()


async def test_a_blocked_or_disconnected_broker_does_not_count_as_a_lost_inbox(
    hub: MemoryHub, probe: ProbeUnderTest
) -> None:
    hub.block()
    await probe.once()
    hub.unblock()
    hub.stop()
    await probe.once()
    hub.start()
    await probe.once()
    assert probe.rebuilt == 1  # by the stop
    assert probe.count("probes_lost_total") == 0


async def test_an_alarm_during_a_probe_does_not_count_as_a_lost_inbox(
    hub: MemoryHub, probe: ProbeUnderTest
) -> None:
    probe.taker = lambda _: hub.block()
    await probe.once()
    assert probe.rebuilt == 0


@pytest.mark.parametrize("lost", ["connection.g1.#", "user.*", "group.*", "control.*", "everyone.#"])
async def test_on_rabbitmq_an_inbox_that_lost_a_binding_is_recreated(
    rabbitmq: Rabbit, rabbitmq_node: RabbitControl, lost: str
) -> None:
    connecting = RabbitBroker.connect(rabbitmq.url, name="gateway", reconnect_max=0.1)
    async with asyncio.timeout(60), a_probe(connecting) as probe:
        await probe.once()
        assert probe.count("probe_round_trip_seconds_count") == 1
        vhost = rabbitmq.url.rpartition("/")[2]
        await asyncio.to_thread(
            rabbitmq_node.evaluate,
            f'[ok = rabbit_binding:remove(Binding, <<"test">>) || Binding <- rabbit_binding:list(<<"{vhost}">>), '
            f'element(3, Binding) =:= <<"{lost}">>]',
        )
        await probe.once()
        assert probe.found == ["binding"]
        await eventually(lambda: probe.rebuilt == 1)
        for _ in range(3):
            await probe.once()
        assert probe.count("probes_lost_total") == 1


# A gateway with one


OFTEN: dict[str, Any] = {"probe_interval": 0.02, "probe_timeout": 0.5}
#: As often, and none is given up because the machine is busy.
PATIENT: dict[str, Any] = OFTEN | {"probe_timeout": 30.0}


async def probes(gateway: GatewayUnderTest) -> int:
    lines = (await gateway.admin("/metrics"))[1].splitlines()
    return sum(
        int(float(line.split()[-1])) for line in lines if line.startswith("probe_round_trip_seconds_count")
    )


async def welcomed(client: WireClient) -> None:
    await client.find(lambda frame: frame["action"] == "session.welcome")


async def test_probes_do_not_reach_clients(run_gateway: RunGateway) -> None:
    async with run_gateway(**PATIENT) as gateway, gateway.connect("ana") as ana:
        await welcomed(ana)
        before = await probes(gateway)

        async def three_more() -> bool:
            return await probes(gateway) >= before + 3

        await eventually(three_more)
        msg_id = await ana.send("ping")
        await ana.answer(msg_id)
        assert {frame["action"] for frame in ana.frames} == {"session.welcome", "pong"}


async def test_a_gateway_recreates_a_lost_inbox_and_its_clients_get_a_resync(
    run_gateway: RunGateway,
) -> None:
    async with (
        run_gateway(**OFTEN) as gateway,
        a_backend(gateway.hub) as backend,
        gateway.connect("ana") as ana,
    ):
        await welcomed(ana)
        gateway.hub.lose_bindings()
        await ana.next("session.resync")
        await backend.push(user_key("ana"), make("test.pushed", {}).to_json())
        await ana.next("test.pushed")
