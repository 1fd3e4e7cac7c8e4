"""TCP ports of the programs of a test: free ones, and what is answered there."""

import asyncio
import contextlib
import fcntl
import itertools
import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

# Below the ports that the kernel gives to outgoing connections, and never the same twice.
_PORTS: Iterator[int] = (20_000 + (os.getpid() * 100 + n) % 12_000 for n in itertools.count())


def free_port() -> int:
    """An unused TCP port of 127.0.0.1 that no other test run has been given.

    A program that is restarted takes its port again, so a port stays claimed until the test run ends.
    """
    folder = Path(tempfile.gettempdir(), f"towpath-ports-{os.getuid()}")
    folder.mkdir(exist_ok=True)
    for port in _PORTS:
        claim = os.open(folder / str(port), os.O_CREAT | os.O_RDWR)  # stays open, and so locked
        try:
            fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with socket.socket() as trial:
                trial.bind(("127.0.0.1", port))
        except OSError:
            os.close(claim)
            continue
        return port
    raise AssertionError("the ports do not end")


def first_of_free_ports(count: int = 12) -> int:
    """The first of ``count`` ports in a row, each as :func:`free_port` gives it.

    For a program that takes the next free ports by itself, as ``towpath dev`` does for its programs: another test
    must not start there meanwhile.
    """
    row = [free_port()]
    while len(row) < count:
        port = free_port()
        row = [*row, port] if port == row[-1] + 1 else [port]
    return row[0]


async def status_of(port: int, path: str) -> int | None:
    """The HTTP status of a page; ``None`` if no program answers."""
    with contextlib.suppress(OSError, TimeoutError, ValueError, IndexError):
        async with asyncio.timeout(2):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
                return int((await reader.readline()).split()[1])
            finally:
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()
    return None
