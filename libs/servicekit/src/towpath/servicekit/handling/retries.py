"""Retries: a command that failed is retried in its position, for a while, and then answered ``internal``.

A command is never deferred and done later (docs/reference/protocol.md): it takes effect, or it is answered
``internal`` and has none. Later requests of its sequence wait for its end
(:mod:`towpath.servicekit.handling.backlog`); all others go on. Guarantees:

* A command is retried for ``try_seconds``, with growing, jittered pauses.
* An attempt that timed out is not repeated: each attempt would delay all others by the time limit of a unit.
* Once an action has failed for good, its commands that fail within :data:`FAILING_SECONDS` are not retried: a bug
  in its handler would only delay each of its senders.
* A command that is answered ``internal`` is parked for an operator, with its error.
"""

from time import monotonic
from typing import Any, Final

import structlog

from towpath.servicekit.handling.invocation import Invocation
from towpath.servicekit.handling.requests import Request, internal_error
from towpath.servicekit.handling.result import Result
from towpath.servicekit.handling.transactions import Transactions
from towpath.servicekit.messaging.dead_letters import DeadLetters
from towpath.servicekit.messaging.failure_headers import FAILED
from towpath.servicekit.runtime.backoff import attempts
from towpath.servicekit.runtime.error_text import without_frames
from towpath.servicekit.runtime.trace_context import trace_id

log = structlog.get_logger(__name__)

#: Seconds that an action counts as failing after one of its commands failed for good.
FAILING_SECONDS: Final = 10.0
_FIRST_WAIT: Final = 0.1
_LONGEST_WAIT: Final = 1.0


class Retries:
    """Retries failed commands.

    Args:
        try_seconds: Seconds during which a failed command is retried.
    """

    def __init__(
        self,
        transactions: Transactions[Any],
        invocation: Invocation,
        dead_letters: DeadLetters,
        try_seconds: float,
    ) -> None:
        self._transactions = transactions
        self._invocation = invocation
        self._dead_letters = dead_letters
        self._try_seconds = try_seconds
        self._failing_until: dict[str, float] = {}

    async def run(self, request: Request, error: Exception) -> Result:
        """Retry ``request``, a command that failed with ``error``, until it takes effect or its time is over."""
        async for number in attempts(first=_FIRST_WAIT, longest=_LONGEST_WAIT, for_seconds=self._try_seconds):
            if number > 1:  # The first one has failed before: on the main path, or in a round of reads.
                try:
                    return await self._transactions.attempt(request)
                except Exception as again:
                    error = again
            # Also before the first retry: after a bug in a handler only the first senders wait for `try_seconds`.
            if isinstance(error, TimeoutError) or self._fails_for_good(request):
                break
        return await self._give_up(request, error)

    def _fails_for_good(self, request: Request) -> bool:
        return monotonic() < self._failing_until.get(request.envelope.action, 0.0)

    async def _give_up(self, request: Request, error: Exception) -> Result:
        """Answer ``internal``, and park the command for an operator: it has no effect, now or later."""
        envelope, trace = request.envelope, request.traceparent
        # Extended by each failure: a broken action is answered at once for as long as it fails, and only that one.
        self._failing_until[envelope.action] = monotonic() + FAILING_SECONDS
        self._transactions.forget(request)
        # Before the answer is published: once the sender knows `internal`, the operator can find the command.
        # `without_effect` marks it, as the sender may have sent it again.
        await self._dead_letters.park(
            request.delivery, request.item, FAILED, error, trace, without_effect=True, quiet=True
        )
        log.error(
            "handler_failed",
            action=envelope.action,
            msg_id=envelope.msg_id,
            trace_id=trace_id(trace),
            connection_id=request.session.connection_id if request.session is not None else None,
            exc_info=error,
        )
        without_frames(error)
        return self._invocation.refuse(request, internal_error())
