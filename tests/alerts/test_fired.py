"""Each alert fires when its fault happens to real programs, and ends when the fault is mended."""

import asyncio
import base64
import contextlib
import json
import resource
import secrets
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aio_pika
import pytest

from tests.faults.broker import Broker
from tests.faults.conftest import StartSystem
from tests.faults.postgres_server import PostgresServer
from towpath.testkit.certificates import Authority
from towpath.testkit.client import WireClient
from towpath.testkit.network import Proxy
from towpath.testkit.processes import Process, Processes, free_port
from towpath.testkit.rabbitmq import Rabbit
from towpath.testkit.system import LOAD_RATES, System, url_of
from towpath.testkit.tokens import AUTH_SETTINGS, a_token

from .conftest import Watch
from .prometheus import Prometheus

pytestmark = pytest.mark.timeout(240)


async def watched(watch: Watch, system: System) -> Prometheus:
    """Prometheus, which sees all programs, and in which no alert fires."""
    prometheus = await watch(gateway=system.gateways, chat=system.chat, orders=system.orders)
    assert await prometheus.ever_fired() == set()
    return prometheus


@contextlib.asynccontextmanager
async def again_and_again(act: Callable[[], Awaitable[Any]]) -> AsyncIterator[None]:
    """Repeat something from entry to exit."""

    async def repeat() -> None:
        while True:
            await act()

    task = asyncio.create_task(repeat())
    try:
        yield
        assert not task.done(), task
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def publish(amqp_url: str, exchange: str, key: str, body: bytes, *, times: int = 1) -> None:
    """Publish as another backend does."""
    connection = await aio_pika.connect(amqp_url)
    async with connection:
        channel = await connection.channel()
        to = await channel.get_exchange(exchange, ensure=False)
        for _ in range(times):
            await to.publish(aio_pika.Message(body, delivery_mode=2), routing_key=key)


# Programs


async def test_a_killed_program(watch: Watch, system: System) -> None:
    prometheus = await watched(watch, system)
    await system.chat.kill()
    await prometheus.fires("ProgramDown")


async def test_a_lost_broker(watch: Watch, system: System, rabbitmq: Rabbit) -> None:
    prometheus = await watched(watch, system)
    await rabbitmq.stop()
    await prometheus.fires("ProgramNotReady")
    await rabbitmq.start()
    await prometheus.ends("ProgramNotReady")


async def test_a_gateway_without_descriptors(watch: Watch, system: System) -> None:
    prometheus = await watched(watch, system)
    (gateway,) = system.gateways
    used = len(list(Path(f"/proc/{gateway.pid}/fd").iterdir()))  # noqa: ASYNC240  # a folder of the kernel
    resource.prlimit(gateway.pid, resource.RLIMIT_NOFILE, (used, used))
    with contextlib.ExitStack() as stack:
        for _ in range(5):
            address = ("127.0.0.1", int(gateway.settings["TOWPATH_PORT"]))
            stack.enter_context(socket.create_connection(address, timeout=10))
        await prometheus.fires("DescriptorsExhausted")


# Messages


async def test_an_unreadable_event(watch: Watch, system: System) -> None:
    prometheus = await watched(watch, system)
    await publish(system.rabbitmq.url, "towpath.events", "order.paid", b"not JSON")
    await prometheus.fires("MessagesParked")


async def test_a_full_dead_queue(watch: Watch, rabbitmq: Rabbit, start_system: StartSystem) -> None:
    system = await start_system(rabbitmq, gateways=1, queue_max_length=2)
    prometheus = await watched(watch, system)
    await publish(rabbitmq.url, "towpath.events", "order.paid", b"not JSON", times=6)
    await prometheus.fires("ParkingBlocked", "MessagesParked")


# RabbitMQ


async def test_slow_confirms(watch: Watch, system: System, rabbitmq: Rabbit, processes: Processes) -> None:
    async with Proxy.before(rabbitmq.url) as proxy:
        gateway = system.launch_gateway(
            **{**LOAD_RATES, "amqp_url": proxy.instead_of(rabbitmq.url), "inflight_paced": 100_000},
            inflight_per_user=100_000,
            inflight_per_connection=100_000,
        )
        await gateway.ready()
        prometheus = await watch(gateway=gateway, chat=system.chat)
        proxy.to_client.delay = 2.0
        async with WireClient.connect(url_of(gateway), token=a_token("ana")) as ana:

            async def ask() -> None:
                for _ in range(10):
                    await ana.send("chat.rooms", {})
                await asyncio.sleep(0.2)  # the load between two looks

            async with again_and_again(ask):
                await prometheus.fires("ConfirmsSlow", timeout=90)


async def test_an_inbox_that_receives_nothing(watch: Watch, system: System, broker: Broker) -> None:
    # The probe finds it before the check of bindings does.
    gateway = system.launch_gateway(probe_interval=0.5)
    await gateway.ready()
    prometheus = await watch(gateway=gateway)
    assert await prometheus.ever_fired() == set()
    assert await broker.unbind("gateway.")
    await prometheus.fires("InboxDeaf", "QueuesRepaired")


async def test_a_deleted_queue(watch: Watch, system: System, broker: Broker) -> None:
    prometheus = await watched(watch, system)
    await broker.delete_queue("orders.events")
    await prometheus.fires("QueuesRepaired")


# Clients


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
    await gateway.ready()
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
    return raw


async def test_a_client_over_its_rate(watch: Watch, system: System) -> None:
    gateway = system.launch_gateway(rate_per_connection=5, burst_per_connection=5, rate_strikes=1_000_000)
    await gateway.ready()
    prometheus = await watch(gateway=gateway)
    async with WireClient.connect(url_of(gateway), token=a_token("ana")) as ana:

        async def ask() -> None:
            await ana.send("ping")
            await asyncio.sleep(0.02)

        async with again_and_again(ask):
            await prometheus.fires("RequestsLimited")


async def test_a_user_who_connects_too_often(watch: Watch, system: System) -> None:
    gateway = system.launch_gateway(connects_per_user=1, connects_per_user_burst=1, refusal_delay=0)
    await gateway.ready()
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


# Database


async def test_a_database_that_is_away(
    watch: Watch, processes: Processes, rabbitmq: Rabbit, server: PostgresServer
) -> None:
    orders = await processes.start(
        "towpath-orders", amqp_url=rabbitmq.url, database_url=server.create("orders")
    )
    prometheus = await watch(orders=orders)
    assert await prometheus.ever_fired() == set()
    server.kill()
    await prometheus.fires("DatabaseNotWritable", "ProgramNotReady", timeout=90)
    server.start()
    await prometheus.ends("DatabaseNotWritable", timeout=90)
