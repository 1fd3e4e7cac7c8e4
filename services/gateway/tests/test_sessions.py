"""The life of a connection: announced, watched, refreshed, drained."""

import asyncio
import base64
import contextlib
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from websockets.exceptions import InvalidStatus

from towpath.protocol.envelope import make
from towpath.testkit.client import WireClient
from towpath.testkit.eventually import eventually
from towpath.testkit.gateway import Backend, GatewayUnderTest, RunGateway, a_backend
from towpath.testkit.tokens import a_token


@asynccontextmanager
async def silent_connection(
    gateway: GatewayUnderTest, user: str = "ana"
) -> AsyncIterator[asyncio.StreamReader]:
    """A WebSocket that is opened and then neither answers nor reads, unless the test does."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.settings.port, limit=2**12)
    try:
        key = base64.b64encode(os.urandom(16)).decode()
        writer.write(
            (
                f"GET /ws HTTP/1.1\r\nHost: gateway\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n"
                f"Authorization: Bearer {a_token(user)}\r\n\r\n"
            ).encode()
        )
        assert b"101" in await reader.readuntil(b"\r\n\r\n")
        yield reader
    finally:
        writer.transport.abort()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def test_services_get_the_start_and_the_end_of_each_session(
    gateway: GatewayUnderTest, backend: Backend
) -> None:
    async with gateway.connect("ana") as ana:
        session = (await ana.next("session.welcome"))["data"]
        started = await backend.event()
    ended = await backend.event()
    known = {name: session[name] for name in ("user_id", "connection_id", "gateway_id")}
    known["incarnation"] = started["data"]["incarnation"]
    assert (started["action"], started["data"]) == ("session.started", known)
    assert (ended["action"], ended["data"]) == ("session.ended", {**known, "code": 1000})


async def test_a_session_started_during_an_outage_is_announced_after_it(
    gateway: GatewayUnderTest, backend: Backend
) -> None:
    async with gateway.connect("ana") as ana:
        await ana.next("session.welcome")
        await backend.event()
        gateway.hub.stop()
        gateway.hub.start()
        await ana.next("session.resync")
        await eventually(gateway.is_ready)
        async with gateway.connect("ben"):
            received = {(await backend.event())["data"]["user_id"] for _ in range(2)}
            assert received == {"ana", "ben"}  # ana again: what concerns her may have been lost


async def test_a_new_token_is_accepted_on_the_same_connection(run_gateway: RunGateway) -> None:
    async with run_gateway() as gateway, gateway.connect(token=a_token("ana", expires_in=2)) as ana:
        answer = await ana.request("session.refresh", {"token": a_token("ana", expires_in=3600)})
        assert answer["action"] == "session.refresh.ok"
        assert answer["data"]["expires_at"] > 1000 * (time.time() + 3000)


async def test_a_token_of_another_user_is_forbidden(gateway: GatewayUnderTest) -> None:
    async with gateway.connect("ana") as ana:
        error = await ana.request("session.refresh", {"token": a_token("ben")})
        assert error["data"]["code"] == "forbidden"


async def test_a_client_is_warned_of_an_expiring_token_and_closed_with_4003_at_its_expiry(
    run_gateway: RunGateway,
) -> None:
    async with (
        run_gateway(expiry_notice=60) as gateway,
        gateway.connect(token=a_token("ana", expires_in=3.0)) as ana,
    ):
        expiring = await ana.next("session.expiring")
        assert expiring["data"]["expires_at"] > expiring["timestamp"]
        assert (await ana.next("session.closing"))["data"]["code"] == 4003
        assert await ana.closed() == 4003


async def test_a_refreshed_connection_outlives_its_first_token(run_gateway: RunGateway) -> None:
    async with run_gateway() as gateway, gateway.connect(token=a_token("ana", expires_in=2.0)) as ana:
        await ana.request("session.refresh", {"token": a_token("ana", expires_in=3.5)})
        assert await ana.closed() == 4003
        closing = await ana.next("session.closing")
        welcome = await ana.next("session.welcome")
        assert closing["timestamp"] - welcome["timestamp"] > 3000


async def test_a_silent_connection_is_closed_with_4002(run_gateway: RunGateway) -> None:
    async with (
        run_gateway(heartbeat=0.3, heartbeat_timeout=2.0) as gateway,
        gateway.connect("ben") as ben,  # answers pings, as every WebSocket library does
        silent_connection(gateway) as reader,
    ):
        received = b""
        async with asyncio.timeout(10):
            while b"\x88" not in received or (4002).to_bytes(2, "big") not in received:
                more = await reader.read(2**16)
                assert more, "the connection ended without a close frame"
                received += more
        assert (await ben.request("ping"))["action"] == "pong"


async def test_a_client_that_does_not_read_is_closed_and_others_are_not_affected(
    run_gateway: RunGateway,
) -> None:
    async with (
        run_gateway(send_buffer_bytes=256 * 1024) as gateway,
        a_backend(gateway.hub) as backend,
        gateway.connect("ben") as ben,
        silent_connection(gateway, "ana"),
    ):
        await ben.next("session.welcome")
        big = make("test.pushed", {"text": "x" * 50_000}).to_json()

        async def is_cut_off() -> bool:
            await backend.push("everyone", big)
            return "connection_active 1.0" in (await gateway.admin("/metrics"))[1]

        await eventually(is_cut_off, timeout=30)
        assert (await ben.request("ping"))["action"] == "pong"


async def test_a_stopping_replica_closes_all_connections_with_advice(run_gateway: RunGateway) -> None:
    async with (
        run_gateway(drain_step=2) as gateway,
        gateway.connect("ana") as ana,
        gateway.connect("ben") as ben,
        gateway.connect("cyd") as cyd,
    ):
        clients: list[WireClient] = [ana, ben, cyd]
        for client in clients:
            await client.next("session.welcome")
        gateway.drain()
        for client in clients:
            closing = (await client.next("session.closing"))["data"]
            assert closing["code"] == 1012
            assert 2000 <= closing["retry_after_ms"] <= 6000
            assert await client.closed() == 1012


async def test_a_stopping_replica_refuses_new_connections(run_gateway: RunGateway) -> None:
    async with (
        run_gateway(close_timeout=30) as gateway,
        silent_connection(gateway),  # keeps the drain waiting for its close frame
    ):
        await eventually(lambda: _active(gateway, 1))
        gateway.drain()
        await eventually(lambda: _is_draining(gateway))
        with pytest.raises(InvalidStatus) as refusal:
            async with gateway.connect("ben"):
                pass
        assert refusal.value.response.status_code == 503
        assert refusal.value.response.headers["Retry-After"]


async def _active(gateway: GatewayUnderTest, count: int) -> bool:
    return f"connection_active {count}.0" in (await gateway.admin("/metrics"))[1]


async def _is_draining(gateway: GatewayUnderTest) -> Any:
    status, text = await gateway.admin("/health/ready")
    return status == 503 and "draining" in text
