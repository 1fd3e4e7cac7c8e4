"""The README's examples run unchanged: the backend in plain AMQP, and the service in one file."""

import asyncio
import re
import subprocess
import sys
from pathlib import Path

import pytest

from towpath.testkit.client import WireClient
from towpath.testkit.processes import Processes, free_port
from towpath.testkit.rabbitmq import Rabbit
from towpath.testkit.tokens import AUTH_SETTINGS, a_token
from towpath.tools.packages import Program, find_or_install

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
NODE = Program("Node", "nodejs", ("node", "nodejs"))


@pytest.fixture
def snippets(tmp_path: Path) -> Path:
    """A folder with the README's Python files; the first line of each names it."""
    found = re.findall(r"^```python\n# (\S+\.py)\n(.*?)^```$", README, re.M | re.S)
    assert [name for name, _ in found] == ["backend.py", "delivery.py"]
    for name, code in found:
        (tmp_path / name).write_text(code)
    return tmp_path


@pytest.fixture
async def gateway_url(processes: Processes, rabbitmq: Rabbit) -> str:
    port = free_port()
    await processes.start("towpath-gateway", port=port, amqp_url=rabbitmq.url, **AUTH_SETTINGS)
    return f"ws://127.0.0.1:{port}/ws"


async def test_the_backend_in_plain_amqp_moves_an_order_on_all_of_its_users_connections(
    snippets: Path, processes: Processes, rabbitmq: Rabbit, gateway_url: str, tmp_path: Path
) -> None:
    await processes.start(
        "towpath-orders", amqp_url=rabbitmq.url, database_url=f"sqlite:///{tmp_path}/orders.db"
    )
    async with (
        WireClient.connect(gateway_url, token=a_token("ana")) as ana,
        WireClient.connect(gateway_url, token=a_token("ana")) as ana_elsewhere,
        WireClient.connect(gateway_url, token=a_token("ben")) as ben,
    ):
        backend = processes.launch(
            sys.executable, str(snippets / "backend.py"), name="backend", amqp_url=rabbitmq.url
        )
        assert await backend.ended() == 0, backend.output
        for connection in (ana, ana_elsewhere):
            push = await connection.next("order.updated")
            assert push["stream"] == "order:ana"
            assert push["data"]["status"] == "delivered"
            assert push["data"]["detail"] == "left at the lock keeper's"
        assert (await ben.request("order.list"))["data"]["orders"] == []
        assert ben.pushes("order.updated") == []


async def test_the_service_in_one_file_answers_through_the_gateway_as_it_is(
    snippets: Path, processes: Processes, rabbitmq: Rabbit, gateway_url: str
) -> None:
    async with WireClient.connect(gateway_url, token=a_token("ana")) as ana:
        early = await ana.request("delivery.estimate", {"postcode": "10115"})
        assert early["data"]["code"] == "unknown_action"

        service = await processes.start(
            sys.executable, str(snippets / "delivery.py"), name="delivery", amqp_url=rabbitmq.url
        )
        answer = await ana.request("delivery.estimate", {"postcode": "10115"})
        assert (answer["action"], answer["data"]) == ("delivery.estimate.ok", {"days": 1})
        for data, code in (({"postcode": 7}, "invalid_data"), ({}, "invalid_data")):
            assert (await ana.request("delivery.estimate", data))["data"]["code"] == code
        assert (await ana.request("delivery.unknown"))["data"]["code"] == "unknown_action"

        assert await service.terminate() == 0
        waiting = await ana.send("delivery.estimate", {"postcode": "20095"}, ack=True)
        await ana.accepted(waiting)
        await processes.start(
            sys.executable, str(snippets / "delivery.py"), name="delivery again", amqp_url=rabbitmq.url
        )
        assert (await ana.answer(waiting))["data"] == {"days": 3}


async def test_two_replicas_of_the_service_in_one_file_push_an_event_once(
    snippets: Path, processes: Processes, rabbitmq: Rabbit, gateway_url: str, tmp_path: Path
) -> None:
    await asyncio.gather(
        *(
            processes.start(
                sys.executable, str(snippets / "delivery.py"), name=f"delivery {n}", amqp_url=rabbitmq.url
            )
            for n in (1, 2)
        )
    )
    async with WireClient.connect(gateway_url, token=a_token("ana")) as ana:
        shipping = (snippets / "backend.py").read_text().replace("order.delivered", "order.shipped")
        (tmp_path / "shipping.py").write_text(shipping)
        backend = processes.launch(
            sys.executable, str(tmp_path / "shipping.py"), name="backend", amqp_url=rabbitmq.url
        )
        assert await backend.ended() == 0, backend.output
        push = await ana.next("delivery.expected")
        assert push["data"] == {"order_id": "O1", "days": 2}
        await ana.request("delivery.estimate", {"postcode": "10115"})
        assert len(ana.pushes("delivery.expected")) == 1


def test_the_backend_in_node_is_javascript(tmp_path: Path) -> None:
    (code,) = re.findall(r"^```js\n// backend\.mjs\n(.*?)^```$", README, re.M | re.S)
    (tmp_path / "backend.mjs").write_text(code)
    subprocess.run([find_or_install(NODE), "--check", tmp_path / "backend.mjs"], check=True)


def test_every_make_target_in_the_docs_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))
    for page in ("README.md", "CONTRIBUTING.md", "ARCHITECTURE.md"):
        shown = set(re.findall(r"(?:^|`)make ([a-z]+)", (ROOT / page).read_text(), re.M))
        assert shown <= targets, page
