"""python-socketio at its best: its manager does not wait for each message."""

from contextlib import AbstractAsyncContextManager
from typing import Final

from bench.systems.interface import Running, Setup, System
from bench.systems.socketio import DIFFERENCES, WORKS, started


def start(setup: Setup) -> AbstractAsyncContextManager[Running]:
    """One worker, and gateways with a prefetch like that of the others."""
    return started(setup, prefetch=100)


SYSTEM: Final = System(
    name="socketio_tuned",
    title="python-socketio, prefetch 100",
    dialect="socketio",
    works=WORKS,
    start=start,
    differences=["its manager has a prefetch of 100, set by a subclass", *DIFFERENCES],
)
