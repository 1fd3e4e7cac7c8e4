"""Writes: all frames sent to a connection within one loop iteration are written in one system call.

uvloop writes at once, and a write to a socket costs as much as all other work on a small message. So frames are
buffered until the iteration ends. Guarantees:

* Frames are written in the order in which they were sent, and before anything the connection writes directly.
* No frame waits longer than the iteration, nor behind more than :data:`MOST` connections.

A push to many connections is written at once: a second frame for one of them within the iteration is unlikely.
"""

import asyncio
from typing import Final, Protocol

#: Connections written to without a break: about a millisecond.
MOST: Final = 256


class Writer(Protocol):
    """A connection that buffers frames."""

    def write_out(self) -> None:
        """Write the buffered frames."""
        ...


class Writes:
    """The connections of one event loop that buffer frames."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._writers: list[Writer] = []
        self._is_scheduled = False

    def add(self, writer: Writer) -> None:
        """Register a writer with its first buffered frame; ``write_out`` is called by the end of the iteration."""
        self._writers.append(writer)
        if len(self._writers) >= MOST:
            # Not left to the end of the iteration: the first of them would wait for all others.
            self._write_out()
        elif not self._is_scheduled:
            self._is_scheduled = True
            self._loop.call_soon(self._end_iteration)

    def _end_iteration(self) -> None:
        # Before the writes: a frame that is sent meanwhile needs an end of its own.
        self._is_scheduled = False
        self._write_out()

    def _write_out(self) -> None:
        # Exchanged first: a frame that is sent during these writes begins a new list.
        writers, self._writers = self._writers, []
        for writer in writers:
            writer.write_out()
