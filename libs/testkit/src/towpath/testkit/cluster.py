"""Three RabbitMQ nodes of one cluster on this machine.

Guarantees:

* Each node has its own process, folder, address and pipe: what ends with :class:`RabbitNode` ends here, too.
* Nodes find each other without epmd: all listen on the same port of different addresses.
* With ``apart=True`` each is in a network namespace of its own, and links between two of them can be cut; that needs
  root. Its bridge and namespaces are removed at the end.
"""

import asyncio
import contextlib
import os
import re
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, Self

from towpath.testkit.eventually import eventually
from towpath.testkit.processes import free_port
from towpath.tools.packages import RABBITMQ, find_or_install
from towpath.tools.rabbitmq_node import Member, NodeFailed, RabbitNode

SIZE: Final = 3
#: Seconds after which a node that cannot be reached is taken for gone, at most 1.25 times that.
NET_TICK: Final = 5

_SETTINGS: Final = (
    "cluster_partition_handling = pause_minority",
    f"net_ticktime = {NET_TICK}",
)
#: RabbitMQ 4 does not start with these.
_SETTINGS_OF_3: Final = (
    "cluster_formation.randomized_startup_delay_range.min = 0",
    "cluster_formation.randomized_startup_delay_range.max = 1",
)
#: How many members of the cluster a node sees running; RabbitMQ 3 and 4 name it differently.
_RUNNING: Final = (
    "length(case erlang:function_exported(rabbit_nodes, list_running, 0) of "
    "true -> rabbit_nodes:list_running(); false -> rabbit_nodes:all_running() end)"
)


class Cluster:
    """A running cluster.

    Attributes:
        nodes: Its nodes, whether they run or not.
    """

    def __init__(self, nodes: Sequence[RabbitNode], network: "Namespaces | None") -> None:
        self.nodes = list(nodes)
        self._network = network

    @classmethod
    @contextlib.asynccontextmanager
    async def running(cls, *, apart: bool = False) -> AsyncIterator[Self]:
        """Three nodes from entry to exit.

        Args:
            apart: Give each node a network namespace.

        Raises:
            NodeFailed: A node did not start, or did not join.
            PermissionError: There is no right to make network namespaces.
        """
        folder = Path(tempfile.mkdtemp(prefix="towpath-cluster-"))
        with contextlib.ExitStack() as stack:
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            network = stack.enter_context(Namespaces.made()) if apart else None
            program = await asyncio.to_thread(find_or_install, RABBITMQ)
            is_3 = (await asyncio.to_thread(_version, program, folder)).startswith("3.")
            settings = _SETTINGS + (_SETTINGS_OF_3 if is_3 else ())
            cluster = cls(_nodes(folder, network, program, settings), network)
            stack.callback(cluster._end)
            # Nodes of RabbitMQ 3 that boot together may make a cluster each; one of RabbitMQ 4 waits for another.
            first = 1 if is_3 else SIZE
            for nodes in (cluster.nodes[:first], cluster.nodes[first:]):
                await asyncio.gather(*(asyncio.to_thread(node.boot) for node in nodes))
            await cluster.whole()
            try:
                yield cluster
            finally:
                if network is not None:
                    network.heal()

    @property
    def running_nodes(self) -> list[RabbitNode]:
        """Those whose process lives."""
        return [node for node in self.nodes if node.running]

    def url(self, first: int = 0) -> str:
        """One AMQP URL that names all nodes, beginning with the one at ``first``."""
        turned = self.nodes[first:] + self.nodes[:first]
        user, _, rest = turned[0].url().rpartition("@")
        address, slash, vhost = rest.partition("/")
        hosts = [address, *(node.url().rpartition("@")[2].partition("/")[0] for node in turned[1:])]
        return f"{user}@{','.join(hosts)}{slash}{vhost}"

    async def whole(self, *, timeout: float = 60.0) -> None:
        """Wait until all nodes run and see each other.

        Raises:
            NodeFailed: They do not.
        """

        async def is_whole() -> bool:
            return all([await self._sees(node) == SIZE for node in self.nodes])

        try:
            await eventually(is_whole, timeout=timeout, every=0.1)
        except AssertionError:
            raise NodeFailed(f"The nodes do not see each other after {timeout:g} s.") from None

    async def leader(self, queue: str, vhost: str = "/") -> RabbitNode:
        """The node that leads a quorum queue.

        Raises:
            NodeFailed: No node knows.
        """
        name = f'rabbit_misc:r(<<"{vhost}">>, queue, <<"{queue}">>)'
        asked = f"begin {{ok, Q}} = rabbit_amqqueue:lookup({name}), amqqueue:get_leader(Q) end"
        for node in self.running_nodes:
            with contextlib.suppress(NodeFailed):
                found = await asyncio.to_thread(node.evaluate, asked)
                return self.nodes[int(re.findall(r"r(\d+)@", found)[0]) - 1]
        raise NodeFailed(f"No node knows who leads {queue}.")

    async def keep_on_leader(self, stream: str, vhost: str = "/") -> RabbitNode:
        """Remove all members of a stream but its leader; returns the leader's node.

        Raises:
            NodeFailed: There is no such stream, or a member stays.
        """
        name = f'rabbit_misc:r(<<"{vhost}">>, queue, <<"{stream}">>)'
        asked = (
            f"begin {{ok, Q}} = rabbit_amqqueue:lookup({name}), L = node(amqqueue:get_pid(Q)), "
            f'{{L, [rabbit_stream_queue:delete_replica(<<"{vhost}">>, <<"{stream}">>, N) '
            "|| N <- [node() | nodes()], N =/= L]} end"
        )
        found = await asyncio.to_thread(self.nodes[0].evaluate, asked)
        if found.count("ok") != SIZE - 1:
            raise NodeFailed(f"Members of {stream} were not removed: {found}")
        return self.nodes[int(re.findall(r"r(\d+)@", found)[0]) - 1]

    async def report(self, vhost: str = "/") -> str:
        """The state of each queue on the running nodes: for the output of a failed test."""
        info = "[messages, messages_ready, messages_unacknowledged, consumers]"
        asked = (
            "[{element(4, amqqueue:get_name(Q)), amqqueue:get_pid(Q), "
            f"catch rabbit_amqqueue:info(Q, {info}), catch rabbit_amqqueue:consumers(Q)}} "
            f'|| Q <- rabbit_amqqueue:list(<<"{vhost}">>)]'
        )
        told = []
        for node in self.running_nodes:
            try:
                queues = await asyncio.to_thread(node.evaluate, asked)
            except NodeFailed as error:
                queues = str(error)
            told.append(f"node {self.nodes.index(node) + 1}:\n" + queues.replace("},{<<", "},\n{<<"))
        return "\n".join(told)

    async def kill(self, *nodes: RabbitNode) -> None:
        """End nodes at once (SIGKILL)."""
        await asyncio.gather(*(asyncio.to_thread(node.kill) for node in nodes))

    async def boot(self, *nodes: RabbitNode) -> None:
        """Boot nodes that were killed, and wait until the cluster is whole."""
        await asyncio.gather(*(asyncio.to_thread(node.boot) for node in nodes))
        await self.whole()

    def cut(self, one: Iterable[RabbitNode], other: Iterable[RabbitNode]) -> None:
        """Cut all links between two groups of nodes; clients reach all of them still."""
        assert self._network is not None, "only of a cluster that is apart"
        for left in one:
            for right in other:
                self._network.cut(self.nodes.index(left), self.nodes.index(right))

    def heal(self) -> None:
        """Mend all links."""
        assert self._network is not None, "only of a cluster that is apart"
        self._network.heal()

    async def _sees(self, node: RabbitNode) -> int:
        try:
            running = await asyncio.to_thread(node.evaluate, _RUNNING, timeout=10)
        except NodeFailed:
            return 0
        return int(running)

    def _end(self) -> None:
        for node in self.nodes:
            node.kill()
            node.halt()


class Namespaces:
    """A network namespace for each node, on one bridge, whose other side is this machine's own network."""

    def __init__(self) -> None:
        self._name = f"tp{secrets.token_hex(3)}"
        self._cut: list[tuple[int, int]] = []
        self._third = 100 + secrets.randbelow(150)

    @classmethod
    @contextlib.contextmanager
    def made(cls) -> Iterator[Self]:
        """From entry to exit.

        Raises:
            PermissionError: Not allowed here.
        """
        network = cls()
        try:
            network._make()
            yield network
        finally:
            network._remove()

    def address(self, number: int) -> str:
        """The address of a node."""
        return f"10.77.{self._third}.{number + 1}"

    def launcher(self, number: int) -> list[str]:
        """The command prefix that starts a program inside."""
        return ["ip", "netns", "exec", self._inside(number)]

    def cut(self, one: int, other: int) -> None:
        """Let nothing through between two nodes, in either direction."""
        for here, there in ((one, other), (other, one)):
            _ip("-n", self._inside(here), "route", "add", "blackhole", self.address(there))
        self._cut.append((one, other))

    def heal(self) -> None:
        """Mend what was cut."""
        for one, other in self._cut:
            for here, there in ((one, other), (other, one)):
                _ip("-n", self._inside(here), "route", "del", "blackhole", self.address(there))
        self._cut.clear()

    def _inside(self, number: int) -> str:
        return f"{self._name}n{number}"

    def _make(self) -> None:
        if os.geteuid() != 0 or shutil.which("ip") is None:
            raise PermissionError("network namespaces need root and iproute2")
        _ip("link", "add", self._name, "type", "bridge")
        _ip("addr", "add", f"10.77.{self._third}.254/24", "dev", self._name)
        _ip("link", "set", self._name, "up")
        for number in range(SIZE):
            inside, end = self._inside(number), f"{self._name}v{number}"
            _ip("netns", "add", inside)
            _ip("link", "add", end, "type", "veth", "peer", "name", "eth0", "netns", inside)
            _ip("link", "set", end, "master", self._name, "up")
            _ip("-n", inside, "link", "set", "lo", "up")
            _ip("-n", inside, "addr", "add", f"{self.address(number)}/24", "dev", "eth0")
            _ip("-n", inside, "link", "set", "eth0", "up")

    def _remove(self) -> None:
        for number in range(SIZE):
            with contextlib.suppress(PermissionError):
                _ip("netns", "del", self._inside(number))
        with contextlib.suppress(PermissionError):
            _ip("link", "del", self._name)


def _nodes(
    folder: Path, network: Namespaces | None, program: Path, settings: Sequence[str]
) -> list[RabbitNode]:
    addresses = [f"127.0.0.{n + 1}" if network is None else network.address(n) for n in range(SIZE)]
    names = [f"r{n + 1}@{address}" for n, address in enumerate(addresses)]
    dist_port = free_port()
    password, cookie = secrets.token_urlsafe(18), secrets.token_hex(20)
    nodes = []
    for number, name in enumerate(names):
        home = folder / f"r{number + 1}"
        home.mkdir(mode=0o700)
        (home / "password").write_text(password)
        (home / ".erlang.cookie").write_text(cookie)
        (home / ".erlang.cookie").chmod(0o400)
        launcher = () if network is None else network.launcher(number)
        member = Member(name, dist_port, names, settings=settings, launcher=launcher)
        nodes.append(RabbitNode(home, program=program, member=member))
    return nodes


def _version(program: Path, folder: Path) -> str:
    ran = subprocess.run(
        [program.with_name("rabbitmqctl"), "version"],
        env={**os.environ, "HOME": str(folder)},  # it leaves a cookie there
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    return ran.stdout.strip()


def _ip(*arguments: str) -> None:
    ran = subprocess.run(["ip", *arguments], capture_output=True, text=True, timeout=10, check=False)
    if ran.returncode != 0:
        raise PermissionError(f"`ip {' '.join(arguments)}`: {ran.stderr.strip()}")
