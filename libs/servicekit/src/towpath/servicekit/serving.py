"""Serving: opens everything that a service needs in one order, and closes it in the reverse one.

::

    check the tables ─▶ telemetry ─▶ admin pages ─▶ database ─▶ broker, topology ─▶ publisher, relay
        ─▶ watchdog, dispatcher ─▶ loops ─▶ consume, then timers and effects ─▶ (stop) drain

Guarantees: an invalid service does not start. The admin pages answer from the beginning, so that a service that waits
for its database or broker is alive and not ready. Nothing is consumed before the topology exists, and timers and
effects run only once deliveries flow. On stop it reports not ready, the consumer finishes what it has taken, and then
the publisher is flushed: in the reverse order of opening.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, Generic

import structlog

from towpath.servicekit.broker import Connect, connect
from towpath.servicekit.broker.interface import Broker, BrokerState
from towpath.servicekit.broker.losses import watch_broker, watch_losses
from towpath.servicekit.handling.checks import check_published, check_service_tables
from towpath.servicekit.handling.dispatcher import Dispatcher
from towpath.servicekit.handling.effects import EffectQueue
from towpath.servicekit.handling.invocation import Invocation
from towpath.servicekit.handling.performer import Performer
from towpath.servicekit.handling.store import Storage, Store, U
from towpath.servicekit.handling.timers import BrokerUptime, keep
from towpath.servicekit.handling.watchdog import Watchdog
from towpath.servicekit.messaging.announcements import Announcer, Owners
from towpath.servicekit.messaging.consumer import Consumer
from towpath.servicekit.messaging.ended_connections import EndedConnections
from towpath.servicekit.messaging.publisher import Publisher
from towpath.servicekit.messaging.replica import Replica
from towpath.servicekit.messaging.sources import Sources
from towpath.servicekit.runtime.health import Health, serve_admin
from towpath.servicekit.runtime.loops import failures_of, keep_running
from towpath.servicekit.runtime.run import or_stopped
from towpath.servicekit.runtime.settings import ServiceSettings
from towpath.servicekit.runtime.telemetry import Telemetry
from towpath.servicekit.runtime.tls import TlsFiles
from towpath.servicekit.service import Service, command_queues, event_queues, topology
from towpath.servicekit.storage.database import Database
from towpath.servicekit.storage.relay import Relay
from towpath.servicekit.storage.retention import Retention, keep_sweeping

log = structlog.get_logger(__name__)

#: Seconds between two sweeps of effects.
_EFFECTS_SWEEP: Final = 15.0
#: Seconds that a loop may take to end once it is cancelled.
_LOOP_END_SECONDS: Final = 5.0
#: Title, work, seconds between two runs.
_Loop = tuple[str, Callable[[], Awaitable[object]], float]


@dataclass(frozen=True, slots=True)
class _Opened(Generic[U]):
    """The open parts of a running service; the stack that opened it closes it.

    Attributes:
        consuming: Set once deliveries flow.
        relay: Publishes what timers and effects write to the outbox; ``None`` without an outbox.
        effects: Stores the effects that outcomes declare; ``None`` without effects.
    """

    service: Service[U]
    settings: ServiceSettings
    telemetry: Telemetry
    health: Health
    consuming: asyncio.Event
    store: Store[U] | None
    broker: Broker
    publisher: Publisher
    relay: Relay | None
    effects: EffectQueue | None


async def serve_domain(
    service: Service[U], settings: ServiceSettings, stop: asyncio.Event, connect: Connect = connect
) -> None:
    """Run ``service`` until ``stop`` is set, then finish the deliveries that it has taken.

    Args:
        connect: Opens the broker; tests and ``towpath dev`` pass one for the memory broker.

    Raises:
        BadService, BadSetting, BrokerRefused, TopologyMismatch: It cannot start.

    Example:
        The ``app.py`` of a service:

        >>> HELLO = Service(name="hello", domain="hello", commands={})
        >>> async def serve(settings: ServiceSettings, stop: asyncio.Event, connect: Connect = connect) -> None:
        ...     await serve_domain(HELLO, settings, stop, connect)
    """
    check_service_tables(
        service.name, service.domain, service.commands, service.events, service.storage, service.effects
    )
    check_published(service.name, {**service.pushes, **service.events_out})
    tables = replace(service.tables, sources=Sources.of(settings, service.name))
    async with AsyncExitStack() as stack:
        if (opened := await _open(stack, service, settings, stop, connect)) is None:
            return
        ended = EndedConnections()
        owners = Owners(service.name, service.domain, interval=settings.alive_interval)
        _add_health_checks(opened, owners)
        watchdog = stack.enter_context(Watchdog.open(settings.handler_time_limit))
        dispatcher = Dispatcher(
            tables,
            opened.store,
            opened.publisher,
            settings,
            opened.telemetry,
            watchdog=watchdog,
            is_connected=ended.is_connected,
            effects=opened.effects,
        )
        performer = _performer(opened, watchdog)
        consumer = Consumer(
            _replica(opened).subscribe, dispatcher, intake_max_bytes=settings.intake_max_bytes
        )
        for title, work, pause in _loops(opened, owners, ended):
            _start_loop(stack, opened, title, work, pause)
        if performer is not None:
            _start_loop(stack, opened, "effects: sweep", performer.sweep, _EFFECTS_SWEEP)

        def running() -> None:
            opened.consuming.set()
            _start_loop(stack, opened, "alive", _announcer(opened).step)
            log.info("serving", domain=service.domain)

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(consumer.run(stop, running=running), name=f"{service.name}: consume")
            if await or_stopped(opened.consuming.wait(), stop):
                _start_timers(tasks, opened, stop)
                if performer is not None:
                    tasks.create_task(performer.run(stop), name=f"{service.name}: effects")
            await stop.wait()
            opened.health.draining = True


# Opening


async def _open(
    stack: AsyncExitStack,
    service: Service[U],
    settings: ServiceSettings,
    stop: asyncio.Event,
    connect: Connect,
) -> _Opened[U] | None:
    """Open everything on ``stack``; ``None`` if ``stop`` is set while it waits for the database or the broker."""
    name = service.name
    telemetry = await stack.enter_async_context(Telemetry.open(name, settings))
    health, consuming = Health(), asyncio.Event()
    health.add("consuming", consuming.is_set)
    await stack.enter_async_context(serve_admin(settings.admin_host, settings.admin_port, health, telemetry))
    opening = asyncio.ensure_future(
        stack.enter_async_context(_open_store(service.storage, settings, name, telemetry))
    )
    if not await or_stopped(opening, stop):  # Opening waits while the server cannot be reached.
        return None
    store = opening.result()
    broker = await stack.enter_async_context(connect(settings, name))
    health.add("broker", lambda: broker.state in (BrokerState.READY, BrokerState.BLOCKED))
    watch_broker(broker, telemetry)
    watch_losses(broker, telemetry)
    if not await or_stopped(broker.declare(topology(service, settings.queue_max_length)), stop):
        return None
    publisher = await stack.enter_async_context(Publisher.open(broker, name, settings, telemetry))
    relay = None
    if store is not None and store.storage.outbox is not None:
        relay = await stack.enter_async_context(
            Relay.open(store.database, store.storage.outbox, publisher, settings, telemetry)
        )
    effects = None
    if service.effects and store is not None and store.storage.effects is not None:
        effects = EffectQueue(store.storage.effects, service.effects)
    return _Opened(service, settings, telemetry, health, consuming, store, broker, publisher, relay, effects)


@asynccontextmanager
async def _open_store(
    storage: Storage[U] | None, settings: ServiceSettings, name: str, telemetry: Telemetry
) -> AsyncIterator[Store[U] | None]:
    if storage is None:
        yield None
        return
    opening = Database.open(
        settings.database_url,
        service=name,
        migrations=storage.migrations,
        metadata=storage.inbox.metadata,
        tls=TlsFiles.of_database(settings),
        telemetry=telemetry,
    )
    async with opening as database:
        yield Store(storage, database)


def _add_health_checks(opened: _Opened[Any], owners: Owners) -> None:
    """The checks of readiness that need more than a connection."""
    health, store, dead_letters = opened.health, opened.store, opened.publisher.dead_letters
    health.add("parking", lambda: not dead_letters.blocked)
    if store is not None:
        writability = store.database.writability
        health.add("database", lambda: writability.is_writable)
        opened.telemetry.gauge(
            "database_writable",
            "1 while what the service writes is stored",
            lambda: int(writability.is_writable),
        )
    health.add("sole owner", owners.is_sole)


def _replica(opened: _Opened[Any]) -> Replica:
    """This process as one of several that share the service's queues."""
    service, most = opened.service, opened.settings.queue_max_length
    return Replica(
        opened.broker,
        service.name,
        [command_queues(service, most), event_queues(service, most)],
        opened.telemetry,
        prefetch=opened.settings.prefetch,
    )


def _announcer(opened: _Opened[Any]) -> Announcer:
    """Announces the service and the cost of each action, from which gateways charge their users."""
    service = opened.service
    costs = {action: handler.cost for action, handler in service.commands.items()}
    return Announcer(
        opened.broker, service.name, service.domain, costs, interval=opened.settings.alive_interval
    )


# Beside the consumer


def _loops(opened: _Opened[Any], owners: Owners, ended: EndedConnections) -> list[_Loop]:
    """Title, work and pause of each loop."""
    service, settings, broker, store = opened.service, opened.settings, opened.broker, opened.store
    loops: list[_Loop] = [
        ("count dead letters", opened.publisher.dead_letters.keep_count, 0.0),
        ("owners", partial(owners.listen, broker), 1.0),
    ]
    if store is not None:
        probe = partial(store.database.probe, settings.database_probe_timeout)
        loops += [
            ("sweep", partial(keep_sweeping, store.database, _retention(store, settings)), 0.0),
            ("database probe", probe, settings.database_probe_interval),
        ]
    if any(handler.is_heavy_read for handler in service.commands.values()):
        # Only heavy reads are worth the messages: nothing else asks whether a connection has ended.
        loops.append(("departures", partial(ended.listen, broker, service.name), 1.0))
    return loops


def _start_loop(
    stack: AsyncExitStack,
    opened: _Opened[Any],
    title: str,
    work: Callable[[], Awaitable[object]],
    pause: float = 0.0,
) -> None:
    """Start a loop that survives unexpected errors, until ``stack`` closes; it has ended then."""
    running = keep_running(title, work, pause=pause, failed=failures_of(title, opened.telemetry))
    task = asyncio.create_task(running, name=f"{opened.service.name}: {title}")

    async def end() -> None:
        # A statement that is cancelled closes its connection. If that is cancelled again, at the end of the event
        # loop, aiosqlite waits for ever for its thread, and the program does not end.
        task.cancel()
        await asyncio.wait([task], timeout=_LOOP_END_SECONDS)

    stack.push_async_callback(end)


def _retention(store: Store[Any], settings: ServiceSettings) -> Retention:
    storage = store.storage
    retention = {storage.inbox: settings.inbox_retention}
    if storage.streams is not None:
        retention[storage.streams.entries] = settings.stream_retention
    return retention


def _performer(opened: _Opened[U], watchdog: AbstractContextManager[None]) -> Performer[U] | None:
    """Makes the calls of the service's effects; ``None`` without effects."""
    if opened.effects is None or opened.store is None or opened.relay is None:
        return None
    settings, telemetry = opened.settings, opened.telemetry
    invocation = Invocation(watchdog, settings.handler_time_limit, telemetry)
    return Performer(
        opened.service.name, opened.effects, opened.store, opened.relay, invocation, settings, telemetry
    )


def _start_timers(tasks: asyncio.TaskGroup, opened: _Opened[Any], stop: asyncio.Event) -> None:
    if opened.store is None:
        return
    uptime = BrokerUptime(opened.broker)
    for timer in opened.service.timers:
        keeping = keep(timer, opened.store.database, opened.relay, uptime, stop, opened.effects)
        tasks.create_task(keeping, name=f"{opened.service.name}: {timer.name}")
