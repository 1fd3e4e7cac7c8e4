"""The watchdog: what hangs is interrupted, and what cannot be is ended."""

import asyncio
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, Final

import pytest

from towpath.servicekit.handling.watchdog import EXIT_HUNG, Overdue, Watchdog

LIMIT: Final = 0.3
PATIENCE: Final = 20.0
AMPLE: Final = 2.0  # a limit that nothing here meets unless it hangs, on a busy machine either


def loops() -> None:
    while True:
        pass


@pytest.mark.parametrize(
    "hang",
    [loops, lambda: time.sleep(3600), lambda: re.match(r"(a+)+$", "a" * 60 + "b"), lambda: 9 ** (9**9)],
)
async def test_what_hangs_is_interrupted_when_its_time_is_over(hang: Callable[[], Any]) -> None:
    with Watchdog.open(LIMIT) as watchdog:
        for _ in range(2):  # and so is the next
            began = time.monotonic()
            with pytest.raises(Overdue, match=r"within 0\.3 s"), watchdog:
                hang()
            assert time.monotonic() - began > LIMIT / 2


async def test_what_comes_to_an_end_is_left_alone_however_much_there_is_of_it() -> None:
    with Watchdog.open(AMPLE) as watchdog:
        end = time.monotonic() + 1.5 * AMPLE
        while time.monotonic() < end:
            with watchdog:
                time.sleep(AMPLE / 20)  # noqa: ASYNC251  # as a handler may
            await asyncio.sleep(0)


async def test_what_catches_its_interruption_ends_the_program() -> None:
    ended = threading.Event()

    def deaf() -> None:
        while not ended.is_set():
            try:
                loops_until(ended)
            except BaseException:
                continue

    with Watchdog.open(LIMIT, end=ended.set) as watchdog, watchdog:
        deaf()
    assert ended.is_set()


async def test_an_event_loop_that_stands_still_ends_the_program_whatever_holds_it() -> None:
    ended = threading.Event()
    with Watchdog.open(LIMIT, end=ended.set):
        assert await asyncio.to_thread(ended.wait, 3 * LIMIT) is False
        assert ended.wait(PATIENCE)  # on the loop's own thread


@pytest.mark.parametrize(
    ("hang", "status"),
    [
        ("while True:\n      try: loop()\n      except BaseException: pass", EXIT_HUNG),
        ("sum(itertools.repeat(1))", -signal.SIGPROF),
    ],
)
def test_the_program_ends_where_nothing_else_helps(hang: str, status: int) -> None:
    program = (
        "import asyncio, itertools\n"
        "from towpath.servicekit.handling.watchdog import Watchdog\n"
        "def loop():\n"
        "  while True: pass\n"
        "async def main():\n"
        f"  with Watchdog.open({LIMIT}) as watchdog, watchdog:\n"
        f"    {hang}\n"
        "asyncio.run(main())\n"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert ran.returncode == status, (ran.returncode, ran.stderr)
    if status == EXIT_HUNG:
        assert "event_loop_hangs" in ran.stdout + ran.stderr
        assert 'File "<string>"' in ran.stderr  # where it was


async def test_everything_is_as_before_once_it_is_closed() -> None:
    before = signal.getsignal(signal.SIGVTALRM)
    threads = threading.active_count()
    with Watchdog.open(LIMIT):
        pass
    assert signal.getsignal(signal.SIGVTALRM) is before
    assert signal.getitimer(signal.ITIMER_VIRTUAL)[0] == signal.getitimer(signal.ITIMER_PROF)[0] == 0.0
    assert threading.active_count() == threads


async def test_two_watchdogs_in_one_process_interrupt_only_their_own_steps() -> None:
    with Watchdog.open(LIMIT) as one, Watchdog.open(LIMIT) as other:
        for watchdog in (one, other):
            with pytest.raises(Overdue), watchdog:
                loops()
            await asyncio.sleep(0)  # each looks after the event loop, too


def loops_until(event: threading.Event) -> None:
    while not event.is_set():
        pass
