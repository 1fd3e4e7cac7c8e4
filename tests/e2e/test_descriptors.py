"""Few file descriptors: real gateways under a hard limit of open files."""

import contextlib
import resource
import socket
from typing import Any

import aiohttp
import pytest

from towpath.servicekit.runtime.descriptors import raise_limit
from towpath.testkit.client import WireClient
from towpath.testkit.eventually import eventually
from towpath.testkit.processes import Process, Processes, free_port
from towpath.testkit.rabbitmq import Rabbit
from towpath.testkit.tokens import AUTH_SETTINGS, a_token


async def start(processes: Processes, rabbitmq: Rabbit, limit: str, **settings: Any) -> Process:
    """A gateway under ``limit`` (soft:hard) open files."""
    return await processes.start(
        "prlimit",
        f"--nofile={limit}",
        "towpath-gateway",
        port=free_port(),
        amqp_url=rabbitmq.url,
        **AUTH_SETTINGS,
        **settings,
    )


def url_of(gateway: Process) -> str:
    return f"ws://127.0.0.1:{gateway.settings['TOWPATH_PORT']}/ws"


async def test_a_low_soft_limit_of_open_files_is_raised(processes: Processes, rabbitmq: Rabbit) -> None:
    gateway = await start(processes, rabbitmq, "256:4096", max_connections=1000, handshakes_max=200)
    assert "too_few_descriptors" not in gateway.output
    soft, _ = resource.prlimit(gateway.pid, resource.RLIMIT_NOFILE)
    assert soft >= 1300


async def test_half_open_handshakes_block_no_client_with_1024_descriptors(
    processes: Processes, rabbitmq: Rabbit
) -> None:
    gateway = await start(processes, rabbitmq, "1024:1024", open_timeout=60)
    [line] = [line for line in gateway.output.splitlines() if "too_few_descriptors" in line]
    assert "ulimit -Hn" in line
    with contextlib.ExitStack() as stack:
        for _ in range(1500):
            stack.enter_context(
                socket.create_connection(("127.0.0.1", int(gateway.settings["TOWPATH_PORT"])), timeout=10)
            )
        for user in ("ana", "ben"):
            async with WireClient.connect(url_of(gateway), token=a_token(user)) as person:
                await person.next("session.welcome")
                assert (await person.request("ping"))["action"] == "pong"
        async with aiohttp.ClientSession() as http:
            async with http.get(f"{gateway.admin_url}/health/live", timeout=aiohttp.ClientTimeout(1)) as live:
                assert live.status == 200
            async with http.get(f"{gateway.admin_url}/metrics") as metrics:
                assert "handshakes_aborted" in await metrics.text()
    assert "handshake_aborted" in gateway.output
    assert "descriptors_exhausted" not in gateway.output
    assert gateway.status is None


async def test_exhausted_descriptors_are_logged(processes: Processes, rabbitmq: Rabbit) -> None:
    # A reserve that is too small on purpose, and what it is for takes more than it holds.
    gateway = await start(
        processes, rabbitmq, "150:150", descriptors_reserve=10, open_timeout=60, max_connections=1000
    )
    with contextlib.ExitStack() as stack:
        for _ in range(140):
            stack.enter_context(
                socket.create_connection(
                    ("127.0.0.1", int(gateway.settings["TOWPATH_ADMIN_PORT"])), timeout=10
                )
            )
        await eventually(lambda: "descriptors_exhausted" in gateway.output, timeout=20)
    assert gateway.status is None


@pytest.fixture(autouse=True)
def many_descriptors() -> None:
    """The sockets of the tests themselves."""
    if raise_limit(2000) < 2000:
        pytest.fail("these tests need 2,000 open files: ulimit -Hn", pytrace=False)
