"""A receipt: what became of all that was sent together, as one thing to wait for.

A future for each message would cost as much as the rest of sending it.
"""

import asyncio

from towpath.servicekit.broker.interface import BrokerError
from towpath.servicekit.wording import in_words


class Receipt:
    """Confirms of many messages; :meth:`settle` is what lanes call for each.

    Use: send with ``receipt.settle``, then say :meth:`sent`; at the end wait for :meth:`confirmed`.
    """

    __slots__ = ("_error", "_left", "_waiter")

    def __init__(self) -> None:
        self._left = 0
        self._error: BrokerError | None = None
        self._waiter: asyncio.Future[None] | None = None

    def sent(self) -> None:
        """One more confirm is to come."""
        self._left += 1

    def settle(self, error: BrokerError | None) -> None:
        """One confirm came, or will not come because of ``error``."""
        self._left -= 1
        if error is not None:
            self.fail(error)
        if not self._left and self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def fail(self, error: BaseException) -> None:
        """Something could not even be sent; the first reason is kept."""
        if self._error is None:
            self._error = error if isinstance(error, BrokerError) else BrokerError(in_words(error))

    async def confirmed(self) -> None:
        """Wait until everything is settled.

        Raises:
            BrokerError: Something was not confirmed; the first reason.
        """
        if self._left:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        if self._error is not None:
            raise self._error
