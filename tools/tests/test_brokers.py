"""Where the broker comes from. Docker is stood in for by a command that behaves like it."""

import os
import socket
import sys
from pathlib import Path

import pytest

from towpath.servicekit.runtime.settings import BadSetting
from towpath.testkit.eventually import eventually
from towpath.testkit.processes import free_port
from towpath.testkit.rabbitmq import Rabbit
from towpath.tools.brokers import (
    BrokerEnded,
    Container,
    GivenBroker,
    MemoryBroker,
    PrivateNode,
    Source,
    choose,
    running_docker,
)
from towpath.tools.data_folder import DataFolder
from towpath.tools.greeting import NoBroker, greet
from towpath.tools.options import Choice

URL = "amqp://guest:secret@broker.example/"

CHOICES = [
    (Choice.AUTO, URL, True, True, GivenBroker),
    (Choice.AUTO, None, True, True, PrivateNode),
    (Choice.AUTO, None, False, True, Container),
    (Choice.AUTO, None, False, False, MemoryBroker),
    (Choice.AUTO, "memory://", True, True, MemoryBroker),
    (Choice.RABBITMQ, URL, True, True, GivenBroker),
    (Choice.RABBITMQ, None, True, True, PrivateNode),
    (Choice.RABBITMQ, None, False, True, Container),
    (Choice.RABBITMQ, None, False, False, PrivateNode),
    (Choice.MEMORY, URL, True, True, MemoryBroker),
]


@pytest.mark.parametrize(("choice", "given", "installed", "docker", "chosen"), CHOICES)
def test_the_best_available_broker_is_chosen(
    choice: Choice, given: str | None, installed: bool, docker: bool, chosen: type[Source], tmp_path: Path
) -> None:
    source = choose(
        choice,
        DataFolder(tmp_path),
        given=given,
        find_program=lambda: Path("/bin/rabbitmq") if installed else None,
        find_docker=lambda: "/bin/docker" if docker else None,
    )
    assert type(source) is chosen


def test_the_memory_broker_is_refused_where_rabbitmq_is_required(tmp_path: Path) -> None:
    with pytest.raises(BadSetting, match="contradicts --broker rabbitmq"):
        choose(Choice.RABBITMQ, DataFolder(tmp_path), given="memory://")


def test_a_broker_for_other_processes_is_never_the_memory_broker(tmp_path: Path) -> None:
    with pytest.raises(BadSetting, match="cannot reach the memory broker; use --broker rabbitmq"):
        choose(Choice.MEMORY, DataFolder(tmp_path), given=None, for_processes=True)
    source = choose(
        Choice.AUTO,
        DataFolder(tmp_path),
        given=None,
        for_processes=True,
        find_program=lambda: None,
        find_docker=lambda: None,
    )
    assert isinstance(source, PrivateNode)


async def test_the_memory_broker_prints_the_steps_to_a_real_one() -> None:
    async with MemoryBroker().open() as broker:
        assert "apt-get install rabbitmq-server" in broker.hint
        assert broker.url is None


async def test_a_given_broker_is_named_with_its_version(rabbitmq: Rabbit) -> None:
    async with GivenBroker(rabbitmq.url).open() as broker:
        assert broker.label.startswith("RabbitMQ ")
        assert broker.place.startswith("at 127.0.0.1:")
        assert broker.url == rabbitmq.url


async def test_an_unreachable_given_broker_is_named_without_its_password() -> None:
    with pytest.raises(BadSetting) as refused:
        async with GivenBroker(f"amqp://me:secret@127.0.0.1:{free_port()}/").open():
            pass
    assert "nothing answers at 127.0.0.1" in str(refused.value)
    assert "secret" not in str(refused.value)


async def test_one_reachable_host_of_several_is_enough(rabbitmq: Rabbit) -> None:
    away = f"127.0.0.1:{free_port()}"
    async with GivenBroker(rabbitmq.url.replace("@", f"@{away},")).open() as broker:
        assert broker.label.startswith("RabbitMQ ")
        assert broker.place.startswith(f"at {away}, 127.0.0.1:")


async def test_a_server_that_is_not_rabbitmq_is_recognised() -> None:
    import asyncio

    async def speak_http(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(speak_http, "127.0.0.1", 0)
    async with server:
        with pytest.raises(NoBroker, match=r"does not speak AMQP 0-9-1"):
            await greet("127.0.0.1", server.sockets[0].getsockname()[1])


#: Runs "containers" that greet as RabbitMQ does and end with their standard input.
DOCKER = """#!{python}
import os, socket, sys, threading
arguments = sys.argv[1:]
open({log!r}, "a").write(" ".join(arguments) + "\\n")
if arguments[0] == "run":
    if {broken}:
        sys.exit(125)
    assert os.environ["RABBITMQ_DEFAULT_PASS"]
    port = int(arguments[arguments.index("--publish") + 1].split(":")[1])
    start = b"\\0\\x0a\\0\\x0a\\0\\x09\\0\\0\\0\\x15\\x07versionS\\0\\0\\0\\x054.1.0"
    def greet():
        with socket.create_server(("127.0.0.1", port)) as server:
            while True:
                client, _ = server.accept()
                with client:
                    client.recv(8)
                    client.sendall(b"\\1\\0\\0" + len(start).to_bytes(4, "big") + start + b"\\xce")
    threading.Thread(target=greet, daemon=True).start()
    sys.stdin.read()
"""


def a_docker(folder: Path, *, broken: bool = False) -> tuple[str, Path]:
    docker, log = folder / "docker", folder / "docker.log"
    docker.write_text(DOCKER.format(python=sys.executable, log=str(log), broken=broken))
    docker.chmod(0o755)
    return str(docker), log


async def test_a_container_lives_as_long_as_it_is_needed(tmp_path: Path) -> None:
    docker, log = a_docker(tmp_path)
    folder = DataFolder(tmp_path)
    async with Container(folder, docker).open() as broker:
        assert broker.label == "AMQP broker 4.1.0"
        assert broker.runs()
        with pytest.raises(AssertionError):
            await eventually(lambda: not broker.runs(), timeout=0.1)
    assert not broker.runs()
    ran, removed = log.read_text().splitlines()
    name = ran.split()[ran.split().index("--name") + 1]
    assert ran.startswith("run --rm --interactive")
    assert "127.0.0.1:" in ran
    assert removed == f"rm --force {name}"
    async with Container(folder, docker).open() as again:
        assert (again.url, again.hint) == (broker.url, "")


async def test_a_container_whose_port_is_taken_gets_another_one_and_the_hint_says_so(tmp_path: Path) -> None:
    docker, _ = a_docker(tmp_path)
    folder = DataFolder(tmp_path)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        folder.keep("container.port", str(taken))
        async with Container(folder, docker).open() as broker:
            assert broker.hint.startswith(f"Another program has port {taken}, which RabbitMQ had before; ")
            assert broker.url is not None
            assert str(taken) not in broker.url


async def test_a_container_that_does_not_start_is_one_line(tmp_path: Path) -> None:
    docker, _ = a_docker(tmp_path, broken=True)
    with pytest.raises(BrokerEnded, match="did not start: try `docker run --rm rabbitmq:4` to see why"):
        async with Container(DataFolder(tmp_path), docker).open():
            pass


def test_docker_without_an_engine_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert running_docker() is None
    (tmp_path / "docker").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "docker").chmod(0o755)
    assert running_docker() is None
    (tmp_path / "docker").write_text("#!/bin/sh\nexit 0\n")
    assert running_docker() == os.fspath(tmp_path / "docker")
