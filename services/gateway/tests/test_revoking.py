"""Revoked tokens: open sessions end, and no replica takes them again."""

import json
import time
from dataclasses import replace
from typing import Any

import aiohttp
import pytest
from websockets.exceptions import InvalidStatus

from towpath.gateway.forwarding.revoking import LOG
from towpath.protocol.revocations import Kind
from towpath.protocol.routes import EXCHANGES, PUSH
from towpath.servicekit.broker.interface import Broker, Exchange, Message, Topology, TopologyMismatch
from towpath.servicekit.broker.memory import MemoryHub
from towpath.testkit.client import WireClient
from towpath.testkit.eventually import eventually
from towpath.testkit.gateway import Backend, GatewayUnderTest, RunGateway, a_gateway
from towpath.testkit.tokens import a_token

REFUSED = "the token is revoked"
TOPOLOGY = Topology([Exchange(name) for name in EXCHANGES])


def body(**fields: Any) -> bytes:
    return json.dumps({"until": time.time() + 3600, **fields}).encode()


async def revoke(broker: Broker, kind: Kind, **fields: Any) -> None:
    await broker.publish(PUSH, kind.key, Message(body=body(**fields)), mandatory=True)


async def is_refused(gateway: GatewayUnderTest, token: str) -> bool:
    """Whether a token is refused as revoked; false if it is accepted."""
    try:
        async with gateway.connect(token=token) as client:
            await client.next("session.welcome")
            return False
    except InvalidStatus as error:
        refusal = error.response
    assert (refusal.status_code, (refusal.body or b"").decode()) == (401, f"{REFUSED}\n")
    return True


async def shows(gateway: GatewayUnderTest, figure: str) -> bool:
    """Whether a metric has that value."""
    return figure in (await gateway.admin("/metrics"))[1].splitlines()


async def closed(client: WireClient) -> dict[str, Any]:
    data: dict[str, Any] = (await client.next("session.closing"))["data"]
    return data


async def test_a_revoked_token_ends_its_sessions_and_cannot_return(
    gateway: GatewayUnderTest, backend: Backend
) -> None:
    stolen, other = a_token("ana", jti="stolen"), a_token("ana", jti="other")
    async with gateway.connect(token=stolen) as thief, gateway.connect(token=other) as ana:
        for client in (thief, ana):
            await client.next("session.welcome")
        await revoke(backend.broker, Kind.TOKEN, token_id="stolen")
        data = await closed(thief)
        # Without `retry_after_ms`: clients do not reconnect.
        assert data == {"code": 4502, "reason": "revoked"}
        assert await is_refused(gateway, stolen)
        assert (await ana.request("ping"))["action"] == "pong"
        # The open session of the same user cannot continue under the revoked token either.
        refused = await ana.request("session.refresh", {"token": stolen})
        assert (refused["action"], refused["data"]["code"]) == ("error", "unauthorized")
        assert REFUSED in refused["data"]["message"]
        assert (await ana.request("ping"))["action"] == "pong"


async def test_revoking_a_user_ends_tokens_issued_until_then_and_no_later_ones(
    gateway: GatewayUnderTest, backend: Backend
) -> None:
    now = int(time.time())
    old, undated, new = a_token("ana", iat=now - 5), a_token("ana", iat=None), a_token("ana", iat=now + 1)
    async with (
        gateway.connect(token=old) as first,
        gateway.connect(token=undated) as second,
        gateway.connect(token=new) as third,
        gateway.connect("ben") as ben,
    ):
        for client in (first, second, third, ben):
            await client.next("session.welcome")
        await revoke(backend.broker, Kind.USER, user_id="ana", before=now)
        for client in (first, second):
            assert (await closed(client))["code"] == 4502
        for client in (third, ben):
            assert (await client.request("ping"))["action"] == "pong"
    assert await is_refused(gateway, old)
    assert await is_refused(gateway, undated)
    assert not await is_refused(gateway, new)


async def test_revoking_all_tokens_issued_before_a_time_ends_the_tokens_of_all_users(
    gateway: GatewayUnderTest, backend: Backend
) -> None:
    now = int(time.time())
    async with gateway.connect(token=a_token("ana", iat=now - 5)) as ana:
        await ana.next("session.welcome")
        await revoke(backend.broker, Kind.ISSUED_BEFORE, before=now)
        assert (await closed(ana))["code"] == 4502
    assert await is_refused(gateway, a_token("ben", iat=now))
    assert not await is_refused(gateway, a_token("ben", iat=now + 1))


async def test_a_refreshed_session_does_not_end_with_its_old_token(
    gateway: GatewayUnderTest, backend: Backend
) -> None:
    async with gateway.connect(token=a_token("ana", jti="old")) as ana:
        await ana.next("session.welcome")
        await ana.request("session.refresh", {"token": a_token("ana", jti="new")})
        await revoke(backend.broker, Kind.TOKEN, token_id="old")
        assert await is_refused(gateway, a_token("ana", jti="old"))
        assert (await ana.request("ping"))["action"] == "pong"


async def test_a_replica_that_starts_later_knows_all_revocations(run_gateway: RunGateway) -> None:
    hub = MemoryHub()
    async with run_gateway(hub) as first, hub.connect(name="ops") as ops:
        await revoke(ops, Kind.TOKEN, token_id="t-1")
        assert await is_refused(first, a_token("ana", jti="t-1"))
    async with run_gateway(hub) as second:
        assert await is_refused(second, a_token("ana", jti="t-1"))
        assert not await is_refused(second, a_token("ana", jti="t-2"))


async def test_a_replica_is_not_ready_before_it_has_read_all_revocations() -> None:
    hub, token = MemoryHub(), a_token("ana", jti="t-1")
    async with hub.connect(name="ops") as ops:
        await ops.declare(TOPOLOGY)
        async with ops.subscribe(LOG, prefetch=1):
            pass
        await revoke(ops, Kind.TOKEN, token_id="t-1")
        # Nothing can be published, so no marker shows the replica that it has read everything.
        hub.block()
        async with a_gateway(hub, wait=False) as gateway:
            await eventually(lambda: has_read_a_revocation(gateway))
            status, text = await gateway.admin("/health/ready")
            assert status == 503
            assert "revocations" in json.loads(text)["failing"]
            with pytest.raises(InvalidStatus, match="503"):
                async with gateway.connect("ben"):
                    pass
            hub.unblock()
            await eventually(gateway.is_ready)
            assert await is_refused(gateway, token)
            assert not await is_refused(gateway, a_token("ben"))


async def has_read_a_revocation(gateway: GatewayUnderTest) -> bool:
    try:
        return await shows(gateway, "revocations_active 1.0")
    except aiohttp.ClientError:
        return False  # it does not listen yet


async def test_a_token_revoked_during_an_outage_is_refused_after_it(
    gateway: GatewayUnderTest, backend: Backend
) -> None:
    async with gateway.connect(token=a_token("ana", jti="t-1")) as ana:
        await ana.next("session.welcome")
        gateway.hub.stop()
        gateway.hub.start()
        await revoke(backend.broker, Kind.TOKEN, token_id="t-1")
        assert (await closed(ana))["code"] == 4502
        assert await is_refused(gateway, a_token("ana", jti="t-1"))


@pytest.mark.parametrize(
    "odd",
    [
        b"",
        b"rubbish",
        b"[1, null, {}]",
        b'{"until": 1e999, "token_id": "t"}',
        b'{"until": 2000000000, "before": 2000000000}',
        b'{"until": 2000000000, "user_id": "ana", "before": 2000000000}',
        b"\xff",
    ],
)
async def test_an_invalid_revocation_changes_nothing(
    gateway: GatewayUnderTest, backend: Backend, odd: bytes
) -> None:
    async with gateway.connect("ana") as ana:
        await ana.next("session.welcome")
        # The key gives the kind: this one may name tokens, and neither one user nor all.
        await backend.push(Kind.TOKEN.key, odd)
        await backend.push("revoke.everything", body(before=time.time()))
        await revoke(backend.broker, Kind.TOKEN, token_id="t-1")
        await eventually(lambda: is_refused(gateway, a_token("ana", jti="t-1")))
        assert (await ana.request("ping"))["action"] == "pong"
    assert not await shows(gateway, "revocations_unreadable_total 0.0")
    assert await shows(gateway, "revocations_active 1.0")


async def test_a_token_that_is_revoked_between_its_handshake_and_its_session_gets_none(
    run_gateway: RunGateway,
) -> None:
    selective: dict[str, Any] = {
        "routing": "selective",
        "routing_calm": 0.05,
        "routing_settle": 0.0,
        "probe_interval": 3600,
    }
    async with run_gateway(**selective) as gateway, gateway.hub.connect(name="ops") as ops:
        await eventually(lambda: shows(gateway, "routing_everything 0.0"))
        # A connecting client waits for its binding: its handshake is over, and its session is not open yet.
        gateway.hub.hold_bindings()
        async with gateway.connect(token=a_token("ana", jti="t-1")) as client:
            await eventually(lambda: shows(gateway, "routing_waiting 1.0"))
            await revoke(ops, Kind.TOKEN, token_id="t-1")
            await eventually(lambda: shows(gateway, "revocations_active 1.0"))
            gateway.hub.release_bindings()
            assert (await closed(client))["code"] == 4502
            assert await client.closed() == 4502
        assert await shows(gateway, "connections_opened_total 0.0")


async def test_a_broker_with_another_queue_of_that_name_ends_the_start_with_the_remedy() -> None:
    hub = MemoryHub()
    async with hub.connect(name="other") as other:
        async with other.subscribe(replace(LOG, bindings=[], max_bytes=5), prefetch=1):
            pass
        with pytest.raises(ExceptionGroup) as ended:
            async with a_gateway(hub, wait=False) as gateway:
                await gateway.ended()
    [error] = ended.value.exceptions
    assert isinstance(error, TopologyMismatch)
    assert LOG.name in str(error)
    assert "TOWPATH_REVOCATIONS=off" in str(error)


async def test_revocations_can_be_off(run_gateway: RunGateway) -> None:
    hub = MemoryHub()
    async with run_gateway(hub, revocations="off") as gateway, hub.connect(name="ops") as ops:
        await ops.declare(TOPOLOGY)
        await ops.publish(PUSH, Kind.TOKEN.key, Message(body=body(token_id="t-1")))
        assert not await is_refused(gateway, a_token("ana", jti="t-1"))
