"""The gateway: holds the WebSockets and passes envelopes between them and the broker, without business logic."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

import structlog

from towpath.gateway import heartbeat
from towpath.gateway.admission import Admission
from towpath.gateway.announcer import Announcer
from towpath.gateway.backlog import Backlog
from towpath.gateway.connection import Listener
from towpath.gateway.costs import Costs
from towpath.gateway.drain import drain
from towpath.gateway.entrance import Entrance, Room, needed, share
from towpath.gateway.groups import Members
from towpath.gateway.inbound import Inbound
from towpath.gateway.limits import Limits
from towpath.gateway.outbound import Outbound
from towpath.gateway.parse_turns import ParseTurns
from towpath.gateway.probe import Probe
from towpath.gateway.resync import Resync
from towpath.gateway.routing import Routing, inbox
from towpath.gateway.sessions import Session
from towpath.gateway.settings import GatewaySettings
from towpath.protocol.close_codes import CloseCode
from towpath.protocol.routes import COMMANDS, EVENTS, EXCHANGES
from towpath.servicekit.broker import Connect, connect
from towpath.servicekit.broker.interface import BrokerState, Exchange, Topology
from towpath.servicekit.broker.losses import watch_losses
from towpath.servicekit.messaging import senders
from towpath.servicekit.messaging.consumer import Consumer
from towpath.servicekit.messaging.lanes import LaneKind, Lanes
from towpath.servicekit.runtime import descriptors
from towpath.servicekit.runtime.health import Health, serve_admin
from towpath.servicekit.runtime.loops import failures_of, keep_running
from towpath.servicekit.runtime.telemetry import Telemetry

log = structlog.get_logger(__name__)

_NAME: Final = "gateway"
_COMMANDS_KIND: Final = LaneKind(app_id=_NAME, persistent=True, mandatory=True)
_EVENTS_KIND: Final = LaneKind(
    app_id=_NAME, persistent=True, mandatory=True, headers={senders.SERVICE: _NAME}
)


async def serve(settings: GatewaySettings, stop: asyncio.Event, connect: Connect = connect) -> None:
    """Run one replica until ``stop`` is set, then close its connections and finish the work in hand.

    Raises:
        BadSetting, BrokerRefused, TopologyMismatch: It cannot start.
    """
    admission = Admission(settings)
    if settings.auth_secret and len(settings.auth_secret.encode()) < 32:
        log.warning("weak_secret", remedy="TOWPATH_AUTH_SECRET should have at least 32 bytes (RFC 7518, 3.2)")
    room = _make_room(settings)
    name, health, members, consuming = _NAME, Health(), Members(), asyncio.Event()
    health.add("consuming", consuming.is_set)
    async with (
        Telemetry.open(name, settings) as telemetry,
        serve_admin(settings.admin_host, settings.admin_port, health, telemetry),
        connect(settings, f"{name} {settings.gateway_id}") as broker,
        Lanes.open(broker, COMMANDS, _COMMANDS_KIND, settings, telemetry) as commands,
        Lanes.open(broker, EVENTS, _EVENTS_KIND, settings, telemetry) as events,
    ):
        costs, limits, backlog = Costs(telemetry), Limits(settings, telemetry), Backlog(settings, telemetry)
        turns = ParseTurns(settings.read_turn, settings.read_share)
        inbound = Inbound(commands, admission, costs, settings, telemetry)
        source = inbox(settings.gateway_id)
        routing = Routing(broker, source, settings, telemetry)
        probe = Probe(broker, routing.ways, settings, telemetry, watch_losses(broker, telemetry))
        outbound = Outbound(members, probe, costs, settings, telemetry)
        announcer = Announcer(events, settings, telemetry)
        telemetry.gauge("connection_active", "Open connections", lambda: len(members))
        telemetry.gauge("read_waiting", "Connections whose bytes wait to be parsed", lambda: turns.waiting)
        telemetry.gauge(
            "read_deferred", "Times that bytes had to wait for a later turn", lambda: turns.deferred
        )
        opened_total = telemetry.counter("connections_opened", "Connections that were admitted")
        health.add("broker", lambda: broker.state is BrokerState.READY)
        resync = Resync(members, announcer, settings, telemetry)
        broker.on_rebuilt(announcer.announce)
        broker.on_rebuilt(resync.begin)

        def refusing() -> str | None:
            if failing := health.failing():
                return f"not ready ({', '.join(failing)}); try again"
            here = len(members) + routing.waiting
            return "full; try again" if here >= room.connections else None

        def opened(session: Session) -> None:
            members.add(session)
            opened_total.add(1)
            if oldest := members.surplus(session.user_id, settings.max_connections_per_user):
                members.remove(oldest)
                oldest.close(CloseCode.REPLACED, "too many connections of this user")
            announcer.started(session)

        def closed(session: Session, code: int | None) -> None:
            members.remove(session)
            announcer.ended(session, code)

        listener = Listener(
            admission,
            Entrance(room, telemetry),
            settings,
            telemetry,
            turns=turns,
            limits=limits,
            backlog=backlog,
            refusing=refusing,
            reaching=routing.reaching,
            opened=opened,
            received=inbound.receive,
            closed=closed,
        )
        consumer = Consumer(
            partial(broker.subscribe, source, prefetch=settings.prefetch),
            outbound.dispatch,
            intake_max_bytes=settings.batch_max_bytes,
        )

        async def consume() -> None:
            await broker.declare(Topology([Exchange(name) for name in EXCHANGES], writes=EXCHANGES))
            await consumer.run(asyncio.Event(), running=consuming.set)

        async def outliving(
            name: str, work: Callable[[], Awaitable[object]], after: asyncio.Event | None = None
        ) -> None:
            """Run a loop that survives unexpected errors, once ``after`` is set."""
            if after is not None:
                await after.wait()
            await keep_running(name, work, pause=1.0, failed=failures_of(name, telemetry))

        async with listener.open(), asyncio.TaskGroup() as tasks:
            working = [
                tasks.create_task(consume(), name="gateway: consume"),
                tasks.create_task(outliving("heartbeat", partial(heartbeat.run, members, settings))),
                tasks.create_task(outliving("announce", announcer.run, consuming)),
                tasks.create_task(outliving("resync", resync.run)),
                tasks.create_task(outliving("probe", probe.run, consuming)),
                tasks.create_task(outliving("descriptors", partial(descriptors.watch, telemetry))),
            ]
            if settings.routing == "selective":
                working.append(tasks.create_task(outliving("routing", routing.run, consuming)))
            log.info("serving", host=settings.host, port=settings.port, gateway_id=settings.gateway_id)
            await stop.wait()
            health.draining = True
            await drain(members, settings)
            for task in working:
                task.cancel()


def _make_room(settings: GatewaySettings) -> Room:
    """Raise the limit of open files to the number that the settings need; log if that is not possible."""
    limit = descriptors.raise_limit(needed(settings))
    room = share(limit, settings)
    if room.connections < settings.max_connections or room.handshakes < settings.handshakes_max:
        log.warning(
            "too_few_descriptors",
            limit=limit,
            needed=needed(settings),
            max_connections=room.connections,
            handshakes_max=room.handshakes,
            remedy="raise the hard limit of open files (ulimit -Hn, LimitNOFILE=, ulimits: nofile)",
        )
    return room
