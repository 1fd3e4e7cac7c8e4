"""A service without its process: its dispatcher on the memory broker, with ears on all it says.

The test chooses what is one batch, and whether the broker brings it for the first time. When
:meth:`ServiceUnderTest.dispatch` returns, all that followed is committed, published and heard.

    async with ServiceUnderTest.running(ORDERS, database_url) as orders:
        await orders.dispatch(a_command("order.submit", amount="9.00", msg_id="m-1"))
        assert orders.answer("m-1").data["status"] == "submitted"
"""

import asyncio
import contextlib
import itertools
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar
from unittest.mock import patch

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from towpath.protocol.envelope import Envelope, parse
from towpath.protocol.messages import Directed, join_batch, read_directed, split_batch
from towpath.protocol.routes import (
    EVENTS,
    PUSH,
    RETRY_DELAYS,
    connection_key,
    control_key,
    dead_queue,
    retry_queue,
)
from towpath.servicekit.broker import Connect
from towpath.servicekit.broker.interface import Binding, Broker, Delivery, Inbox, Message, Subscription
from towpath.servicekit.broker.memory import MemoryHub
from towpath.servicekit.handling.dispatcher import Completion, Dispatcher
from towpath.servicekit.handling.effects import EffectQueue
from towpath.servicekit.handling.invocation import Invocation
from towpath.servicekit.handling.performer import Performer
from towpath.servicekit.handling.store import Store
from towpath.servicekit.handling.timers import TimerRun
from towpath.servicekit.messaging.publisher import Publisher
from towpath.servicekit.messaging.senders import SERVICE
from towpath.servicekit.runtime.settings import ServiceSettings
from towpath.servicekit.runtime.telemetry import Telemetry
from towpath.servicekit.service import Service, topology, work_queues
from towpath.servicekit.storage.database import Database
from towpath.servicekit.storage.leaves import confirmed_leaves
from towpath.servicekit.storage.relay import Relay

# Tests of services import all of these together.
from towpath.testkit.builders import GATEWAY as GATEWAY
from towpath.testkit.builders import Incoming as Incoming
from towpath.testkit.builders import a_command as a_command
from towpath.testkit.builders import an_event as an_event
from towpath.testkit.crashes import Crash, DiesAfterCommit, DiesBeforeCommit, without_ack
from towpath.testkit.declared import Declared, Misfit
from towpath.testkit.eventually import eventually

S = TypeVar("S", bound=ServiceSettings)

_PLENTY: Final = 1_000_000
#: First words of the keys of pushes to clients; others are for gateways, such as revocations.
_FOR_CLIENTS: Final = ("user", "group", "everyone")
_LONG_SECONDS: Final = 3600.0
_BESIDE_SECONDS: Final = 30.0


@dataclass(frozen=True, slots=True)
class Heard:
    """One JSON text that the service published, and where to."""

    exchange: str
    routing_key: str
    item: bytes
    reason: str

    @property
    def envelope(self) -> Envelope:
        return parse(self.item)

    @property
    def is_directed(self) -> bool:
        """Whether it went to one connection, or to all of one user's, with instructions for the gateway."""
        return self.exchange == PUSH and self.routing_key.startswith(("connection.", "control."))


@dataclass(frozen=True, slots=True)
class _Replica:
    """One program of the service, without its consumer.

    Attributes:
        at_work: One unit of work runs at a time, as in a consumer.
    """

    dispatcher: Dispatcher[Any]
    database: Database | None
    relay: Relay | None
    effects: EffectQueue | None
    performer: Performer[Any] | None
    telemetry: Telemetry
    at_work: asyncio.Lock = field(default_factory=asyncio.Lock)


class ServiceUnderTest:
    """A service whose deliveries are handed over by a test; made with :meth:`running`.

    A message that does not fit the service's declarations raises :class:`~towpath.testkit.declared.Misfit`.

    Attributes:
        heard: All it published, in the order it came.
    """

    def __init__(
        self,
        service: Service[Any],
        hub: MemoryHub,
        settings: ServiceSettings,
        broker: Broker,
        work: Subscription,
        ears: Subscription,
    ) -> None:
        self._service = service
        self._hub = hub
        self._settings = settings
        self._broker = broker
        self._work = work
        self._ears = ears
        self._handing_over = asyncio.Lock()
        self._replicas: list[_Replica] = []
        self._answers: dict[str, list[Envelope]] = {}
        self._declared = Declared.of([service])
        self.heard: list[Heard] = []

    @classmethod
    @asynccontextmanager
    async def running(
        cls,
        service: Service[Any],
        database_url: str | None = None,
        *,
        replicas: int = 1,
        hub: MemoryHub | None = None,
        **settings: Any,
    ) -> AsyncIterator["ServiceUnderTest"]:
        """``service`` on a database of its own, with as many dispatchers as ``replicas``.

        Args:
            database_url: By default a new file of SQLite, deleted at the end.
            hub: The broker; one of its own if there is none. A replica connects as ``<service>-<number>``.
            settings: Of :class:`~towpath.servicekit.ServiceSettings`.
        """
        async with AsyncExitStack() as stack:
            if database_url is None:
                folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="towpath-"))
                database_url = f"sqlite:///{folder}/{service.name}.db"
            chosen = ServiceSettings(amqp_url="memory://", database_url=database_url, **settings)
            hub = hub or MemoryHub()
            broker = await stack.enter_async_context(hub.connect(name="test"))
            await broker.declare(topology(service, chosen.queue_max_length))
            sources = work_queues(service, chosen.queue_max_length)
            work = await stack.enter_async_context(broker.subscribe(*sources, prefetch=_PLENTY))
            ears = await stack.enter_async_context(broker.subscribe(_ears(service.name), prefetch=_PLENTY))
            under_test = cls(service, hub, chosen, broker, work, ears)
            for number in range(replicas):
                under_test._replicas.append(await under_test._start(stack, str(number)))
            yield under_test

    async def _start(
        self, stack: AsyncExitStack, name: str, database_type: type[Database] = Database
    ) -> "_Replica":
        service, storage, settings = self._service, self._service.storage, self._settings
        open_ = stack.enter_async_context
        broker = await open_(self._hub.connect(name=f"{service.name}-{name}"))
        telemetry = await open_(Telemetry.open(service.name, settings))
        publisher = await open_(Publisher.open(broker, service.name, settings, telemetry))
        database, store, relay, effects, performer = None, None, None, None, None
        if storage is not None:
            database = await open_(
                database_type.open(settings.database_url, service=service.name, migrations=storage.migrations)
            )
            store = Store(storage, database)
            tables = storage.outbox
            relay = None if tables is None else Relay(database, tables, publisher, settings, telemetry)
            if service.effects and storage.effects is not None and relay is not None:
                effects = EffectQueue(storage.effects, service.effects)
                invocation = Invocation(contextlib.nullcontext(), settings.handler_time_limit, telemetry)
                performer = Performer(service.name, effects, store, relay, invocation, settings, telemetry)
        dispatcher: Dispatcher[Any] = Dispatcher(
            service.tables, store, publisher, settings, telemetry, effects=effects
        )
        beside = asyncio.create_task(dispatcher.run(), name=f"{service.name}: beside")
        stack.push_async_callback(_cancel, beside)
        return _Replica(dispatcher, database, relay, effects, performer, telemetry)

    @property
    def databases(self) -> list[Database]:
        """The database of each replica, for rows that a test writes itself; none for a service without storage."""
        return [one.database for one in self._replicas if one.database is not None]

    # Doing

    async def dispatch(self, *messages: Incoming, redelivered: bool = False, replica: int = 0) -> None:
        """Hand ``messages`` over as one batch, and wait until all that follows is published.

        Neighbours with the same routing key come in one body, as lanes send them.

        Args:
            redelivered: Whether they come from the broker for the second time.
            replica: Which of the dispatchers gets them.
        """
        async with self._handing_over:
            deliveries = await self._deliver(messages, redelivered)
        await self._handle(deliveries, self._replicas[replica])

    async def crash_before_commit(self, *messages: Incoming) -> None:
        """A replica handles ``messages`` as one batch, and dies before it commits: its transaction is rolled back.

        The broker has the messages again; :meth:`redeliver` hands them to a replica that lives. So it is with the
        other crashes.

        Raises:
            ValueError: Nothing would have been committed: the service has no storage, the messages only read, or
                their handler failed.
        """
        await self._crash(messages, DiesBeforeCommit)

    async def crash_before_publish(self, *messages: Incoming) -> None:
        """Like :meth:`crash_before_commit`, but it dies after the commit, before it publishes anything."""
        await self._crash(messages, DiesAfterCommit)

    async def crash_before_ack(self, *messages: Incoming) -> None:
        """Like :meth:`crash_before_commit`, but it dies when all is committed and published, before it acks."""
        await self._crash(messages, Database)

    async def redeliver(self, *, replica: int = 0) -> None:
        """Hand over what the broker delivers again after a crash, and wait until all that follows is published."""
        async with self._handing_over:
            deliveries = self._work.take_waiting(_PLENTY)
        await self._handle(deliveries, self._replicas[replica])

    async def turn(
        self,
        run: Callable[[TimerRun], Awaitable[bool]],
        *,
        replica: int = 0,
        connected_for: float = _LONG_SECONDS,
    ) -> bool:
        """Run a timer once, and wait until all its messages are published; returns the result of the run."""
        one = self._replicas[replica]
        relay, database = one.relay, one.database
        assert database is not None, "timers need a storage"
        more = await run(TimerRun(database, relay, connected_for, one.effects))
        if relay is not None:
            await eventually(relay.flush)  # another replica may be at it
        self._listen()
        return more

    async def perform(self, *, replica: int = 0) -> None:
        """Make the calls of all effects that are due now, and wait until what follows from them is published."""
        performer, relay = self._replicas[replica].performer, self._replicas[replica].relay
        assert performer is not None, "the service has no effects"
        assert relay is not None, "effects need an outbox"
        await performer.flush()
        await eventually(relay.flush)
        self._listen()

    @contextmanager
    def before_statement(
        self, number: int, work: Callable[[], Awaitable[object]], *, replica: int = 0
    ) -> Iterator[list[Any]]:
        """Do ``work`` before the ``number``-th statement, from 1, that a replica executes inside; gives all of them.

        For what another replica commits between two statements of one unit of work.
        """
        database = self._replicas[replica].database
        assert database is not None, "the service has no storage"
        leaves = database.confirmed_leaves  # by these a connection knows its database
        statements: list[Any] = []
        execute = AsyncConnection.execute

        async def counted(connection: AsyncConnection, statement: Any, *more: Any, **options: Any) -> Any:
            if confirmed_leaves(connection) is leaves:
                statements.append(statement)
                if len(statements) == number:
                    await work()
            return await execute(connection, statement, *more, **options)

        with patch.object(AsyncConnection, "execute", counted):
            yield statements

    async def rows(self, table: sa.Table) -> list[sa.Row[Any]]:
        """All rows of a table."""
        database = self._replicas[0].database
        assert database is not None, "the service has no storage"
        async with database.reading() as connection:
            return list(await connection.execute(sa.select(table)))

    def metrics(self, *, replica: int = 0) -> str:
        """The text of the metrics of one dispatcher's program."""
        return self._replicas[replica].telemetry.exposition().decode()

    def forget(self) -> None:
        """Forget what was heard."""
        self.heard.clear()
        self._answers.clear()

    # Its publications

    def answers(self, msg_id: str) -> list[Envelope]:
        """All answers to a request, wherever they went."""
        return list(self._answers.get(msg_id, ()))

    def answer(self, msg_id: str) -> Envelope:
        """The one answer to a request."""
        (answer,) = self.answers(msg_id)
        return answer

    def error(self, msg_id: str) -> str:
        """The code of the one error that answers a request."""
        answer = self.answer(msg_id)
        assert answer.action == "error", f"{msg_id} was answered with {answer.action}"
        return str(answer.data["code"])

    def pushes(self, routing_key: str | None = None, *, action: str | None = None) -> list[Envelope]:
        """Pushes to users, groups or everyone; those with this routing key or action only."""
        return [
            heard.envelope
            for heard in self.heard
            if heard.exchange == PUSH
            and not heard.is_directed
            and routing_key in (None, heard.routing_key)
            and action in (None, heard.envelope.action)
        ]

    def replayed(self, connection_id: str = "c-1") -> list[Envelope]:
        """Stream entries that went to one connection alone."""
        envelopes = [
            parse(bytes(item.envelope))
            for _, item in self._directed()
            if item.envelope and item.connection_id == connection_id
        ]
        return [envelope for envelope in envelopes if envelope.correlation_id is None]

    def events(self) -> list[Envelope]:
        """Events it published."""
        return [heard.envelope for heard in self.heard if heard.exchange == EVENTS]

    def parked(self) -> list[str]:
        """Why messages were parked."""
        return [heard.reason for heard in self.heard if heard.exchange == dead_queue(self._service.name)]

    def retried(self) -> list[str]:
        """Why messages were sent to a retry queue."""
        queues = {retry_queue(self._service.name, delay) for delay in RETRY_DELAYS}
        return [heard.reason for heard in self.heard if heard.exchange in queues]

    def groups(self, connection_id: str = "c-1", *, user: str | None = None) -> set[str]:
        """The groups of a connection, according to the messages to its gateway.

        Args:
            user: Its user, to include messages to all connections of the user.
        """
        control = control_key(user) if user is not None else None
        groups: dict[str, int] = {}
        for heard, item in self._directed():
            if item.connection_id == connection_id or heard.routing_key == control:
                groups |= dict.fromkeys(item.subscribe, item.as_of)
                groups = {
                    group: as_of
                    for group, as_of in groups.items()
                    if group not in item.unsubscribe and not (item.complete and as_of < item.as_of)
                }
        return set(groups)

    def directed(self, connection_id: str = "c-1") -> list[Directed]:
        """The items for one connection."""
        return [item for _, item in self._directed() if item.connection_id == connection_id]

    # Inside

    async def _handle(self, deliveries: Sequence[Delivery], replica: "_Replica") -> None:
        async with replica.at_work:
            completion = await dispatch(replica.dispatcher, deliveries)
        await completion
        self._listen()

    async def _crash(self, messages: Sequence[Incoming], database_type: type[Database]) -> None:
        has_died = False
        async with self._handing_over:
            deliveries = await self._deliver(messages, redelivered=False)
            try:
                async with AsyncExitStack() as stack:
                    replica = await self._start(stack, "dying", database_type)
                    try:
                        await (await dispatch(replica.dispatcher, [*map(without_ack, deliveries)]))
                    except Crash:
                        has_died = True
            finally:
                for delivery in deliveries:
                    delivery.requeue()
        self._listen()
        # Without an ack it has died after everything else.
        if not has_died and database_type is not Database:
            raise ValueError(
                f"{self._service.name} committed nothing for these messages, so it cannot die at its commit: "
                f"use messages that change something, or crash_before_ack"
            )

    async def _deliver(self, messages: Sequence[Incoming], redelivered: bool) -> list[Delivery]:
        for (exchange, key, app_id, service), part in itertools.groupby(
            messages,
            key=lambda message: (message.exchange, message.routing_key, message.app_id, message.service),
        ):
            body = join_batch([message.item for message in part])
            headers = {SERVICE: service} if service else {}
            message = Message(body=body, app_id=app_id, headers=headers)
            await self._broker.publish(exchange, key, message, mandatory=True)
        deliveries = self._work.take_waiting(_PLENTY)
        if not redelivered:
            return deliveries
        for delivery in deliveries:
            delivery.requeue()
        return self._work.take_waiting(_PLENTY)

    def _listen(self) -> None:
        for delivery in self._ears.take_waiting(_PLENTY):
            if delivery.exchange != EVENTS or delivery.app_id == self._service.name:
                reason = str(delivery.headers.get("x-error", ""))
                # A backend may be named like the service, and its events are not the service's.
                is_own = delivery.exchange != EVENTS or delivery.headers.get(SERVICE) == self._service.name
                for item in _items(delivery):
                    self._hear(Heard(delivery.exchange, delivery.routing_key, item, reason), is_own=is_own)
            delivery.ack()

    def _hear(self, heard: Heard, *, is_own: bool) -> None:
        self.heard.append(heard)
        problem = ""
        if heard.is_directed and (item := read_directed(heard.item)[0]).envelope:
            envelope = parse(bytes(item.envelope))
            if envelope.correlation_id is not None:
                self._answers.setdefault(envelope.correlation_id, []).append(envelope)
                problem = self._declared.answer(envelope.action, envelope.data)
            else:
                problem = self._declared.push(envelope.action, envelope.data)
        elif heard.exchange == EVENTS and is_own:
            problem = self._declared.event(heard.envelope.action, heard.envelope.data)
        elif heard.exchange == PUSH and heard.routing_key.partition(".")[0] in _FOR_CLIENTS:
            problem = self._declared.push(heard.envelope.action, heard.envelope.data)
        if problem:
            raise Misfit(problem)

    def _directed(self) -> Iterator[tuple[Heard, Directed]]:
        for heard in self.heard:
            if heard.is_directed:
                yield heard, read_directed(heard.item)[0]


async def dispatch(dispatcher: Dispatcher[Any], deliveries: Sequence[Delivery]) -> Completion:
    """Handle ``deliveries`` to their end; :meth:`Dispatcher.run` must run beside it.

    On return all effects are committed and every message is queued, in order. Awaiting the returned coroutine waits
    for the broker's confirms, and then acks.
    """
    settling: list[Completion] = []
    try:
        await dispatcher.take(deliveries)
        is_finished = False
        while not is_finished:
            while dispatcher.waiting_bytes:
                settling.append(await dispatcher.work())
            assert await dispatcher.finished(_BESIDE_SECONDS), "heavy reads or retries did not finish"
            is_finished = not dispatcher.waiting_bytes
    except BaseException:
        for completion in settling:
            completion.close()
        raise

    async def all_settled() -> None:
        for completion in settling:
            await completion

    return all_settled()


async def answer_of_program(
    serve: Callable[[S, asyncio.Event, Connect], Coroutine[Any, Any, None]],
    service: Service[Any],
    settings: S,
    command: Incoming,
) -> Envelope:
    """The answer of the whole program to a waiting command; then it stops on a signal."""
    hub, stop = MemoryHub(), asyncio.Event()
    gateway = Inbox(name="gateway", bindings=[Binding(PUSH, connection_key(GATEWAY))])
    async with hub.connect(name="test") as broker:
        await broker.declare(topology(service, settings.queue_max_length))
        async with broker.subscribe(gateway, prefetch=_PLENTY) as told, asyncio.TaskGroup() as tasks:
            message = Message(body=command.item, app_id=command.app_id)
            await broker.publish(command.exchange, command.routing_key, message, mandatory=True)
            tasks.create_task(serve(settings, stop, lambda _, name: hub.connect(name=name)))
            answer = await _first_envelope(told)
            stop.set()
    return answer


@contextmanager
def counted_statements() -> Iterator[list[str]]:
    """Every SQL statement that is executed inside, on whichever database."""
    statements: list[str] = []

    def count(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        statements.append(statement)

    sa.event.listen(sa.Engine, "before_cursor_execute", count)
    try:
        yield statements
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", count)


async def _first_envelope(told: Subscription) -> Envelope:
    async for delivery in told:
        for item in read_directed(delivery.body):
            if item.envelope:
                return parse(bytes(item.envelope))
    raise AssertionError("the broker went away")


async def _cancel(task: "asyncio.Task[None]") -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


def _ears(service: str) -> Inbox:
    failures = [dead_queue(service), *(retry_queue(service, delay) for delay in RETRY_DELAYS)]
    return Inbox(
        name="ears",
        bindings=[Binding(exchange, "#") for exchange in (PUSH, EVENTS, *failures)],
        max_length=_PLENTY,
        max_bytes=1024 * 1024 * 1024,
    )


def _items(delivery: Delivery) -> list[bytes]:
    # A parked message may be anything; a published one may be a batch.
    return split_batch(delivery.body) if delivery.exchange in (PUSH, EVENTS) else [delivery.body]
