"""``towpath dev``: gateway, chat, orders and the page on one machine, on the best broker that can be had.

The story is :func:`_run`: check, serve the page, start the broker and the parts, say so when all is ready; then wait
for Ctrl-C and stop in drain order. Guarantees:

* Nothing is started before settings, ports and data folder are known to be good.
* Nothing is left running, however it ends: Ctrl-C once (drained) or twice (at once), a failure, or SIGKILL.
"""

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

import uvloop
from pydantic import ValidationError
from rich.console import Console
from rich.markup import escape
from yarl import URL

from towpath.gateway.settings import GatewaySettings
from towpath.protocol.routes import EXCHANGES
from towpath.servicekit import logs
from towpath.servicekit.settings import PREFIX, BadSetting, BrokerSettings, bad_setting
from towpath.tools import order_events, token
from towpath.tools.brokers import AMQP_URL, Choice, MemoryBrokerHere, OpenBroker, Source, choose
from towpath.tools.data_folder import DataFolder, RunningDev
from towpath.tools.parts import CHAT, GATEWAY, ORDERS, PROGRAMS, Part, Parts, ProcessPart, Program, TaskPart
from towpath.tools.ports import check_free, free_ports
from towpath.tools.web import Demo, Site, find_folder, serve_site

if TYPE_CHECKING:
    from towpath.servicekit.broker.interface import Broker

_HOST: Final = "127.0.0.1"
_ADMIN_PORTS: Final = (8081, 8082, 8083)
_DRAIN_SECONDS: Final = 10.0
_CONNECT_SECONDS: Final = 15.0
_STOPPED_AT_ONCE: Final = 130  # as a shell reports the end by Ctrl-C

Settings = dict[Program, dict[str, object]]


@dataclass(frozen=True, slots=True)
class Options:
    """What ``towpath dev`` is told on the command line."""

    broker: Choice
    port: int
    web_port: int
    data: Path


def run(options: Options) -> None:
    """Run all of Towpath until it is told to stop.

    Raises:
        BadSetting, PortTaken, FolderUnusable, AlreadyRunning, PageMissing: Nothing was started.
        ProgramMissing, NodeFailed, FolderInUse, BrokerEnded, BrokerRefused: There is no broker.
        PartEnded, NotReady: A part failed; the others were stopped.
    """
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_run(options, Console(highlight=False)))


async def _run(options: Options, console: Console) -> None:
    started, folder = time.monotonic(), DataFolder(options.data)
    site = Site(
        find_folder(_path("WEB_ROOT"), f"{PREFIX}WEB_ROOT", "clients/web", "index.html"),
        find_folder(_path("CLIENT_ROOT"), f"{PREFIX}CLIENT_ROOT", "clients/js/src", "index.js"),
        gateways=[f"ws://{_HOST}:{options.port}/ws"],
    )
    _check_ports(options)
    with folder.held():
        overrides = _settings(options, folder)
        settings = {program: _checked(program.settings, overrides[program]) for program in PROGRAMS}
        source = choose(options.broker, folder, given=os.environ.get(AMQP_URL) or None)
        _log_to(folder.log_of("dev"), settings[GATEWAY])
        stop = _Stop(console)
        async with AsyncExitStack() as stack, stop.on_signals():
            progress = stack.enter_context(console.status("Starting"))
            stack.callback(progress.update, "Stopping")
            backend = _Backend(str(overrides[GATEWAY]["auth_secret"]))
            site = replace(site, demo=Demo(backend.sign, backend.publish))
            site.about.update(broker=source.label, database=_database(overrides[CHAT], folder))
            await stack.enter_async_context(serve_site(site, _HOST, options.web_port, option="--web-port"))


class _Backend:
    """Stands in for an identity provider and for another backend."""
