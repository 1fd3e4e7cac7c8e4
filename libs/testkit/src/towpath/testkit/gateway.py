"""A real gateway on a memory broker, with a real socket, and a hand on the other side of the broker."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Protocol

import aiohttp
import msgspec

from towpath.gateway.app import serve
from towpath.gateway.settings import GatewaySettings
from towpath.protocol.envelope import make
from towpath.protocol.routes import (
    COMMANDS,
    EVENTS,
    EXCHANGES,
    PUSH,
    SESSION_ALIVE,
    SESSION_ENDED,
    SESSION_STARTED,
    connection_key,
)
from towpath.servicekit.broker.interface import (
    Binding,
    Broker,
    Delivery,
    Exchange,
    Message,
    Queue,
    Subscription,
    Topology,
)
from towpath.servicekit.broker.memory import MemoryHub
from towpath.servicekit.runtime.settings import BrokerSettings
from towpath.testkit.client import WireClient
from towpath.testkit.eventually import eventually
from towpath.testkit.ports import free_port, status_of
from towpath.testkit.tokens import AUTH_SETTINGS, a_token

COMMAND_QUEUE = Queue(name="echo.commands", bindings=[Binding(COMMANDS, "echo.*")], max_length=1000)
EVENT_QUEUE = Queue(
    name="watcher.events", bindings=[Binding(EVENTS, name) for name in (SESSION_STARTED, SESSION_ENDED)]
)
ALIVE_QUEUE = Queue(name="watcher.alive", bindings=[Binding(EVENTS, SESSION_ALIVE)])


class Backend:
    """The far side of the broker: takes commands of the domain ``echo``, pushes what a test wants."""

    def __init__(
        self, broker: Broker, commands: Subscription, events: Subscription, signs: Subscription
    ) -> None:
        self.broker = broker
        self._commands = commands
        self._events = events
        self._signs = signs

    async def command(self) -> tuple[dict[str, Any], Delivery]:
        """The next command; a batch of one."""
        return await self._next(self._commands)

    async def commands(self) -> list[dict[str, Any]]:
        """The next batch of commands."""
        body: Any = (await self._next(self._commands))[0]
        return body if isinstance(body, list) else [body]

    async def event(self) -> dict[str, Any]:
        """The next session event of a connection."""
        return (await self._next(self._events))[0]

    async def alive(self) -> dict[str, Any]:
        """The next sign of life of a gateway."""
        return (await self._next(self._signs))[0]

    async def push(self, key: str, body: Any) -> None:
        """Publish to ``towpath.push``; bytes go as they are."""
        raw = body if isinstance(body, bytes) else msgspec.json.encode(body)
        await self.broker.publish(PUSH, key, Message(body=raw, persistent=False))

    async def direct(self, session: Mapping[str, str], **item: Any) -> None:
        """Publish an item for the connection that a command came from."""
        key = connection_key(session["gateway_id"])
        await self.push(key, {"connection_id": session["connection_id"], **item})

    async def answer(self) -> None:
        """Answer the next command with what it held."""
        command, _ = await self.command()
        envelope = command["envelope"]
        answer = make(f"{envelope['action']}.ok", envelope["data"], correlation_id=envelope["msg_id"])
        await self.direct(command["session"], envelope=msgspec.json.decode(answer.to_json()))

    async def _next(self, subscription: Subscription) -> tuple[dict[str, Any], Delivery]:
        async with asyncio.timeout(10):
            delivery = await anext(aiter(subscription))
        delivery.ack()
        body: dict[str, Any] = msgspec.json.decode(delivery.body)
        return body, delivery


class GatewayUnderTest:
    """One replica.

    Attributes:
        hub: The broker, with its fault levers.
    """

    def __init__(
        self,
        hub: MemoryHub,
        settings: GatewaySettings,
        stop: asyncio.Event,
        serving: "asyncio.Task[None]",
    ) -> None:
        self.hub = hub
        self.settings = settings
        self._stop = stop
        self._serving = serving

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.settings.port}/ws"

    def connect(
        self, user: str = "ana", token: str | None = None, **options: Any
    ) -> AbstractAsyncContextManager[WireClient]:
        """Connect as ``user``."""
        return WireClient.connect(self.url, token=token or a_token(user), **options)

    def drain(self) -> None:
        """Terminate, as SIGTERM does."""
        self._stop.set()

    async def admin(self, path: str) -> tuple[int, str]:
        """Status and text of an admin page."""
        async with (
            aiohttp.ClientSession() as http,
            http.get(f"http://127.0.0.1:{self.settings.admin_port}{path}") as response,
        ):
            return response.status, await response.text()

    async def is_ready(self) -> bool:
        return (await self.admin("/health/ready"))[0] == 200

    async def ready(self) -> None:
        """Wait until it is ready; raises the error with which it has ended."""
        await eventually(self._answers, every=0.005)

    async def ended(self) -> None:
        """Wait until it has ended by itself; raises the error with which it has.

        Nothing asks it meanwhile: asyncio does not close a connection that it accepts in the moment of the end.
        """
        await asyncio.wait_for(asyncio.shield(self._serving), 15)

    async def _answers(self) -> bool:
        if self._serving.done():
            await self._serving
        return await status_of(self.settings.admin_port, "/health/ready") == 200


class RunGateway(Protocol):
    """Runs a gateway with settings of the test's choice."""

    def __call__(
        self, hub: MemoryHub | None = None, *, wait: bool = True, **settings: Any
    ) -> AbstractAsyncContextManager[GatewayUnderTest]: ...


@asynccontextmanager
async def a_gateway(
    hub: MemoryHub | None = None, *, wait: bool = True, **settings: Any
) -> AsyncIterator[GatewayUnderTest]:
    """A gateway that runs from entry to exit; ``wait`` waits until it is ready."""
    hub = hub or MemoryHub()
    stop = asyncio.Event()
    defaults: dict[str, Any] = {
        "host": "127.0.0.1",
        "port": free_port(),
        "admin_port": free_port(),
        **AUTH_SETTINGS,
        "close_timeout": 1.0,
    }
    chosen = GatewaySettings(**(defaults | settings))

    def connect(given: BrokerSettings, name: str) -> AbstractAsyncContextManager[Broker]:
        return hub.connect(name=name, publish_timeout=given.publish_timeout)

    serving = asyncio.create_task(serve(chosen, stop, connect))
    gateway = GatewayUnderTest(hub, chosen, stop, serving)
    try:
        if wait:
            await gateway.ready()
        yield gateway
    finally:
        stop.set()
        async with asyncio.timeout(15):
            await serving


@asynccontextmanager
async def a_backend(hub: MemoryHub) -> AsyncIterator[Backend]:
    """The far side of a broker."""
    async with hub.connect(name="backend") as broker:
        queues = [COMMAND_QUEUE, EVENT_QUEUE, ALIVE_QUEUE]
        await broker.declare(Topology([Exchange(name) for name in EXCHANGES], queues))
        async with (
            broker.subscribe(COMMAND_QUEUE, prefetch=1000) as commands,
            broker.subscribe(EVENT_QUEUE, prefetch=1000) as events,
            broker.subscribe(ALIVE_QUEUE, prefetch=1000) as signs,
        ):
            yield Backend(broker, commands, events, signs)
