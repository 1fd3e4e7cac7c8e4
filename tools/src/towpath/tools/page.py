"""``towpath web``: the page as a program of its own, for where gateway and services run elsewhere."""

import asyncio
import os
from contextlib import AsyncExitStack, suppress
from typing import Final

import structlog
import uvloop
from yarl import URL

from towpath.protocol.routes import EXCHANGES
from towpath.servicekit import logs
from towpath.servicekit.broker import Broker, connect
from towpath.servicekit.broker.interface import Exchange, Topology
from towpath.servicekit.run import or_stopped, until_stopped
from towpath.servicekit.settings import BadSetting, BrokerSettings, load
from towpath.tools.brokers import port_of
from towpath.tools.greeting import NoBroker, greet
from towpath.tools.order_events import APP_ID, publish
from towpath.tools.plan import DATABASE_URL, database_label
from towpath.tools.token import AUTH_SECRET, sign
from towpath.tools.web import Demo, Site, client_folder, serve_site, web_folder

log = structlog.get_logger(__name__)


def run(host: str, port: int, gateways: list[str], *, demo: bool) -> None:
    """Serve the page until told to stop.

    Args:
        gateways: Addresses of the gateways' WebSockets, as browsers reach them.
        demo: Whether people sign in by name alone, and may publish order events.

    Raises:
        BadSetting, BrokerRefused, PageMissing, PortTaken
    """
    for gateway in gateways:
        _check_gateway(gateway)
    about = {"database": database_label(given)} if (given := os.environ.get(DATABASE_URL)) else {}
    site = Site(web_folder(), client_folder(), gateways, about)
    secret = os.environ.get(AUTH_SECRET)
    if demo and not secret:
        raise BadSetting(AUTH_SECRET, None, "is not set; the demo signs tokens with it, as the gateway checks them")
    settings = load(BrokerSettings)
    logs.configure("web", settings)

    async def serve(settings: BrokerSettings, stop: asyncio.Event) -> None:
        async with AsyncExitStack() as stack:
            broker: Broker | None = None
            if demo:
                broker = await stack.enter_async_context(connect(settings, APP_ID))
            ...

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(until_stopped(serve, settings))
