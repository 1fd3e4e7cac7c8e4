"""The consumer: takes deliveries, hands all that have arrived to the dispatcher, drains on stop.

Guarantees: deliveries of one queue are dispatched in their order; at most ``prefetch`` per queue are unsettled; on
``stop`` intake ends, deliveries that were taken are finished and settled, and the rest is requeued in its order. An
unexpected error ends the consumer and the program: unsettled deliveries are redelivered. Some work of a dispatcher
runs beside its units (heavy reads, retries); on ``stop`` what is not finished within :data:`_BESIDE_SECONDS` is
requeued.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, Protocol

from towpath.servicekit.broker.interface import Delivery, Subscription

#: Units that wait for their confirms while the next one runs. More would not be faster: they wait for one broker.
_UNSETTLED_UNITS: Final = 4
#: Seconds that work beside the units may continue after the stop.
_BESIDE_SECONDS: Final = 5.0

#: Settles deliveries once the broker has confirmed what follows from them.
Completion = Coroutine[Any, Any, None]
#: Handles deliveries in order; returns a coroutine that settles them later, or ``None`` if they are settled.
Dispatch = Callable[[Sequence[Delivery]], Awaitable[Completion | None]]

Subscribe = Callable[[], AbstractAsyncContextManager[Subscription]]


class BatchDispatcher(Protocol):
    """A dispatcher that takes deliveries between its units of work: the dispatcher of services."""

    @property
    def waiting_bytes(self) -> int:
        """Bytes taken that wait for :meth:`work`; 0 when it has nothing to do."""
        ...

    async def take(self, deliveries: Sequence[Delivery]) -> None:
        """Take more deliveries."""
        ...

    async def work(self) -> Completion | None:
        """Handle one unit of work; returns a coroutine that settles it later, or ``None`` if it is settled."""
        ...

    async def until_ready(self) -> None:
        """Wait until :meth:`work` has something to do that no delivery has brought."""
        ...

    async def run(self) -> None:
        """Run the work beside the units, until cancelled."""
        ...

    async def finished(self, timeout: float) -> bool:
        """Wait until no such work is left, or :meth:`work` has something to do; false after ``timeout`` seconds."""
        ...


class Consumer:
    """One stream of work from several queues.

    Args:
        subscribe: Opens the subscription that is consumed.
        intake_max_bytes: Maximum bytes of bodies that the dispatcher has taken and not handled (at least one
            delivery).
    """

    def __init__(
        self, subscribe: Subscribe, dispatch: Dispatch | BatchDispatcher, *, intake_max_bytes: int
    ) -> None:
        self._subscribe = subscribe
        self._dispatcher = _AllAtOnce(dispatch) if callable(dispatch) else dispatch
        self._intake_max_bytes = intake_max_bytes

    async def run(self, stop: asyncio.Event, *, running: Callable[[], None] = lambda: None) -> None:
        """Consume until ``stop``; ``running`` is called once deliveries flow."""
        async with (
            self._subscribe() as subscription,
            asyncio.TaskGroup() as tasks,  # Waits for units to settle; cancels them when this is cancelled.
        ):
            beside = tasks.create_task(self._dispatcher.run(), name="consumer: beside")
            intake = _Intake(subscription, self._dispatcher, self._intake_max_bytes, stop)
            try:
                running()
                await self._consume(intake, tasks)
            finally:
                intake.close()
                # Its unfinished requests are not acked: the broker requeues them when the subscription closes.
                beside.cancel()

    async def _consume(self, intake: "_Intake", tasks: asyncio.TaskGroup) -> None:
        settling: set[asyncio.Task[None]] = set()
        stop_at: float | None = None
        while True:
            # Between two units, not beside them: a request that has just arrived shares the next unit fairly with
            # all that wait.
            if not intake.has_ended and (taken := await intake.next()):
                await self._dispatcher.take(taken)
            if self._dispatcher.waiting_bytes:
                # While one unit waits for its confirms, the next one runs.
                # One unit at a time: order within a sequence needs no lock then.
                if (completion := await self._dispatcher.work()) is None:
                    continue
                task = tasks.create_task(completion, name="consumer: settle")
                settling.add(task)
                task.add_done_callback(settling.discard)
                # The brake when the broker confirms slowly: nothing more is taken, and prefetch then stops the
                # deliveries. https://www.rabbitmq.com/docs/consumer-prefetch
                while len(settling) >= _UNSETTLED_UNITS:
                    await asyncio.wait(settling, return_when=asyncio.FIRST_COMPLETED)
            elif intake.has_ended:
                # Requests behind the work beside may be ready after it, and are finished too.
                now = asyncio.get_running_loop().time()
                # One limit for all of it: each look would otherwise begin a new one.
                stop_at = now + _BESIDE_SECONDS if stop_at is None else stop_at
                # Ready requests again: another round. Otherwise everything is finished, or the time is over.
                if not await self._dispatcher.finished(stop_at - now) or not self._dispatcher.waiting_bytes:
                    return


class _Intake:
    """Deliveries, for as long as they are taken.

    Attributes:
        has_ended: Nothing more is taken: the program stops, or the subscription is closed.
    """

    def __init__(
        self, subscription: Subscription, dispatcher: BatchDispatcher, max_bytes: int, stop: asyncio.Event
    ) -> None:
        self.has_ended = stop.is_set()
        self._subscription = subscription
        self._dispatcher = dispatcher
        self._max_bytes = max_bytes
        self._stop = stop
        self._stopping = asyncio.ensure_future(stop.wait())
        #: One task for many waits: it ends rarely, and a new one for each wait would cost each batch.
        self._ready: asyncio.Future[None] | None = None

    async def next(self) -> list[Delivery]:
        """All deliveries that have arrived, up to the intake bound; waits for one while the dispatcher is idle.

        Returns none once the dispatcher has work without it, or when intake has ended.
        """
        taken: list[Delivery] = []
        if self._stop.is_set():
            self.has_ended = True
            return taken
        size = self._dispatcher.waiting_bytes
        if not size:
            if (first := await self._first()) is None:
                return taken
            taken.append(first)
            size = len(first.body)
        if self.has_ended:
            return taken
        # Everything that has arrived, one by one, so that at most one delivery exceeds the bound. More in a unit
        # costs less per request; a wait for more would only delay (ADR 1).
        while size < self._max_bytes and (waiting := self._subscription.take_waiting(1)):
            size += len(waiting[0].body)
            taken += waiting
        return taken

    def close(self) -> None:
        self._stopping.cancel()
        if self._ready is not None:
            self._ready.cancel()

    async def _first(self) -> Delivery | None:
        if waiting := self._subscription.take_waiting(1):
            return waiting[0]
        if self._ready is None:
            self._ready = asyncio.ensure_future(self._dispatcher.until_ready())
        # A delivery leaves the subscription only when this task ends with it: cancelled before, it takes none.
        arriving = asyncio.ensure_future(anext(self._subscription))
        try:
            await asyncio.wait((arriving, self._ready, self._stopping), return_when=asyncio.FIRST_COMPLETED)
            if self._ready.done():
                # The dispatcher's requests are ready without a delivery: returning none lets `work` run them.
                self._ready.result()
                self._ready = None
            self.has_ended = self._stop.is_set()
            return arriving.result() if arriving.done() else None
        except StopAsyncIteration:
            self.has_ended = True
            return None
        finally:
            arriving.cancel()


class _AllAtOnce:
    """A plain function as a dispatcher: it handles what was taken at once, and nothing runs beside it."""

    def __init__(self, dispatch: Dispatch) -> None:
        self.waiting_bytes = 0
        self._dispatch = dispatch
        self._taken: Sequence[Delivery] = ()

    async def take(self, deliveries: Sequence[Delivery]) -> None:
        self._taken = deliveries
        self.waiting_bytes = 1

    async def work(self) -> Completion | None:
        taken, self._taken = self._taken, ()
        self.waiting_bytes = 0
        return await self._dispatch(taken)

    async def until_ready(self) -> None:
        await asyncio.Event().wait()

    async def run(self) -> None:
        await asyncio.Event().wait()

    async def finished(self, timeout: float) -> bool:
        return True
