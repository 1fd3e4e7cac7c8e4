"""The alerts on clients fire when real clients cause the fault."""

import asyncio
import base64
import contextlib
import json
import secrets
import socket
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from towpath.testkit.certificates import Authority
from towpath.testkit.client import WireClient
from towpath.testkit.issuer import an_issuer
from towpath.testkit.processes import Process, Processes, free_port
from towpath.testkit.rabbitmq import Rabbit
from towpath.testkit.system import System, url_of
from towpath.testkit.tokens import AUTH_SETTINGS, a_token

from .causes import again_and_again, publish
from .conftest import READY, Watch

pytestmark = pytest.mark.timeout(900)


@pytest.mark.parametrize(
    ("alert", "people", "limits"),
    [
        ("SlowConsumers", 25, {"send_buffer_bytes": 65_536}),
        ("SendBacklogFull", 2, {"send_buffer_total_bytes": 1_048_576, "send_buffer_bytes": 67_108_864}),
    ],
)
async def test_clients_that_do_not_read(
    alert: str, people: int, limits: dict[str, int], watch: Watch, system: System
) -> None:
    gateway = system.launch_gateway(**limits, max_connections_per_user=100, close_timeout=30)
    await gateway.ready(timeout=READY)
    prometheus = await watch(gateway=gateway)
    envelope = {
        "msg_id": secrets.token_hex(8),
        "timestamp": time.time_ns() // 1_000_000,
        "action": "shop.news",
        "data": {"text": "n" * 60_000},
        "version": "1.0",
    }
    with contextlib.ExitStack() as stack:
        for _ in range(people):
            stack.enter_context(contextlib.closing(await a_connection_that_is_not_read(gateway)))

        async def push() -> None:
            body = json.dumps(envelope).encode()
            await publish(system.rabbitmq.url, "towpath.push", "user.ana", body, times=20)

        async with again_and_again(push):
            await prometheus.fires(alert)


async def a_connection_that_is_not_read(gateway: Process) -> socket.socket:
    """A WebSocket of ana after its handshake; as few bytes as possible wait on this side."""
    raw = socket.socket()
    try:
        await _shake_hands(raw, gateway)
    except BaseException:
        raw.close()
        raise
    return raw


async def _shake_hands(raw: socket.socket, gateway: Process) -> None:
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    raw.setblocking(False)
    loop = asyncio.get_running_loop()
    port = int(gateway.settings["TOWPATH_PORT"])
    await loop.sock_connect(raw, ("127.0.0.1", port))
    lines = (
        "GET /ws HTTP/1.1",
        f"Host: 127.0.0.1:{port}",
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        f"Sec-WebSocket-Key: {base64.b64encode(secrets.token_bytes(16)).decode()}",
        "Sec-WebSocket-Protocol: towpath.v1",
        f"Authorization: Bearer {a_token('ana')}",
    )
    await loop.sock_sendall(raw, ("\r\n".join(lines) + "\r\n\r\n").encode())
    assert (await loop.sock_recv(raw, 12)).endswith(b" 101")


async def test_clients_that_connect_and_do_not_stay(watch: Watch, parts: System) -> None:
    gateway = parts.launch_gateway()
    await gateway.ready(timeout=READY)
    prometheus = await watch(gateway=gateway)

    async def come_and_go() -> None:
        (await a_connection_that_is_not_read(gateway)).close()

    async with again_and_again(come_and_go), again_and_again(come_and_go):
        await prometheus.fires("ReconnectStorm")


async def test_a_client_over_its_rate(watch: Watch, system: System) -> None:
    gateway = system.launch_gateway(rate_per_connection=5, burst_per_connection=5, rate_strikes=1_000_000)
    await gateway.ready(timeout=READY)
    prometheus = await watch(gateway=gateway)
    async with WireClient.connect(url_of(gateway), token=a_token("ana")) as ana:

        async def ask() -> None:
            await ana.send("ping")
            await asyncio.sleep(0.02)

        async with again_and_again(ask):
            await prometheus.fires("RequestsLimited")


async def test_a_user_who_connects_too_often(watch: Watch, system: System) -> None:
    gateway = system.launch_gateway(connects_per_user=1, connects_per_user_burst=1, refusal_delay=0)
    await gateway.ready(timeout=READY)
    prometheus = await watch(gateway=gateway)

    async def come() -> None:
        with contextlib.suppress(Exception):
            async with WireClient.connect(url_of(gateway), token=a_token("ana")):
                pass
        await asyncio.sleep(0.05)

    async with again_and_again(come):
        await prometheus.fires("ConnectsLimited")


async def test_a_certificate_that_expires_soon(
    watch: Watch, processes: Processes, rabbitmq: Rabbit, tmp_path: Path
) -> None:
    issued = Authority(tmp_path).issue("localhost", not_after=datetime.now(UTC) + timedelta(days=10))
    gateway = await processes.start(
        "towpath-gateway",
        amqp_url=rabbitmq.url,
        port=free_port(),
        tls_certificate=issued.certificate,
        tls_key=issued.key,
        **AUTH_SETTINGS,
    )
    prometheus = await watch(gateway=gateway)
    await prometheus.fires("CertificateExpires")


async def test_an_issuer_that_is_away(watch: Watch, processes: Processes, rabbitmq: Rabbit) -> None:
    async with an_issuer() as issuer:
        gateway = await processes.start(
            "towpath-gateway",
            amqp_url=rabbitmq.url,
            port=free_port(),
            auth_jwks_url=issuer.url,
            jwks_refresh=1,
            timeout=READY,
        )
        prometheus = await watch(ages=1000, gateway=gateway)  # an hour is 3.6 s
        assert await prometheus.ever_fired() == set()
        issuer.status = 503
        await prometheus.fires("KeysOld")
        issuer.status = 200
        await prometheus.ends("KeysOld")
