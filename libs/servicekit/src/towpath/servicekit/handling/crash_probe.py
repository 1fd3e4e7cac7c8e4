"""The crash probe: steps that may crash or hang the program first run in a forked copy of it.

A program that crashed with many unsettled messages gets all of them again, and the culprit is unknown. So redelivered
messages first run in a forked process, which has everything that the parent has loaded and ends afterwards. If the
copy crashes, or stays in one step for too long, that step is the culprit, and the parent never runs it.

Guarantees: a step in the copy has no effect outside, as long as it does no I/O; the copy has ended when
:func:`run_crash_probe` returns, and ends by itself if the parent is killed meanwhile.
"""

import asyncio
import contextlib
import enum
import os
import resource
import signal
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, NoReturn

import structlog

log = structlog.get_logger(__name__)

_STEP: Final = b"."
_END: Final = b"!"
_EXIT_RAISED: Final = 70
_READ_BYTES: Final = 65536


class End(enum.StrEnum):
    """How a step ended the copy; the values are those of ``x-reason``."""

    CRASHED = "crashed"
    HUNG = "hung"


@dataclass(frozen=True, slots=True)
class FailedStep:
    """A step that ended the copy.

    Attributes:
        step: Its index, from 0.
        how: A description: the signal, the exit status or the time.
    """

    step: int
    end: End
    how: str


async def run_crash_probe(steps: Sequence[Callable[[], object]], *, time_limit: float) -> FailedStep | None:
    """Run ``steps`` one after another in a copy of this process; returns the first that ends the copy, if any.

    The return value or exception of a step is ignored: the parent will run it itself. If the fork fails, for lack of
    memory or processes, there is no crash probe.

    Args:
        time_limit: Seconds that each step may take.
    """
    reading, writing = os.pipe()
    try:
        child = _fork()
    except OSError as error:
        os.close(reading)
        os.close(writing)
        log.warning("crash_probe_skipped", steps=len(steps), error=repr(error))
        return None
    if child == 0:
        _be_the_copy(steps, writing, time_limit)
    # The copy alone holds the writing end now: the pipe ends when the copy does, however that happens.
    # https://man7.org/linux/man-pages/man7/pipe.7.html
    os.close(writing)
    try:
        ran = await _read_to_end(reading)
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            # This task was cancelled: the copy must not outlive it.
            os.kill(child, signal.SIGKILL)
        raise
    finally:
        os.close(reading)
        # The copy has closed its end of the pipe, or was killed: this does not wait.
        _, status = os.waitpid(child, 0)  # noqa: ASYNC222
    # All steps ended; or the copy failed before the first one, and that is not the fault of a request.
    if ran.endswith(_END) or not ran:
        return None
    # A byte is written before each step, so the last one names the step that did not end.
    return FailedStep(len(ran) - 1, *_verdict(os.waitstatus_to_exitcode(status), time_limit))


def _verdict(status: int, time_limit: float) -> tuple[End, str]:
    if status == -signal.SIGALRM:
        return End.HUNG, f"it did not come to an end within {time_limit:g} s"
    if status < 0:
        return End.CRASHED, f"it ended the process by {signal.Signals(-status).name}"
    return End.CRASHED, f"it ended the process with status {status}"


def _fork() -> int:
    with warnings.catch_warnings():
        # Python 3.12 warns about threads, whose locks may be held in the copy. A step does no I/O and takes no lock;
        # Python creates its own locks again, and a step that waits for ever has a time limit.
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def _be_the_copy(steps: Sequence[Callable[[], object]], writing: int, time_limit: float) -> NoReturn:
    status = _EXIT_RAISED
    try:
        # Signals are for the parent, which shares this descriptor. The alarm kills the copy in any state.
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGALRM, signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        # The crash is expected: no core file for each culprit.
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        # The broker must see at once when the parent dies.
        os.closerange(3, writing)
        os.closerange(writing + 1, os.sysconf("SC_OPEN_MAX"))
        for step in steps:
            # Again for each step. SIGALRM's default ends the process, also in C code that holds the GIL.
            signal.setitimer(signal.ITIMER_REAL, time_limit)
            os.write(writing, _STEP)
            with contextlib.suppress(Exception):
                step()
        os.write(writing, _END)
        status = 0
    finally:
        # Not `sys.exit`: the copy must run no exit handler, and flush no buffer, of its parent.
        os._exit(status)


async def _read_to_end(descriptor: int) -> bytes:
    loop = asyncio.get_running_loop()
    ran = bytearray()
    ended = loop.create_future()

    def read() -> None:
        part = os.read(descriptor, _READ_BYTES)
        ran.extend(part)
        if not part and not ended.done():
            ended.set_result(None)

    loop.add_reader(descriptor, read)
    try:
        await ended
    finally:
        loop.remove_reader(descriptor)
    return bytes(ran)
