"""A private RabbitMQ node, from boot to its end."""

import asyncio
import contextlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import aio_pika
import pytest

from towpath.tools import rabbitmq_node
from towpath.tools.rabbitmq_node import FolderInUse, NodeFailed, RabbitNode

#: Where an epmd would be that we started in spite of ourselves.
EPMD_PORT = 1

OWNER = """
import sys, time
from pathlib import Path
from towpath.tools.rabbitmq_node import RabbitNode

node = RabbitNode(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
node.boot()
print(node.port, node.folder, flush=True)
time.sleep(600)
"""


def listens(port: int, host: str = "127.0.0.1") -> bool:
    try:
        socket.create_connection((host, port), timeout=1).close()
    except OSError:
        return False
    return True


def processes_of(folder: Path) -> list[int]:
    """Processes that have the folder in their command line or environment."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            text = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
            if str(folder).encode() in text:
                found.append(int(process.name))
    return found


def await_no_process_of(folder: Path) -> None:
    deadline = time.monotonic() + 30  # a kept node may take 20 s to stop in order
    while left := processes_of(folder):
        assert time.monotonic() < deadline, f"still running: {left}"
        time.sleep(0.05)


@contextlib.contextmanager
def owned_node(*folder: Path) -> Iterator[tuple[subprocess.Popen[str], int, Path]]:
    """A node booted by another process, with its port and folder; the process is killed at the end."""
    with subprocess.Popen([sys.executable, "-c", OWNER, *folder], stdout=subprocess.PIPE, text=True) as owner:
        try:
            assert owner.stdout is not None
            port, where = owner.stdout.readline().split()
            yield owner, int(port), Path(where)
        finally:
            owner.kill()


async def queue_length(url: str) -> int | None:
    async with await aio_pika.connect(url) as connection:
        queue = await (await connection.channel()).declare_queue("q", durable=True)
        return queue.declaration_result.message_count


async def publish(url: str) -> None:
    async with await aio_pika.connect(url) as connection:
        channel = await connection.channel()
        await channel.declare_queue("q", durable=True)
        message = aio_pika.Message(b"{}", delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
        await channel.default_exchange.publish(message, "q", timeout=60)


async def test_a_node_serves_amqp_on_the_loopback_alone() -> None:
    async with RabbitNode() as node:
        await publish(node.url())
        assert await queue_length(node.url()) == 1
        opened = node.evaluate(
            "[element(2, inet:sockname(P)) || P <- erlang:ports(), {ok, _} <- [inet:sockname(P)]]"
        )
    assert "{127,0,0,1}" in opened
    assert "{0,0,0,0" not in opened


async def test_a_temporary_node_leaves_no_process_and_no_file() -> None:
    async with RabbitNode() as node:
        assert processes_of(node.folder)
        assert "/" in await node.ctl("list_vhosts")
        node.evaluate("rabbit_nodes:ensure_epmd()")  # as RabbitMQ does once a minute
        assert not listens(EPMD_PORT)
    await_no_process_of(node.folder)
    assert not node.folder.exists()
    assert not listens(node.port)


async def test_a_kept_folder_keeps_queues_messages_password_and_port(tmp_path: Path) -> None:
    async with RabbitNode(tmp_path) as first:
        await publish(first.url())
    await_no_process_of(tmp_path)
    async with RabbitNode(tmp_path) as second:
        assert await queue_length(second.url()) == 1
        assert second.lost_port is None
    assert first.url() == second.url()


async def test_a_kept_folder_whose_port_is_taken_gets_another_one_and_keeps_that(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken: int = other.getsockname()[1]
        (tmp_path / "port").write_text(str(taken))
        async with RabbitNode(tmp_path) as node:
            assert node.lost_port == taken
            assert node.port != taken
            assert int((tmp_path / "port").read_text()) == node.port


async def test_a_killed_node_boots_again_on_its_port_with_what_it_had_stored() -> None:
    async with RabbitNode() as node:
        url = node.url()
        await publish(url)
        node.kill()
        assert not node.running
        assert not listens(node.port)
        await asyncio.to_thread(node.boot)
        assert node.url() == url
        assert await queue_length(url) == 1


async def test_two_nodes_run_side_by_side_but_not_in_one_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rabbitmq_node, "_FOLDER_FREE_SECONDS", 0.2)
    async with RabbitNode(tmp_path / "one") as one, RabbitNode(tmp_path / "two") as two:
        await publish(one.url())
        assert await queue_length(two.url()) == 0
        with pytest.raises(FolderInUse, match=r"Another RabbitMQ runs in .*/one: stop the program"):
            await asyncio.to_thread(RabbitNode(tmp_path / "one").boot)
        assert await queue_length(one.url()) == 1


@pytest.mark.parametrize("kept", [False, True], ids=["temporary", "kept"])
def test_a_node_ends_with_its_owner_even_if_that_is_killed(kept: bool, tmp_path: Path) -> None:
    with owned_node(*([tmp_path] if kept else [])) as (owner, port, folder):
        assert listens(port)
        owner.send_signal(signal.SIGKILL)
    await_no_process_of(folder)
    assert not listens(port)
    assert folder.exists() is kept


def test_a_node_whose_owner_was_killed_releases_the_folder(tmp_path: Path) -> None:
    with owned_node(tmp_path) as (owner, _, _):
        owner.send_signal(signal.SIGKILL)
    with owned_node(tmp_path) as (_, port, _):
        assert listens(port)


async def test_a_vhost_is_empty_and_any_name_will_do() -> None:
    async with RabbitNode() as node:
        await publish(node.url())
        url = await node.add_vhost("canal/ä b")
        assert url.endswith("/canal%2F%C3%A4%20b")
        assert await queue_length(url) == 0
        assert "canal/ä b" in await node.ctl("list_vhosts")
        await node.delete_vhost("canal/ä b")
        assert "canal/ä b" not in await node.ctl("list_vhosts")


async def test_a_refusal_of_the_node_is_reported() -> None:
    async with RabbitNode() as node:
        with pytest.raises(NodeFailed, match=r"refused `no_such:thing\(\)`: \{error,undef\}"):
            node.evaluate("no_such:thing()")
        with pytest.raises(NodeFailed, match="syntax error"):
            node.evaluate("1 +")
        with pytest.raises(NodeFailed, match=r"did not answer within 0\.1 s"):
            node.evaluate("timer:sleep(500)", timeout=0.1)
        assert node.evaluate("1 + 1") == "2"
        with pytest.raises(NodeFailed, match="`rabbitmqctl no_such_command` ended with 64"):
            await node.ctl("no_such_command")


async def test_a_node_that_dies_is_reported_with_its_last_output() -> None:
    async with RabbitNode() as node:
        with pytest.raises(NodeFailed, match="ended by itself"):
            node.evaluate("erlang:halt(7)")


def a_program(folder: Path, script: str) -> Path:
    path = folder / "rabbitmq-server"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def test_a_failed_boot_is_reported_with_its_output(tmp_path: Path) -> None:
    node = RabbitNode(program=a_program(tmp_path, 'echo "BOOT FAILED: no room"; exit 1'))
    with pytest.raises(NodeFailed, match=r"ended by itself\.\nBOOT FAILED: no room"):
        node.boot()
    assert not node.folder.exists()


def test_a_boot_that_hangs_is_cancelled_and_killed(tmp_path: Path) -> None:
    node = RabbitNode(program=a_program(tmp_path, 'echo "thinking"; exec sleep 600'), boot_timeout=2.0)
    started = time.monotonic()
    with pytest.raises(NodeFailed, match=r"did not answer within 2 s\.\nthinking"):
        node.boot()
    assert time.monotonic() - started < 30
    assert not processes_of(node.folder)


def test_a_port_taken_meanwhile_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    choose = rabbitmq_node._free_ports
    with socket.create_server(("127.0.0.1", 0)) as taken:
        offers = [[taken.getsockname()[1], choose(1)[0]], choose(2)]
        monkeypatch.setattr(rabbitmq_node, "_free_ports", lambda count: offers.pop(0))
        node = RabbitNode(tmp_path)
        node.boot()
        try:
            assert node.port != taken.getsockname()[1]
            assert listens(node.port)
        finally:
            node.halt()
