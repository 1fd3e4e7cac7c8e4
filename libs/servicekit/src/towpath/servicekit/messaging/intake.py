"""The intake: one subscription over a changing set of queues, which are added and released one by one.

Guarantees:

* A queue is released once all its handed-out deliveries are settled, so that its next consumer starts after them.
* Deliveries that have arrived and were not handed out are requeued in their order. Usually there are none: if no
  other replica consumes the queue, the broker is asked to stop, and the arrived deliveries are handed out first.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Final

import structlog

from towpath.servicekit.broker.interface import Broker, BrokerError, Delivery, Queue, Subscription
from towpath.servicekit.runtime.error_text import describe_error

log = structlog.get_logger(__name__)

#: Seconds to wait for a queue that is being released: as long as a transaction may take unless set otherwise
#: (``unit_time_limit``). Deliveries unsettled by then are requeued.
_DRAIN_SECONDS: Final = 30.0


class Intake:
    """See :class:`~towpath.servicekit.broker.interface.Subscription`; made with :meth:`open`."""

    def __init__(self, broker: Broker, prefetch: int) -> None:
        self._broker = broker
        self._prefetch = prefetch
        self._arrived = asyncio.Event()
        self._parts: dict[str, _Part] = {}
        self._round_robin: deque[_Part] = deque()
        self._closed = False

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, broker: Broker, prefetch: int) -> AsyncIterator["Intake"]:
        """An intake without queues; on exit its remaining deliveries are requeued."""
        intake = cls(broker, prefetch)
        try:
            yield intake
        finally:
            intake._closed = True
            intake._arrived.set()
            # At once, not in turn: each part may wait for the broker, and a stop has a time limit.
            parts = list(intake._parts.values())
            intake._parts.clear()
            intake._round_robin.clear()
            await asyncio.gather(*(part.stack.aclose() for part in parts))

    @property
    def queues(self) -> set[str]:
        """The names of the queues that it consumes, including those being released."""
        return set(self._parts)

    async def take(self, queue: Queue) -> None:
        """Consume ``queue`` as well.

        Raises:
            BrokerError: The broker refused.
        """
        async with AsyncExitStack() as stack:
            subscription = await stack.enter_async_context(
                self._broker.subscribe(queue, prefetch=self._prefetch, arrived=self._arrived)
            )
            # Closed while the broker answered: the exit stack ends the subscription, so that another replica gets it.
            if self._closed:
                return
            part = _Part(subscription, stack.pop_all())
        # Only once the broker has confirmed the consumer: a queue that is announced is consumed.
        self._parts[queue.name] = part
        self._round_robin = deque(self._parts.values())
        self._arrived.set()

    async def release(self, name: str, *, is_contested: bool) -> None:
        """Stop consuming a queue: see the guarantees. Returns once another consumer may start.

        Args:
            is_contested: Another replica may consume it as well. The broker does not report that: RabbitMQ counts
                only the active consumer of a queue.
        """
        part = self._parts[name]
        try:
            # Usually three steps, in this order: no new delivery arrives; those that have arrived are handed out; all
            # are settled. The channel then closes without requeuing one, and the next consumer starts behind them
            # (ADR 19).
            async with asyncio.timeout(_DRAIN_SECONDS):
                if is_contested:
                    # After a cancel the broker would start the next consumer while deliveries are unsettled here.
                    # RabbitMQ then requeues the arrived ones in their order when the channel closes, and starts the
                    # waiting consumer after that. https://www.rabbitmq.com/docs/consumers#single-active-consumer
                    part.is_held = True
                else:
                    # Nothing is requeued on this path, so no delivery counts as a redelivery and is suspected of
                    # having crashed a program (ADR 10).
                    await part.subscription.cancel()
                    await part.emptied(self._arrived)
                await part.subscription.settled()
        except (BrokerError, TimeoutError) as error:
            # Released all the same: a queue that is not given up has no other consumer. An operator sees
            # redeliveries, and the inbox makes them repetitions.
            log.warning(
                "queue_released_unsettled",
                queue=name,
                unsettled=part.subscription.unsettled,
                error=describe_error(error, 300),
            )
        if self._parts.pop(name, None) is not None:
            self._round_robin = deque(self._parts.values())
            # The channel is closed last: this is what lets the broker start the next consumer.
            await part.stack.aclose()

    # Used by the consumer

    def __aiter__(self) -> "Intake":
        return self

    async def __anext__(self) -> Delivery:
        # One event for all queues, which every subscription sets: a wait for each would cost a task per delivery.
        while not (waiting := self.take_waiting(1)):
            if self._closed:
                raise StopAsyncIteration
            self._arrived.clear()
            await self._arrived.wait()
        return waiting[0]

    def take_waiting(self, limit: int) -> list[Delivery]:
        taken: list[Delivery] = []
        round_robin = self._round_robin
        # Each queue is asked once, in turn: a full queue does not starve the others.
        for _ in range(len(round_robin)):
            part = round_robin.popleft()
            round_robin.append(part)  # The next call begins with another queue.
            taken += part.take(limit - len(taken))
            if len(taken) >= limit:
                break
        return taken

    @property
    def unsettled(self) -> int:
        return sum(part.subscription.unsettled for part in self._round_robin)

    async def settled(self) -> None:
        for part in list(self._round_robin):
            await part.subscription.settled()

    async def cancel(self) -> None:
        for part in self._round_robin:
            await part.subscription.cancel()


class _Part:
    """One queue.

    Attributes:
        is_held: No more deliveries are handed out.
    """

    def __init__(self, subscription: Subscription, stack: AsyncExitStack) -> None:
        self.subscription = subscription
        self.stack = stack
        self.is_held = False
        self._is_empty = asyncio.Event()

    def take(self, limit: int) -> list[Delivery]:
        if self.is_held:
            return []
        taken = self.subscription.take_waiting(limit)
        if len(taken) < limit:  # Fewer than asked for: nothing else has arrived.
            self._is_empty.set()
        else:
            self._is_empty.clear()
        return taken

    async def emptied(self, arrived: asyncio.Event) -> None:
        """Wait until all arrived deliveries are handed out; ``arrived`` wakes the consumer."""
        self._is_empty.clear()
        arrived.set()
        await self._is_empty.wait()
