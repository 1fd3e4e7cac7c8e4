"""Returns free memory to the operating system.

glibc keeps freed memory below an allocation that is still used, so that a program that was flooded once appears to
need that much for ever. ``malloc_trim`` returns whole free pages wherever they are
(https://man7.org/linux/man-pages/man3/malloc_trim.3.html). It takes a millisecond or two.
"""

import ctypes
from typing import Final

#: Seconds between two runs.
PAUSE: Final = 10.0


def _trim() -> "ctypes._NamedFuncPointer | None":
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError):  # not glibc
        return None
    trim.argtypes = (ctypes.c_size_t,)
    trim.restype = ctypes.c_int
    return trim


_TRIM: Final = _trim()


async def give_back() -> None:
    """Return free memory to the system."""
    if _TRIM is not None:
        _TRIM(0)
