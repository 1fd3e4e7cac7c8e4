"""Session events: what services learn about this replica, also across outages of the broker."""

import asyncio

from towpath.protocol.messages import read_object, split_batch
from towpath.protocol.routes import EVENTS, SESSION_STARTED
from towpath.servicekit.broker.interface import Binding, Queue, Topology
from towpath.servicekit.broker.memory import MemoryHub
from towpath.testkit.eventually import eventually
from towpath.testkit.gateway import GatewayUnderTest, RunGateway, a_backend

SELDOM = 3600.0


async def test_a_replica_announces_itself_periodically(run_gateway: RunGateway) -> None:
    hub = MemoryHub()
    async with a_backend(hub) as backend, run_gateway(hub, gateway_id="gw-1", alive_interval=0.05):
        signs = [await backend.alive() for _ in range(3)]
    assert {sign["action"] for sign in signs} == {"session.alive"}
    assert {sign["data"]["gateway_id"] for sign in signs} == {"gw-1"}
    assert len({sign["data"]["incarnation"] for sign in signs}) == 1


async def test_a_replica_announces_itself_at_its_start_and_after_each_reconnect(
    run_gateway: RunGateway,
) -> None:
    hub = MemoryHub()
    async with a_backend(hub) as backend, run_gateway(hub, alive_interval=SELDOM):
        first = await backend.alive()
        hub.stop()
        hub.start()
        assert (await backend.alive())["data"] == first["data"]


async def test_a_restarted_replica_has_a_new_incarnation_under_the_same_id(run_gateway: RunGateway) -> None:
    hub, runs = MemoryHub(), []
    async with a_backend(hub) as backend:
        for _ in range(2):
            async with run_gateway(hub, gateway_id="gw-1", alive_interval=SELDOM):
                runs.append((await backend.alive())["data"])
    assert [run["gateway_id"] for run in runs] == ["gw-1", "gw-1"]
    assert runs[0]["incarnation"] != runs[1]["incarnation"]


async def test_an_end_during_a_broker_outage_is_published_after_it(
    run_gateway: RunGateway,
) -> None:
    hub = MemoryHub()
    async with a_backend(hub) as backend, run_gateway(hub, alive_interval=SELDOM) as gateway:
        await backend.alive()
        async with gateway.connect("ana") as ana:
            await ana.next("session.welcome")
            started = await backend.event()
            hub.stop()
        await eventually(lambda: _active(gateway, 0))
        hub.start()
        ended = await backend.event()
        assert ended["action"] == "session.ended"
        assert ended["data"] == {**started["data"], "code": 1000}
        await backend.alive()


async def test_an_event_refused_by_a_blocked_broker_is_published_with_the_next_announcement(
    run_gateway: RunGateway,
) -> None:
    hub = MemoryHub()
    async with a_backend(hub) as backend, run_gateway(hub, alive_interval=0.1) as gateway:
        async with gateway.connect("ana") as ana:
            await ana.next("session.welcome")
            assert (await backend.event())["action"] == "session.started"
            hub.block()
        await eventually(lambda: _active(gateway, 0))
        hub.unblock()
        assert (await backend.event())["action"] == "session.ended"


async def test_an_unroutable_start_is_published_again_until_a_queue_is_bound(
    run_gateway: RunGateway,
) -> None:
    hub = MemoryHub()
    late = Queue(name="late.events", bindings=[Binding(EVENTS, SESSION_STARTED)])
    async with (
        run_gateway(hub, alive_interval=0.05) as gateway,
        hub.connect(name="late") as broker,
        gateway.connect("ana") as ana,
        gateway.connect("ben") as ben,
    ):
        await ana.next("session.welcome")
        await ben.next("session.welcome")
        await eventually(lambda: _returned(gateway, 5))
        await broker.declare(Topology([], [late]))
        received: set[str] = set()
        async with broker.subscribe(late, prefetch=10) as events, asyncio.timeout(10):
            while received != {"ana", "ben"}:
                delivery = await anext(events)
                delivery.ack()
                received.update(read_object(item)["data"]["user_id"] for item in split_batch(delivery.body))


async def _returned(gateway: GatewayUnderTest, least: int) -> bool:
    lines = (await gateway.admin("/metrics"))[1].splitlines()
    counter = 'messages_unpublished_total{exchange="towpath.events"}'
    return sum(float(line.split()[-1]) for line in lines if line.startswith(counter)) >= least


async def _active(gateway: GatewayUnderTest, count: int) -> bool:
    return f"connection_active {count}.0" in (await gateway.admin("/metrics"))[1]
