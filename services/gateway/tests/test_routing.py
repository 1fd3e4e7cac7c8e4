"""Selective routing: only what somebody here is concerned by comes here, and nobody misses anything for it."""

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
    envelope: dict[str, Any] = msgspec.json.decode(make("test.told", data).to_json())
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


async def hears_everything(gateway: GatewayUnderTest) -> None:
    async def does() -> bool:
        return (await metrics(gateway))["routing_everything"] == 1

    await eventually(does)


async def for_others(gateway: GatewayUnderTest) -> float:
    """Deliveries to single users that nobody here is concerned by."""
    figures = await metrics(gateway)
    return sum(figures[f'pushes_for_others_total{{kind="{kind}"}}'] for kind in ("user", "control"))


async def session_of(client: WireClient) -> dict[str, str]:
    data: dict[str, str] = (await client.find(lambda frame: frame["action"] == "session.welcome"))["data"]
    return data


async def hears(backend: Backend, client: WireClient, user: str, word: str) -> None:
    await backend.push(user_key(user), push(word=word))
    await client.find(lambda frame: frame["data"].get("word") == word)


async def test_what_is_pushed_to_others_does_not_come_here_and_all_else_does(run_gateway: RunGateway) -> None:
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
        told = [frame["data"]["word"] for frame in ana.pushes("test.told")]
        assert told == ["user", "control", "direct", "group", "everyone"]
        assert await for_others(gateway) == before


async def test_without_it_everything_comes_and_nothing_is_bound(run_gateway: RunGateway) -> None:
    async with (
        run_gateway(probe_interval=3600, routing_calm=0.01) as gateway,
        a_backend(gateway.hub) as backend,
        gateway.connect("ana") as ana,
    ):
        await session_of(ana)
        await backend.push(user_key("ben"), push(word="for ben"))
        await hears(backend, ana, "ana", "for ana")
        figures = await metrics(gateway)
        assert (figures["routing_everything"], figures["routing_user_bindings"]) == (1, 0)
        assert await for_others(gateway) == 1


async def test_whoever_is_welcomed_hears_what_is_pushed_from_that_moment_on(run_gateway: RunGateway) -> None:
    async with run_gateway(**SELECTIVE) as gateway, a_backend(gateway.hub) as backend:
        await converged(gateway, users=0)

        async def comes(user: str) -> None:
            async with gateway.connect(user) as client:
                await session_of(client)
                await hears(backend, client, user, f"hello {user}")

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
            await hears(backend, ana, "ana", "hello")
            assert (await metrics(gateway))["routing_waiting"] == 0


async def test_a_binding_is_given_time_to_be_known_everywhere(run_gateway: RunGateway) -> None:
    async with run_gateway(**SELECTIVE | {"routing_settle": 0.2}) as gateway:
        await converged(gateway, users=0)
        started = asyncio.get_running_loop().time()
        async with gateway.connect("ana") as ana:
            await session_of(ana)
        assert asyncio.get_running_loop().time() - started > 0.2


async def test_those_who_wait_count_among_the_connections(run_gateway: RunGateway) -> None:
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


async def test_a_user_is_bound_until_the_last_connection_has_long_gone(run_gateway: RunGateway) -> None:
    async with run_gateway(**SELECTIVE, routing_linger=0.1) as gateway, a_backend(gateway.hub) as backend:
        async with gateway.connect("ana") as one:
            async with gateway.connect("ana") as two:
                await session_of(one)
                await session_of(two)
                await converged(gateway, users=1)
            await hears(backend, one, "ana", "still here")
        await converged(gateway, users=0)


async def test_a_rush_falls_back_to_everything_and_converges_when_it_is_over(run_gateway: RunGateway) -> None:
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
            await hears(backend, client, user, "in the rush")
        assert (await metrics(gateway))["routing_fallbacks_total"] == 1
        await converged(gateway, users=40)
        for user, client in zip(people, here, strict=True):
            await hears(backend, client, user, "after it")


async def test_more_users_than_bindings_fall_back_to_everything(run_gateway: RunGateway) -> None:
    async with (
        run_gateway(**SELECTIVE, routing_bindings_max=1) as gateway,
        a_backend(gateway.hub) as backend,
        gateway.connect("ana") as ana,
    ):
        await converged(gateway, users=1)
        async with gateway.connect("ben") as ben:
            await session_of(ben)
            await hears_everything(gateway)
            await hears(backend, ben, "ben", "both")
            await hears(backend, ana, "ana", "both")
        await converged(gateway, users=1)


async def test_a_binding_that_is_not_made_in_time_is_done_without(run_gateway: RunGateway) -> None:
    async with (
        run_gateway(**SELECTIVE) as gateway,
        a_backend(gateway.hub) as backend,
        gateway.connect("ana") as ana,
    ):
        await session_of(ana)
        await converged(gateway, users=1)
        gateway.hub.hold_bindings()
        # Neither a binding for ben nor the catch-alls: the inbox is given up, and clients resume.
        async with gateway.connect("ben") as ben:
            await session_of(ben)
            await ana.next("session.resync")
            await hears(backend, ana, "ana", "anew")
            await hears(backend, ben, "ben", "anew")
            gateway.hub.release_bindings()
            await converged(gateway, users=2)


async def test_an_inbox_whose_bindings_may_be_removed_late_is_given_up(run_gateway: RunGateway) -> None:
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
        await hears(backend, ana, "ana", "anew")
        gateway.hub.release_bindings()
        await converged(gateway, users=1)


async def test_a_broker_that_comes_back_brings_everything_and_it_converges_again(
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
        await hears_everything(gateway)
        await hears(backend, ana, "ana", "everything")
        await converged(gateway, users=1)
        await hears(backend, ana, "ana", "selective")


async def test_a_gateway_that_stops_keeps_nobody_waiting(run_gateway: RunGateway) -> None:
    async with run_gateway(**SELECTIVE) as gateway:
        await converged(gateway, users=0)
        gateway.hub.hold_bindings()
        async with gateway.connect("ana") as ana:
            gateway.drain()
            assert await ana.closed() == 1012


async def test_the_probe_finds_a_binding_of_one_user_that_is_lost(run_gateway: RunGateway) -> None:
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
        await hears(backend, ben, "ben", "anew")
        await converged(gateway, users=2)
