"""The consumer: takes deliveries, hands them to the dispatcher as large as they come, drains on stop.

Guarantees: deliveries of one queue are dispatched in their order; at most ``prefetch`` a queue are in hand; on
``stop`` intake ends, what is in hand is finished and settled, and the rest is given back in its order. An error that
nobody foresaw ends it, and the program with it: what was in hand comes again. Heavy reads run beside the rest; on
``stop`` those that are not finished within :data:`_HEAVY_SECONDS` are given back.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, Literal, Protocol

from towpath.servicekit.broker.interface import Delivery, Subscription

_UNSETTLED_UNITS: Final = 4
#: Seconds that heavy reads may go on after the stop.
_HEAVY_SECONDS: Final = 5.0

#: Handles deliveries in order; returns what settles them later, or nothing if they are settled.
Dispatch = Callable[[Sequence[Delivery]], Awaitable[Coroutine[Any, Any, None] | None]]

Subscribe = Callable[[], AbstractAsyncContextManager[Subscription]]


class Apart(Protocol):
    """What a dispatcher runs beside the rest, such as :class:`~towpath.servicekit.heavy_reads.HeavyReads`."""

    async def run(self) -> None:
        """Run what waits, until cancelled."""
        ...

    async def finished(self, timeout: float) -> bool:
        """Wait until nothing waits or is run, for so many seconds at most."""
        ...


class Pool(Protocol):
    """A dispatcher that is given what arrives between its units of work: the dispatcher of services."""

    @property
    def waiting_bytes(self) -> int:
        """What it has been given and not handled; 0 when it needs more to go on."""
        ...

    async def take(self, deliveries: Sequence[Delivery]) -> None:
        """Take more."""
        ...

    async def work(self) -> Coroutine[Any, Any, None] | None:
        """Handle a part of it; returns what settles that later, or nothing if it is settled."""
        ...


class Consumer:
    """One stream of work from several queues.

    Args:
        subscribe: What is consumed, from entry to exit.
        intake_max_bytes: Bodies that are in the dispatcher's hands at most, in bytes (one delivery at least).
        apart: What the dispatcher runs beside the rest.
    """

    def __init__(
        self,
        subscribe: Subscribe,
        dispatch: Dispatch | Pool,
        *,
        intake_max_bytes: int,
        apart: Sequence[Apart] = (),
    ) -> None:
        self._subscribe = subscribe
        self._pool = _AllAtOnce(dispatch) if callable(dispatch) else dispatch
        self._intake_max_bytes = intake_max_bytes
        self._apart = apart

    async def run(self, stop: asyncio.Event, *, running: Callable[[], None] = lambda: None) -> None:
        """Consume until ``stop``; ``running`` is called once deliveries flow."""
        settling: set[asyncio.Task[None]] = set()
        stopping = asyncio.ensure_future(stop.wait())
        try:
            async with (
                self._subscribe() as subscription,
                asyncio.TaskGroup() as tasks,  # waits for what is in hand; ends it when this is cancelled
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
                    # While one unit waits for its confirms the next is worked on.
                    settled = await pool.work()
                    if settled is None:
                        continue
                    task = tasks.create_task(settled, name="consumer: settle")
                    settling.add(task)
                    task.add_done_callback(settling.discard)
                    while len(settling) >= _UNSETTLED_UNITS:
                        await asyncio.wait(settling, return_when=asyncio.FIRST_COMPLETED)
                for one, task in zip(self._apart, running_apart, strict=True):
                    await one.finished(_HEAVY_SECONDS)
                    task.cancel()
        finally:
            stopping.cancel()

    def _waiting(self, subscription: Subscription, size: int) -> Iterator[Delivery]:
        """What has arrived already, as far as it may go together with ``size`` bytes."""
        while size < self._intake_max_bytes and (waiting := subscription.take_waiting(1)):
            size += len(waiting[0].body)
            yield waiting[0]


class _AllAtOnce:
    """A plain function as a pool that never has anything left."""

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
