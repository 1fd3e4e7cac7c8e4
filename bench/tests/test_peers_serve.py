"""The assumptions of the benchmark about its peers: each does the work, all of it, and once."""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import aio_pika
import pytest
import pytest_asyncio
from websockets.asyncio.client import ClientConnection, connect
from websockets.typing import Subprotocol

from bench.dialects import Dialect, dialect
from bench.systems.interface import Running, Setup, System, listens
from bench.systems.webstomp import web_stomp
from towpath.testkit.processes import Processes
from towpath.tools.rabbitmq_node import RabbitNode

_FRAME_SECONDS = 20.0

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(scope="module")
def broker() -> Iterator[RabbitNode]:
    """A node of our own, since plugins are switched on and off in it."""
    node = RabbitNode()
    node.boot()
    try:
        yield node
    finally:
        node.halt()


@dataclass(frozen=True)
class Peer:
    """A peer that runs."""

    system: System
    running: Running
    amqp_url: str


class Stage:
    """A peer, and the clients of one test."""

    def __init__(self, peer: Peer, clients: contextlib.AsyncExitStack) -> None:
        self.language = dialect(peer.system.dialect)
        self._peer = peer
        self._clients = clients

    async def client(self, user: str, gateway: int = 0) -> "Client":
        """A client that can be used."""
        urls = self._peer.running.urls
        handshake = self.language.handshake(user)
        socket = await self._clients.enter_async_context(
            connect(
                urls[gateway % len(urls)],
                additional_headers=handshake.headers,
                subprotocols=[Subprotocol(name) for name in handshake.subprotocols] or None,
                compression=None,
                proxy=None,
            )
        )
        client = Client(socket, self.language)
        for frame in self.language.opening(user):
            await client.send(frame)
        while not self.language.opened(await client.receive()):
            pass
        return client

    async def publish(self, user: str, number: int) -> None:
        """Publish to a user like another backend."""
        publication = self.language.push(user)(number)
        async with await aio_pika.connect(self._peer.amqp_url) as connection:
            channel = await connection.channel()
            exchange = await channel.get_exchange(publication.exchange, ensure=False)
            await exchange.publish(
                aio_pika.Message(publication.body, content_type=publication.content_type),
                publication.routing_key,
            )


class Client:
    """One plain client, which remembers its pushes.

    Attributes:
        answers: Numbers of the requests that were answered, as the answers came.
        heard: Numbers of the messages to rooms and of the pushes that reached it, likewise.
    """

    def __init__(self, socket: ClientConnection, language: Dialect) -> None:
        self.answers: list[int] = []
        self.heard: list[int] = []
        self._socket = socket
        self._language = language

    async def send(self, frame: bytes) -> None:
        await self._socket.send(frame, text=True)

    async def receive(self) -> bytes:
        async with asyncio.timeout(_FRAME_SECONDS):
            return await self._socket.recv(decode=False)

    async def ask(self, make: Callable[[int], bytes], *numbers: int) -> None:
        """Send requests at once, and wait until the last one has its answer."""
        for number in numbers:
            await self.send(make(number))
        while not set(numbers) <= set(self.answers):
            await self._take()

    async def settle(self, room: str, number: int, *, join: bool) -> None:
        """Join or leave a room, and wait until that is done."""
        await self.send((self._language.join if join else self._language.leave)(room, number))
        while self._language.joined(await self.receive()) != number:
            pass

    async def hear(self, number: int) -> None:
        """Wait until a message or a push is there."""
        while number not in self.heard:
            await self._take()

    async def _take(self) -> None:
        frame = await self.receive()
        answered = self._language.answered(frame)
        if answered is not None:
            self.answers.append(answered)
        elif (heard := self._language.heard(frame)) is not None:
            self.heard.append(heard)


@pytest_asyncio.fixture(
    scope="module", loop_scope="module", params=["socketio", "socketio_tuned", "webstomp", "node"]
)
async def peer(
    request: pytest.FixtureRequest, broker: RabbitNode, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Peer]:
    """Each peer in turn, with two gateways; its tests share it."""
    found: System = import_module(f"bench.systems.{request.param}").SYSTEM
    vhost = f"bench-{secrets.token_hex(4)}"
    url = await broker.add_vhost(vhost)
    with Processes() as processes:
        setup = Setup(broker, url, vhost, tmp_path_factory.mktemp(vhost), processes, gateways=2)
        async with found.start(setup) as running:
            yield Peer(found, running, url)
    await broker.delete_vhost(vhost)


@pytest_asyncio.fixture(loop_scope="module")
async def stage(peer: Peer) -> AsyncIterator[Stage]:
    """The clients of one test."""
    async with contextlib.AsyncExitStack() as clients:
        yield Stage(peer, clients)


# Before any peer exists, for it switches on and off a plugin that one of them needs.
async def test_the_broker_serves_web_stomp_only_during_its_measurement(broker: RabbitNode) -> None:
    for _ in range(2):
        async with web_stomp(broker, "/") as port:
            assert listens(port)
        assert not listens(port)


async def test_a_peer_answers_every_request_once(stage: Stage) -> None:
    client = await stage.client("u1")
    echo = stage.language.request("echo", "u1")
    await client.ask(echo, *range(100, 120))
    await client.ask(echo, 120)  # whatever came twice came before its answer
    assert sorted(client.answers) == list(range(100, 121))


async def test_answers_find_the_client_that_asked_on_either_gateway(stage: Stage) -> None:
    clients = [await stage.client(f"u{place}", gateway=place) for place in range(2)]
    echo = stage.language.request("echo", "u0")
    for number in 200, 210:
        for place, client in enumerate(clients):
            await client.ask(echo, number + place)
    assert [client.answers for client in clients] == [[200, 210], [201, 211]]


async def test_a_message_reaches_the_members_of_its_room_once_and_no_other_user(stage: Stage) -> None:
    members = [await stage.client(f"u{place}", gateway=place) for place in range(5)]
    everybody = [*members, await stage.client("u9")]
    for place, member in enumerate(members):
        await member.settle("r1", 300 + place, join=True)
    say, echo = stage.language.say("r1", "u0"), stage.language.request("echo", "u0")

    await members[0].ask(say, 310)
    for member in members:
        await member.hear(310)
    await members[4].settle("r1", 305, join=False)
    await members[0].ask(say, 320)
    for member in members[:4]:
        await member.hear(320)

    for place, client in enumerate(everybody):
        await client.ask(echo, 330 + place)  # all its earlier pushes arrived before its answer
    assert [client.heard for client in everybody] == [[310, 320]] * 4 + [[310], []]


async def test_a_push_by_another_backend_reaches_its_user_only(stage: Stage) -> None:
    users = [await stage.client(f"u{place}", gateway=place) for place in range(2)]
    await stage.publish("u1", 400)
    await users[1].hear(400)
    for place, user in enumerate(users):
        await user.ask(stage.language.request("echo", f"u{place}"), 410 + place)
    assert [user.heard for user in users] == [[], [400]]


async def test_a_peer_names_the_processes_that_do_its_work(peer: Peer) -> None:
    pids = peer.running.pids
    assert {_program(pid) for role in pids for pid in pids[role]} == {
        "node" if peer.system.name == "node" else "python"
    }
    assert len(pids["service"]) == 1
    assert len(pids["gateway"]) == (0 if peer.system.name == "webstomp" else 2)


def _program(pid: int) -> str:
    return Path(f"/proc/{pid}/exe").resolve().name.rstrip(".0123456789")
