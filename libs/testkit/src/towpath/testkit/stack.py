"""The whole of Towpath in one process: a gateway with a real socket, services, and a broker in memory.

    async with Stack.running(SERVICE) as stack, stack.connect("ana") as ana:
        answer = await ana.request("ledger.greet", {"name": "Ben"})
        await stack.publish(an_event("order.paid", order_id="o-1"))
        await stack.settled()

Gateway and services are those of production, each with its database (SQLite), on the event loop of the test. Only the
broker is another one, which passes the same contract suite as RabbitMQ's driver.

Guarantees: everything is ready on entry, and has ended on exit; a program that fails makes the test fail; a frame or
event that does not fit the services' declarations raises an error on exit (:mod:`~towpath.testkit.declared`).
"""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
import structlog
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from towpath.protocol.envelope import Envelope, parse
from towpath.protocol.messages import split_batch
from towpath.protocol.routes import EVENTS, EXCHANGES, RETRY_DELAYS, dead_queue, retry_queue
from towpath.servicekit import CannotStart, Service, ServiceSettings, serve_domain
from towpath.servicekit.broker.interface import Broker, Exchange, Message, Topology, Unroutable
from towpath.servicekit.broker.memory import MemoryBroker
from towpath.servicekit.messaging.failure_headers import ERROR
from towpath.servicekit.messaging.senders import SERVICE
from towpath.servicekit.runtime.settings import BrokerSettings
from towpath.servicekit.storage import clock, outbox
from towpath.servicekit.storage.effects import WAITING
from towpath.testkit.builders import Incoming
from towpath.testkit.client import WireClient
from towpath.testkit.declared import Declared, Misfit
from towpath.testkit.eventually import eventually
from towpath.testkit.faults import Faults, FaultyHub
from towpath.testkit.gateway import GatewayUnderTest, a_gateway
from towpath.testkit.ports import free_port, status_of

log = structlog.get_logger(__name__)

#: First words of events that gateways and services publish about themselves.
_OWN: Final = ("session", "service")
#: Iterations of the event loop that a message in this process may need from one queue to the next.
_TURNS: Final = 50
_PAUSE: Final = 0.005
_START_SECONDS: Final = 30.0
_STOP_SECONDS: Final = 15.0
#: Settings of services in a test: a debugger stops the event loop for longer than a handler may take.
_SETTINGS: Final[Mapping[str, Any]] = {"amqp_url": "memory://", "handler_time_limit": 86_400.0}


class Stack:
    """Gateways and services on one broker; made with :meth:`running`.

    Attributes:
        faults: The faults of the broker, which a test may cause.
        gateways: Its gateways; the first has the address :attr:`url`.
    """

    def __init__(self, hub: FaultyHub, backend: Broker, declared: Declared) -> None:
        self.faults: Faults = hub.faults
        self.gateways: list[GatewayUnderTest] = []
        self._hub = hub
        self._backend = backend
        self._declared = declared
        self._programs: list[_Program] = []
        self._engines: dict[str, AsyncEngine] = {}
        self._clients: list[WireClient] = []

    @classmethod
    @asynccontextmanager
    async def running(
        cls,
        *services: Service[Any],
        gateways: int = 1,
        replicas: int = 1,
        folder: Path | None = None,
        gateway: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> AsyncIterator["Stack"]:
        """Gateways and ``services``, ready.

        Args:
            replicas: Of each service.
            folder: Where the databases are, ``<service>.db`` each; by default a folder that is deleted at the end.
            gateway: Settings of the gateways, such as ``{"rate_per_connection": 0}``.
            settings: Of :class:`~towpath.servicekit.ServiceSettings`, for all services.
        """
        async with AsyncExitStack() as opened:
            if folder is None:
                folder = Path(opened.enter_context(tempfile.TemporaryDirectory(prefix="towpath-")))
            hub = FaultyHub()
            backend = await opened.enter_async_context(hub.connect(name="backend"))
            await backend.declare(Topology([Exchange(name) for name in EXCHANGES]))
            stack = cls(hub, backend, Declared.of(services))
            for service in services:
                chosen = ServiceSettings(
                    **{
                        **_SETTINGS,
                        "database_url": f"sqlite:///{folder}/{service.name}.db",
                        "admin_port": 0,
                        **settings,
                    }
                )
                stack._programs += [_Program(service, chosen, hub) for _ in range(replicas)]
            for _ in range(gateways):
                stack.gateways.append(
                    await opened.enter_async_context(a_gateway(hub, wait=False, **(gateway or {})))
                )
            for program in stack._programs:
                # One after the other: Alembic runs one migration at a time in a process.
                await opened.enter_async_context(program.running())
            for one in stack.gateways:
                await one.ready()
            for program in stack._programs:
                if program.service.storage is not None and program.service.name not in stack._engines:
                    engine = create_async_engine(program.database_url)
                    stack._engines[program.service.name] = engine
                    opened.push_async_callback(engine.dispose)
            yield stack
            stack._must_fit(services)

    @property
    def url(self) -> str:
        """The WebSocket address of the first gateway."""
        return self.gateways[0].url

    # As a client, as a backend

    @asynccontextmanager
    async def connect(
        self, user: str = "ana", *, gateway: int = 0, **options: Any
    ) -> AsyncIterator[WireClient]:
        """Connect as ``user``.

        Args:
            gateway: Which of the gateways.
            options: ``token`` (:func:`~towpath.testkit.tokens.a_token`), and those of :meth:`WireClient.connect`.
        """
        options.setdefault("check", self._declared.frame)
        async with self.gateways[gateway].connect(user, **options) as client:
            # From here on pushes reach it.
            await client.find(lambda frame: frame["action"] == "session.welcome")
            self._clients.append(client)
            try:
                yield client
            finally:
                self._clients.remove(client)

    async def publish(self, *messages: Incoming) -> None:
        """Publish events (:func:`~towpath.testkit.builders.an_event`) or pushes, as a backend does.

        Raises:
            Unroutable: No service of this stack handles such an event.
        """
        for one in messages:
            headers = {SERVICE: one.service} if one.service else {}
            message = Message(body=one.item, app_id=one.app_id, headers=headers)
            try:
                await self._backend.publish(
                    one.exchange, one.routing_key, message, mandatory=one.exchange == EVENTS
                )
            except Unroutable:
                raise Unroutable(
                    f"no service of this stack handles {one.routing_key!r}: name it in events= of its Service, "
                    f"or start the stack with that service"
                ) from None

    async def settled(self, *, timeout: float = 10.0) -> None:
        """Wait until everything that was sent or published has been handled, and each client has what followed.

        Messages that failed and wait in a retry queue (:meth:`retried`), and those that a fault holds, are not waited
        for.

        Raises:
            AssertionError: Something is still in work after ``timeout`` seconds; the message names it.
        """
        await self._caught_up()
        deadline = asyncio.get_running_loop().time() + timeout
        while left := await self._in_work():
            if asyncio.get_running_loop().time() > deadline:
                raise AssertionError(f"After {timeout:g} s this is still in work: {left}.")
            await asyncio.sleep(_PAUSE)
        await self._caught_up()

    # Looking

    def events(self, action: str = "*") -> list[Envelope]:
        """The events that were published, by services and by the test, oldest first; the last 10,000 messages.

        Args:
            action: Those with this action only; it may have wildcards.
        """
        return [
            envelope
            for message in self._hub.published
            if message.exchange == EVENTS and message.routing_key.partition(".")[0] not in _OWN
            for envelope in map(parse, split_batch(message.body))
            if fnmatchcase(envelope.action, action)
        ]

    def retried(self) -> list[str]:
        """The errors of messages that services have sent to a retry queue."""
        return self._errors(lambda name: {retry_queue(name, delay) for delay in RETRY_DELAYS})

    def parked(self) -> list[str]:
        """The errors of messages that services have parked."""
        return self._errors(lambda name: {dead_queue(name)})

    async def rows(self, table: sa.Table) -> list[sa.Row[Any]]:
        """All rows of a table of one of the services."""
        for program in self._programs:
            storage = program.service.storage
            if storage is not None and storage.inbox.metadata is table.metadata:
                async with self._engines[program.service.name].connect() as connection:
                    return list(await connection.execute(sa.select(table)))
        raise ValueError(f"{table.name} is not a table of {self._names()}")

    async def crash(self, name: str, *, replica: int = 0) -> None:
        """The program of a service dies at this moment, whatever it does, and a new one starts on its database."""
        programs = [program for program in self._programs if program.service.name == name]
        if not programs:
            raise ValueError(f"there is no service {name!r} in this stack, which has {self._names()}")
        await programs[replica].crash()
        await programs[replica].start()

    # Inside

    def _names(self) -> str:
        return ", ".join(sorted({program.service.name for program in self._programs})) or "none"

    def _errors(self, queues_of: Callable[[str], set[str]]) -> list[str]:
        queues = {queue for program in self._programs for queue in queues_of(program.service.name)}
        return [
            str(message.headers.get(ERROR, ""))
            for message in self._hub.published
            if message.exchange in queues
        ]

    async def _caught_up(self) -> None:
        await asyncio.gather(*(client.caught_up() for client in self._clients))

    async def _in_work(self) -> str:
        """The queues and tables in which something is left to do; empty when nothing is."""
        publishes = self._hub.publishes
        for _ in range(_TURNS):
            # A message is in a queue, or in the hands of one of these tasks, which waits for nothing but its turn.
            await asyncio.sleep(0)
            if self._hub.unfinished():
                break
        left = dict(self._hub.unfinished())
        if not left:
            left = await self._stored_work()
        if not left and publishes != self._hub.publishes:
            left = {"new messages": self._hub.publishes - publishes}
        return ", ".join(f"{name} ({count})" for name, count in left.items())

    async def _stored_work(self) -> dict[str, int]:
        """Messages of outboxes that are not published, and effects that are due or in a call."""
        left: dict[str, int] = {}
        for program in self._programs:
            storage = program.service.storage
            if storage is None or (storage.outbox is None and storage.effects is None):
                continue
            async with self._engines[program.service.name].connect() as connection:
                if storage.outbox is not None:
                    left[storage.outbox.items.name] = await outbox.count(connection, storage.outbox)
                if (effects := storage.effects) is not None:
                    is_due = sa.or_(effects.c.due_at <= clock.now(connection), effects.c.holder.is_not(None))
                    rows = sa.select(sa.func.count()).where(effects.c.state == WAITING, is_due)
                    left[effects.name] = (await connection.execute(rows)).scalar_one()
        return {name: count for name, count in left.items() if count}

    def _must_fit(self, services: Sequence[Service[Any]]) -> None:
        """Check the events that services published against their declarations."""
        declared = {service.name: Declared.of([service]) for service in services}
        for message in self._hub.published:
            own = declared.get(str(message.headers.get(SERVICE, "")))
            if message.exchange != EVENTS or own is None:
                continue
            for envelope in map(parse, split_batch(message.body)):
                if problem := own.event(envelope.action, envelope.data):
                    raise Misfit(problem)


class _Program:
    """One program of a service: started, stopped, crashed and started again.

    Attributes:
        database_url: That of the service, with its name in it.
    """

    def __init__(self, service: Service[Any], settings: ServiceSettings, hub: FaultyHub) -> None:
        self.service = service
        self.database_url = settings.database_url.replace("{service}", service.name)
        self._settings = settings
        self._hub = hub
        self._broker: MemoryBroker | None = None
        self._stop = asyncio.Event()
        self._serving: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run it from entry to exit."""
        try:
            await self.start()
            yield
        finally:
            if self._serving is not None:
                self._stop.set()
                async with asyncio.timeout(_STOP_SECONDS):
                    await self._serving

    async def start(self) -> None:
        """Start it, and wait until it is ready.

        Raises:
            CannotStart: Its definition or its database cannot be used.
        """
        self._stop = asyncio.Event()
        settings = self._settings.model_copy(update={"admin_port": free_port()})
        serving = serve_domain(self.service, settings, self._stop, self._connect)
        self._serving = asyncio.create_task(serving, name=self.service.name)
        await eventually(lambda: self._is_ready(settings.admin_port), timeout=_START_SECONDS, every=_PAUSE)

    async def crash(self) -> None:
        """End it without letting it finish anything: its connection drops, its transaction is rolled back."""
        assert self._serving is not None
        if self._broker is not None:
            self._broker.drop()
            await self._broker.close()
        ending, self._serving = self._serving, None
        ending.cancel()
        await asyncio.wait([ending])
        if not ending.cancelled() and (error := ending.exception()) is not None:
            log.info("crashed", service=self.service.name, error=repr(error))

    @asynccontextmanager
    async def _connect(self, settings: BrokerSettings, name: str) -> AsyncIterator[Broker]:
        async with self._hub.connect(name=name, publish_timeout=settings.publish_timeout) as broker:
            self._broker = broker
            yield broker

    async def _is_ready(self, port: int) -> bool:
        assert self._serving is not None
        if self._serving.done():
            serving, self._serving = self._serving, None
            await serving
            raise CannotStart(f"{self.service.name} ended before it was ready")
        return await status_of(port, "/health/ready") == 200
