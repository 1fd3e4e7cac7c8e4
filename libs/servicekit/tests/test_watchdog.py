"""The watchdog: a step that hangs is interrupted; if it cannot be interrupted, the program ends."""

import asyncio
import signal
import subprocess
import sys
import textwrap
import threading
import time
from typing import Final

import pytest

from towpath.servicekit.handling.watchdog import Watchdog
from towpath.servicekit.runtime.exit_status import ExitStatus

#: An interruption has half of it to arrive: a virtual core may be away for a fifth of a second.
LIMIT: Final = 1.0
PATIENCE: Final = 20.0
AMPLE: Final = 2.0  # a limit that nothing here meets unless it hangs, on a busy machine either


def run(body: str) -> subprocess.CompletedProcess[str]:
    """Run a coroutine's body in a program of its own: a watchdog that fails ends its process, whatever that is."""
    program = f"""
import asyncio, ctypes, itertools, re, signal, threading, time
import uvloop
from towpath.servicekit.handling.watchdog import Overdue, Watchdog

def loops():
    while True:
        pass

async def main():
{textwrap.indent(body, "    ")}

uvloop.run(main())
"""
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    "hang",
    ["loops()", "time.sleep(3600)", "re.match(r'(a+)+$', 'a' * 60 + 'b')", "9 ** (9**9)"],
)
def test_a_step_that_hangs_is_interrupted_at_its_time_limit_and_so_is_the_next(hang: str) -> None:
    ran = run(f"""
with Watchdog.open({LIMIT}) as watchdog:
    for _ in range(2):
        began = time.monotonic()
        try:
            with watchdog:
                {hang}
        except Overdue as error:
            print(error if time.monotonic() - began > {LIMIT / 2} else "too early")
""")
    assert (ran.returncode, ran.stdout) == (0, 2 * "it did not come to an end within 1 s\n"), ran.stderr


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
        ("while True:\n    try: loops()\n    except BaseException: pass", ExitStatus.HANGS),
        # Waits in C for a lock, without the GIL: no signal interrupts it. On Linux zeros are an unlocked mutex.
        (
            "lock = ctypes.create_string_buffer(64); wait = ctypes.CDLL(None).pthread_mutex_lock\n"
            "wait(lock); wait(lock)",
            ExitStatus.HANGS,
        ),
        ("sum(itertools.repeat(1))", -signal.SIGPROF),
    ],
)
def test_a_step_that_no_exception_reaches_ends_the_program(hang: str, status: int) -> None:
    ran = run(f"with Watchdog.open({LIMIT}) as watchdog, watchdog:\n{textwrap.indent(hang, '    ')}")
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


def test_a_step_is_interrupted_while_other_threads_are_busy() -> None:
    ran = run("""
for _ in range(2):
    threading.Thread(target=loops, daemon=True).start()
with Watchdog.open(0.5) as watchdog:
    try:
        with watchdog:
            loops()
    except Overdue:
        print("interrupted", flush=True)
    await asyncio.sleep(0)
import os
os._exit(0)
""")
    assert (ran.returncode, ran.stdout) == (0, "interrupted\n"), ran.stderr


async def test_closing_restores_signal_handler_timers_and_threads() -> None:
    before = signal.getsignal(signal.SIGVTALRM)
    threads = threading.active_count()
    with Watchdog.open(LIMIT):
        pass
    assert signal.getsignal(signal.SIGVTALRM) is before
    assert signal.getitimer(signal.ITIMER_VIRTUAL)[0] == signal.getitimer(signal.ITIMER_PROF)[0] == 0.0
    assert threading.active_count() == threads


def test_two_watchdogs_in_one_process_interrupt_only_their_own_steps() -> None:
    ran = run(f"""
with Watchdog.open({LIMIT}) as one, Watchdog.open({LIMIT}) as other:
    for watchdog in (one, other):
        try:
            with watchdog:
                loops()
        except Overdue:
            print("interrupted")
        await asyncio.sleep(0)  # each looks after the event loop, too
""")
    assert (ran.returncode, ran.stdout) == (0, 2 * "interrupted\n"), ran.stderr


def test_a_watchdog_keeps_watching_after_an_earlier_one_has_closed() -> None:
    ran = run(f"""
before = signal.getsignal(signal.SIGVTALRM)
earlier, later = Watchdog.open({LIMIT}), Watchdog.open({LIMIT})
earlier.__enter__()
with later as watchdog:
    earlier.__exit__(None, None, None)
    try:
        with watchdog:
            loops()
    except Overdue:
        print("interrupted")
print(signal.getsignal(signal.SIGVTALRM) is before)
""")
    assert (ran.returncode, ran.stdout) == (0, "interrupted\nTrue\n"), ran.stderr


def loops_until(event: threading.Event) -> None:
    while not event.is_set():
        pass
