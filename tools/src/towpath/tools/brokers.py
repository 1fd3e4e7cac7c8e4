"""Where the broker of ``towpath dev`` comes from: a given one, our own RabbitMQ, a container, this process."""

import asyncio
import contextlib
import os
import secrets
import shutil
import subprocess
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Final, ParamSpec, TypeVar

from yarl import URL

from towpath.servicekit.runtime.amqp_url import hosts as hosts_of
from towpath.servicekit.runtime.amqp_url import shown
from towpath.servicekit.runtime.settings import BadSetting, BrokerSettings
from towpath.tools.data_folder import DataFolder
from towpath.tools.greeting import Greeting, NoBroker, greet
from towpath.tools.options import Choice
from towpath.tools.order_events import exchanges
from towpath.tools.packages import RABBITMQ, find, find_or_install
from towpath.tools.ports import same_or_free
from towpath.tools.rabbitmq_node import NodeFailed, RabbitNode
from towpath.tools.trouble import Trouble

if TYPE_CHECKING:
    from towpath.servicekit.broker import Connect
    from towpath.servicekit.broker.interface import Broker

P = ParamSpec("P")
T = TypeVar("T")

AMQP_URL: Final = "TOWPATH_AMQP_URL"
IMAGE: Final = "rabbitmq:4"

_WATCH_SECONDS: Final = 0.5
_CONNECT_SECONDS: Final = 15.0
_PULL_AND_BOOT_SECONDS: Final = 600.0
_NOT_THE_REAL_THING: Final = (
    "This is not the real thing: messages end with this process. "
    "For RabbitMQ: towpath dev --broker rabbitmq, or apt-get install rabbitmq-server."
)
_PORT_FILE: Final = "container.port"
_PASSWORD_FILE: Final = "container.password"  # noqa: S105  # a file's name
#: The container ends with us as a private node does: by the end of the pipe that is its standard input.
_CONTAINER_PROGRAM: Final = (
    "docker-entrypoint.sh rabbitmq-server & rabbitmq=$!; cat >/dev/null; kill $rabbitmq; wait $rabbitmq"
)


class NoConnection(Trouble):
    """A broker runs, but does not let us in."""


class BrokerEnded(Trouble):
    """The broker that we started is gone, or did not come."""


@dataclass(frozen=True, slots=True)
class OpenBroker:
    """A broker that accepts connections.

    Attributes:
        label: The displayed name, with its version.
        place: Where people find it.
        url: Where it is; ``None`` when it lives in this process.
        connect: How parts in this process reach it.
        runs: Whether it still runs, as far as we are to know.
        hint: A remark for the user; may be empty.
    """

    label: str
    place: str
    url: str | None
    connect: "Connect"
    runs: Callable[[], bool] = lambda: True
    hint: str = ""

    @asynccontextmanager
    async def connected(self, settings: BrokerSettings, name: str) -> AsyncIterator["Broker"]:
        """A connection of our own, from entry to exit, once the exchanges stand.

        Raises:
            BrokerRefused: It takes neither user, password nor virtual host.
            NoConnection: It took too long.
        """
        settings = settings.model_copy(update={"amqp_url": self.url or "memory://"})
        async with self.connect(settings, name) as broker:
            try:
                async with asyncio.timeout(_CONNECT_SECONDS):
                    await broker.declare(exchanges())
            except TimeoutError:
                raise NoConnection(f"{self.label}: no connection within {_CONNECT_SECONDS:g} s") from None
            yield broker

    async def until_ended(self) -> None:
        """Wait for its unexpected end.

        Raises:
            BrokerEnded
        """
        while self.runs():  # noqa: ASYNC110  # a process that this loop knows nothing of
            await asyncio.sleep(_WATCH_SECONDS)
        raise BrokerEnded(f"{self.label} ended by itself")


class Source(ABC):
    """Where a broker comes from.

    Attributes:
        label: The displayed name, as far as it is known before the start.
        doing: The work while it is opened.
        in_process: Whether it lives in this process, and so must the parts.
    """

    label: str
    doing: str
    in_process = False

    @abstractmethod
    def open(self) -> AbstractAsyncContextManager[OpenBroker]:
        """The broker, from entry to exit."""

    def kill(self) -> None:  # noqa: B027  # most have nothing to kill
        """End at once what we started."""


def choose(
    choice: Choice,
    folder: DataFolder,
    *,
    given: str | None,
    for_processes: bool = False,
    find_program: Callable[[], Path | None] = lambda: find(RABBITMQ),
    find_docker: Callable[[], str | None] = lambda: running_docker(),
) -> Source:
    """The first that can be had: the given URL, an installed RabbitMQ, Docker; the memory broker is the last.

    Args:
        given: ``TOWPATH_AMQP_URL``.
        for_processes: Whether other processes must reach it, as a service of one's own does.

    Raises:
        BadSetting: A RabbitMQ is wanted, and the URL given names the memory broker.
    """
    if for_processes and choice is Choice.MEMORY:
        raise BadSetting(
            "--with",
            None,
            "a service of your own is a process, which cannot reach the memory broker; use --broker rabbitmq",
        )
    if for_processes:
        choice = Choice.RABBITMQ
    if choice is Choice.MEMORY or (choice is Choice.AUTO and given and given.startswith("memory:")):
        return MemoryBroker()
    if given and given.startswith("memory:"):
        raise BadSetting(AMQP_URL, given, "contradicts --broker rabbitmq; unset one of the two")
    if given:
        return GivenBroker(given)
    if (program := find_program()) is not None:
        return PrivateNode(folder, program)
    if (docker := find_docker()) is not None:
        return Container(folder, docker)
    return MemoryBroker() if choice is Choice.AUTO else PrivateNode(folder, None)


class GivenBroker(Source):
    """The one that ``TOWPATH_AMQP_URL`` names."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._hosts = hosts_of(url)
        self._place = "at " + ", ".join(f"{host.host}:{port_of(host)}" for host in self._hosts)
        self.label = "RabbitMQ"
        self.doing = f"Connecting to RabbitMQ {self._place}"

    @asynccontextmanager
    async def open(self) -> AsyncIterator[OpenBroker]:
        label = self.label
        if self._hosts[0].scheme == "amqp":  # with TLS, the first connection is the first word
            try:
                label = str(await greet_any(self._hosts))
            except NoBroker as missing:
                address = ", ".join(shown(host) for host in self._hosts)
                raise BadSetting(
                    AMQP_URL,
                    address,
                    f"{missing}; start that broker, or unset {AMQP_URL} to have another one",
                ) from None
        yield OpenBroker(label, self._place, self._url, await _amqp())


class PrivateNode(Source):
    """A RabbitMQ started by this program; installs Debian's package if there is none.

    Args:
        program: The ``rabbitmq-server``; ``None`` to install it.
    """

    label = "RabbitMQ"

    def __init__(self, folder: DataFolder, program: Path | None) -> None:
        self._folder = folder
        self._program = program
        self._node: RabbitNode | None = None
        self.doing = "Starting RabbitMQ" if program else "Installing RabbitMQ, which takes about a minute"

    @asynccontextmanager
    async def open(self) -> AsyncIterator[OpenBroker]:
        program = self._program or await _in_thread(find_or_install, RABBITMQ)
        node = self._node = RabbitNode(self._folder.rabbitmq, program=program)
        try:
            await _in_thread(node.boot)
            version = (await asyncio.to_thread(node.evaluate, "rabbit_misc:version()")).strip('"')
            yield OpenBroker(
                f"RabbitMQ {version}",
                f"a private node in {self._folder}/rabbitmq, port {node.port}",
                node.url(),
                await _amqp(),
                lambda: node.running,
                _moved(node.lost_port, node.port),
            )
        except NodeFailed as failure:
            said = str(failure).splitlines()[0]
            log = f"{self._folder}/rabbitmq/rabbitmq.log"
            raise BrokerEnded(f"{said} See {log}, or do without: --broker memory") from None
        finally:
            await asyncio.to_thread(node.halt)

    def kill(self) -> None:
        if self._node is not None:
            self._node.kill()


class Container(Source):
    """RabbitMQ in a container that is removed on exit; port of 127.0.0.1 and password are kept for the next one.

    Args:
        docker: The ``docker`` command.
    """

    label = "RabbitMQ"
    doing = f"Starting {IMAGE} in Docker; the first time it is downloaded"

    def __init__(self, folder: DataFolder, docker: str) -> None:
        self._folder = folder
        self._docker = docker
        self._process: asyncio.subprocess.Process | None = None

    @asynccontextmanager
    async def open(self) -> AsyncIterator[OpenBroker]:
        before = int(text) if (text := self._folder.kept(_PORT_FILE) or "").isdecimal() else None
        port = same_or_free(before, first=20_000 + secrets.randbelow(10_000))
        password = self._folder.kept(_PASSWORD_FILE) or secrets.token_urlsafe(18)
        self._folder.keep(_PORT_FILE, str(port))
        self._folder.keep(_PASSWORD_FILE, password)
        name = f"towpath-{secrets.token_hex(4)}"
        arguments = ["run", "--rm", "--interactive", "--name", name, "--publish", f"127.0.0.1:{port}:5672"]
        arguments += ["--env", "RABBITMQ_DEFAULT_USER=towpath", "--env", "RABBITMQ_DEFAULT_PASS"]
        process = self._process = await asyncio.create_subprocess_exec(
            self._docker,
            *[*arguments, IMAGE, "sh", "-c", _CONTAINER_PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "RABBITMQ_DEFAULT_PASS": password},
            start_new_session=True,
        )

        def runs() -> bool:
            return process.returncode is None

        try:
            label, place = await _greeted(port, runs), f"in Docker, as {name}, port {port}"
            url = f"amqp://towpath:{password}@127.0.0.1:{port}/"
            hint = _moved(before if before != port else None, port)
            yield OpenBroker(label, place, url, await _amqp(), runs, hint)
        finally:
            assert process.stdin is not None
            process.stdin.close()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(15):
                    await process.wait()
            if runs():
                process.kill()
            await self._remove(name)

    def kill(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.kill()

    async def _remove(self, name: str) -> None:
        removing = await asyncio.create_subprocess_exec(
            self._docker, "rm", "--force", name, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        await removing.wait()


class MemoryBroker(Source):
    """The memory broker, for parts in this process."""

    label = "memory broker"
    doing = "Starting"
    in_process = True

    @asynccontextmanager
    async def open(self) -> AsyncIterator[OpenBroker]:
        from towpath.servicekit.broker.memory import MemoryHub

        hub = MemoryHub()

        def connect(settings: BrokerSettings, name: str) -> AbstractAsyncContextManager["Broker"]:
            return hub.connect(name=name, publish_timeout=settings.publish_timeout)

        yield OpenBroker(self.label, "inside this process", None, connect, hint=_NOT_THE_REAL_THING)


def running_docker() -> str | None:
    """The ``docker`` command, where an engine answers it."""
    docker = shutil.which("docker")
    if docker is None:
        return None
    try:
        asked = subprocess.run([docker, "version"], capture_output=True, timeout=5, check=False)  # noqa: S603  # the program found just above
    except (subprocess.TimeoutExpired, OSError):
        return None
    return docker if asked.returncode == 0 else None


def _moved(before: int | None, port: int) -> str:
    """A remark for people who wrote the port of the last run somewhere."""
    if before is None:
        return ""
    return f"Another program has port {before}, which RabbitMQ had before; from now on it has port {port}."


async def _greeted(port: int, runs: Callable[[], bool]) -> str:
    deadline = asyncio.get_running_loop().time() + _PULL_AND_BOOT_SECONDS
    while runs():
        try:
            return str(await greet("127.0.0.1", port))
        except NoBroker as missing:
            if asyncio.get_running_loop().time() > deadline:
                raise BrokerEnded(f"RabbitMQ in Docker did not start: {missing}") from None
            await asyncio.sleep(0.2)  # until the next look, within the deadline
    raise BrokerEnded(f"RabbitMQ in Docker did not start: try `docker run --rm {IMAGE}` to see why")


async def _in_thread(function: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T:
    """Call ``function`` in a thread. A thread cannot be stopped: when cancelled, this first waits for its end."""
    working = asyncio.ensure_future(asyncio.to_thread(function, *arguments, **options))
    try:
        return await asyncio.shield(working)
    finally:
        await asyncio.wait([working])


async def _amqp() -> "Connect":
    # Loads the AMQP client: half a second that the page need not wait for.
    module = await asyncio.to_thread(import_module, "towpath.servicekit.broker")
    connect: Connect = module.connect
    return connect


async def greet_any(hosts: Sequence[URL]) -> Greeting:
    """The greeting of the first host that answers.

    Raises:
        NoBroker: None does; the message is about the last.
    """
    for host in hosts[:-1]:
        with contextlib.suppress(NoBroker):
            return await greet(host.host or "", port_of(host))
    return await greet(hosts[-1].host or "", port_of(hosts[-1]))


def port_of(address: URL) -> int:
    """The port of an AMQP URL."""
    return address.port or (5671 if address.scheme == "amqps" else 5672)
