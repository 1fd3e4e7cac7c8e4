"""A real ingress with a real socket on a memory broker, and the consumer on the other side."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

import httpx
import msgspec

from towpath.ingress import keys
from towpath.ingress.app import serve
from towpath.ingress.settings import IngressSettings
from towpath.protocol.routes import EVENTS, EXCHANGES, PUSH
from towpath.servicekit.broker.interface import (
    Binding,
    Broker,
    Delivery,
    Exchange,
    Queue,
    Subscription,
    Topology,
)
from towpath.servicekit.broker.memory import MemoryHub
from towpath.servicekit.runtime.settings import BrokerSettings
from towpath.testkit.eventually import eventually
from towpath.testkit.processes import free_port

#: Two queues, as each program has: events of a service, pushes of a gateway.
QUEUES = [
    Queue(name="orders.events", bindings=[Binding(EVENTS, "order.#")]),
    Queue(name="gateway.inbox", bindings=[Binding(PUSH, "user.#")]),
]


class Consumer:
    """The messages that arrive behind the broker, in their order."""

    def __init__(self, arriving: Subscription) -> None:
        self._arriving = arriving

    async def next(self) -> tuple[dict[str, Any], Delivery]:
        """The next envelope, and how it was delivered."""
        async with asyncio.timeout(10):
            delivery = await anext(aiter(self._arriving))
        delivery.ack()
        return msgspec.json.decode(delivery.body), delivery

    async def take(self, count: int) -> list[dict[str, Any]]:
        """The next ``count`` envelopes."""
        return [(await self.next())[0] for _ in range(count)]

    async def nothing(self) -> bool:
        """Whether nothing has arrived."""
        try:
            async with asyncio.timeout(0.1):
                await anext(aiter(self._arriving))
        except TimeoutError:
            return True
        return False


class IngressUnderTest:
    """One ingress.

    Attributes:
        hub: The broker, with its fault levers.
        key: An API key named ``shop`` for all events and pushes.
        keys: The file of keys.
        http: A client without a key of its own.
    """

    def __init__(
        self,
        hub: MemoryHub,
        settings: IngressSettings,
        key: str,
        http: httpx.AsyncClient,
        stop: asyncio.Event,
    ) -> None:
        self.hub = hub
        self.settings = settings
        self.key = key
        self.keys = Path(settings.api_keys)
        self.http = http
        self._stop = stop

    def make_key(self, name: str, *events: str, push: bool = False) -> str:
        """One more key; it counts after :attr:`settings` ``.api_keys_check`` seconds."""
        return keys.make(self.keys, name, events, push=push)

    async def post(self, path: str, body: Any, *, key: str | None = None, **headers: str) -> httpx.Response:
        """Post JSON; bytes go as they are. ``idempotency_key=…`` is a header."""
        content = body if isinstance(body, bytes) else msgspec.json.encode(body)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        named.setdefault("content-type", "application/json")
        named.setdefault("authorization", f"Bearer {key or self.key}")
        return await self.http.post(path, content=content, headers=named)

    async def events(self, body: Any, **options: Any) -> httpx.Response:
        """Post to ``/v1/events``."""
        return await self.post("/v1/events", body, **options)

    def drain(self) -> None:
        """Terminate, as SIGTERM does."""
        self._stop.set()

    async def health(self) -> int:
        """The status of ``/health/ready``."""
        url = f"http://127.0.0.1:{self.settings.admin_port}/health/ready"
        return (await self.http.get(url)).status_code


class RunIngress(Protocol):
    """Runs an ingress with settings of the test's choice."""

    def __call__(
        self, *, trusting: ssl.SSLContext | None = None, **settings: Any
    ) -> AbstractAsyncContextManager[IngressUnderTest]: ...


@asynccontextmanager
async def an_ingress(
    folder: Path, *, trusting: ssl.SSLContext | None = None, **settings: Any
) -> AsyncIterator[IngressUnderTest]:
    """An ingress that runs from entry to exit; its client uses TLS if it has a certificate to trust."""
    file, hub, stop = folder / "keys.json", MemoryHub(), asyncio.Event()
    key = keys.make(file, "shop", ("*",), push=True)
    defaults: dict[str, Any] = {
        "port": free_port(),
        "admin_port": free_port(),
        "api_keys": str(file),
        "api_keys_check": 0.05,
    }
    chosen = IngressSettings(**(defaults | settings))

    def connect(given: BrokerSettings, name: str) -> AbstractAsyncContextManager[Broker]:
        return hub.connect(name=name, publish_timeout=given.publish_timeout)

    serving = asyncio.create_task(serve(chosen, stop, connect))
    url = f"http{'s' if trusting else ''}://localhost:{chosen.port}"
    try:
        async with httpx.AsyncClient(base_url=url, timeout=30, verify=trusting or True) as http:
            ingress = IngressUnderTest(hub, chosen, key, http, stop)
            await eventually(lambda: _answers(ingress, serving))
            yield ingress
    finally:
        stop.set()
        async with asyncio.timeout(15):
            await serving


@asynccontextmanager
async def a_consumer(hub: MemoryHub) -> AsyncIterator[Consumer]:
    """The far side of a broker."""
    async with hub.connect(name="consumer") as broker:
        await broker.declare(Topology([Exchange(name) for name in EXCHANGES], QUEUES))
        async with broker.subscribe(*QUEUES, prefetch=10_000) as arriving:
            yield Consumer(arriving)


async def _answers(ingress: IngressUnderTest, serving: "asyncio.Task[None]") -> bool:
    if serving.done():
        await serving
    try:
        await ingress.http.get("/")
        return await ingress.health() == 200
    except httpx.TransportError:
        return False
