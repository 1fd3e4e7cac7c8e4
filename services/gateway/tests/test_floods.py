"""Floods: a client that sends too much, or does not read, is closed and delays others by a moment at most."""

import asyncio
import contextlib
import json
import os
import re
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import msgspec
import pytest

from towpath.protocol.envelope import make, make_error
from towpath.protocol.errors import RateLimited
from towpath.protocol.routes import EVENTS, SERVICE_ALIVE, control_key
from towpath.servicekit.broker.interface import Message
from towpath.testkit.eventually import eventually
from towpath.testkit.gateway import Backend, GatewayUnderTest, RunGateway, a_backend
from towpath.testkit.tokens import a_token

TEXT: Final = 0x1
PING: Final = 0x9
CLOSE: Final = 0x8


def frame(payload: bytes, opcode: int = TEXT, *, fin: bool = True) -> bytes:
    """A masked frame, as clients send them (RFC 6455, section 5.2)."""
    head = bytes([opcode | (0x80 if fin else 0)])
    size = len(payload)
    length = bytes([0x80 | size]) if size < 126 else b"\xfe" + struct.pack("!H", size)
    return head + length + b"\0\0\0\0" + payload


class Raw:
    """A client without manners: it sees frames and sends bytes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        """Send bytes, as far as they are taken."""
        self.writer.write(data)
        await self.writer.drain()

    async def frames(self) -> list[tuple[int, bytes]]:
        """All frames until the connection ends."""
        got: list[tuple[int, bytes]] = []
        try:
            while True:
                first, length = await self.reader.readexactly(2)
                size: int = length
                if length == 126:
                    (size,) = struct.unpack("!H", await self.reader.readexactly(2))
                elif length == 127:
                    (size,) = struct.unpack("!Q", await self.reader.readexactly(8))
                got.append((first & 0x0F, await self.reader.readexactly(size)))
        except (asyncio.IncompleteReadError, ConnectionError):
            return got

    async def close_code(self) -> int | None:
        """The code of the close frame, once the connection has ended."""
        for opcode, payload in await self.frames():
            if opcode == CLOSE:
                return int.from_bytes(payload[:2], "big")
        return None


@asynccontextmanager
async def raw(gateway: GatewayUnderTest, user: str = "mallory", **token: Any) -> AsyncIterator[Raw]:
    """A raw connection that is admitted."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.settings.port)
    writer.write(
        f"GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
        f"Sec-WebSocket-Protocol: towpath.v1\r\nAuthorization: Bearer {a_token(user, **token)}\r\n\r\n".encode()
    )
    await reader.readuntil(b"\r\n\r\n")
    try:
        yield Raw(reader, writer)
    finally:
        writer.transport.abort()


def request(action: str = "echo.say", **data: Any) -> bytes:
    return make(action, data).to_json()


@pytest.mark.parametrize(
    ("payload", "code"),
    [(b"x", 4500), (b"", 4500), (request("ping"), 4005), (request("session.nothing"), 4005)],
    ids=["unreadable", "empty", "ping", "unknown session action"],
)
async def test_a_flooding_client_is_closed_while_others_are_served(
    gateway: GatewayUnderTest, backend: Backend, payload: bytes, code: int
) -> None:
    async with raw(gateway) as mallory, gateway.connect("ana") as ana:
        flood = frame(payload) * 20_000
        sending = asyncio.ensure_future(mallory.send(flood))
        closing = asyncio.ensure_future(mallory.close_code())
        for _ in range(5):
            assert (await ana.request("ping"))["action"] == "pong"
        assert await closing == code
        sending.cancel()


async def test_fragments_are_charged_to_the_rate(run_gateway: RunGateway) -> None:
    async with run_gateway(burst_per_connection=100) as gateway, raw(gateway) as mallory:
        await mallory.send(frame(b"{", fin=False) + frame(b" ", 0, fin=False) * 1000)
        assert await mallory.close_code() == 4005


async def test_protocol_pings_are_charged_to_the_rate(run_gateway: RunGateway) -> None:
    async with run_gateway(burst_per_connection=100) as gateway, raw(gateway) as mallory:
        await mallory.send(frame(b"x" * 100, PING) * 2000)
        assert await mallory.close_code() == 4005


async def test_a_client_that_pings_and_never_reads_is_closed(run_gateway: RunGateway) -> None:
    async with (
        run_gateway(
            send_buffer_bytes=65536, rate_per_connection=0, rate_per_user=0, rate_per_address=0
        ) as gateway,
        raw(gateway) as mallory,
    ):
        mallory.reader._transport.pause_reading()  # type: ignore[attr-defined]  # it never reads
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(30):
                while True:
                    await mallory.send(frame(os.urandom(120), PING) * 500)
        _, metrics = await gateway.admin("/metrics")
        assert re.search(r'slow_consumers_total\{.*limit="connection".*\} 1\.0', metrics)


async def test_the_backlogs_of_all_clients_stay_within_the_total(run_gateway: RunGateway) -> None:
    async with (
        run_gateway(send_buffer_total_bytes=1024 * 1024, close_timeout=0.2) as gateway,
        a_backend(gateway.hub) as backend,
        raw(gateway, "one") as one,
        raw(gateway, "two") as two,
    ):
        for client in (one, two):
            client.reader._transport.pause_reading()  # type: ignore[attr-defined]  # it never reads
        push = {
            "msg_id": "p",
            "timestamp": 1,
            "action": "test.push",
            "version": "1.0",
            "data": {"x": "x" * 200_000},
        }

        async def is_limited() -> bool:
            await backend.push("everyone", push)
            _, metrics = await gateway.admin("/metrics")
            return re.search(r'slow_consumers_total\{.*limit="total".*\} [1-9]', metrics) is not None

        await eventually(is_limited)


async def test_a_rate_limit_error_advises_when_to_retry(run_gateway: RunGateway) -> None:
    async with (
        run_gateway(rate_per_connection=1, burst_per_connection=3.5) as gateway,
        gateway.connect("ana") as ana,
    ):
        for _ in range(3):
            assert (await ana.request("ping"))["action"] == "pong"
        error = (await ana.request("ping"))["data"]
        assert (error["code"], error["retryable"]) == ("rate_limited", True)
        assert 0 < error["retry_after_ms"] <= 2000


async def test_a_refusal_by_a_service_costs_its_user_tokens_on_all_connections(
    run_gateway: RunGateway,
) -> None:
    async with (
        run_gateway(rate_per_user=0.001, burst_per_user=25.5, refusal_cost=20) as gateway,
        a_backend(gateway.hub) as backend,
        gateway.connect("ana") as one,
        gateway.connect("ana") as other,
        gateway.connect("ben") as ben,
    ):
        asking = asyncio.create_task(one.request("echo.say"))
        command, _ = await backend.command()
        refusal = make_error(
            RateLimited("Slow down."), correlation_id=command["envelope"]["msg_id"]
        ).to_json()
        await backend.direct(command["session"], envelope=json.loads(refusal))
        assert (await asking)["data"]["code"] == "rate_limited"
        answers = [await other.request("ping") for _ in range(5)]
        assert [answer["action"] for answer in answers] == ["pong"] * 4 + ["error"]
        assert answers[-1]["data"]["code"] == "rate_limited"
        assert (await ben.request("ping"))["action"] == "pong"
        _, metrics = await gateway.admin("/metrics")
    assert re.search(r"requests_rate_limited_by_services_total(\{[^}]*\})? 1\.0", metrics)


async def test_an_action_costs_what_its_service_announces(run_gateway: RunGateway) -> None:
    async with (
        run_gateway(rate_per_connection=0.001, burst_per_connection=50) as gateway,
        a_backend(gateway.hub) as backend,
        gateway.connect("ana") as ana,
    ):
        alive = make(SERVICE_ALIVE, {"service": "echo", "domain": "echo", "costs": {"echo.say": 20}})
        await backend.broker.publish(EVENTS, SERVICE_ALIVE, Message(body=alive.to_json(), persistent=False))
        await ana.request("ping")

        async def is_limited() -> bool:
            await ana.send("echo.say")
            return any(f["action"] == "error" and f["data"]["code"] == "rate_limited" for f in ana.frames)

        await eventually(is_limited)
        commands = sum(1 for f in ana.frames if f["action"] == "error")
        assert commands >= 1


async def close_by(how: str, gateway: GatewayUnderTest, backend: Backend, mallory: Raw) -> int:
    """Begin a close of mallory's connection; returns the code to come."""
    if how == "kick":
        item = {"disconnect": {"code": 4502, "reason": "go"}}
        await backend.push(control_key("mallory"), item)
        return 4502
    if how == "violation":
        await mallory.send(frame(b"x") * 4)
        return 4500
    if how == "limit":
        await mallory.send(frame(request("ping")) * 1000)
        return 4005
    if how == "drain":
        gateway.drain()
        return 1012
    return 4003


@pytest.mark.parametrize("how", ["kick", "expiry", "violation", "limit", "drain"])
async def test_nothing_is_read_once_a_close_has_begun(run_gateway: RunGateway, how: str) -> None:
    token: dict[str, Any] = {"expires_in": 1.0} if how == "expiry" else {}
    async with (
        run_gateway(max_violations=2, burst_per_connection=100) as gateway,
        a_backend(gateway.hub) as backend,
        raw(gateway, **token) as mallory,
    ):
        code = await close_by(how, gateway, backend, mallory)
        closed = False
        opcodes: list[int] = []
        while not closed:  # until the close frame arrives; it is not answered
            first, length = await mallory.reader.readexactly(2)
            size = length
            if length == 126:
                (size,) = struct.unpack("!H", await mallory.reader.readexactly(2))
            payload = await mallory.reader.readexactly(size)
            opcodes.append(first & 0x0F)
            closed = first & 0x0F == CLOSE
            if (
                not closed
                and first & 0x0F == TEXT
                and msgspec.json.decode(payload)["action"] == "session.closing"
            ):
                assert msgspec.json.decode(payload)["data"]["code"] == code
                for number in range(40):
                    mallory.writer.write(frame(request(n=number)))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await backend.command()


async def test_unreadable_frames_are_charged_to_their_sender(run_gateway: RunGateway) -> None:
    async with (
        run_gateway(rate_per_user=0.001, burst_per_user=3.5) as gateway,
        gateway.connect("ana") as one,
        gateway.connect("ana") as other,
    ):
        for _ in range(3):
            await one.send_raw("nonsense")
            assert (await one.next("error"))["data"]["code"] == "bad_envelope"
        assert (await other.request("ping"))["data"]["code"] == "rate_limited"


async def test_connections_closed_for_abuse_are_counted(gateway: GatewayUnderTest) -> None:
    async with raw(gateway) as mallory:
        await mallory.send(frame(b"x") * 1000)
        assert await mallory.close_code() == 4500
    _, metrics = await gateway.admin("/metrics")
    assert re.search(r'connections_abused_total\{[^}]*code="4500"[^}]*\} 1\.0', metrics)


async def test_a_client_that_continues_after_the_close_is_aborted(run_gateway: RunGateway) -> None:
    async with (
        run_gateway(max_violations=2, close_timeout=60.0) as gateway,
        a_backend(gateway.hub),
        raw(gateway) as mallory,
    ):
        await mallory.send(frame(b"x") * 4)
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(30):  # not the close_timeout
                while True:
                    await mallory.send(frame(request()) * 100)
        assert mallory.writer.transport.is_closing()
