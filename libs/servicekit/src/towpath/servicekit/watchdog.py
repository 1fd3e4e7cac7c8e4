"""The watchdog: a handler that does not come to an end does not stop its service.

Handlers are plain functions, so one that hangs keeps the event loop, and with it everything. Three steps, each for
what the one before cannot reach:

1. Past the time limit the handler is interrupted by :class:`Overdue`, raised where it is: in Python code, in a sleep,
   in a regular expression (which lets no other thread run, so there the kernel's timer of processor time sends the
   signal). The program goes on.
2. When half as long again no handler has ended and the event loop has not turned, because that was caught, or
   something else hangs, the program ends, and says where it was (exit status 70). Whoever runs it starts it again,
   and the trial (:mod:`~towpath.servicekit.trial`) finds the culprit.
3. Where neither a thread nor a signal is heard, in C code that keeps Python's lock, the kernel ends the program, once
   it has used twice the limit of processor time (SIGPROF).

Time is counted in beats of a thread, so that a program that was paused, or whose machine slept, is not overdue.
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

log = structlog.get_logger(__name__)

EXIT_HUNG: Final = 70
_SIGNAL: Final = signal.SIGVTALRM  # of ITIMER_VIRTUAL
_BEATS: Final = 10
_LAST_BEATS: Final = 15


class Overdue(BaseException):
    """Raised inside what has run for too long. No ``Exception``, lest it be caught on the way like any other."""


class Watchdog:
    """Watches over what the main thread does, one thing after another; made with :meth:`open`.

    Attributes:
        time_limit: Seconds that each may take.
    """

    def __init__(self, time_limit: float, *, end: Callable[[], None]) -> None:
        self.time_limit = time_limit
        self._end = end
        self._loop = asyncio.get_running_loop()
        self._held: object | None = None
        self._overdue: object | None = None
        self._turned = True
        self._beat_at = time.process_time()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._before: Any = None

    @classmethod
    @contextmanager
    def open(cls, time_limit: float, *, end: Callable[[], None] | None = None) -> Iterator[Self]:
        """A watchdog over the running event loop, from entry to exit. Only in the main thread: it hears signals.

        Args:
            end: Ends the program, after what hangs has had its chance.
        """
        watchdog = cls(time_limit, end=end or _end_program)
        watchdog._before = signal.signal(_SIGNAL, watchdog._interrupt)
        watchdog._wind()
        watchdog._thread.start()
        try:
            yield watchdog
        finally:
            watchdog._closing.set()
            watchdog._thread.join()
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.signal(_SIGNAL, watchdog._before)

    def __enter__(self) -> None:
        """Begin something; it may raise :class:`Overdue`."""
        self._held = object()

    def __exit__(self, *_: object) -> None:
        self._held, self._turned = None, True

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
            if self._turned:
                still, self._turned = 0, False
                with contextlib.suppress(RuntimeError):  # the loop is closed
                    self._loop.call_soon_threadsafe(self._turn)
            elif (still := still + 1) >= _LAST_BEATS:
                log.critical("event_loop_hangs", time_limit=self.time_limit)
                self._end()
                return

    def _wind(self) -> None:
        # In case that no thread gets to run from here on.
        signal.setitimer(signal.ITIMER_VIRTUAL, self.time_limit)
        signal.setitimer(signal.ITIMER_PROF, 2 * self.time_limit)

    def _turn(self) -> None:
        self._turned = True

    def _is_starved(self) -> bool:
        """Whether something has used the processor all by itself since the last beat."""
        return time.process_time() - self._beat_at > self.time_limit / 2

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        # Runs in the main thread, between two instructions of what it does: what is held now is still going on.
        held = self._held
        if held is not None and (held is self._overdue or self._is_starved()):
            self._held = self._overdue = None
            raise Overdue(f"it did not come to an end within {self.time_limit:g} s")
        if callable(self._before):
            self._before(number, frame)  # of another service in this process


def _end_program() -> None:
    with contextlib.suppress(Exception):
        faulthandler.dump_traceback(sys.__stderr__ or 2, all_threads=True)
    os._exit(EXIT_HUNG)
