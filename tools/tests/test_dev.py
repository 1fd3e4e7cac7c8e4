"""``towpath dev`` as a person runs it: real processes, a real page, a real end."""

import asyncio
import functools
import json
import os
import re
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from towpath.testkit.client import WireClient
from towpath.testkit.eventually import eventually
from towpath.testkit.processes import Process, Processes, free_port
from towpath.testkit.rabbitmq import Rabbit


class Dev:
    """A ``towpath dev`` that said it is ready.

    Attributes:
        announced: Its ``dev.json``.
        api_key: Of its ingress, as it says.
        below: All processes it has started.
    """

    def __init__(self, process: Process, folder: Path) -> None:
        self.process = process
        self.folder = folder
        self.announced: dict[str, Any] = json.loads((folder / "dev.json").read_text())
        self.page: str = self.announced["page"]
        (self.api_key,) = re.findall(r"^  API key +(demo\.\S+)$", process.output, re.M)
        self.below = _below(process.pid)

    @classmethod
    async def start(cls, processes: Processes, folder: Path, *arguments: str, **settings: object) -> "Dev":
        process = launch_dev(processes, folder, *arguments, **settings)

        def is_ready() -> bool:
            assert process.status is None, process.output
            return "Ready." in process.output

        await eventually(is_ready, timeout=60)
        return cls(process, folder)

    async def get(self, path: str) -> tuple[int, str]:
        async with aiohttp.ClientSession() as http, http.get(self.page + path) as response:
            return response.status, await response.text()

    async def post(self, path: str, body: object) -> Any:
        async with aiohttp.ClientSession() as http, http.post(self.page + path, json=body) as response:
            assert response.status == 200, await response.text()
            return await response.json()

    async def publish(self, action: str, data: object) -> None:
        """Publish as another backend does by HTTP."""
        async with (
            aiohttp.ClientSession(headers={"Authorization": f"Bearer {self.api_key}"}) as http,
            http.post(
                f"{self.announced['ingress']}/events", json={"action": action, "data": data}
            ) as response,
        ):
            assert response.status == 202, await response.text()

    async def token(self, user: str) -> str:
        signed: str = (await self.post("/demo/token", {"user": user}))["token"]
        return signed

    async def ended(self, *signals: signal.Signals) -> int:
        """Send the signals and wait for the end; then nothing of it may be left."""
        for number in signals:
            os.kill(self.process.pid, number)
        status = await self.process.ended(timeout=40)
        # A node that is kept may take 20 s to stop in order.
        await eventually(lambda: not [pid for pid in self.below if _runs(pid)], timeout=40)
        # A killed process is seen as ended when its first thread is; the last one closes its sockets.
        for address in (self.page, self.announced["gateway"], self.announced["ingress"]):
            await eventually(functools.partial(_refuses, address))
        return status


def launch_dev(processes: Processes, folder: Path, *arguments: str, **settings: object) -> Process:
    ports = {"port": free_port(), "web_port": free_port()}
    return processes.launch(
        "towpath", "dev", "--data", str(folder), *arguments, name="towpath dev", **{**ports, **settings}
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "towpath"


@pytest.mark.parametrize("broker", ["memory", "rabbitmq"])
async def test_dev_runs_all_programs_and_stops_them_cleanly(
    broker: str, processes: Processes, folder: Path
) -> None:
    dev = await Dev.start(processes, folder, "--broker", broker)

    status, page = await dev.get("/")
    assert (status, "<title>Towpath</title>" in page) == (200, True)
    config = json.loads((await dev.get("/config.json"))[1])
    assert config["gateways"] == [dev.announced["gateway"]]
    assert config["broker"].lower().startswith(broker)
    assert config["broker"] in dev.process.output

    async with WireClient.connect(
        config["gateways"][0], token=await dev.token("ana"), via="subprotocol", origin=dev.page
    ) as ana:
        order = (await ana.request("order.submit", {"amount": "9.90"}))["data"]
        assert order["status"] == "submitted"
        data = {"order_id": order["order_id"], "user_id": "ana"}
        await dev.post("/demo/events", {"action": "order.shipped", "data": data})
        shipped = await ana.find(lambda frame: frame["data"].get("status") == "shipped")
        assert shipped["action"] == "order.updated"

        publishing = processes.launch(
            *("towpath", "publish", "order.delivered", "--order", order["order_id"], "--user", "ana"),
            *("--data", str(folder)),
        )
        assert await publishing.ended() == 0, publishing.output
        await ana.find(lambda frame: frame["data"].get("status") == "delivered")
        await dev.publish("order.refunded", data)
        await ana.find(lambda frame: frame["data"].get("status") == "refunded")

        assert await dev.ended(signal.SIGINT) == 0
        assert await ana.closed() == 1012
    assert dev.process.output.endswith("Stopped; nothing is left running.\n")
    assert not (folder / "dev.json").exists()


@pytest.mark.parametrize("part", ["chat", "ingress"])
async def test_when_a_part_dies_the_others_stop_and_one_line_reports_it(
    part: str, processes: Processes, folder: Path, rabbitmq: Rabbit
) -> None:
    dev = await Dev.start(processes, folder, amqp_url=rabbitmq.url)
    os.kill(dev.announced["parts"][part], signal.SIGKILL)
    assert await dev.ended() == 1
    last = dev.process.output.splitlines()[-1]
    assert last.startswith(f"towpath: {part} was ended by signal 9: ")


async def test_killed_dev_leaves_nothing_behind(processes: Processes, folder: Path) -> None:
    dev = await Dev.start(processes, folder, "--broker", "rabbitmq")
    assert len(dev.below) > 3
    assert await dev.ended(signal.SIGKILL) == -signal.SIGKILL


async def test_a_second_ctrl_c_stops_at_once(processes: Processes, folder: Path, rabbitmq: Rabbit) -> None:
    dev = await Dev.start(processes, folder, amqp_url=rabbitmq.url)
    os.kill(dev.announced["parts"]["gateway"], signal.SIGSTOP)  # it will not drain
    os.kill(dev.process.pid, signal.SIGINT)
    await eventually(lambda: "Stopping" in dev.process.output)
    assert await dev.ended(signal.SIGINT) == 130
    assert dev.process.output.endswith("Stopped at once.\n")


async def test_ctrl_c_while_it_starts_leaves_nothing(processes: Processes, folder: Path) -> None:
    process = launch_dev(processes, folder)
    await eventually(lambda: len(_below(process.pid)) >= 4, timeout=30)
    below = _below(process.pid)
    os.kill(process.pid, signal.SIGINT)
    assert await process.ended(timeout=40) == 0, process.output
    await eventually(lambda: not [pid for pid in below if _runs(pid)], timeout=40)
    assert "Ready." not in process.output


async def test_a_folder_serves_one_dev_at_a_time_and_keeps_its_data(
    processes: Processes, folder: Path
) -> None:
    dev = await Dev.start(processes, folder, "--broker", "memory")
    async with WireClient.connect(dev.announced["gateway"], token=await dev.token("ana")) as ana:
        await ana.request("order.submit", {"order_id": "O1", "amount": "1.00"})

    second = launch_dev(processes, folder)
    assert await second.ended() == 1
    assert second.output == (
        f"towpath: --data {folder}: another `towpath dev` (process {dev.process.pid}) runs in this folder; "
        "stop it, or use another folder\n"
    )

    assert await dev.ended(signal.SIGTERM) == 0
    api_key = dev.api_key
    dev = await Dev.start(processes, folder, "--broker", "memory")
    assert dev.api_key == api_key
    async with WireClient.connect(dev.announced["gateway"], token=await dev.token("ana")) as ana:
        orders = (await ana.request("order.list"))["data"]["orders"]
    assert [order["order_id"] for order in orders] == ["O1"]


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        yield holder.getsockname()[1]


async def test_a_taken_port_is_one_line(processes: Processes, folder: Path, taken_port: int) -> None:
    for option, program in (("--port", "the gateway"), ("--web-port", "the page")):
        process = launch_dev(processes, folder, option, str(taken_port))
        assert await process.ended() == 2
        assert process.output == (
            f"towpath: {option} {taken_port}: {program} cannot listen there (address already in use); "
            "stop the program that does, or choose another port\n"
        )


async def test_the_ingress_takes_the_next_port_when_its_own_is_taken(
    processes: Processes, folder: Path, taken_port: int
) -> None:
    dev = await Dev.start(processes, folder, "--broker", "memory", "--ingress-port", str(taken_port))
    assert dev.announced["ingress"].startswith("http://127.0.0.1:")
    assert f":{taken_port}/" not in dev.announced["ingress"]
    assert dev.announced["ingress"] in dev.process.output


@pytest.fixture
def unusable_keys(folder: Path) -> None:
    """The folder of an earlier run has a file of API keys that is none."""
    folder.mkdir()
    for name in ("api-key", "api-keys.json"):
        (folder / name).write_text("demo.")


@pytest.mark.usefixtures("unusable_keys")
async def test_kept_api_keys_that_cannot_be_used_are_one_line(processes: Processes, folder: Path) -> None:
    process = launch_dev(processes, folder)
    assert await process.ended() == 2
    (line,) = process.output.splitlines()
    assert line.startswith("towpath: TOWPATH_API_KEYS='")
    assert line.endswith("; remove it, or name another file")


BAD = [
    (
        ["--broker", "kafka"],
        {},
        "Invalid value for '--broker': 'kafka' is not one of 'auto', 'memory', 'rabbitmq'.",
    ),
    (
        [],
        {"port": "many"},
        "Invalid value for '--port' (env var: 'TOWPATH_PORT'): Input should be a valid integer",
    ),
    (["--port", "9000", "--web-port", "9000"], {}, "--web-port='9000': is the gateway's port as well"),
    ([], {"amqp_url": "http://localhost"}, "TOWPATH_AMQP_URL: must be amqp://user:password@host:port/vhost"),
    (
        ["--broker", "rabbitmq"],
        {"amqp_url": "memory://"},
        "TOWPATH_AMQP_URL='memory://': contradicts --broker",
    ),
    (
        [],
        {"amqp_url": "amqp://u:hunter2@127.0.0.1:{free}/"},
        "TOWPATH_AMQP_URL='amqp://127.0.0.1:{free}/': nothing answers at 127.0.0.1:{free} (Connection refused)",
    ),
    ([], {"database_url": "mysql://db"}, "TOWPATH_DATABASE_URL: must be sqlite:///file.db or postgresql://"),
    ([], {"auth_public_key": "PEM"}, "TOWPATH_AUTH_PUBLIC_KEY: `towpath dev` signs tokens itself"),
    ([], {"log_level": "loud"}, "TOWPATH_LOG_LEVEL='loud': String should match"),
    ([], {"web_root": "/nowhere"}, "TOWPATH_WEB_ROOT='/nowhere': there is no index.html in it"),
    (["--data", "/dev/null/x"], {}, "--data /dev/null/x: cannot be used as a folder"),
]


@pytest.mark.parametrize(("arguments", "settings", "line"), BAD)
async def test_a_bad_setting_is_one_line(
    arguments: list[str], settings: dict[str, str], line: str, processes: Processes, folder: Path
) -> None:
    free = str(free_port())
    settings = {name: value.replace("{free}", free) for name, value in settings.items()}
    process = launch_dev(processes, folder, *arguments, **settings)
    assert await process.ended() == 2
    *before, last = process.output.splitlines()
    assert last.startswith("towpath: " + line.replace("{free}", free))
    assert before in ([], [f"Connecting to RabbitMQ at 127.0.0.1:{free}"])
    assert "hunter2" not in process.output


def _below(pid: int) -> set[int]:
    """All processes that descend from ``pid``."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {pid}


def _runs(pid: int) -> bool:
    """Whether it lives; one that only waits to be reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def _refuses(address: str) -> bool:
    port = int(address.rpartition(":")[2].partition("/")[0])
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return True
    writer.close()
    return False
