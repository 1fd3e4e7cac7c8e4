"""File descriptors: how many this process may have open, and whether they are used up.

Guarantees:

* :func:`raise_limit` raises the soft limit of ``RLIMIT_NOFILE`` as far as the hard limit allows, and never lowers it.
* :func:`watch` logs the first time that no descriptor is free, then a count at most once a minute.

It must poll: on EMFILE in ``accept``, libuv closes the new connection and reports nothing (``uv__emfile_trick``), so
neither uvloop nor its exception handler sees it.
"""

import asyncio
import contextlib
import errno
import os
import resource
from typing import Final

from towpath.servicekit.runtime.sampled_log import SampledLog
from towpath.servicekit.runtime.telemetry import Telemetry

_LOOK_EVERY: Final = 1.0
_ALL_USED: Final = (errno.EMFILE, errno.ENFILE)


def raise_limit(needed: int) -> int:
    """Raise the limit to ``needed`` descriptors if the system allows; returns the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return needed if soft == resource.RLIM_INFINITY else soft
    wanted = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    # The system may have a bound below the hard limit (macOS: kern.maxfilesperproc).
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def is_exhausted() -> bool:
    """Whether no file can be opened now because this process, or the system, has too many open."""
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError as error:
        return error.errno in _ALL_USED
    return False


async def watch(telemetry: Telemetry) -> None:
    """Check once a second whether a descriptor is free, until cancelled."""
    found = telemetry.counter("descriptors_exhausted", "Seconds in which no file descriptor was left")
    tally = SampledLog("descriptors_exhausted", found)
    while True:
        await asyncio.sleep(_LOOK_EVERY)
        if is_exhausted():
            tally.add(
                limit=resource.getrlimit(resource.RLIMIT_NOFILE)[0],
                remedy="raise the limit of open files (ulimit -n, LimitNOFILE=, ulimits: nofile)",
            )
