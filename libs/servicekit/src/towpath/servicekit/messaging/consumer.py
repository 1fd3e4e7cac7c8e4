"""The consumer: takes deliveries, hands all that have arrived to the dispatcher, drains on stop.

Guarantees:

* Deliveries of one queue are dispatched in their order; at most ``prefetch`` per queue are unsettled.
* On ``stop`` no further deliveries are taken; those dispatched already are finished and settled, and the rest is
  requeued in its order. Heavy reads not finished within :data:`_HEAVY_SECONDS` are requeued.
* An unexpected error ends the consumer and the program: the broker delivers unsettled messages again.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, Literal, Protocol

from towpath.servicekit.broker.interface import Delivery, Subscription

#: Units of work that may wait for their confirms. One would leave the database idle for a round trip to the broker;
#: more would only add deliveries that are repeated after a crash.
_UNSETTLED_UNITS: Final = 4
#: Seconds that heavy reads may continue after the stop.
_HEAVY_SECONDS: Final = 5.0

#: Handles deliveries in order; returns a coroutine that settles them later, or ``None`` if they are settled.
Dispatch = Callable[[Sequence[Delivery]], Awaitable[Coroutine[Any, Any, None] | None]]

Subscribe = Callable[[], AbstractAsyncContextManager[Subscription]]


class BackgroundWork(Protocol):
    """Work that runs beside the dispatcher, such as :mod:`~towpath.servicekit.handling.heavy_reads`."""

    async def run(self) -> None:
        """Run the waiting work until cancelled."""
        ...

    async def finished(self, timeout: float) -> bool:
        """Wait until no work waits or runs, for ``timeout`` seconds at most."""
        ...


class BatchDispatcher(Protocol):
    """A dispatcher that takes deliveries between its units of work: the dispatcher of services."""

    @property
    def waiting_bytes(self) -> int:
        """Bytes taken and not yet handled; 0 when it needs more deliveries to continue."""
        ...

    async def take(self, deliveries: Sequence[Delivery]) -> None:
        """Take more deliveries."""
        ...

    async def work(self) -> Coroutine[Any, Any, None] | None:
        """Handle one unit of work; returns a coroutine that settles it later, or ``None`` if it is settled."""
        ...


class Consumer:
    """One stream of work from several queues.

    Args:
        subscribe: Opens the subscription that is consumed.
        intake_max_bytes: Maximum bytes of bodies that the dispatcher has taken and not handled (at least one
            delivery).
        apart: Work that the dispatcher runs concurrently.
    """

    def __init__(
        self,
        subscribe: Subscribe,
        dispatch: Dispatch | BatchDispatcher,
        *,
        intake_max_bytes: int,
        apart: Sequence[BackgroundWork] = (),
    ) -> None:
        self._subscribe = subscribe
        self._pool = _AllAtOnce(dispatch) if callable(dispatch) else dispatch
        self._intake_max_bytes = intake_max_bytes
        self._apart = apart

    async def run(self, stop: asyncio.Event, *, running: Callable[[], None] = lambda: None) -> None:
        """Consume until ``stop``; ``running`` is called once deliveries flow."""
        completions: set[asyncio.Task[None]] = set()
        stopping = asyncio.ensure_future(stop.wait())
        try:
            async with (
                self._subscribe() as subscription,
                asyncio.TaskGroup() as tasks,  # Waits for the completions; cancels them when this is cancelled.
            ):
                running_apart = [
                    tasks.create_task(one.run(), name=f"consumer: {type(one).__name__}")
                    for one in self._apart
                ]
                running()
                pool = self._pool
                while True:
                    taken: list[Delivery] = []
                    if not pool.waiting_bytes:
                        if stop.is_set() or (first := await _next(subscription, stopping)) is None:
                            break
                        taken.append(first)
                    if not stop.is_set():
                        size = pool.waiting_bytes + sum(len(delivery.body) for delivery in taken)
                        taken += self._waiting(subscription, size)
                    if taken:
                        await pool.take(taken)
                    # While one unit waits for its confirms, the next one runs.
                    completion = await pool.work()
                    if completion is None:
                        continue
                    task = tasks.create_task(completion, name="consumer: settle")
                    completions.add(task)
                    task.add_done_callback(completions.discard)
                    while len(completions) >= _UNSETTLED_UNITS:
                        await asyncio.wait(completions, return_when=asyncio.FIRST_COMPLETED)
                for one, task in zip(self._apart, running_apart, strict=True):
                    await one.finished(_HEAVY_SECONDS)
                    task.cancel()
        finally:
            stopping.cancel()

    def _waiting(self, subscription: Subscription, size: int) -> Iterator[Delivery]:
        """Deliveries that have arrived already, up to the intake bound together with ``size`` bytes."""
        while size < self._intake_max_bytes and (waiting := subscription.take_waiting(1)):
            size += len(waiting[0].body)
            yield waiting[0]


class _AllAtOnce:
    """A plain function as a pool without a backlog."""

    waiting_bytes = 0

    def __init__(self, dispatch: Dispatch) -> None:
        self._dispatch = dispatch
        self._taken: Sequence[Delivery] = ()

    async def take(self, deliveries: Sequence[Delivery]) -> None:
        self._taken = deliveries

    async def work(self) -> Coroutine[Any, Any, None] | None:
        taken, self._taken = self._taken, ()
        return await self._dispatch(taken)


async def _next(subscription: Subscription, stopping: "asyncio.Future[Literal[True]]") -> Delivery | None:
    """The next delivery, or ``None`` once it is time to stop."""
    if waiting := subscription.take_waiting(1):
        return waiting[0]
    arriving = asyncio.ensure_future(anext(subscription))
    try:
        await asyncio.wait((arriving, stopping), return_when=asyncio.FIRST_COMPLETED)
        return arriving.result() if arriving.done() else None
    except StopAsyncIteration:
        return None
    finally:
        arriving.cancel()
