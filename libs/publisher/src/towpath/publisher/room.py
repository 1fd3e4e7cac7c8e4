"""Room: a bound on what waits, in messages and in bytes; who finds none waits for its turn.

Guarantee: first come, first served, so a large message is not overtaken for ever by small ones.
"""

import asyncio
import collections
import contextlib


class Room:
    """Places for at most ``max_items`` messages of ``max_bytes`` together; one message alone may be larger."""

    def __init__(self, max_items: int, max_bytes: int) -> None:
        self._max_items = max_items
        self._max_bytes = max_bytes
        self._items = 0
        self._bytes = 0
        self._waiting: collections.deque[tuple[int, asyncio.Future[None]]] = collections.deque()

    @property
    def taken(self) -> int:
        """How many messages have a place."""
        return self._items

    async def take(self, size: int) -> None:
        """Take a place for a message of ``size`` bytes, as soon as there is one; :meth:`free` gives it back."""
        if not self._waiting and self._fits(size):
            self._take(size)
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((size, turn))
        try:
            await turn
        except BaseException:
            if turn.done() and not turn.cancelled():
                self.free(size)  # It was given its place and cancelled in the same moment.
            else:
                with contextlib.suppress(ValueError):  # `_give` has dropped it.
                    self._waiting.remove((size, turn))
                self._give()
            raise

    def free(self, size: int) -> None:
        """Give back a place."""
        self._items -= 1
        self._bytes -= size
        self._give()

    def _fits(self, size: int) -> bool:
        return not self._items or (self._items < self._max_items and self._bytes + size <= self._max_bytes)

    def _take(self, size: int) -> None:
        self._items += 1
        self._bytes += size

    def _give(self) -> None:
        while self._waiting and self._fits(self._waiting[0][0]):
            size, turn = self._waiting.popleft()
            if not turn.done():
                self._take(size)
                turn.set_result(None)
