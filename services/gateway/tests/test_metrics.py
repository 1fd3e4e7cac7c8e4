"""The gateway's metrics: refusals, closes, answers and pushes are counted, and a refusal is logged once."""

import asyncio
from functools import partial
from typing import Any

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families
from structlog.testing import capture_logs

from towpath.protocol.envelope import make, now_ms
from towpath.testkit.eventually import eventually
from towpath.testkit.gateway import Backend, GatewayUnderTest
from towpath.testkit.tokens import a_token


async def value(gateway: GatewayUnderTest, name: str, **labels: str) -> float:
    """The value of one sample, 0 if there is none."""
    _, text = await gateway.admin("/metrics")
    return sum(
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name and sample.labels == labels
    )


async def refused(gateway: GatewayUnderTest, path: str = "/ws", **headers: str) -> int:
    """The status with which a handshake is refused."""
    upgrade = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    }
    url = gateway.url.replace("ws:", "http:").replace("/ws", path)
    async with aiohttp.ClientSession() as http, http.get(url, headers=upgrade | headers) as response:
        return response.status


@pytest.mark.parametrize(
    ("reason", "status", "headers"),
    [
        ("no_token", 401, {}),
        ("token_invalid", 401, {"Authorization": "Bearer x.y.z"}),
        ("token_expired", 401, {"Authorization": f"Bearer {a_token('ana', expires_in=-1)}"}),
        ("origin", 403, {"Origin": "https://elsewhere.example"}),
    ],
)
async def test_refused_connections_are_counted_by_reason_and_logged_once(
    gateway: GatewayUnderTest, reason: str, status: int, headers: dict[str, str]
) -> None:
    with capture_logs() as lines:
        for _ in range(3):
            assert await refused(gateway, **headers) == status
    assert await value(gateway, "connections_refused_total", reason=reason) == 3
    [line] = [line for line in lines if line["event"] == "connection_refused"]
    assert (line["reason"], line["status"], line["address"]) == (reason, status, "127.0.0.1")
    assert headers.get("Authorization", "Bearer -").split()[1] not in str(line["error"]).split()


async def test_a_refused_path_is_counted(gateway: GatewayUnderTest) -> None:
    assert await refused(gateway, "/elsewhere") == 404
    assert await value(gateway, "connections_refused_total", reason="path") == 1


async def test_closes_are_counted_by_code(gateway: GatewayUnderTest, backend: Backend) -> None:
    async with gateway.connect() as ana:
        await ana.send_raw(b"binary")
        await ana.closed()
    async with gateway.connect() as ben:
        await ben.send("echo.say", {})
        command, _ = await backend.command()
        await backend.direct(command["session"], disconnect={"code": 4321, "reason": "as a test wants"})
        await ben.closed()
    for code in ("1003", "other"):
        await eventually(partial(value, gateway, "connections_closed_total", code=code))


async def test_answers_and_errors_of_services_are_counted_by_domain_with_their_delay(
    gateway: GatewayUnderTest, backend: Backend
) -> None:
    async with gateway.connect() as ana:
        asked = asyncio.create_task(ana.request("echo.say", {}))
        await backend.answer()
        await asked
        failing = asyncio.create_task(ana.request("echo.say", {}))
        command, _ = await backend.command()
        error = make("error", {"code": "conflict"}, correlation_id=command["envelope"]["msg_id"])
        await backend.direct(command["session"], envelope=error.model_dump(exclude_none=True))
        await failing
    assert await value(gateway, "requests_answered_total", domain="echo", outcome="ok") == 1
    assert await value(gateway, "requests_answered_total", domain="echo", outcome="error") == 1
    assert await value(gateway, "request_delay_seconds_count", domain="echo") == 2
    assert 0 < await value(gateway, "request_delay_seconds_sum", domain="echo") < 30


@pytest.mark.parametrize(
    ("age_ms", "least", "most"),
    [(5_000, 5.0, 60.0), (-5_000, 0.0, 0.0), (10**12, 3600.0, 3600.0)],
)
async def test_the_delay_of_a_push_is_counted_from_its_timestamp_within_bounds(
    gateway: GatewayUnderTest, backend: Backend, age_ms: int, least: float, most: float
) -> None:
    push: dict[str, Any] = make("echo.heard", {}).model_dump(exclude_none=True)
    push["timestamp"] = max(0, now_ms() - age_ms)
    async with gateway.connect() as ana:
        await backend.push("user.ana", [push, push])
        await ana.next("echo.heard")
    assert await value(gateway, "push_delay_seconds_count", domain="echo") == 2
    assert 2 * least <= await value(gateway, "push_delay_seconds_sum", domain="echo") <= 2 * most


async def test_requests_that_the_gateway_refuses_are_counted_by_code(gateway: GatewayUnderTest) -> None:
    async with gateway.connect() as ana:
        await ana.request("away.say", {})
    assert await value(gateway, "requests_refused_total", code="unknown_action") == 1
    assert await value(gateway, "requests_refused_total", code="busy") == 0


async def test_a_refusal_of_the_gateway_has_the_id_of_a_trace(gateway: GatewayUnderTest) -> None:
    async with gateway.connect(token=a_token("ana", scope="chat")) as ana:
        error = await ana.request("echo.say", {})
    assert error["data"]["code"] == "forbidden"
    assert len(error["data"]["trace_id"]) == 32


async def test_the_state_of_the_broker_and_its_reconnects_are_shown(gateway: GatewayUnderTest) -> None:
    assert await value(gateway, "broker_connected") == 1
    gateway.hub.block()
    assert await value(gateway, "broker_blocked") == 1
    gateway.hub.unblock()
    gateway.hub.stop()
    assert await value(gateway, "broker_connected") == 0
    gateway.hub.start()
    assert await value(gateway, "broker_connected") == 1
    assert await value(gateway, "broker_blocked") == 0
    assert await value(gateway, "broker_reconnects_total") == 1
