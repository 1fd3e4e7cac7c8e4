"""The gateway as a program: connects to the broker, runs one replica with its loops, and drains it when it stops.

Guarantees: ``/health/ready`` is ok only while the inbox is consumed, the broker is connected and all revocations are
known. A loop that fails unexpectedly is logged, counted and started again. A stopping replica refuses new
connections, closes its connections in steps, and publishes what is in flight before it disconnects.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Final

import structlog

from towpath.gateway.admission import descriptor_share
from towpath.gateway.admission.credentials import Admission
from towpath.gateway.replica import BrokerAccess, Replica
from towpath.gateway.sessions import heartbeat
from towpath.gateway.sessions.drain import drain
from towpath.gateway.settings import GatewaySettings
from towpath.protocol.routes import COMMANDS, EVENTS, EXCHANGES
from towpath.servicekit.broker import Connect, connect
from towpath.servicekit.broker.interface import Broker, Exchange, Topology, TopologyMismatch
from towpath.servicekit.messaging import senders
from towpath.servicekit.messaging.lanes import LaneKind, Lanes
from towpath.servicekit.runtime import descriptors
from towpath.servicekit.runtime.health import Health, serve_admin
from towpath.servicekit.runtime.loops import failures_of, keep_running
from towpath.servicekit.runtime.telemetry import Telemetry

log = structlog.get_logger(__name__)

_NAME: Final = "gateway"


async def serve(settings: GatewaySettings, stop: asyncio.Event, connect: Connect = connect) -> None:
    """Run one replica until ``stop`` is set, then close its connections and finish the work in hand.

    Raises:
        BadSetting, BrokerRefused, TopologyMismatch: It cannot start.
    """
    if settings.development:
        log.warning("development_mode", remedy="secrets may be weak: unset TOWPATH_DEVELOPMENT in production")
    share = descriptor_share.claim(settings)
    health, consuming = Health(), asyncio.Event()
    health.add("consuming", consuming.is_set)
    # Left in the opposite order: lanes flush into a connected broker, and /health answers until the end.
    async with (
        Telemetry.open(_NAME, settings) as telemetry,
        Admission.open(settings, telemetry) as admission,
        serve_admin(settings.admin_host, settings.admin_port, health, telemetry),
        _open_access(connect, settings, telemetry) as access,
    ):
        health.add("keys", admission.has_keys)
        replica = Replica(access, admission, share, health, settings, telemetry, drain=stop.set)
        async with replica.listener.open(), asyncio.TaskGroup() as tasks:
            loops = [
                tasks.create_task(_consume(replica, access.broker, consuming), name="gateway: consume"),
                tasks.create_task(_revoke(replica), name="gateway: revoke"),
                *(
                    tasks.create_task(_keep_running(name, run, after, telemetry))
                    for name, run, after in _loops(replica, consuming, settings, telemetry)
                ),
            ]
            log.info("serving", host=settings.host, port=settings.port, gateway_id=settings.gateway_id)
            await stop.wait()
            health.draining = True
            await drain(replica.members, settings)
            replica.request_spans.close()
            for task in loops:
                task.cancel()


@asynccontextmanager
async def _open_access(
    connect: Connect, settings: GatewaySettings, telemetry: Telemetry
) -> AsyncIterator[BrokerAccess]:
    """The connections, and the lanes for commands and for session events.

    Persistent, as a client or a service relies on a confirm, and mandatory: a message without a queue is returned.
    """
    name = f"{_NAME} {settings.gateway_id}"
    command = LaneKind(app_id=_NAME, persistent=True, mandatory=True)
    event = LaneKind(app_id=_NAME, persistent=True, mandatory=True, headers={senders.SERVICE: _NAME})
    async with AsyncExitStack() as stack:
        open_ = stack.enter_async_context
        broker = await open_(connect(settings, name))
        commands = await open_(Lanes.open(broker, COMMANDS, command, settings, telemetry))
        events = await open_(Lanes.open(broker, EVENTS, event, settings, telemetry))
        revocations: Broker | None = None
        if settings.revocations == "on":
            revocations = await open_(connect(settings, f"{name} revocations"))
        else:
            log.warning(
                "revocations_off",
                remedy="revoked tokens are accepted until they expire: TOWPATH_REVOCATIONS=on",
            )
        yield BrokerAccess(broker, commands, events, revocations)


async def _consume(replica: Replica, broker: Broker, consuming: asyncio.Event) -> None:
    """Read the inbox until cancelled. An error ends the program, such as a topology that the broker refuses."""
    await broker.declare(Topology([Exchange(name) for name in EXCHANGES], writes=EXCHANGES))
    await replica.consumer.run(asyncio.Event(), running=consuming.set)


async def _revoke(replica: Replica) -> None:
    """Read revocations until cancelled. An error ends the program, such as a log that this user may not read."""
    if replica.revoking is None:
        return
    try:
        await replica.revoking.run()
    except TopologyMismatch as error:
        remedy = "TOWPATH_REVOCATIONS=off does without: revoked tokens are then accepted until they expire."
        raise TopologyMismatch(f"{error} {remedy}") from None


def _loops(
    replica: Replica, consuming: asyncio.Event, settings: GatewaySettings, telemetry: Telemetry
) -> list[tuple[str, Callable[[], Awaitable[object]], asyncio.Event | None]]:
    """The periodic work of a replica: its name, the loop, and the event that it waits for.

    Announcements, probes and bindings need the inbox: services answer an announcement with messages to it.
    """
    loops: list[tuple[str, Callable[[], Awaitable[object]], asyncio.Event | None]] = [
        ("heartbeat", partial(heartbeat.run, replica.members, settings), None),
        ("announce", replica.announcer.run, consuming),
        ("resync", replica.resync.run, None),
        ("probe", replica.probe.run, consuming),
        ("operators", replica.operators.run, consuming),
        ("descriptors", partial(descriptors.watch, telemetry), None),
    ]
    if settings.routing == "selective":
        loops.append(("routing", replica.routing.run, consuming))
    return loops


async def _keep_running(
    name: str, run: Callable[[], Awaitable[object]], after: asyncio.Event | None, telemetry: Telemetry
) -> None:
    """Run a loop that survives unexpected errors, once ``after`` is set."""
    if after is not None:
        await after.wait()
    await keep_running(name, run, pause=1.0, failed=failures_of(name, telemetry))
