"""The consumer: takes deliveries, hands them to the dispatcher as large as they come, drains on stop.

Guarantees: deliveries of one queue are dispatched in their order; at most ``prefetch`` a queue are in hand; on
``stop`` intake ends, what is in hand is finished and settled, and the rest is given back in its order.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from towpath.servicekit.broker.interface import Broker, Delivery, Inbox, Queue

_UNSETTLED_UNITS: Final = 4

Dispatch = Callable[[Sequence[Delivery]], Awaitable["asyncio.Future[None]"]]


class Consumer:
    """One stream of work from several queues.

    Args:
        prefetch: Deliveries (each a batch) in hand at most, a queue.
        unit_max: Deliveries handed over together at most.
    """

    def __init__(
        self,
        broker: Broker,
        sources: Sequence[Queue | Inbox],
        dispatch: Dispatch,
        *,
        prefetch: int,
        unit_max: int,
    ) -> None:
        self._broker = broker
        self._sources = sources
        self._dispatch = dispatch
        self._prefetch = prefetch
        self._unit_max = unit_max

    async def run(self, stop: asyncio.Event, *, running: Callable[[], None] = lambda: None) -> None:
        """Consume until ``stop``; ``running`` is called once deliveries flow."""
        async with self._broker.subscribe(*self._sources, prefetch=self._prefetch) as subscription:
            running()
            settling: set[asyncio.Future[None]] = set()
            stopping = asyncio.ensure_future(stop.wait())
            try:
                while not stop.is_set():
                    arriving = asyncio.ensure_future(subscription.__anext__())
                    await asyncio.wait([arriving, stopping], return_when=asyncio.FIRST_COMPLETED)
                    if not arriving.done():
                        arriving.cancel()
                        break
                    first = arriving.result()
                    batch = [first, *subscription.take_waiting(self._unit_max - 1)]
                    # While one unit waits for its confirms the next is worked on.
                    done = await self._dispatch(batch)
                    settling.add(done)
                    done.add_done_callback(settling.discard)
                    while len(settling) >= _UNSETTLED_UNITS:
                        await asyncio.wait(settling, return_when=asyncio.FIRST_COMPLETED)
            finally:
                stopping.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await stopping
                if settling:
                    await asyncio.wait(settling)
