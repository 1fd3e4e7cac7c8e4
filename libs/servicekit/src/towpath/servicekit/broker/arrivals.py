"""Deliveries that have arrived: handed out in order, and counted until they are settled. Both brokers use it."""

import asyncio
from collections import deque

from towpath.servicekit.broker.interface import Delivery


class Arrivals:
    """The receiving half of a :class:`~towpath.servicekit.broker.interface.Subscription`.

    Args:
        arrived: Set with each delivery.

    Attributes:
        unsettled: Number of deliveries handed out and not settled. A stale one counts, because the program still
            handles it, although the broker has delivered its message again.
    """

    def __init__(self, arrived: asyncio.Event | None) -> None:
        self._arrived = arrived or asyncio.Event()
        self._waiting: deque[Delivery] = deque()
        self._is_held = False
        self._ended = False
        self.unsettled = 0
        self._all_settled = asyncio.Event()
        self._all_settled.set()

    def __aiter__(self) -> "Arrivals":
        return self

    async def __anext__(self) -> Delivery:
        while not (taken := self.take_waiting(1)):
            if self._ended:
                raise StopAsyncIteration
            self._arrived.clear()
            await self._arrived.wait()
        return taken[0]

    def take_waiting(self, limit: int) -> list[Delivery]:
        count = 0 if self._is_held else min(limit, len(self._waiting))
        if count:
            self.unsettled += count
            self._all_settled.clear()
        return [self._waiting.popleft() for _ in range(count)]

    async def settled(self) -> None:
        await self._all_settled.wait()

    # For the broker

    def hand_out(self) -> None:
        """Hand out deliveries that were held until now."""
        self._is_held = False
        self._arrived.set()

    def _receive(self, delivery: Delivery) -> None:
        self._waiting.append(delivery)
        self._arrived.set()

    def _was_settled(self) -> None:
        """Record that one delivery was settled."""
        self.unsettled -= 1
        if not self.unsettled:
            self._all_settled.set()

    def _end_iteration(self) -> None:
        """End the iteration, once what has arrived is taken."""
        self._ended = True
        self._arrived.set()
