"""Out: how long until a kick and a revocation have reached 10,000 connections, and what 50,000 revocations cost."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final

import pytest
from websockets.exceptions import InvalidStatus

from tests.faults.resources import resident_mib
from towpath.protocol.messages import Directed, Disconnect, encode
from towpath.protocol.revocations import ACTIVE_MAX, Kind, Revocation, write
from towpath.protocol.routes import PUSH, control_key
from towpath.servicekit.broker.interface import Broker, Exchange, Message, Topology
from towpath.servicekit.broker.rabbitmq import RabbitBroker
from towpath.testkit.client import WireClient
from towpath.testkit.eventually import eventually
from towpath.testkit.processes import Process
from towpath.testkit.rabbitmq import Rabbit
from towpath.testkit.system import System, url_of
from towpath.testkit.tokens import a_token

from .program import Program
from .trial import Trial
from .watch import counts
from .wire import Refused, Wire

_PEOPLE: Final = 10_000
_PROGRAMS: Final = 2
_VICTIMS: Final = 10
#: Seconds until a kicked or revoked connection has its close frame.
_OUT: Final = 1.0
#: The same for all of 10,000 connections: each gets a closing handshake.
_ALL_OUT: Final = 10.0
_REVOKED: Final = 200
#: Fewer than a user may connect at once (``connects_per_user_burst``).
_VALID: Final = 40
#: Each costs 20 tokens of the user's 2,000.
_REFRESHES: Final = 90
_START: Final = 30.0
_MIB: Final = 40.0


@pytest.mark.timeout(300)
async def test_a_kick_and_a_revocation_reach_every_replica_within_a_second(
    fresh_system: System, trial: Trial
) -> None:
    system = fresh_system
    async with trial.counted(f"kick, revoke at {_PEOPLE:,} connections") as line, AsyncExitStack() as stack:
        ports = [int(gateway.settings["TOWPATH_PORT"]) for gateway in system.gateways]
        programs = [
            await stack.enter_async_context(
                Program.start(
                    "people",
                    {"name": f"p{number}-", "count": _PEOPLE // _PROGRAMS, "ports": ports},
                    timeout=180,
                )
            )
            for number in range(_PROGRAMS)
        ]
        broker = await stack.enter_async_context(_a_backend(system.rabbitmq))
        kicked = [await _kicked(system, broker, f"kicked{n}") for n in range(_VICTIMS)]
        revoked = [await _revoked(system, broker, f"revoked{n}") for n in range(_VICTIMS)]
        await asyncio.sleep(
            1.1
        )  # a token issued in this second would be refused below, and the next trial has one
        began = time.monotonic()
        await _revoke(broker, Kind.ISSUED_BEFORE, before=time.time())
        for program in programs:
            program.go()
        await asyncio.sleep(_ALL_OUT)
        for program in programs:
            program.go()
        told = [await program.result() for program in programs]
        out = sum(one["codes"].get("4502", 0) for one in told)
        last = max(one["closed"] or 0.0 for one in told) - began
        line.got_in = (
            f"slowest of {_VICTIMS}: kick {max(kicked) * 1000:,.0f} ms, revoke {max(revoked) * 1000:,.0f} ms; "
            f"all {_PEOPLE:,} revoked at once: {out:,} closed with 4502, the last after {last:.1f} s"
        )
        if max(*kicked, *revoked) > _OUT:
            line.failures.append(f"a connection was open for more than {_OUT:g} s")
        if out != _PEOPLE:
            line.failures.append(f"{_PEOPLE - out:,} connections were not closed with 4502")


@pytest.mark.timeout(240)
async def test_a_replica_that_starts_reads_all_revocations_first(
    fresh_system: System, rabbitmq: Rabbit, trial: Trial
) -> None:
    system = fresh_system
    async with trial.counted(f"start with {ACTIVE_MAX:,} revocations") as line:
        started, held = await _start(system)
        async with _a_backend(rabbitmq) as broker:
            await _fill(broker)
            started_full, held_full = await _start(system)
            gateway = system.gateways[-1]
            for name in ("t0", f"t{ACTIVE_MAX - 1}"):
                if not await _is_refused(gateway, a_token("ana", jti=f"{name:0>36}")):
                    line.failures.append(f"the revoked token {name} was accepted")
            before = time.monotonic()
            await _revoke(broker, Kind.TOKEN, token_id="one more")
            await eventually(lambda: _is_refused(gateway, a_token("ana", jti="one more")), every=0.01)
            later = time.monotonic() - before
        grew = held_full - held
        line.got_in = (
            f"ready after {started_full:.1f} s instead of {started:.1f} s; {grew:.0f} MiB more; "
            f"one more is refused after {later * 1000:,.0f} ms"
        )
        if started_full > _START:
            line.failures.append(f"it was ready after {started_full:.1f} s, not {_START:g} at most")
        if grew > _MIB:
            line.failures.append(f"it holds {grew:.0f} MiB more, not {_MIB:g} at most")


@pytest.mark.timeout(240)
async def test_no_revoked_token_is_accepted_by_any_replica(fresh_system: System, trial: Trial) -> None:
    system = fresh_system
    async with trial.door("a revoked token returns: connects to old and new replicas, refreshes") as door:
        issued = int(time.time()) - 60
        revoked = [a_token("ana", jti=f"t-{number}", iat=issued) for number in range(_REVOKED)]
        revoked += [a_token(f"gone{number}", iat=issued) for number in range(_REVOKED)]
        valid = [a_token("ana", jti=f"valid-{number}", iat=issued) for number in range(_VALID)]
        async with _a_backend(system.rabbitmq) as broker:
            for number in range(_REVOKED):
                await _revoke(broker, Kind.TOKEN, token_id=f"t-{number}")
                await _revoke(broker, Kind.USER, user_id=f"gone{number}", before=issued)
        await _start(system)
        for gateway in system.gateways:
            await eventually(lambda known=gateway: _knows(known, 2 * _REVOKED))  # type: ignore[misc]
            outcomes = [await _status(gateway, token) for token in revoked]
            door.tried += len(outcomes)
            door.through += outcomes.count(101)
            door.expect(set(outcomes) == {401}, f"revoked tokens were answered {set(outcomes)}")
            answers = {await _status(gateway, token) for token in valid}
            door.expect(answers == {101}, f"valid tokens were answered {answers}")
        async with AsyncExitStack() as stack:
            client = await _open(stack, system.gateways[0], valid[0])
            for token in revoked[:_REFRESHES]:
                answer = await client.request("session.refresh", {"token": token})
                door.tried += 1
                door.through += answer["action"] != "error"
                code = answer["data"].get("code")
                door.expect(code == "unauthorized", f"a refresh was answered {code}")


@asynccontextmanager
async def _a_backend(rabbitmq: Rabbit) -> AsyncIterator[Broker]:
    async with RabbitBroker.connect(rabbitmq.url, name="backend") as broker:
        await broker.declare(Topology([Exchange(PUSH)]))
        yield broker


async def _revoke(broker: Broker, kind: Kind, **fields: Any) -> None:
    body = json.dumps({"until": time.time() + 3600, **fields}).encode()
    await broker.publish(PUSH, kind.key, Message(body=body), mandatory=True)


async def _kicked(system: System, broker: Broker, user: str) -> float:
    """Seconds from the publish of a kick to the last close of the user's connections, one on each replica."""
    async with AsyncExitStack() as stack:
        clients = [await _open(stack, gateway, a_token(user)) for gateway in system.gateways]
        began = time.monotonic()
        item = Directed(disconnect=Disconnect(4502, "kicked"))
        await broker.publish(PUSH, control_key(user), Message(body=encode(item)), mandatory=True)
        assert await asyncio.gather(*(client.closed() for client in clients)) == [4502] * len(clients)
        return time.monotonic() - began


async def _revoked(system: System, broker: Broker, token_id: str) -> float:
    """The same for a token that is revoked."""
    token = a_token("ana", jti=token_id)
    async with AsyncExitStack() as stack:
        clients = [await _open(stack, gateway, token) for gateway in system.gateways]
        began = time.monotonic()
        await _revoke(broker, Kind.TOKEN, token_id=token_id)
        assert await asyncio.gather(*(client.closed() for client in clients)) == [4502] * len(clients)
        took = time.monotonic() - began
    for gateway in system.gateways:
        assert await _is_refused(gateway, token)
    return took


async def _open(stack: AsyncExitStack, gateway: Process, token: str) -> WireClient:
    client = await stack.enter_async_context(WireClient.connect(url_of(gateway), token=token))
    await client.next("session.welcome")
    return client


async def _is_refused(gateway: Process, token: str) -> bool:
    try:
        async with WireClient.connect(url_of(gateway), token=token):
            return False
    except InvalidStatus as refusal:
        return refusal.response.status_code == 401


async def _status(gateway: Process, token: str) -> int:
    """The status that a handshake with ``token`` is answered with."""
    try:
        wire = await Wire.open(int(gateway.settings["TOWPATH_PORT"]), token)
    except Refused as refusal:
        return refusal.status
    wire.abort()
    return 101


async def _knows(gateway: Process, count: int) -> bool:
    return (await counts(gateway)).get("revocations_active", 0.0) >= count


async def _fill(broker: Broker) -> None:
    """As many revocations as may be active: half of them one in a message, as they arise."""
    until, half = time.time() + 3600, ACTIVE_MAX // 2
    items = [Revocation(until, token_id=f"{f't{number}':0>36}", by="ops") for number in range(ACTIVE_MAX)]
    bodies = [write([item]) for item in items[:half]]
    bodies += [write(items[first : first + 500]) for first in range(half, ACTIVE_MAX, 500)]
    for first in range(0, len(bodies), 500):
        await asyncio.gather(
            *(
                broker.publish(PUSH, Kind.TOKEN.key, Message(body=body), mandatory=True)
                for body in bodies[first : first + 500]
            )
        )


async def _start(system: System) -> tuple[float, float]:
    """One more replica: seconds until it is ready, and the MiB that it holds then."""
    began = time.monotonic()
    gateway = system.launch_gateway()
    system.gateways.append(gateway)
    await gateway.ready(timeout=120)
    return time.monotonic() - began, resident_mib(gateway)
