"""The watchdog: a step that hangs is interrupted; if it cannot be interrupted, the program ends."""

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

from towpath.servicekit.handling.watchdog import Overdue, Watchdog
from towpath.servicekit.runtime.exit_status import ExitStatus

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
async def test_a_step_that_hangs_is_interrupted_at_its_time_limit(hang: Callable[[], Any]) -> None:
    with Watchdog.open(LIMIT) as watchdog:
        for _ in range(2):  # and so is the next
            began = time.monotonic()
            with pytest.raises(Overdue, match=r"within 0\.3 s"), watchdog:
                hang()
            assert time.monotonic() - began > LIMIT / 2


async def test_steps_that_end_in_time_are_not_interrupted_however_many_there_are() -> None:
    with Watchdog.open(AMPLE) as watchdog:
        end = time.monotonic() + 1.5 * AMPLE
        while time.monotonic() < end:
            with watchdog:
                time.sleep(AMPLE / 20)  # noqa: ASYNC251  # as a handler may
            await asyncio.sleep(0)


async def test_a_step_that_catches_its_interruption_ends_the_program() -> None:
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


async def test_an_event_loop_that_hangs_outside_a_step_ends_the_program() -> None:
    ended = threading.Event()
    with Watchdog.open(LIMIT, end=ended.set):
        assert await asyncio.to_thread(ended.wait, 3 * LIMIT) is False
        assert ended.wait(PATIENCE)  # on the loop's own thread


@pytest.mark.parametrize(
    ("hang", "status"),
    [
        ("while True:\n      try: loop()\n      except BaseException: pass", ExitStatus.HANGS),
        # Waits in C for a lock, without the GIL: no signal interrupts it. On Linux zeros are an unlocked mutex.
        (
            "lock = ctypes.create_string_buffer(64); wait = ctypes.CDLL(None).pthread_mutex_lock\n"
            "    wait(lock); wait(lock)",
            ExitStatus.HANGS,
        ),
        ("sum(itertools.repeat(1))", -signal.SIGPROF),
    ],
)
def test_a_step_that_no_exception_reaches_ends_the_program(hang: str, status: int) -> None:
    program = (
        "import asyncio, ctypes, itertools\n"
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
    if status == ExitStatus.HANGS:
        assert "event_loop_hangs" in ran.stdout + ran.stderr
        assert 'File "<string>"' in ran.stderr  # where it was


@pytest.mark.parametrize("loop_factory", ["asyncio.new_event_loop", "uvloop.new_event_loop"])
def test_a_program_that_was_frozen_amid_a_step_is_not_overdue(loop_factory: str) -> None:
    program = (
        "import asyncio, time, uvloop\n"
        "from towpath.servicekit.handling.watchdog import Watchdog\n"
        "async def main():\n"
        "  with Watchdog.open(1.0) as watchdog:\n"
        "    print('ready', flush=True)\n"
        "    for _ in range(8):\n"
        "      with watchdog: time.sleep(0.3)\n"
        "      await asyncio.sleep(0)\n"
        f"asyncio.Runner(loop_factory={loop_factory}).run(main())\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == b"ready\n"
        time.sleep(0.4)
        running.send_signal(signal.SIGSTOP)
        time.sleep(3.0)  # Three limits.
        running.send_signal(signal.SIGCONT)
        assert running.wait(timeout=PATIENCE) == 0


def test_a_step_is_interrupted_on_uvloop_while_other_threads_are_busy() -> None:
    program = (
        "import asyncio, threading, uvloop\n"
        "from towpath.servicekit.handling.watchdog import Overdue, Watchdog\n"
        "def spin():\n"
        "  while True: pass\n"
        "async def main():\n"
        "  for _ in range(2): threading.Thread(target=spin, daemon=True).start()\n"
        "  with Watchdog.open(0.5) as watchdog:\n"
        "    try:\n"
        "      with watchdog: spin()\n"
        "    except Overdue: print('interrupted', flush=True)\n"
        "    await asyncio.sleep(0)\n"
        "  import os; os._exit(0)\n"
        "asyncio.Runner(loop_factory=uvloop.new_event_loop).run(main())\n"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stdout) == (0, "interrupted\n"), ran.stderr


async def test_closing_restores_signal_handler_timers_and_threads() -> None:
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


async def test_a_watchdog_keeps_watching_after_an_earlier_one_has_closed() -> None:
    before = signal.getsignal(signal.SIGVTALRM)
    earlier, later = Watchdog.open(LIMIT), Watchdog.open(LIMIT)
    earlier.__enter__()
    with later as watchdog:
        earlier.__exit__(None, None, None)
        with pytest.raises(Overdue), watchdog:
            loops()
    assert signal.getsignal(signal.SIGVTALRM) is before


def loops_until(event: threading.Event) -> None:
    while not event.is_set():
        pass
