"""Long loops: work that a program repeats until it is cancelled.

Guarantees:

* An unexpected error does not end a loop: it is logged and counted, and the work runs again after a pause.
* Pauses after errors grow, with full jitter, to :data:`LONGEST_PAUSE`. A run that succeeds resets them, as does one
  that ran well for :data:`HEALTHY_SECONDS` before it failed.
* Only cancellation ends a loop.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, NoReturn

import structlog

from towpath.servicekit.runtime.backoff import attempts
from towpath.servicekit.runtime.error_text import describe_error
from towpath.servicekit.runtime.telemetry import Counter, Telemetry

log = structlog.get_logger(__name__)

LONGEST_PAUSE: Final = 30.0
HEALTHY_SECONDS: Final = 60.0
_FIRST_PAUSE: Final = 0.1


async def keep_running(
    name: str, work: Callable[[], Awaitable[object]], *, pause: float, failed: Counter | None = None
) -> NoReturn:
    """Await ``work()`` repeatedly until cancelled.

    Args:
        name: For the log.
        work: One step, or a loop that ends only by an error.
        pause: Seconds between a step that succeeded and the next; also the shortest limit of a pause after an error.
        failed: Counts the errors; make it with :func:`failures_of`.
    """
    while True:
        async for attempt in attempts(first=2 * max(pause, _FIRST_PAUSE), longest=LONGEST_PAUSE):
            if await _succeeded(name, work, failed, attempt):
                break
        await asyncio.sleep(pause)


async def _succeeded(
    name: str, work: Callable[[], Awaitable[object]], failed: Counter | None, attempt: int
) -> bool:
    """Whether ``work`` succeeded, or ran so long that its failure begins a new series."""
    loop = asyncio.get_running_loop()
    started = loop.time()
    try:
        await work()
    except Exception as error:
        if failed is not None:
            failed.add(1)
        # The first failure of a series is logged with its traceback: a bug in a loop is a bug in the program.
        if attempt == 1:
            log.exception("loop_failed", loop=name)
        else:
            log.error("loop_failed", loop=name, failures=attempt, error=describe_error(error, 300))
        return loop.time() - started >= HEALTHY_SECONDS
    return True


def failures_of(name: str, telemetry: Telemetry) -> Counter:
    """The counter of one loop's errors."""
    return telemetry.counter("loops_failed", "Unexpected errors of long loops", {"loop": name})
