"""``towpath dev``: gateway, ingress, services and the page on one machine, on the best broker that can be had.

Guarantees:

* Nothing is started before settings, ports and data folder are known to be good.
* The page is there first; "ready" is said once every part says so itself.
* A service of one's own that fails stops nothing else (:mod:`~towpath.tools.own_services`).
* Nothing is left running, however it ends: Ctrl-C once (drained) or twice (at once), a failure, or SIGKILL.
"""

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final

import uvloop

from towpath.protocol.envelope import Envelope
from towpath.servicekit.runtime import logs
from towpath.servicekit.runtime.settings import BrokerSettings
from towpath.tools import order_events
from towpath.tools.brokers import AMQP_URL, OpenBroker, Source, choose
from towpath.tools.data_folder import DataFolder, RunningDev
from towpath.tools.options import Options
from towpath.tools.order_events import NotPublished
from towpath.tools.own_services import OwnService, OwnServices
from towpath.tools.parts import GATEWAY, Parts, ProcessPart, TaskPart
from towpath.tools.plan import HOST, Plan, make_plan
from towpath.tools.screen import Screen
from towpath.tools.token import sign
from towpath.tools.web import Demo, Site, serve_site

if TYPE_CHECKING:
    from towpath.servicekit.broker.interface import Broker

_STATUS_OF_CTRL_C: Final = 130  # 128 + SIGINT, as shells count


def run(options: Options) -> None:
    """Run all of Towpath until a signal stops it.

    Raises:
        BadSetting, BadTarget, PortTaken, FolderUnusable, AlreadyRunning, PageMissing: Nothing was started.
        ProgramMissing, NodeFailed, FolderInUse, BrokerEnded, BrokerRefused: There is no broker.
        PartEnded, NotReady: A part failed; the others were stopped.
    """
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_run(options))


async def _run(options: Options) -> None:
    folder, screen = DataFolder(options.data), Screen()
    with folder.held():
        plan = make_plan(
            folder,
            port=options.port,
            web_port=options.web_port,
            ingress_port=options.ingress_port,
            own=options.own,
        )
        source = choose(
            options.broker, folder, given=os.environ.get(AMQP_URL), for_processes=bool(options.own)
        )
        _log_to(folder.log_of("dev"), plan.settings[GATEWAY])
        with plan.held, screen.working(source.doing), _stop_on_signals(screen) as stop:
            async with AsyncExitStack() as stack:
                own = OwnServices(
                    [
                        OwnService(target, settings, folder.log_of(target.name), screen.say)
                        for target, settings in plan.own.items()
                    ]
                )
                starting = asyncio.create_task(_start(plan, source, own, folder, stop, stack))
                await _first(starting, stop.asked.wait())
                if not stop.asked.is_set():
                    parts, broker = starting.result()
                    screen.ready(plan, broker, folder)
                    await _first(
                        parts.until_one_ends(),
                        own.until_one_fails(),
                        broker.until_ended(),
                        stop.asked.wait(),
                    )
        screen.stopped()


async def _start(
    plan: Plan,
    source: Source,
    own: OwnServices,
    folder: DataFolder,
    stop: "_Stop",
    stack: AsyncExitStack,
) -> tuple[Parts, OpenBroker]:
    """Start everything, each thing as soon as it can be; returns when all is ready.

    Closing steps go on ``stack``, in such an order that the parts drain before the broker stops.
    """
    backend = _OtherBackend()
    site = Site(
        plan.web_root,
        gateways=[plan.gateway],
        about={"broker": source.label, "database": plan.database},
        demo=Demo(sign=lambda user, scope: sign(user, plan.secret, scope=scope), publish=backend.publish),
    )
    await stack.enter_async_context(serve_site(site, HOST, plan.web_port, option="--web-port"))

    # Before the broker is opened: the programs start while it boots, and wait for `begin`.
    kind = TaskPart if source.in_process else ProcessPart
    parts = Parts(
        [
            await kind.launch(program, settings, folder.log_of(program.name))
            for program, settings in plan.settings.items()
        ]
    )
    stop.at_once += [parts.kill, own.kill]
    stack.push_async_callback(own.stop)
    stack.push_async_callback(parts.stop)
    await own.launch()

    stop.at_once.append(source.kill)
    broker = await stack.enter_async_context(source.open())
    site.about["broker"] = broker.label
    backend.broker = await stack.enter_async_context(
        broker.connected(plan.settings[GATEWAY], order_events.APP_ID)
    )

    # Again, above the broker: exit callbacks run last in, first out, so the parts drain before it stops. The first
    # one is for a broker that does not start. The gateway, one of the parts, drains before the services do.
    stack.push_async_callback(own.stop)
    stack.push_async_callback(parts.stop)
    # At the last moment: until here no other program could take the ports.
    plan.held.close()
    await parts.begin(broker)

    def announce() -> None:
        pids, admin = {**parts.pids, **own.pids}, {**parts.admin_urls, **own.admin_urls}
        addresses = (plan.page, plan.gateway, plan.ingress)
        folder.tell(RunningDev(os.getpid(), *addresses, broker.url, pids, admin))

    own.begin(broker, announce)
    await _first(
        asyncio.gather(parts.until_ready(), own.until_settled()),
        parts.until_one_ends(),
        own.until_one_fails(),
        broker.until_ended(),
    )
    announce()
    return parts, broker


class _OtherBackend:
    """Publishes for the page, once there is a broker."""

    def __init__(self) -> None:
        self.broker: Broker | None = None

    async def publish(self, event: Envelope) -> None:
        if self.broker is None:
            raise NotPublished("the broker is still starting; try again")
        await order_events.publish(self.broker, event)


class _Stop:
    """The wish to stop.

    Attributes:
        asked: Set by the first signal.
        at_once: Called by the second signal before this process ends.
    """

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.at_once: list[Callable[[], None]] = []


@contextlib.contextmanager
def _stop_on_signals(screen: Screen) -> Iterator[_Stop]:
    stop, loop = _Stop(), asyncio.get_running_loop()

    def on_signal() -> None:
        if not stop.asked.is_set():
            stop.asked.set()
            screen.stopping()
            return
        for end in stop.at_once:
            end()
        screen.stopped_at_once()
        # Without the exit stack: a step of it may be what hangs.
        os._exit(_STATUS_OF_CTRL_C)

    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    for number in signals:
        loop.add_signal_handler(number, on_signal)
    try:
        yield stop
    finally:
        for number in signals:
            loop.remove_signal_handler(number)


async def _first(*works: Awaitable[object]) -> None:
    """Wait for the first to be done; the others are cancelled. Raises what it raised."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    for task in done:
        task.result()


def _log_to(path: Path, settings: BrokerSettings) -> None:
    """Let this process log to a file, for the terminal is for what a person must know."""
    logs.configure("dev", settings.model_copy(update={"log_format": "json"}))
    root = logging.getLogger()
    file = logging.FileHandler(path, mode="w")
    file.setFormatter(root.handlers[0].formatter)
    root.handlers = [file]
