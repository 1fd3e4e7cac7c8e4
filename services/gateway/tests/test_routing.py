"""Selective routing: a replica gets only the pushes of its users, and its users miss none."""

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import msgspec
from websockets.exceptions import InvalidStatus

from towpath.protocol.envelope import make
from towpath.protocol.routes import control_key, group_key, user_key
from towpath.servicekit.broker.memory import MemoryHub
from towpath.testkit.client import WireClient
from towpath.testkit.eventually import eventually
from towpath.testkit.gateway import Backend, GatewayUnderTest, RunGateway, a_backend

#: Selective, and in a hurry.
SELECTIVE: dict[str, Any] = {
    "routing": "selective",
    "routing_calm": 0.05,
    "routing_settle": 0.0,
    "probe_interval": 3600,
}


def push(**data: Any) -> dict[str, Any]:
    envelope: dict[str, Any] = msgspec.json.decode(make("test.pushed", data).to_json())
    return envelope


async def metrics(gateway: GatewayUnderTest) -> dict[str, float]:
    """All figures by name, with their labels as Prometheus writes them."""
    lines = (await gateway.admin("/metrics"))[1].splitlines()
    pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    return {name: float(value) for name, value in pairs}


async def converged(gateway: GatewayUnderTest, users: int) -> None:
    """Wait until only pushes to those users come here."""

    async def has() -> bool:
        figures = await metrics(gateway)
        return (figures["routing_everything"], figures["routing_user_bindings"]) == (0, users)

    await eventually(has)


async def receives_everything(gateway: GatewayUnderTest) -> None:
    async def does() -> bool:
        return (await metrics(gateway))["routing_everything"] == 1

    await eventually(does)


async def for_others(gateway: GatewayUnderTest) -> float:
    """Deliveries to single users without a receiver on this replica."""
    figures = await metrics(gateway)
    return sum(figures[f'pushes_for_others_total{{kind="{kind}"}}'] for kind in ("user", "control"))


async def session_of(client: WireClient) -> dict[str, str]:
    data: dict[str, str] = (await client.find(lambda frame: frame["action"] == "session.welcome"))["data"]
    return data


async def receives(backend: Backend, client: WireClient, user: str, word: str) -> None:
    await backend.push(user_key(user), push(word=word))
    await client.find(lambda frame: frame["data"].get("word") == word)


async def test_pushes_to_users_elsewhere_do_not_reach_the_replica_and_all_others_do(
    run_gateway: RunGateway,
) -> None:
    async with (
        run_gateway(**SELECTIVE) as gateway,
        a_backend(gateway.hub) as backend,
        gateway.connect("ana") as ana,
    ):
        session = await session_of(ana)
        await converged(gateway, users=1)
        before = await for_others(gateway)
        for _ in range(50):
            await backend.push(user_key("ben"), push(word="for ben"))
            await backend.push(control_key("ben"), {"subscribe": ["g"]})
        await backend.push(user_key("ana"), push(word="user"))
        await backend.push(control_key("ana"), {"envelope": push(word="control")})
        await backend.direct(session, subscribe=["g"], envelope=push(word="direct"))
        await backend.push(group_key("g"), push(word="group"))
        await backend.push("everyone", push(word="everyone"))
        await ana.find(lambda frame: frame["data"].get("word") == "everyone")
        received = [frame["data"]["word"] for frame in ana.pushes("test.pushed")]
        assert received == ["user", "control", "direct", "group", "everyone"]
        assert await for_others(gateway) == before


async def test_without_selective_routing_all_pushes_reach_the_replica_without_user_bindings(
    run_gateway: RunGateway,
) -> None:
    async with (
        run_gateway(probe_interval=3600, routing_calm=0.01) as gateway,
        a_backend(gateway.hub) as backend,
        gateway.connect("ana") as ana,
    ):
        await session_of(ana)
        await backend.push(user_key("ben"), push(word="for ben"))
        await receives(backend, ana, "ana", "for ana")
        figures = await metrics(gateway)
        assert (figures["routing_everything"], figures["routing_user_bindings"]) == (1, 0)
        assert await for_others(gateway) == 1


async def test_a_welcomed_client_gets_every_push_from_that_moment_on(run_gateway: RunGateway) -> None:
    async with run_gateway(**SELECTIVE) as gateway, a_backend(gateway.hub) as backend:
        await converged(gateway, users=0)

        async def comes(user: str) -> None:
            async with gateway.connect(user) as client:
                await session_of(client)
                await receives(backend, client, user, f"hello {user}")

        await asyncio.gather(*(comes(f"u{n}") for n in range(30)))


async def test_a_welcome_waits_for_the_binding(run_gateway: RunGateway) -> None:
    async with run_gateway(**SELECTIVE) as gateway, a_backend(gateway.hub) as backend:
        await converged(gateway, users=0)
        gateway.hub.hold_bindings()
        async with gateway.connect("ana") as ana, gateway.connect("ana") as again:

            async def both_wait() -> bool:
                return (await metrics(gateway))["routing_waiting"] == 2

            await eventually(both_wait)
            assert ana.frames == again.frames == []
            gateway.hub.release_bindings()
            await session_of(ana)
            await session_of(again)
            await receives(backend, ana, "ana", "hello")
            assert (await metrics(gateway))["routing_waiting"] == 0


async def test_a_binding_has_time_to_reach_all_nodes_before_the_welcome(run_gateway: RunGateway) -> None:
    async with run_gateway(**SELECTIVE | {"routing_settle": 0.2}) as gateway:
        await converged(gateway, users=0)
        started = asyncio.get_running_loop().time()
        async with gateway.connect("ana") as ana:
            await session_of(ana)
        assert asyncio.get_running_loop().time() - started > 0.2


async def test_clients_that_wait_for_their_routing_count_as_connections(run_gateway: RunGateway) -> None:
    async with run_gateway(**SELECTIVE, max_connections=1) as gateway:
        await converged(gateway, users=0)
        gateway.hub.hold_bindings()
        async with gateway.connect("ana") as ana:

            async def waits() -> bool:
                return (await metrics(gateway))["routing_waiting"] == 1

            await eventually(waits)
            assert (await refused(gateway)) == 503
            gateway.hub.release_bindings()
            await session_of(ana)
            assert (await refused(gateway)) == 503


async def refused(gateway: GatewayUnderTest) -> int:
    """The status that a further connection is refused with."""
    try:
        async with gateway.connect("ben"):
            return 101
    except InvalidStatus as refusal:
        return refusal.response.status_code


async def test_a_binding_stays_for_a_while_after_the_last_connection_of_its_user(
    run_gateway: RunGateway,
) -> None:
    async with run_gateway(**SELECTIVE, routing_linger=0.1) as gateway, a_backend(gateway.hub) as backend:
        async with gateway.connect("ana") as one:
            async with gateway.connect("ana") as two:
                await session_of(one)
                await session_of(two)
                await converged(gateway, users=1)
            await receives(backend, one, "ana", "still here")
        await converged(gateway, users=0)


async def test_a_rush_falls_back_to_the_catch_alls_and_routing_becomes_selective_after_it(
    run_gateway: RunGateway,
) -> None:
    people = [f"u{n}" for n in range(40)]
    slow = SELECTIVE | {"routing_binds_per_second": 20, "routing_calm": 0.3}
    async with (
        run_gateway(**slow) as gateway,
        a_backend(gateway.hub) as backend,
        AsyncExitStack() as clients,
    ):
        await converged(gateway, users=0)
        gateway.hub.hold_bindings()
        here = [await clients.enter_async_context(gateway.connect(user)) for user in people]
        gateway.hub.release_bindings()
        for user, client in zip(people, here, strict=True):
            await session_of(client)
            await receives(backend, client, user, "in the rush")
        assert (await metrics(gateway))["routing_fallbacks_total"] == 1
        await converged(gateway, users=40)
        for user, client in zip(people, here, strict=True):
            await receives(backend, client, user, "after it")


async def test_more_users_than_bindings_fall_back_to_the_catch_alls(run_gateway: RunGateway) -> None:
    async with (
        run_gateway(**SELECTIVE, routing_bindings_max=1) as gateway,
        a_backend(gateway.hub) as backend,
        gateway.connect("ana") as ana,
    ):
        await converged(gateway, users=1)
        async with gateway.connect("ben") as ben:
            await session_of(ben)
            await receives_everything(gateway)
            await receives(backend, ben, "ben", "both")
            await receives(backend, ana, "ana", "both")
        await converged(gateway, users=1)


async def test_a_binding_not_made_in_time_leads_to_a_new_inbox_and_a_resync(run_gateway: RunGateway) -> None:
    async with (
        run_gateway(**SELECTIVE) as gateway,
        a_backend(gateway.hub) as backend,
        gateway.connect("ana") as ana,
    ):
        await session_of(ana)
        await converged(gateway, users=1)
        gateway.hub.hold_bindings()
        # Neither a binding for ben nor the catch-alls: the inbox is replaced, and clients resume.
        async with gateway.connect("ben") as ben:
            await session_of(ben)
            await ana.next("session.resync")
            await receives(backend, ana, "ana", "again")
            await receives(backend, ben, "ben", "again")
            gateway.hub.release_bindings()
            await converged(gateway, users=2)


async def test_an_inbox_whose_bindings_may_be_removed_late_is_replaced(run_gateway: RunGateway) -> None:
    async with (
        run_gateway(**SELECTIVE, routing_linger=0.1) as gateway,
        a_backend(gateway.hub) as backend,
        gateway.connect("ana") as ana,
    ):
        async with gateway.connect("ben") as ben:
            await session_of(ana)
            await session_of(ben)
            await converged(gateway, users=2)
            gateway.hub.hold_bindings()
        await ana.next("session.resync")
        await receives(backend, ana, "ana", "again")
        gateway.hub.release_bindings()
        await converged(gateway, users=1)


async def test_after_a_reconnect_routing_starts_with_the_catch_alls_and_becomes_selective(
    run_gateway: RunGateway,
) -> None:
    async with (
        run_gateway(**SELECTIVE | {"routing_calm": 0.5}) as gateway,
        a_backend(gateway.hub) as backend,
        gateway.connect("ana") as ana,
    ):
        await session_of(ana)
        await converged(gateway, users=1)
        gateway.hub.stop()
        gateway.hub.start()
        await ana.next("session.resync")
        await receives_everything(gateway)
        await receives(backend, ana, "ana", "everything")
        await converged(gateway, users=1)
        await receives(backend, ana, "ana", "selective")


async def test_a_stopping_gateway_leaves_no_client_waiting_for_its_routing(run_gateway: RunGateway) -> None:
    async with run_gateway(**SELECTIVE) as gateway:
        await converged(gateway, users=0)
        gateway.hub.hold_bindings()
        async with gateway.connect("ana") as ana:
            gateway.drain()
            assert await ana.closed() == 1012


async def test_the_probe_finds_a_lost_binding_of_one_user(run_gateway: RunGateway) -> None:
    hub = MemoryHub()
    often = SELECTIVE | {"probe_interval": 0.02, "probe_timeout": 10.0}
    async with (
        run_gateway(hub, **often) as gateway,
        a_backend(hub) as backend,
        gateway.connect("ana") as ana,
        gateway.connect("ben") as ben,
    ):
        await session_of(ana)
        await session_of(ben)
        await converged(gateway, users=2)

        async def probed() -> bool:
            return (await metrics(gateway))["probe_round_trip_seconds_count"] >= 6

        await eventually(probed)
        assert (await metrics(gateway))["probes_lost_total"] == 0
        assert {frame["action"] for frame in ana.frames} == {"session.welcome"}
        hub.lose_bindings("*.ben")
        await ben.next("session.resync")
        await receives(backend, ben, "ben", "again")
        await converged(gateway, users=2)
