"""In-place retries: commands that failed are retried without leaving their position, and later requests wait.

A command is never deferred and done later (docs/reference/protocol.md): it takes effect, or it is answered
``internal`` and has none. Guarantees:

* Requests with the same sender and ordering key as a retried command wait for its end, in order. All others continue.
* A command is retried for ``try_seconds``, with growing, jittered pauses. Once an action has failed for good, its
  commands that fail within the next :data:`FAILING_SECONDS` are not retried: each would only delay its sender.
* The delivery of each is released once the broker has confirmed its messages.
* At most :data:`_AT_ONCE` are retried at a time.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import structlog

from towpath.servicekit.handling.publishing import SharedAck
from towpath.servicekit.handling.requests import Refusal, Request
from towpath.servicekit.runtime.telemetry import Telemetry

log = structlog.get_logger(__name__)

_AT_ONCE: Final = 8

Order = tuple[str, str]
Item = Request | Refusal


class CommandRetries:
    """The commands being retried; run :meth:`run` beside the consumer.

    Args:
        settle: Runs requests with one sender and ordering key to their end, from the first, which has failed with an
            error. Returns once all their messages are confirmed.
    """

    def __init__(
        self,
        settle: Callable[[Sequence[Item], BaseException | None], Awaitable[object]],
        telemetry: Telemetry,
    ) -> None:
        self._settle = settle
        self._waiting: dict[Order, deque[tuple[Item, SharedAck]]] = {}
        self._errors: dict[Order, BaseException] = {}
        self._news = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._at_once = asyncio.Semaphore(_AT_ONCE)
        telemetry.gauge(
            "requests_in_trouble",
            "Failed commands that are tried again, and requests that wait behind them",
            lambda: sum(len(waiting) for waiting in self._waiting.values()),
        )

    def holds(self, item: Item) -> bool:
        """Whether ``item`` must wait behind a command that is being retried."""
        return bool(self._waiting) and item.sequence_key in self._waiting

    def begin(self, request: Request, ack: SharedAck, error: BaseException) -> None:
        """Start to retry ``request``, which failed with ``error``."""
        self._waiting[request.sequence_key] = deque([(request, ack)])
        self._errors[request.sequence_key] = error
        self._idle.clear()
        self._news.set()

    def put(self, item: Item, ack: SharedAck) -> None:
        """Queue ``item`` behind the command that is being retried."""
        self._waiting[item.sequence_key].append((item, ack))

    async def run(self) -> None:
        """Retry failed commands until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                await self._news.wait()
                self._news.clear()
                for order in list(self._errors):
                    error = self._errors.pop(order)
                    tasks.create_task(self._end(order, error), name="trouble")

    async def finished(self, timeout: float) -> bool:
        """Wait until no command is being retried, for ``timeout`` seconds at most."""
        try:
            async with asyncio.timeout(timeout):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True

    async def end_all(self) -> None:
        """The same without :meth:`run`, one after another."""
        while self._errors:
            order, error = next(iter(self._errors.items()))
            del self._errors[order]
            await self._end(order, error)

    async def _end(self, order: Order, error: BaseException | None) -> None:
        waiting = self._waiting[order]
        async with self._at_once:
            # One after another: requests that arrive meanwhile wait behind them.
            while waiting:
                item, ack = waiting[0]
                await self._settle([item], error)
                error = None
                waiting.popleft()
                ack.release()
        del self._waiting[order]
        if not self._waiting:
            self._idle.set()
