"""Memory that is free is given back to the system.

glibc keeps what is freed below something that is still used, so that a program that was flooded once looks as if it
needed that much for ever. ``malloc_trim`` gives whole pages back wherever they lie
(https://man7.org/linux/man-pages/man3/malloc_trim.3.html). It takes a millisecond or two.
"""

import ctypes
from typing import Final

#: Seconds between two looks.
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
    """Give back what is free."""
    if _TRIM is not None:
        _TRIM(0)
