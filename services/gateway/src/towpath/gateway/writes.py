"""Writes: what is sent to a connection within one turn of the event loop leaves in one system call.

uvloop writes at once, and a write to a socket costs as much as all other work on a small message. So frames are kept
until the turn ends. Guarantees:

* Frames leave in the order in which they were sent, and before whatever the connection writes in another way.
* Nothing waits longer than the turn, nor than :data:`MOST` connections.

A push to many connections is written at once: more for one of them hardly comes within the turn.
"""

import asyncio
from typing import Final, Protocol

#: Connections that are written to without a look at anything else: about a millisecond.
MOST: Final = 256


class Writer(Protocol):
    """A connection that keeps frames."""

    def write_out(self) -> None:
        """Write what is kept."""
        ...


class Writes:
    """The connections of one event loop that keep frames."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._writers: list[Writer] = []
        self._is_scheduled = False

    def add(self, writer: Writer) -> None:
        """``writer`` keeps its first frame; its ``write_out`` is called at the end of the turn at the latest."""
        self._writers.append(writer)
        if len(self._writers) >= MOST:
            self._write_out()
        elif not self._is_scheduled:
            self._is_scheduled = True
            self._loop.call_soon(self._end_turn)

    def _end_turn(self) -> None:
        self._is_scheduled = False
        self._write_out()

    def _write_out(self) -> None:
        writers, self._writers = self._writers, []
        for writer in writers:
            writer.write_out()
