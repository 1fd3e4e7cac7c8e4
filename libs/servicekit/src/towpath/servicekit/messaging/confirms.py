"""Pending confirms: one object to wait for the confirms of many messages.

A future per message would cost as much as the rest of publishing it.
"""

import asyncio

from towpath.servicekit.broker.interface import BrokerError
from towpath.servicekit.runtime.error_text import describe_error


class PendingConfirms:
    """Confirms of many messages.

    For each message: publish it with :meth:`resolve` as the callback, then call :meth:`expect`. At the end await
    :meth:`confirmed`. The order is safe, because lanes call back later and never within the publish.
    """

    __slots__ = ("_error", "_left", "_waiter")

    def __init__(self) -> None:
        self._left = 0
        self._error: BrokerError | None = None
        self._waiter: asyncio.Future[None] | None = None

    def expect(self) -> None:
        """Expect one more confirm."""
        self._left += 1

    def resolve(self, error: BrokerError | None) -> None:
        """Record one confirm, or the ``error`` because of which it will not come."""
        self._left -= 1
        if error is not None:
            self.fail(error)
        if not self._left and self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def fail(self, error: BaseException) -> None:
        """Record that a message could not be queued; the first error is kept."""
        if self._error is None:
            self._error = error if isinstance(error, BrokerError) else BrokerError(describe_error(error))

    async def confirmed(self) -> None:
        """Wait for all expected confirms.

        Raises:
            BrokerError: At least one message was not confirmed; the first error.
        """
        if self._left:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        if self._error is not None:
            raise self._error
