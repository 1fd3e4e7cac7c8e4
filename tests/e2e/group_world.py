"""Two gateways and two replicas of chat without their sockets, whose publishes and inboxes a test moves one by one.

Each publish to ``towpath.push`` waits in its replica until the test lets it go, and each inbox is read when the test
says so. Everything between is the real code: what chat commits and publishes, and what a gateway does with it.
"""

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, ClassVar, Final, Self

import msgspec

from towpath.chat.app import CHAT
from towpath.chat.tables import MEMBERS, STREAMS
from towpath.gateway.admission.credentials import Identity
from towpath.gateway.forwarding.costs import Costs
from towpath.gateway.forwarding.outbound import Outbound
from towpath.gateway.forwarding.request_spans import RequestSpans
from towpath.gateway.inbox.queue import inbox
from towpath.gateway.inbox.resync import Resync
from towpath.gateway.sessions.announcer import Announcer
from towpath.gateway.sessions.limits import Limits
from towpath.gateway.sessions.members import Members
from towpath.gateway.sessions.session import Session
from towpath.gateway.settings import GatewaySettings
from towpath.protocol.chat import stream_of
from towpath.protocol.envelope import make
from towpath.protocol.messages import Directed, Disconnect, encode, wrap_command
from towpath.protocol.routes import (
    COMMANDS,
    EVENTS,
    PUSH,
    command_key,
    control_key,
    group_key,
    partition,
)
from towpath.servicekit.broker.interface import Message
from towpath.servicekit.broker.memory import MemoryBroker, MemoryHub
from towpath.servicekit.messaging.lanes import LaneKind, Lanes
from towpath.servicekit.runtime.telemetry import Telemetry
from towpath.servicekit.service import Service
from towpath.testkit.dispatching import Incoming, ServiceUnderTest
from towpath.testkit.eventually import eventually
from towpath.testkit.gateway_stubs import ArrivalsStub, SocketStub
from towpath.testkit.tokens import SECRET

ROOM: Final = "den"
GROUP: Final = group_key(stream_of(ROOM))
REPLICAS: Final = 2
GATEWAYS: Final = 2
_ALL: Final = 1_000_000
#: Time limit of a rest; a busy machine takes its time.
_REST_SECONDS: Final = 60.0
_EVENTS_KIND: Final = LaneKind(
    app_id="gateway", persistent=True, mandatory=False, headers={"x-service": "gateway"}
)


class HeldBroker:
    """A replica's connection, whose publishes to ``towpath.push`` wait for the test."""

    def __init__(self, broker: MemoryBroker, held: "list[asyncio.Future[None]]") -> None:
        self._broker = broker
        self._held = held

    def __getattr__(self, name: str) -> Any:
        return getattr(self._broker, name)

    async def publish(self, exchange: str, *args: Any, **options: Any) -> None:
        if exchange == PUSH:
            gate: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._held.append(gate)
            await gate
        await self._broker.publish(exchange, *args, **options)


class HoldingHub(MemoryHub):
    """A broker that holds what the replicas of chat publish.

    Attributes:
        held: By replica, what waits.
    """

    def __init__(self) -> None:
        super().__init__()
        self.held: dict[str, list[asyncio.Future[None]]] = {}

    @asynccontextmanager
    async def connect(self, *, name: str, publish_timeout: float = 10.0) -> AsyncIterator[Any]:
        async with super().connect(name=name, publish_timeout=publish_timeout) as broker:
            if not name.startswith("chat-"):
                yield broker
                return
            yield HeldBroker(broker, self.held.setdefault(name, []))
            self.held.pop(name, None)


class Gateway:
    """A replica of the gateway without its sockets."""

    def __init__(
        self, broker: MemoryBroker, subscription: Any, lanes: Lanes, settings: GatewaySettings
    ) -> None:
        telemetry = Telemetry("test", settings)
        self.members = Members(settings.groups_per_connection)
        self._settings = settings
        self._limits = Limits(settings, telemetry)
        self._announcer = Announcer(lanes, settings, telemetry)
        self.resync = Resync(self.members, self._announcer, settings, telemetry)
        self._outbound = Outbound(
            self.members, ArrivalsStub(), Costs(telemetry), telemetry, RequestSpans(settings, telemetry)
        )
        self._broker = broker
        self._subscription = subscription
        broker.on_rebuilt(self.resync.begin)

    @property
    def waiting(self) -> int:
        """The messages in the inbox."""
        return len(self._subscription._waiting)

    def connect(self, user: str) -> Session:
        """Like the entrance once a connection is admitted."""
        session = Session(SocketStub(), self.identify(user), self._settings, self._limits)
        self.members.add(session)
        self._announcer.started(session)
        return session

    def identify(self, user: str) -> Identity:
        """The identity of a user who connects."""
        return Identity(user, expires_at=4e9)

    def has(self, session: Session) -> bool:
        """Whether a connection is open."""
        return self.members.connection(session.connection_id) is session

    def end(self, session: Session) -> None:
        """The entrance's part once a connection has ended."""
        if self.has(session):
            self.members.remove(session)
            self._announcer.ended(session, 1000)
            session.ended()

    async def read(self, most: int = _ALL) -> None:
        """Take from the inbox."""
        if deliveries := self._subscription.take_waiting(most):
            await self._outbound.dispatch(deliveries)
        for session in self.members.all():
            if session._socket.closing:
                self.end(session)

    def lose(self) -> None:
        """The inbox is gone with all that is in it; what is published from now on does not come here."""
        self._broker.drop()

    def stand_again(self) -> None:
        """A fresh inbox."""
        self._broker.reconnect()


class World:
    """All of it; made with :meth:`running`.

    Attributes:
        sessions: Connections by a name of the test's choice; those that were kicked too.
        most_at_once: Commands that a replica handles in one batch at most.
    """

    most_at_once: ClassVar[int] = 1
    gateway_type: ClassVar[type[Gateway]] = Gateway

    def __init__(self, hub: HoldingHub, chat: ServiceUnderTest, gateways: list[Gateway]) -> None:
        self.hub = hub
        self.chat = chat
        self.gateways = gateways
        self.sessions: dict[str, tuple[Gateway, Session]] = {}
        self.ended: list[Session] = []
        self.lost: set[int] = set()
        self._numbers = itertools.count(1)
        self._queues: list[asyncio.Queue[Incoming | None]] = [asyncio.Queue() for _ in range(REPLICAS)]
        self._busy = [0] * REPLICAS
        self._tasks: list[asyncio.Task[None]] = []

    @classmethod
    @asynccontextmanager
    async def running(cls, database_url: str, service: Service[Any] = CHAT) -> AsyncIterator[Self]:
        """Two gateways, two replicas."""
        hub = HoldingHub()
        async with AsyncExitStack() as stack:
            chat = await stack.enter_async_context(
                ServiceUnderTest.running(service, database_url, replicas=REPLICAS, hub=hub)
            )
            gateways = []
            for number in range(GATEWAYS):
                settings = GatewaySettings(auth_secret=SECRET, development=True, gateway_id=f"gw-{number}")
                broker = await stack.enter_async_context(hub.connect(name=f"gateway-{number}"))
                source = inbox(settings.gateway_id)
                subscription = await stack.enter_async_context(broker.subscribe(source, prefetch=_ALL))
                lanes = await stack.enter_async_context(
                    Lanes.open(broker, EVENTS, _EVENTS_KIND, settings, Telemetry("test", settings))
                )
                gateways.append(cls.gateway_type(broker, subscription, lanes, settings))
            world = cls(hub, chat, gateways)
            tasks = [asyncio.create_task(gateway.resync.run()) for gateway in gateways]
            tasks += [asyncio.create_task(world._replica(number)) for number in range(REPLICAS)]
            world._tasks = tasks
            try:
                yield world
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                for name in list(world.sessions):
                    world.disconnect(name)

    # Doing

    def connect(self, name: str, user: str, gateway: int) -> None:
        """Open a connection, in place of one of the same name."""
        self.disconnect(name)
        self.sessions[name] = (self.gateways[gateway], self.gateways[gateway].connect(user))

    def disconnect(self, name: str) -> None:
        """Close a connection."""
        if name in self.sessions:
            gateway, session = self.sessions.pop(name)
            gateway.end(session)
            self.ended.append(session)

    def ask(self, name: str, action: str, *, key: str | None = None, **data: Any) -> str:
        """Send a command over a connection; the replica that has the partition of its key gets it.

        Returns its `msg_id`.
        """
        _, session = self.sessions[name]
        msg_id = f"m-{next(self._numbers)}"
        envelope = make(action, data, msg_id=msg_id, key=key)
        command = Incoming(
            exchange=COMMANDS,
            routing_key=command_key("chat", key or session.user_id),
            item=wrap_command(session.command_session, envelope.to_json()),
            app_id="gateway",
        )
        self._give(partition(key or session.user_id) % REPLICAS, command)
        return msg_id

    def handle_events(self, replica: int) -> None:
        """Let a replica handle what gateways have announced."""
        self._give(replica, None)

    async def kick(self, user: str) -> None:
        """Close all connections of a user, as ops may."""
        item = Directed(disconnect=Disconnect(4502, "kicked"))
        async with self.hub.connect(name="ops") as ops:
            await ops.publish(PUSH, control_key(user), Message(body=encode(item), persistent=False))

    def let_go(self, replica: int, place: int) -> None:
        """Let one publish of a replica reach the broker: the one at ``place`` of those that wait."""
        if waiting := self.hub.held.get(f"chat-{replica}"):
            gate = waiting.pop(place % len(waiting))
            if not gate.done():
                gate.set_result(None)

    def is_busy(self, replica: int) -> bool:
        """Whether a replica handles something."""
        return self._busy[replica] > 0

    async def let_all_go(self, replica: int) -> None:
        """Let all publishes of a replica reach the broker, and what follows from them."""
        for _ in range(5):
            while self.hub.held.get(f"chat-{replica}"):
                self.let_go(replica, 0)
            await asyncio.sleep(0.001)

    async def step(self) -> None:
        """Let run what can run."""
        for _ in range(5):
            await asyncio.sleep(0.001)

    async def rest(self) -> None:
        """Wait until nothing is under way any more."""
        for number in sorted(self.lost):
            self.gateways[number].stand_again()
        self.lost.clear()
        for _ in range(3):  # the announcements of a fresh inbox lead to further changes
            await eventually(self._nothing_moves, timeout=_REST_SECONDS, every=0.002)
            await asyncio.sleep(0.06)  # a step of resync
            self.handle_events(0)
        await eventually(self._nothing_moves, timeout=_REST_SECONDS, every=0.002)

    # Looking

    def who_hears(self) -> set[str]:
        """The names of the connections that are in the room's group."""
        hearing = {session for gateway in self.gateways for session in gateway.members.receivers_of(GROUP)}
        return {name for name in self.open() if self.sessions[name][1] in hearing}

    def open(self) -> list[str]:
        """The names of the connections that are open."""
        return [name for name, (gateway, session) in self.sessions.items() if gateway.has(session)]

    async def who_is_in(self) -> set[str]:
        """The users who are in the room."""
        return {row.user_id for row in await self.chat.rows(MEMBERS) if row.room == ROOM}

    def news(self) -> list[tuple[str, int]]:
        """Pushes to connections since the last call: a user, and the position in the room's stream."""
        found: list[tuple[str, int]] = []
        for session in [*self.ended, *(session for _, session in self.sessions.values())]:
            socket: SocketStub = session._socket  # type: ignore[assignment]  # made above
            for text in socket.take_pushed():
                envelope = msgspec.json.decode(text)
                if envelope["action"] == "chat.message":
                    found.append((session.user_id, envelope["seq"]))
        return found

    def taken_from(self, session: Session) -> list[bytes]:
        """The frames of a connection since the last call, answers included."""
        socket: SocketStub = session._socket  # type: ignore[assignment]  # made above
        return socket.take_pushed() + socket.take_texts()

    async def members_by_place(self) -> dict[int, set[str]]:
        """The members of the room when each entry of its stream was committed, this one included."""
        members: set[str] = set()
        found: dict[int, set[str]] = {}
        rows = [row for row in await self.chat.rows(STREAMS.entries) if row.stream == stream_of(ROOM)]
        for row in sorted(rows, key=lambda row: row.seq):
            envelope = msgspec.json.decode(row.envelope)
            match envelope["action"]:
                case "chat.joined":
                    members = members | {envelope["data"]["user"]}
                case "chat.left":
                    members = members - {envelope["data"]["user"]}
            found[row.seq] = members
        return found

    # Inside

    def _give(self, replica: int, command: Incoming | None) -> None:
        self._busy[replica] += 1
        self._queues[replica].put_nowait(command)

    async def _replica(self, number: int) -> None:
        """One unit of work after another, as a dispatcher does."""
        queue = self._queues[number]
        while True:
            taken = [await queue.get()]
            while len(taken) < self.most_at_once and not queue.empty():
                taken.append(queue.get_nowait())
            commands = [command for command in taken if command]
            await self.chat.dispatch(*commands, replica=number)
            self._busy[number] -= len(taken)

    async def _nothing_moves(self) -> bool:
        for task in self._tasks:
            if task.done():
                task.result()  # a replica that has failed would be waited for in vain
        for replica in range(REPLICAS):
            while self.hub.held.get(f"chat-{replica}"):
                self.let_go(replica, 0)
        for gateway in self.gateways:
            await gateway.read()
        return not any(self._busy) and not any(self.hub.held.values())
