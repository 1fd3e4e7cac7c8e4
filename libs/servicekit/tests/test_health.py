"""Health and metrics over HTTP."""

import asyncio
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

import aiohttp
import pytest

from towpath.servicekit.runtime.health import Health, serve_admin
from towpath.servicekit.runtime.settings import BadSetting
from towpath.servicekit.runtime.telemetry import Telemetry

HOST: Final = "127.0.0.1"


@dataclass
class Admin:
    """The admin pages, as an orchestrator sees them."""

    health: Health
    client: aiohttp.ClientSession
    url: str

    async def get(self, path: str) -> tuple[int, object]:
        async with self.client.get(self.url + path) as response:
            return response.status, await response.json()


@pytest.fixture
async def admin(telemetry: Telemetry) -> AsyncIterator[Admin]:
    health = Health()
    async with serve_admin(HOST, 0, health, telemetry) as port, aiohttp.ClientSession() as client:
        yield Admin(health, client, f"http://{HOST}:{port}")


async def test_a_program_is_live_as_long_as_it_answers(admin: Admin) -> None:
    admin.health.add("broker", lambda: False)
    admin.health.draining = True
    assert await admin.get("/health/live") == (200, {"status": "live"})


async def test_without_checks_it_is_ready(admin: Admin) -> None:
    assert await admin.get("/health/ready") == (200, {"status": "ready"})


async def test_not_ready_names_what_fails_and_changes_its_mind(admin: Admin) -> None:
    state = {"broker": False, "consuming": False, "database": True}
    for name in state:
        admin.health.add(name, lambda name=name: state[name])  # type: ignore[misc]
    told = {"status": "not ready", "failing": ["broker", "consuming"]}
    assert await admin.get("/health/ready") == (503, told)
    state.update(broker=True)
    assert await admin.get("/health/ready") == (503, {"status": "not ready", "failing": ["consuming"]})
    state.update(consuming=True)
    assert await admin.get("/health/ready") == (200, {"status": "ready"})


async def test_a_program_that_drains_is_not_ready(admin: Admin) -> None:
    admin.health.draining = True
    assert await admin.get("/health/ready") == (503, {"status": "not ready", "failing": ["draining"]})


async def test_metrics_are_served_as_prometheus_wants_them(admin: Admin, telemetry: Telemetry) -> None:
    telemetry.counter("messages_received", "Requests and events taken").add(7)
    async with admin.client.get(admin.url + "/metrics") as response:
        assert response.status == 200
        assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        assert "messages_received_total 7.0" in await response.text()


async def test_readiness_is_a_metric_too(admin: Admin) -> None:
    ready = {"database": True}
    admin.health.add("database", lambda: ready["database"])
    for state in (True, False, True):
        ready["database"] = state
        async with admin.client.get(admin.url + "/metrics") as response:
            assert f"\nprogram_ready {float(state)}\n" in await response.text()


async def test_there_is_nothing_else(admin: Admin) -> None:
    for path in ("/", "/health", "/metrics/x"):
        async with admin.client.get(admin.url + path) as response:
            assert response.status == 404
    async with admin.client.post(admin.url + "/health/live") as response:
        assert response.status == 405


async def test_a_taken_port_is_a_bad_setting(telemetry: Telemetry) -> None:
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        remedy = "use another port, or stop the program that listens on it$"
        with pytest.raises(
            BadSetting, match=rf"TOWPATH_ADMIN_PORT='{port}': cannot listen on {HOST}: .*; {remedy}"
        ):
            async with serve_admin(HOST, port, Health(), telemetry):
                pass


@pytest.mark.parametrize(
    "host", ["192.0.2.1", "no-such-host.invalid", "-wr0ng-", "a..b", "x" * 80, "256.1.1.1", "::g", "a\x00b"]
)
async def test_a_host_that_is_not_of_this_machine_is_blamed_and_not_the_port(
    telemetry: Telemetry, host: str
) -> None:
    with pytest.raises(BadSetting, match=r"^TOWPATH_ADMIN_HOST=.*cannot listen on .*a name or an address"):
        async with serve_admin(host, 0, Health(), telemetry):
            pass


async def test_the_port_is_free_afterwards(telemetry: Telemetry) -> None:
    async with serve_admin(HOST, 0, Health(), telemetry) as port:
        pass
    with pytest.raises(OSError):
        await asyncio.open_connection(HOST, port)
    async with serve_admin(HOST, port, Health(), telemetry) as again:
        assert again == port
