"""docs/backends: the examples of each page run as they stand, and move an order.

A page in a language whose toolchain is not on this machine is left out, with the reason in the report; RabbitMQ's
clients come from the registries of their languages, in the versions that the pages name, with pinned hashes.
"""

import asyncio
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
import pytest_asyncio

from tests import snippets
from towpath.ingress.problems import KINDS, Kind
from towpath.testkit.client import WireClient
from towpath.testkit.processes import Processes, free_port
from towpath.testkit.rabbitmq import Rabbit
from towpath.testkit.rights import Rights
from towpath.testkit.tokens import AUTH_SETTINGS, a_token
from towpath.tools.packages import NODE, NPM, find_or_install
from towpath.tools.rabbitmq_node import RabbitControl

ROOT: Final = Path(__file__).parent.parent
PAGES: Final = ROOT / "docs/backends"


@dataclass(frozen=True)
class Shop:
    """A broker, a gateway, and the orders service."""

    amqp_url: str
    gateway_url: str

    async def status(self, user: str, order: str) -> dict[str, Any]:
        """The order as its owner sees it."""
        async with WireClient.connect(self.gateway_url, token=a_token(user)) as client:
            answer = await client.request("order.get", {"order_id": order})
            found: dict[str, Any] = answer["data"]
            return found


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shop(
    rabbitmq_node: RabbitControl, rights: Rights | None, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Shop]:
    folder = tmp_path_factory.mktemp("shop")
    async with Rabbit.on(rabbitmq_node, rights) as rabbitmq:
        with Processes(rights) as processes:
            port = free_port()
            await asyncio.gather(
                processes.start(
                    "towpath-gateway", timeout=120, port=port, amqp_url=rabbitmq.url, **AUTH_SETTINGS
                ),
                processes.start(
                    "towpath-orders",
                    timeout=120,
                    amqp_url=rabbitmq.url,
                    database_url=f"sqlite:///{folder}/orders.db",
                ),
            )
            yield Shop(rabbitmq.url, f"ws://127.0.0.1:{port}/ws")


def the_file(page: str, folder: Path) -> Path:
    """The files of a page; returns the program, which is the last one."""
    paths = []
    for block in snippets.blocks_of((PAGES / page).read_text()):
        if block.name is not None:
            paths.append(folder / block.name)
            paths[-1].write_text(block.text)
    return paths[-1]


def check_hashes(folder: Path, sums: Path) -> None:
    """Check that a folder has exactly the files of a list of `sha256sum`."""
    found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}
    assert found == {name: digest for digest, name in map(str.split, sums.read_text().splitlines())}


def toolchain(*programs: str) -> None:
    """Leave the test out, by name, if one of these is not on this machine.

    Go and Java are not required by the project, so their absence is not a failure (CONTRIBUTING.md).
    """
    if missing := [program for program in programs if shutil.which(program) is None]:
        pytest.skip(f"not run: {', '.join(missing)} is not on PATH")


def run(command: list[str], folder: Path, *, check: bool = True, **settings: str) -> str:
    """The output of a program."""
    ran = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        check=False,
        timeout=250,
    )
    assert (ran.returncode == 0) is check, f"status {ran.returncode}\n{ran.stdout}\n{ran.stderr}"
    return ran.stdout + ran.stderr


def misspell(file: Path) -> None:
    """Let an example publish an event that no service receives."""
    file.write_text(file.read_text().replace("order.shipped", "order.shiped"))


async def it_moves_an_order_once(shop: Shop, user: str, command: list[str], file: Path, detail: str) -> None:
    """Run an example twice, and with a misspelled action, for the order ``O-<user>``: all examples are one sender."""
    async with WireClient.connect(shop.gateway_url, token=a_token(user)) as client:
        await client.request("order.submit", {"order_id": f"O-{user}", "amount": "9.00"})
        for _ in range(2):
            printed = await asyncio.to_thread(run, command, file.parent, TOWPATH_AMQP_URL=shop.amqp_url)
            assert "confirmed" in printed
        shipped = await client.find(
            lambda frame: frame["action"] == "order.updated" and frame["data"]["status"] == "shipped"
        )
        assert shipped["data"]["detail"] == detail
        misspell(file)
        printed = await asyncio.to_thread(
            run, command, file.parent, check=False, TOWPATH_AMQP_URL=shop.amqp_url
        )
        assert "no service receives" in printed
        order = (await client.request("order.get", {"order_id": f"O-{user}"}))["data"]
        # Submitted, paid, shipped: the repetitions have no effect.
        assert (order["status"], order["revision"]) == ("shipped", 3)


@pytest.mark.asyncio(loop_scope="module")
async def test_the_example_in_node_moves_an_order_once(shop: Shop, tmp_path: Path) -> None:
    file = the_file("node.md", tmp_path)
    pinned = json.loads((ROOT / "tests/node/package.json").read_text())["dependencies"]["amqplib"]
    assert f"npm install amqplib@{pinned}\n" in (PAGES / "node.md").read_text()
    for name in ("package.json", "package-lock.json"):
        shutil.copy(ROOT / "tests/node" / name, tmp_path)
    node = str(find_or_install(NODE))
    await asyncio.to_thread(run, [str(find_or_install(NPM)), "ci", "--no-audit", "--no-fund"], tmp_path)
    await it_moves_an_order_once(shop, "node", [node, file.name, "O-node", "node"], file, "from Node")


@pytest.mark.asyncio(loop_scope="module")
async def test_the_example_in_go_moves_an_order_once(shop: Shop, tmp_path: Path) -> None:
    toolchain("go")
    file = the_file("go.md", tmp_path)
    for name in ("go.mod", "go.sum"):
        shutil.copy(ROOT / "tests/backends/go" / name, tmp_path)
    module = (tmp_path / "go.mod").read_text().split("require ")[1].strip()
    assert f"go get {module.replace(' ', '@')}\n" in (PAGES / "go.md").read_text()
    # Another toolchain than the machine's would be fetched; the versions of modules are those of go.sum.
    own = {"GOTOOLCHAIN": "local", "GOFLAGS": "-mod=readonly"}
    command = ["env", *(f"{name}={value}" for name, value in own.items()), "go", "run", ".", "O-go", "go"]
    assert await asyncio.to_thread(run, ["gofmt", "-d", "."], tmp_path) == ""
    await it_moves_an_order_once(shop, "go", command, file, "from Go")


@pytest.mark.asyncio(loop_scope="module")
async def test_the_example_in_java_moves_an_order_once(shop: Shop, tmp_path: Path) -> None:
    toolchain("java", "mvn")
    file = the_file("java.md", tmp_path)
    blocks = snippets.blocks_of((PAGES / "java.md").read_text(), "sh")
    await asyncio.to_thread(run, ["sh", "-euc", blocks[0].text], tmp_path)
    check_hashes(tmp_path / "lib", ROOT / "tests/backends/java/SHA256SUMS")
    assert blocks[1].text == "java -cp 'lib/*' Publish.java O1 ana\n"
    command = ["java", "-cp", "lib/*", file.name, "O-java", "java"]
    await it_moves_an_order_once(shop, "java", command, file, "from Java")


@pytest.mark.asyncio(loop_scope="module")
async def test_the_commands_by_http_give_the_answers_that_the_page_shows(shop: Shop, tmp_path: Path) -> None:
    assert shutil.which("curl"), "curl is needed: apt-get install curl"
    port = free_port()
    page = (PAGES / "http.md").read_text().replace("127.0.0.1:8090", f"127.0.0.1:{port}")
    blocks = [block for block in snippets.blocks_of(page) if block.language in ("sh", "json")]
    assert [block.language for block in blocks] == ["sh", "sh", "json", "sh", "json", "sh", "sh", "json"]
    # An answer has no line break at its end.
    script = "\necho\n".join(block.text for block in blocks if block.language == "sh")
    settings = {"TOWPATH_AMQP_URL": shop.amqp_url, "TOWPATH_PORT": str(port)}
    settings["TOWPATH_ADMIN_PORT"] = str(free_port())
    async with WireClient.connect(shop.gateway_url, token=a_token("ana")) as ana:
        await ana.request("order.submit", {"order_id": "O1", "amount": "9.00"})
        async with snippets.Terminal.open(
            f"{script}\necho; kill %1; wait", folder=tmp_path, settings=settings
        ) as shell:
            assert await shell.ends(timeout=180) == 0
        answers = [json.loads(line) for line in shell.printed if line.startswith(('{"results', '{"type'))]
        shown = [json.loads(block.text) for block in blocks if block.language == "json"]
        assert [answers[0], answers[1], answers[3]] == shown
        assert [one["status"] for one in answers[2]["results"]] == ["accepted"]
        push = await ana.next("sale.started")
        assert push["data"] == {"percent": 20}
        await ana.find(lambda frame: frame["data"].get("detail") == "by HTTP")
        order = (await ana.request("order.get", {"order_id": "O1"}))["data"]
        assert (order["status"], order["revision"]) == ("shipped", 4)


def test_the_index_links_each_page_and_no_other() -> None:
    text = (PAGES / "README.md").read_text()
    pages = {page.name for page in PAGES.glob("*.md")} - {"README.md"}
    assert [page for page in sorted(pages) if f"]({page})" not in text] == []


def test_each_refusal_of_the_ingress_is_in_the_table() -> None:
    table = snippets.rows(snippets.section((PAGES / "http.md").read_text(), "When something fails"))
    listed = {kind.strip("` ") for row in table for kind in row[1].partition(":")[0].split(",")}
    # Of a transfer coding that HTTP does not know.
    assert listed == {kind.value for kind in KINDS} - {Kind.NOT_IMPLEMENTED.value}
