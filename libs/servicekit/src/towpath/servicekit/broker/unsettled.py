"""Deliveries that a subscription handed out and that are not settled, counted. Both brokers use it."""

import asyncio


class Unsettled:
    """The number of deliveries that are being handled.

    A delivery counts until it is settled here, also after the broker has forgotten it (its connection was lost): the
    broker then delivers the message again, but the program still handles the first delivery.
    """

    __slots__ = ("_none", "count")

    def __init__(self) -> None:
        self.count = 0
        self._none = asyncio.Event()
        self._none.set()

    def add(self, count: int) -> None:
        """Record deliveries that were handed out."""
        if count:
            self.count += count
            self._none.clear()

    def settled(self) -> None:
        """Record that one of them was settled."""
        self.count -= 1
        if not self.count:
            self._none.set()

    async def none(self) -> None:
        """Wait until all of them are settled."""
        await self._none.wait()
