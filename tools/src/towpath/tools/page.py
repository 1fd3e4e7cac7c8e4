"""``towpath web``: the page as a program of its own, for where gateway and services run elsewhere."""

import asyncio
import os
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from functools import partial

import structlog
import uvloop
from yarl import URL

from towpath.servicekit.broker import connect
from towpath.servicekit.runtime import logs
from towpath.servicekit.runtime.amqp_url import hosts
from towpath.servicekit.runtime.run import or_stopped, until_stopped
from towpath.servicekit.runtime.settings import BadSetting, BrokerSettings, load
from towpath.tools.brokers import greet_any
from towpath.tools.demo_door import demo_hosts
from towpath.tools.greeting import NoBroker
from towpath.tools.order_events import APP_ID, exchanges, publish
from towpath.tools.plan import DATABASE_URL, database_label
from towpath.tools.token import AUTH_SECRET, sign
from towpath.tools.web import Demo, Site, serve_site, web_folder

log = structlog.get_logger(__name__)


def run(host: str, port: int, gateways: list[str], *, demo: bool, demo_host: list[str]) -> None:
    """Serve the page until a signal.

    Args:
        gateways: Addresses of the gateways' WebSockets, as browsers reach them.
        demo: Whether people sign in by name alone, and may publish order events.
        demo_host: Names by which browsers may reach the demo, besides those of this machine.

    Raises:
        BadSetting, BrokerRefused, PageMissing, PolicyMissing, PortTaken
    """
    hosts_of_demo = demo_hosts(demo_host)
    for gateway in gateways:
        _check(gateway)
    secret = os.environ.get(AUTH_SECRET, "")
    if demo and not secret:
        raise BadSetting(
            AUTH_SECRET, None, "is not set; the demo signs tokens with it, for the gateway to check"
        )
    settings = load(BrokerSettings)
    logs.configure("web", settings)

    async def serve(settings: BrokerSettings, stop: asyncio.Event) -> None:
        async with AsyncExitStack() as stack:
            broker = await stack.enter_async_context(connect(settings, APP_ID)) if demo else None
            site = Site(
                web_folder(),
                gateways,
                about={"database": database_label(given)} if (given := os.environ.get(DATABASE_URL)) else {},
                demo=Demo(
                    lambda user, scope: sign(user, secret, scope=scope),
                    partial(publish, broker),
                    hosts_of_demo,
                )
                if broker
                else None,
            )
            await stack.enter_async_context(serve_site(site, host, port, option="--port"))
            log.info("serving", host=host, port=port, demo=demo)
            if broker is not None and await or_stopped(broker.declare(exchanges()), stop):
                site.about["broker"] = await _name_of(hosts(settings.amqp_url))
            await stop.wait()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(until_stopped(serve, settings))


async def _name_of(broker: Sequence[URL]) -> str:
    if broker[0].scheme == "amqp":
        with suppress(NoBroker):
            return str(await greet_any(broker))
    return "RabbitMQ"


def _check(gateway: str) -> None:
    try:
        url = URL(gateway)
    except ValueError:
        url = URL()
    if url.scheme not in ("ws", "wss") or not url.host:
        raise BadSetting("--gateway", gateway, "must be an address such as ws://127.0.0.1:8080/ws")
