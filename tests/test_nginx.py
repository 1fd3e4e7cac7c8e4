"""nginx with deploy's configuration, in front of real gateways. HAProxy's tests are in test_deploy.py."""

import asyncio
import contextlib
import json
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import aiohttp
import pytest

from towpath.testkit.client import WireClient
from towpath.testkit.processes import Process, Processes, free_port
from towpath.testkit.rabbitmq import Rabbit
from towpath.testkit.tokens import AUTH_SETTINGS, a_token
from towpath.tools.packages import Program, ProgramMissing, find_or_install

ROOT: Final = Path(__file__).parent.parent
NGINX: Final = Program("nginx", "nginx-light", ("/usr/sbin/nginx", "nginx"))
#: The servers of the configuration: the name in the test, and the address in the file.
SERVERS: Final = {
    "gateway-1": "gateway-1:8080",
    "gateway-2": "gateway-2:8080",
    "admin-1": "gateway-1:9090",
    "admin-2": "gateway-2:9090",
    "page": "web:8000",
    "ingress": "ingress:8090",
}


@pytest.fixture(scope="module")
def nginx() -> Path:
    try:
        return find_or_install(NGINX)
    except ProgramMissing as missing:
        pytest.fail(str(missing), pytrace=False)


class Proxy:
    """A configuration with the ports of a test; servers that a test does not name do not exist."""

    def __init__(self, folder: Path, **ports: int) -> None:
        self.path = folder / "nginx.conf"
        self.listening = {inside: free_port() for inside in (8080, 8000, 8090, 9090)}
        configuration = (ROOT / "deploy/nginx.conf").read_text()
        replaced = {
            address: f"127.0.0.1:{ports.get(name.replace('-', '_'), free_port())}"
            for name, address in SERVERS.items()
        }
        replaced |= {
            f"listen {inside};": f"listen 127.0.0.1:{port};" for inside, port in self.listening.items()
        }
        replaced["/run/nginx.pid"] = str(folder / "nginx.pid")
        for old, new in replaced.items():
            assert configuration.count(old) == 1, old
            configuration = configuration.replace(old, new)
        self.path.write_text(configuration)

    @property
    def url(self) -> str:
        """Where the gateways are reached."""
        return f"ws://127.0.0.1:{self.listening[8080]}/ws"

    def http(self, inside: int, path: str = "/") -> str:
        """An address by the port that the configuration names."""
        return f"http://127.0.0.1:{self.listening[inside]}{path}"

    async def start(self, nginx: Path, processes: Processes) -> None:
        """Start nginx, and wait until it is ready: until one gateway is."""
        await processes.start(
            str(nginx),
            *("-c", str(self.path), "-g", "daemon off;"),
            name="nginx",
            admin_port=self.listening[9090],
        )


async def start_gateway(processes: Processes, rabbitmq: Rabbit, name: str) -> Process:
    return await processes.start(
        "towpath-gateway",
        name=name,
        gateway_id=name,
        port=free_port(),
        amqp_url=rabbitmq.url,
        trusted_proxies="127.0.0.1",
        **AUTH_SETTINGS,
    )


def ports_of(number: int, gateway: Process) -> dict[str, int]:
    return {
        f"gateway_{number}": int(gateway.settings["TOWPATH_PORT"]),
        f"admin_{number}": int(gateway.settings["TOWPATH_ADMIN_PORT"]),
    }


async def gateway_of(client: WireClient) -> str:
    return str((await client.next("session.welcome"))["data"]["gateway_id"])


def test_nginx_accepts_the_configuration(nginx: Path, tmp_path: Path) -> None:
    proxy = Proxy(tmp_path)
    ran = subprocess.run([nginx, "-t", "-c", proxy.path], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert "warn" not in ran.stderr


async def test_a_chat_passes_through_nginx_and_continues_when_a_gateway_stops(
    nginx: Path, processes: Processes, rabbitmq: Rabbit, tmp_path: Path
) -> None:
    first, second, _ = await asyncio.gather(
        start_gateway(processes, rabbitmq, "gateway-1"),
        start_gateway(processes, rabbitmq, "gateway-2"),
        processes.start("towpath-chat", amqp_url=rabbitmq.url, database_url=f"sqlite:///{tmp_path}/chat.db"),
    )
    proxy = Proxy(tmp_path, **ports_of(1, first), **ports_of(2, second))
    await proxy.start(nginx, processes)

    async def say(text: str) -> None:
        await people["ana"].request("chat.send", {"room": "lobby", "text": text})
        assert (await people["ben"].next("chat.message"))["data"]["text"] == text

    async with contextlib.AsyncExitStack() as stack:
        people: dict[str, WireClient] = {}
        at: dict[str, str] = {}

        async def enter(user: str) -> None:
            client = await stack.enter_async_context(WireClient.connect(proxy.url, token=a_token(user)))
            people[user], at[user] = client, await gateway_of(client)
            assert (await client.request("chat.join", {"room": "lobby"}))["action"] == "chat.join.ok"

        for user in ("ana", "ben"):
            await enter(user)
        assert set(at.values()) == {"gateway-1", "gateway-2"}, "the fewest connections decide"
        await say("hello")
        stopping = asyncio.create_task(first.terminate())
        leaves = next(user for user, gateway in at.items() if gateway == "gateway-1")
        assert await people[leaves].closed() == 1012
        await enter(leaves)
        assert at[leaves] == "gateway-2"
        await say("still here")
        assert await stopping == 0


async def test_nginx_hides_the_refusal_of_a_draining_gateway_and_names_the_client_address(
    nginx: Path, processes: Processes, rabbitmq: Rabbit, tmp_path: Path
) -> None:
    gateway = await start_gateway(processes, rabbitmq, "gateway-2")
    async with a_refusing_server() as (port, requests):
        proxy = Proxy(tmp_path, gateway_1=port, **ports_of(2, gateway))
        await proxy.start(nginx, processes)
        async with contextlib.AsyncExitStack() as stack:
            session = await stack.enter_async_context(aiohttp.ClientSession())
            for user in ("ana", "ben", "eva"):
                headers = {"Authorization": f"Bearer {a_token(user)}", "X-Forwarded-For": "203.0.113.9"}
                connecting = session.ws_connect(
                    proxy.http(8080, "/ws"), headers=headers, protocols=["towpath.v1"]
                )
                socket = await stack.enter_async_context(connecting)
                assert json.loads(await socket.receive_str())["data"]["gateway_id"] == "gateway-2"
        assert requests, "the draining gateway was never asked"
        for request in requests:
            lines = [line for line in request.splitlines() if line.lower().startswith("x-forwarded-for:")]
            assert lines == ["X-Forwarded-For: 127.0.0.1"]
            assert "\r\nUpgrade: websocket\r\n" in request


async def test_nginx_answers_503_with_advice_while_no_program_is_there(
    nginx: Path, processes: Processes, tmp_path: Path
) -> None:
    proxy = Proxy(tmp_path)
    processes.launch(str(nginx), "-c", str(proxy.path), "-g", "daemon off;", name="nginx")
    async with aiohttp.ClientSession() as session:
        async with await answered(session, proxy.http(8080, "/ws")) as answer:
            assert (answer.status, answer.headers["Retry-After"]) == (503, "2")
        async with session.post(proxy.http(8090, "/v1/events"), json={}) as answer:
            assert (answer.status, answer.content_type) == (503, "application/problem+json")
            assert json.loads(await answer.text())["retryable"] is True
        async with session.get(proxy.http(9090, "/health/ready")) as answer:
            assert answer.status == 502


async def answered(session: aiohttp.ClientSession, url: str) -> aiohttp.ClientResponse:
    """The answer, once the proxy listens."""
    async with asyncio.timeout(30):
        while True:
            try:
                return await session.get(url)
            except aiohttp.ClientConnectorError:
                await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def a_refusing_server() -> AsyncIterator[tuple[int, list[str]]]:
    """Refuses connections as a gateway that drains; yields its port and the requests."""
    requests: list[str] = []

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests.append((await reader.readuntil(b"\r\n\r\n")).decode())
        writer.write(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1], requests
