"""Start and stop of a program: settings, logs, event loop, signals, exit status.

Drain order: SIGTERM or SIGINT sets ``stop``; the service becomes not ready, stops its intake, finishes the work in
hand, flushes its lanes, closes broker and database, flushes telemetry. A second signal, or the end of
``drain_timeout``, cancels the rest.
"""

import asyncio
import contextlib
import gc
import itertools
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import NoReturn, TypeVar

import structlog
import uvloop

from towpath.servicekit.runtime import descriptors, logs, spelling
from towpath.servicekit.runtime.arguments import answer_of
from towpath.servicekit.runtime.exit_status import ExitStatus
from towpath.servicekit.runtime.loops import keep_running
from towpath.servicekit.runtime.memory import PAUSE, give_back
from towpath.servicekit.runtime.settings import BrokerSettings, CannotStart, load

log = structlog.get_logger(__name__)

S = TypeVar("S", bound=BrokerSettings)
Serve = Callable[[S, asyncio.Event], Awaitable[None]]


def run(service: str, serve: Serve[S], settings_model: type[S]) -> NoReturn:
    """Run ``serve`` as a program until a signal stops it; never returns.

    Args:
        service: The name for logs and for messages to the operator.
        serve: Runs until its event is set, then finishes the work in hand.
        settings_model: Read from the environment, see :mod:`towpath.servicekit.runtime.settings`.

    Example:
        The ``__main__.py`` of a service:

        >>> from towpath.servicekit import ServiceSettings, run
        >>> async def serve(settings: ServiceSettings, stop: asyncio.Event) -> None:
        ...     await stop.wait()  # see towpath.servicekit.serve_domain
        >>> def main() -> None:
        ...     run("hello", serve, ServiceSettings)

    Exit status: see :class:`~towpath.servicekit.runtime.exit_status.ExitStatus`; other ones than 0, 1 and 70 mean
    that a restart cannot help.

    Arguments are the program's own, but for a first one of ``--help``, ``-h`` and ``--version``: with these it prints
    its settings or its version, and ends.
    """
    if (answer := answer_of(service, settings_model, sys.argv)) is not None:
        with contextlib.suppress(BrokenPipeError):  # `towpath-chat --help | head`
            os.write(sys.stdout.fileno(), f"{answer}\n".encode())
        sys.exit(0)
    try:
        settings = load(settings_model)
        logs.configure(service, settings)
        for name, nearest, _ in spelling.unknown(os.environ, settings_model.model_fields):
            log.warning("unknown_setting", name=name, nearest=nearest)
        _make_room_for_descriptors(settings)
        _collect_rarely()
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(until_stopped(serve, settings))
    except CannotStart as error:
        print(f"towpath-{service}: {error}", file=sys.stderr)  # noqa: T201  # for the operator, no log record
        sys.exit(error.status)
    except Exception:
        log.exception("crashed")
        sys.exit(ExitStatus.FAILED)
    sys.exit(ExitStatus.STOPPED)


async def until_stopped(serve: Serve[S], settings: S) -> None:
    """Run ``serve`` until SIGTERM or SIGINT; propagates its exceptions."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(serve(settings, stop))
    giving_back = asyncio.create_task(keep_running("memory", give_back, pause=PAUSE), name="memory")

    async def limit_drain() -> None:
        # Not in the handler of the signal: a program may also stop because an operator asks it to.
        await stop.wait()
        log.info("draining", limit_s=settings.drain_timeout)
        loop.call_later(settings.drain_timeout, task.cancel)

    signals = itertools.count(1)

    def on_signal() -> None:
        if next(signals) > 1:
            log.warning("stopping_at_once")
            task.cancel()
        stop.set()

    limiting = asyncio.create_task(limit_drain(), name="limit of the drain")

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    try:
        await task
        log.info("stopped")
    except asyncio.CancelledError:
        if not stop.is_set():
            raise
        log.warning("stopped_before_all_was_finished")
    except BaseExceptionGroup as group:
        raise _first(group) from group
    finally:
        giving_back.cancel()
        limiting.cancel()


async def or_stopped(work: Awaitable[object], stop: asyncio.Event) -> bool:
    """Wait for ``work`` or ``stop``; true if the work is done. If ``stop`` is first, ``work`` is cancelled."""
    waiting = asyncio.ensure_future(stop.wait())
    working = asyncio.ensure_future(work)
    try:
        await asyncio.wait([waiting, working], return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            working.result()
            return True
        return False
    finally:
        for task in (waiting, working):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await task


def _make_room_for_descriptors(settings: BrokerSettings) -> None:
    limit = descriptors.raise_limit(settings.descriptors_reserve)
    if limit < settings.descriptors_reserve:
        log.warning(
            "too_few_descriptors",
            limit=limit,
            needed=settings.descriptors_reserve,
            remedy="raise the hard limit of open files (ulimit -Hn)",
        )


def _collect_rarely() -> None:
    """Exclude long-lived objects from garbage collection, and collect the rest less often.

    Messages form no reference cycles: reference counting frees them at once. With 10,000 connections a full
    collection blocks the event loop for about 0.1 s. https://docs.python.org/3/library/gc.html#gc.freeze
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
