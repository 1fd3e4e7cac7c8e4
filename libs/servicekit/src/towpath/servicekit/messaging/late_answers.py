"""Late answers: answers whose gateway is absent for a moment, kept and published again.

A gateway makes a new inbox after each reconnect; meanwhile no queue is bound to its key, and an answer is returned as
unroutable. An answer is kept for ``answer_patience`` seconds; after that the gateway counts as dead: its clients have
reconnected elsewhere, and repeat their requests with the same ``msg_id``.

Guarantees: answers for one gateway are published in the order in which they were kept; an absent gateway delays no
other one; number and bytes are bounded, and the oldest answer is dropped first.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import structlog

from towpath.servicekit.broker.interface import BrokerError, Unpublishable
from towpath.servicekit.messaging.lanes import Lanes
from towpath.servicekit.runtime.loops import failures_of, keep_running
from towpath.servicekit.runtime.settings import ServiceSettings
from towpath.servicekit.runtime.telemetry import Telemetry

log = structlog.get_logger(__name__)

#: Seconds between two rounds of attempts. A gateway needs about that long to reconnect.
_PAUSE: Final = 0.5
_MOST: Final = 10_000


class LateAnswers:
    """Answers that wait for their gateway; made with :meth:`open`."""

    def __init__(self, answers: Lanes, settings: ServiceSettings, telemetry: Telemetry) -> None:
        self._answers = answers
        self._patience = settings.answer_patience
        self._max_bytes = settings.answer_late_max_bytes
        self._waiting: deque[tuple[float, str, bytes]] = deque()  # Deadline, routing key and body.
        self._bytes = 0
        self._arrived = asyncio.Event()
        self._dropped = telemetry.counter("answers_dropped", "Answers whose gateway did not reconnect")

    @classmethod
    @asynccontextmanager
    async def open(
        cls, answers: Lanes, settings: ServiceSettings, telemetry: Telemetry, *, title: str
    ) -> AsyncIterator["LateAnswers"]:
        """Late answers, published from entry to exit; those left then are dropped, as their clients repeat."""
        late = cls(answers, settings, telemetry)
        running = keep_running(
            "late answers", late._deliver, pause=_PAUSE, failed=failures_of("late answers", telemetry)
        )
        task = asyncio.create_task(running, name=title)
        try:
            yield late
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    def keep(self, routing_key: str, body: bytes) -> None:
        """Publish ``body`` again until its gateway is back."""
        self._keep_until(asyncio.get_running_loop().time() + self._patience, routing_key, body)

    def _keep_until(self, deadline: float, routing_key: str, body: bytes) -> None:
        self._waiting.append((deadline, routing_key, body))
        self._bytes += len(body)
        # The oldest first: its time is over before that of the others.
        while len(self._waiting) > _MOST or self._bytes > self._max_bytes:
            self._bytes -= len(self._waiting.popleft()[2])
            self._dropped.add(1)
        self._arrived.set()

    async def _deliver(self) -> None:
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            # Before the attempt: the answer was returned a moment ago, and an attempt at once would be as well.
            # Answers that arrive meanwhile share the round.
            await asyncio.sleep(_PAUSE)
            waiting = list(self._waiting)
            self._waiting.clear()
            self._bytes = 0
            absent: set[str] = set()
            for deadline, routing_key, body in waiting:
                if asyncio.get_running_loop().time() > deadline:
                    self._dropped.add(1)
                    log.warning("answer_dropped", gateway=routing_key, waited_s=self._patience)
                # One attempt per gateway and round: each further answer would be returned as well.
                elif routing_key in absent or not await self._publish(routing_key, body):
                    absent.add(routing_key)
                    self._keep_until(deadline, routing_key, body)

    async def _publish(self, routing_key: str, body: bytes) -> bool:
        """True if the answer needs no further attempt."""
        try:
            await self._answers.send(routing_key, body)
        except Unpublishable:
            # No later attempt would be accepted either.
            self._dropped.add(1)
            log.warning("answer_dropped", gateway=routing_key, bytes=len(body))
        except BrokerError:
            return False
        return True
