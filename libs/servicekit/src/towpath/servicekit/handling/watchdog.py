"""The watchdog: a handler that hangs does not stop its service.

Handlers are plain functions, so a hanging handler blocks the event loop and the whole program. Three steps, each for
the cases that the previous step cannot reach:

1. Past the time limit the handler is interrupted by :class:`Overdue`, raised at its current position: in Python code,
   in a sleep, in a regular expression (which blocks all other threads, so there the kernel's CPU timer sends the
   signal). The program continues.
2. If for another half of the limit no handler has ended and the event loop has not run, because the exception was
   caught or something else hangs, the program exits with status 70 and logs where it was. The supervisor (systemd,
   Docker) restarts it, and the crash probe (:mod:`~towpath.servicekit.handling.crash_probe`) finds the culprit.
3. If neither a thread nor a signal handler can run, in C code that holds the GIL, the kernel ends the program once it
   has used twice the limit of CPU time (SIGPROF).

Time is counted in beats of a thread, so that a program that was paused, or whose machine slept, is not overdue.

Why a thread and not a timer whose signal handler counts (``ITIMER_REAL``): Python runs signal handlers in the main
thread only, between two instructions or when a system call is interrupted. A step that waits in C for a lock,
without the GIL, does neither and uses no CPU time, so that no signal would ever end it; the thread does, in step 2.
``faulthandler.dump_traceback_later(exit=True)`` would, too, but counts a pause of the program as time of the step.
And SIGALRM is left to others: crash probes and pytest-timeout use it.

Several watchdogs may be open in one process (``towpath dev`` runs all services in one), and close in any order. They
share one handler of the signal, installed by the first and removed by the last.

https://docs.python.org/3/library/signal.html#execution-of-python-signal-handlers
"""

import asyncio
import contextlib
import faulthandler
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final, Self

import structlog

from towpath.servicekit.runtime.exit_status import ExitStatus

log = structlog.get_logger(__name__)

_SIGNAL: Final = signal.SIGVTALRM  # of ITIMER_VIRTUAL
#: Beats of the thread within the time limit. A step is interrupted up to a tenth of the limit late.
_BEATS: Final = 10
#: Beats without a turn of the event loop after which the program ends: the limit, and half of it for the exception to
#: arrive.
_LAST_BEATS: Final = 15

#: The open watchdogs of this process.
_opened: "list[Watchdog]" = []
#: The handler of the signal before the first of them was opened.
_before: list[Any] = []


class Overdue(BaseException):
    """Raised inside code that has run for too long. Not an ``Exception``, so that it is not caught on the way."""


class Watchdog:
    """Limits the time of each step of the main thread; created with :meth:`open`.

    Attributes:
        time_limit: Seconds that each step may take.
    """

    def __init__(self, time_limit: float, *, end: Callable[[], None]) -> None:
        self.time_limit = time_limit
        self._end = end
        self._loop = asyncio.get_running_loop()
        self._held: object | None = None
        self._overdue: object | None = None
        self._loop_ran = True
        self._beat_at = time.process_time()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    @classmethod
    @contextmanager
    def open(cls, time_limit: float, *, end: Callable[[], None] | None = None) -> Iterator[Self]:
        """A watchdog over the running event loop. Only in the main thread, because it uses signals.

        Args:
            end: Ends the program after step 1 has failed.
        """
        watchdog = cls(time_limit, end=end or _end_program)
        if not _opened:
            _before.append(signal.signal(_SIGNAL, _interrupt))
        _opened.append(watchdog)
        watchdog._wind()
        watchdog._thread.start()
        try:
            yield watchdog
        finally:
            watchdog._closing.set()
            watchdog._thread.join()
            _opened.remove(watchdog)
            if not _opened:  # The threads of others would wind the timers again.
                signal.setitimer(signal.ITIMER_VIRTUAL, 0)
                signal.setitimer(signal.ITIMER_PROF, 0)
                signal.signal(_SIGNAL, _before.pop())

    def __enter__(self) -> None:
        """Begin a step, which may be interrupted by :class:`Overdue`."""
        self._held = object()

    def __exit__(self, *_: object) -> None:
        self._held, self._loop_ran = None, True

    def _watch(self) -> None:
        beat = self.time_limit / _BEATS
        seen, beats, still = None, 0, 0
        while not self._closing.wait(beat):
            self._wind()
            starved, held = self._is_starved(), self._held
            self._beat_at = time.process_time()
            seen, beats = (held, beats + 1) if held is not None and held is seen else (held, 0)
            if beats == _BEATS or (held is not None and starved):
                self._overdue = held
                signal.pthread_kill(threading.main_thread().ident or 0, _SIGNAL)
            if self._loop_ran:
                still, self._loop_ran = 0, False
                with contextlib.suppress(RuntimeError):  # the loop is closed
                    self._loop.call_soon_threadsafe(self._on_loop)
            elif (still := still + 1) >= _LAST_BEATS:
                log.critical("event_loop_hangs", time_limit=self.time_limit)
                self._end()
                return

    def _wind(self) -> None:
        # In case no thread can run from here on.
        signal.setitimer(signal.ITIMER_VIRTUAL, self.time_limit)
        signal.setitimer(signal.ITIMER_PROF, 2 * self.time_limit)

    def _on_loop(self) -> None:
        self._loop_ran = True

    def _is_starved(self) -> bool:
        """Whether one thread has used the CPU alone since the last tick."""
        return time.process_time() - self._beat_at > self.time_limit / 2

    def _interrupt(self) -> None:
        held = self._held
        if held is not None and (held is self._overdue or self._is_starved()):
            self._held = self._overdue = None
            self._wind()  # the next step has all of its time, even if the thread has had no turn
            raise Overdue(f"it did not come to an end within {self.time_limit:g} s")


def _interrupt(_: int, __: FrameType | None) -> None:
    # Runs in the main thread, between two instructions: the step that the thread found is still running, or has ended
    # and is not held any more. Only one watchdog holds a step at a time, because steps do not wait.
    for watchdog in tuple(_opened):
        watchdog._interrupt()


def _end_program() -> None:
    with contextlib.suppress(Exception):
        faulthandler.dump_traceback(sys.__stderr__ or 2, all_threads=True)
    os._exit(ExitStatus.HANGS)
