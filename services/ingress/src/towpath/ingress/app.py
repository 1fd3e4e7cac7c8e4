"""The ingress as a program: connects to the broker, serves HTTP, and finishes the requests in hand when it stops.

Guarantees: ``/health/ready`` is ok only while it listens and RabbitMQ takes messages. A stopping ingress takes no new
connection, and answers what it has before it disconnects from the broker.
"""

import asyncio
from functools import partial
from pathlib import Path
from typing import Final

import structlog

from towpath.ingress.api import Door, Ingress, build
from towpath.ingress.keys import KeyRing
from towpath.ingress.listener import listening
from towpath.ingress.settings import IngressSettings
from towpath.protocol.routes import EVENTS, PUSH
from towpath.servicekit.broker import Connect, connect
from towpath.servicekit.broker.interface import BrokerState, Exchange, Topology
from towpath.servicekit.broker.losses import watch_broker
from towpath.servicekit.runtime.health import Health, serve_admin
from towpath.servicekit.runtime.loops import failures_of, keep_running
from towpath.servicekit.runtime.run import or_stopped
from towpath.servicekit.runtime.telemetry import Telemetry

log = structlog.get_logger(__name__)

_NAME: Final = "ingress"


async def serve(settings: IngressSettings, stop: asyncio.Event, connect: Connect = connect) -> None:
    """Serve until ``stop`` is set, then finish the requests in hand.

    Raises:
        BadSetting, BrokerRefused, TopologyMismatch: It cannot start.
    """
    keys = KeyRing(Path(settings.api_keys))
    health, is_listening = Health(), asyncio.Event()
    health.add("listening", is_listening.is_set)
    # Left in the opposite order: requests end with a connected broker, and /health answers until the end.
    async with (
        Telemetry.open(_NAME, settings) as telemetry,
        serve_admin(settings.admin_host, settings.admin_port, health, telemetry),
        connect(settings, _NAME) as broker,
    ):
        health.add("broker", lambda: broker.state is BrokerState.READY)
        watch_broker(broker, telemetry)
        declaring = broker.declare(
            Topology([Exchange(name) for name in (EVENTS, PUSH)], writes=(EVENTS, PUSH))
        )
        if not await or_stopped(declaring, stop):
            return
        ingress = Ingress(broker, keys, settings, telemetry)
        door = Door(build(lambda: ingress), settings)
        telemetry.gauge("ingress_requests", "Requests that are handled now", lambda: float(door.inside))
        watch = partial(keys.watch, settings.api_keys_check)
        failed = failures_of("api keys", telemetry)
        async with listening(door, settings, telemetry):
            watching = keep_running("api keys", watch, pause=1.0, failed=failed)
            task = asyncio.create_task(watching, name="ingress: api keys")
            log.info("serving", host=settings.host, port=settings.port)
            is_listening.set()
            try:
                await stop.wait()
            finally:
                health.draining = True
                task.cancel()
