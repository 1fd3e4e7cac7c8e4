"""``towpath dev``: gateway, chat, orders and the page on one machine, on the best broker that can be had.

Guarantees:

* Nothing is started before settings, ports and data folder are known to be good.
* Nothing is left running, however it ends: Ctrl-C once (drained) or twice (at once), a failure, or SIGKILL.
"""

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import uvloop
from rich.console import Console
from rich.markup import escape

from towpath.protocol.routes import EXCHANGES
from towpath.servicekit import logs
from towpath.servicekit.settings import BrokerSettings
from towpath.tools import order_events
from towpath.tools.brokers import AMQP_URL, BrokerEnded, Choice, MemoryBrokerHere, OpenBroker, choose
from towpath.tools.data_folder import DataFolder, RunningDev
from towpath.tools.order_events import NotPublished
from towpath.tools.parts import GATEWAY, PROGRAMS, Parts, ProcessPart, TaskPart
from towpath.tools.plan import HOST, Plan, make_plan
from towpath.tools.token import sign
from towpath.tools.web import Demo, Site, client_folder, serve_site, web_folder

if TYPE_CHECKING:
    from towpath.servicekit.broker.interface import Broker

_CONNECT_SECONDS: Final = 15.0
_STATUS_OF_CTRL_C: Final = 130  # 128 + SIGINT, as shells count


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says."""

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
        runner.run(_run(options))


async def _run(options: Options) -> None:
    folder = DataFolder(options.data)
    with folder.held():
        plan = make_plan(folder, port=options.port, web_port=options.web_port)
        source = choose(options.broker, folder, given=os.environ.get(AMQP_URL))
        screen, backend = _Screen(), _OtherBackend()
        site = Site(
            web_folder(),
            client_folder(),
            gateways=[plan.gateway],
            about={"broker": source.label, "database": plan.database},
            demo=Demo(sign=lambda user: sign(user, plan.secret), publish=backend.publish),
        )
        _log_to(folder.log_of("dev"), plan.settings[GATEWAY])
        kind = TaskPart if isinstance(source, MemoryBrokerHere) else ProcessPart
        async with AsyncExitStack() as stack:
            stack.enter_context(screen.open())
            stop = stack.enter_context(_signals(screen))
            

        async def start() -> None:
            await stack.enter_async_context(serve_site(site, HOST, plan.web_port))
            parts = 
            
