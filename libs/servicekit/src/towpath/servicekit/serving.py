"""Serving: opens everything that a service needs in one order, and closes it in the reverse one.

Declare, consume, dispatch, sweep, run timers, relay their messages, and on stop drain in the correct order.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any, Final

import sqlalchemy as sa
import structlog

from towpath.servicekit.broker import Connect, connect
from towpath.servicekit.broker.interface import BrokerState
from towpath.servicekit.broker.losses import watch_losses
from towpath.servicekit.handling.checks import check_domain, check_handlers, check_session_started_handler
from towpath.servicekit.handling.dispatcher import Dispatcher
from towpath.servicekit.handling.heavy_reads import Bounds
from towpath.servicekit.handling.store import Storage, Store, U
from towpath.servicekit.handling.timers import BrokerUptime, keep
from towpath.servicekit.handling.watchdog import Watchdog
from towpath.servicekit.messaging.announcements import Announcer, Owners
from towpath.servicekit.messaging.consumer import Consumer
from towpath.servicekit.messaging.ended_connections import EndedConnections
from towpath.servicekit.messaging.publisher import Publisher
from towpath.servicekit.messaging.replica import Replica
from towpath.servicekit.runtime.error_text import describe_error
from towpath.servicekit.runtime.health import Health, serve_admin
from towpath.servicekit.runtime.loops import failures_of, keep_running
from towpath.servicekit.runtime.run import or_stopped
from towpath.servicekit.runtime.settings import ServiceSettings
from towpath.servicekit.runtime.telemetry import Telemetry
from towpath.servicekit.service import Service, command_queues, event_queues, topology
from towpath.servicekit.storage.database import Database, forget
from towpath.servicekit.storage.relay import Relay

log = structlog.get_logger(__name__)

_SWEEP_SECONDS: Final = 60.0
_SWEEP_STEP: Final = 500
_SWEEP_STEP_SECONDS: Final = 0.1


async def serve_domain(
    service: Service[U], settings: ServiceSettings, stop: asyncio.Event, connect: Connect = connect
) -> None:
    """Run ``service`` until ``stop`` is set, then finish the work in hand.

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
    name = service.name
    check_domain(name, service.domain, service.commands)
    check_handlers(name, service.commands, arguments=("payload", "session", "unit of work"))
    check_handlers(name, service.events, arguments=("payload", "unit of work"))
    if service.storage is not None and service.storage.groups is not None:
        check_session_started_handler(name, service.events)
    async with AsyncExitStack() as stack:
        telemetry = await stack.enter_async_context(Telemetry.open(name, settings))
        health, consuming = Health(), asyncio.Event()
        health.add("consuming", consuming.is_set)
        await stack.enter_async_context(
            serve_admin(settings.admin_host, settings.admin_port, health, telemetry)
        )
        opening = asyncio.ensure_future(
            stack.enter_async_context(_open_store(service.storage, settings, name))
        )
        if not await or_stopped(opening, stop):  # Opening waits while the server cannot be reached.
            return
        store = opening.result()
        broker = await stack.enter_async_context(connect(settings, name))
        health.add("broker", lambda: broker.state in (BrokerState.READY, BrokerState.BLOCKED))
        watch_losses(broker, telemetry)
        if not await or_stopped(broker.declare(topology(service, settings.queue_max_length)), stop):
            return
        publisher = await stack.enter_async_context(Publisher.open(broker, name, settings, telemetry))
        relay = None
        if store is not None and service.storage is not None and service.storage.outbox is not None:
            relay = await stack.enter_async_context(
                Relay.open(store.database, service.storage.outbox, publisher, settings, telemetry)
            )
        health.add("parking", lambda: not publisher.dead_letters.blocked)
        watched = stack.enter_context(Watchdog.open(settings.handler_time_limit))
        departures = EndedConnections()
        dispatcher = Dispatcher(
            service.commands,
            service.events,
            store,
            publisher,
            publisher.dead_letters,
            telemetry,
            own=name,
            unit_max=settings.unit_max_items,
            replay_limit=settings.replay_limit,
            replay_max_bytes=settings.replay_max_bytes,
            handler_time_limit=settings.handler_time_limit,
            unit_time_limit=settings.unit_time_limit,
            try_seconds=settings.try_seconds,
            crash_limit=settings.crash_limit,
            watched=watched,
            heavy=Bounds(
                user_max=settings.heavy_reads_user_max,
                total_max=settings.heavy_reads_max,
                round_max_bytes=settings.unit_max_bytes,
                queue_held_max=max(1, settings.prefetch // 2),
            ),
            is_connected=departures.is_connected,
        )
        replica = Replica(
            broker,
            name,
            [
                command_queues(service, settings.queue_max_length),
                event_queues(service, settings.queue_max_length),
            ],
            telemetry,
            prefetch=settings.prefetch,
        )
        consumer = Consumer(
            replica.subscribe,
            dispatcher,
            intake_max_bytes=settings.intake_max_bytes,
            apart=[dispatcher.command_retries, dispatcher.heavy_reads],
        )
        announcer = Announcer(
            broker,
            name,
            service.domain,
            {action: handler.cost for action, handler in service.commands.items()},
            interval=settings.alive_interval,
        )

        def loop(title: str, work: Callable[[], Awaitable[object]], pause: float = 0.0) -> None:
            running = keep_running(title, work, pause=pause, failed=failures_of(title, telemetry))
            task = asyncio.create_task(running, name=f"{name}: {title}")
            stack.callback(task.cancel)

        if store is not None:
            loop("sweep", partial(_sweep, store, settings))
            database = store.database
            health.add("database", lambda: database.writability.is_writable)
            telemetry.gauge(
                "database_writable",
                "1 while what the service writes is stored",
                lambda: int(database.writability.is_writable),
            )
            loop(
                "database probe",
                partial(database.probe, settings.database_probe_timeout),
                pause=settings.database_probe_interval,
            )
        loop("count dead letters", publisher.dead_letters.keep_count)
        owners = Owners(name, service.domain, interval=settings.alive_interval)
        health.add("sole owner", owners.is_sole)
        loop("owners", partial(owners.listen, broker), pause=1.0)
        if any(handler.is_heavy_read for handler in service.commands.values()):
            loop("departures", partial(departures.listen, broker, name), pause=1.0)

        def running() -> None:
            consuming.set()
            loop("alive", announcer.step)
            log.info("serving", domain=service.domain)

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(consumer.run(stop, running=running), name=f"{name}: consume")
            if service.timers and store is not None and await or_stopped(consuming.wait(), stop):
                hearing = BrokerUptime(broker)
                for timer in service.timers:
                    keeping = keep(timer, store.database, relay, hearing, stop)
                    tasks.create_task(keeping, name=f"{name}: {timer.name}")
            await stop.wait()
            health.draining = True


@asynccontextmanager
async def _open_store(
    storage: Storage[U] | None, settings: ServiceSettings, name: str
) -> AsyncIterator[Store[U] | None]:
    if storage is None:
        yield None
        return
    async with Database.open(
        settings.database_url, migrations=storage.migrations, version_table=f"{name}_version"
    ) as database:
        yield Store(database, storage.inbox, storage.streams, storage.unit, storage.groups)


async def _sweep(store: Store[Any], settings: ServiceSettings) -> None:
    """Delete rows past their retention, in small steps that block no other work; until cancelled."""
    pause = _SWEEP_SECONDS
    while True:
        await asyncio.sleep(pause)
        pause = _SWEEP_SECONDS
        try:
            if await _sweep_once(store, settings) >= _SWEEP_STEP:
                pause = _SWEEP_STEP_SECONDS
        except (sa.exc.SQLAlchemyError, OSError) as error:
            log.warning("sweep_failed", error=describe_error(error, 300))


async def _sweep_once(store: Store[Any], settings: ServiceSettings) -> int:
    async with store.database.transaction() as connection:
        outcomes = await forget(
            connection, store.inbox, older_than_ms=int(settings.inbox_retention * 1000), limit=_SWEEP_STEP
        )
        entries = await forget(
            connection,
            store.streams.entries,
            older_than_ms=int(settings.stream_retention * 1000),
            limit=_SWEEP_STEP,
        )
    return max(outcomes, entries)
