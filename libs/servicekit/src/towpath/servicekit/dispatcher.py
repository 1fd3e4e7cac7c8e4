"""The dispatcher: deliveries are read, run and told, in their order; then they are acked.

It puts together the :class:`~towpath.servicekit.reading.Reader`, the :class:`~towpath.servicekit.working.Worker` and
the :class:`~towpath.servicekit.telling.Teller`. A batch is one set-based unit of work: a few queries, one commit, one
publish a target, one ack a delivery. Handlers do no I/O: they check first, change then, and return an
:class:`~towpath.servicekit.outcome.Outcome`.

Guarantees:

* A delivery is acked only after its effects are committed and the broker has confirmed all that follows from it.
* Three kinds of failure: what cannot be read is parked; a :class:`~towpath.protocol.errors.TowpathError` is an
  ``error`` answer (for an event: parked); anything else is retried and at last parked.
* A handler that hangs is interrupted and its request parked (:mod:`towpath.servicekit.watchdog`). One that takes the
  program with it does so once: what comes again is tried in a copy of the process before it is handled, and parked if
  the copy dies of it (:mod:`towpath.servicekit.trial`).
* Heavy reads are run apart (:mod:`towpath.servicekit.heavy_reads`); the others never wait for them.
"""

from collections.abc import Callable, Coroutine, Sequence
from contextlib import AbstractContextManager
from time import thread_time
from typing import Any, Final, Generic

import structlog

from towpath.protocol.errors import Busy
from towpath.protocol.messages import Session
from towpath.servicekit import requests
from towpath.servicekit.broker.interface import Delivery
from towpath.servicekit.failures import Failures
from towpath.servicekit.heavy_reads import RETRY_AFTER_MS, Bounds, HeavyReads, Taken
from towpath.servicekit.pauses import pauses
from towpath.servicekit.publisher import Publisher
from towpath.servicekit.reading import Reader, is_doubtful, returns, traceparent
from towpath.servicekit.receipts import Receipt
from towpath.servicekit.replays import Replays
from towpath.servicekit.requests import Handlers, Refusal, Request, Unreadable
from towpath.servicekit.telemetry import Telemetry
from towpath.servicekit.telling import NOT_TOLD, Result, SharedAck, Teller
from towpath.servicekit.working import Store, U, Worker

log = structlog.get_logger(__name__)

Settling = Coroutine[Any, Any, None]
_DEFAULT_BOUNDS: Final = Bounds()


class Dispatcher(Generic[U]):
    """Turns deliveries into effects, answers and pushes.

    Args:
        store: Where the service keeps things; without one its handlers get ``None`` as their unit of work.
        commands: The service's table of actions.
        events: Its table of events on ``towpath.events``.
        own: The service's ``app_id``: its own events coming round are acked unread.
        unit_max: Requests that are handled in one unit of work at most.
        replay_limit, replay_max_bytes: Stream entries that one request replays at most.
        handler_time_limit: Seconds that a handler may take in a trial.
        unit_time_limit: Seconds that a unit of work may take; then it is rolled back and tried again.
        crash_limit: What came back as often, and is the first to do so, is not handled as it is.
        watched: Entered around each handler; it may raise :class:`~towpath.servicekit.watchdog.Overdue` inside.
        heavy: Bounds of the heavy reads.
        is_here: Whether a session's connection may still be there.

    Attributes:
        heavy_reads: To be run beside the consumer.
    """

    def __init__(
        self,
        commands: Handlers,
        events: Handlers,
        store: Store[U] | None,
        publisher: Publisher,
        failures: Failures,
        telemetry: Telemetry,
        *,
        own: str,
        unit_max: int,
        replay_limit: int,
        replay_max_bytes: int = 1024 * 1024,
        handler_time_limit: float = 10.0,
        unit_time_limit: float = 30.0,
        crash_limit: int = 5,
        watched: AbstractContextManager[None] | None = None,
        heavy: Bounds = _DEFAULT_BOUNDS,
        is_here: Callable[[Session], bool] = lambda _: True,
    ) -> None:
        self._reader = Reader(
            commands, events, failures, telemetry, time_limit=handler_time_limit, watched=watched
        )
        self._worker = Worker(
            store,
            failures,
            telemetry,
            handler_time_limit=handler_time_limit,
            unit_time_limit=unit_time_limit,
            watched=watched,
        )
        replays = (
            None if store is None else Replays(store.database, store.streams, replay_limit, replay_max_bytes)
        )
        self._teller = Teller(publisher, replays)
        self._is_here = is_here
        self.heavy_reads = HeavyReads(self._run_heavy, heavy, is_here, telemetry)
        self._failures = failures
        self._own = own
        self._unit_max = unit_max
        self._crash_limit = crash_limit
        self._received = telemetry.counter("messages_received", "Requests and events taken")

    async def dispatch(self, deliveries: Sequence[Delivery]) -> Settling:
        """Handle ``deliveries`` in order.

        Returns once the effects are committed and all that follows is queued in order; who awaits what is returned
        waits until the broker has confirmed it, and acks the deliveries.
        """
        doubtful = [delivery for delivery in deliveries if is_doubtful(delivery)]
        limit_reached = False
        for delivery in doubtful:
            # Each is settled before the next has its turn. So what ends the program is always the first of those that
            # come again, and nobody else has to be put aside with it.
            aside = not limit_reached and returns(delivery) >= self._crash_limit
            limit_reached |= aside
            await (await self._dispatch([delivery], unit_max=1, aside=aside, apart=False))
        sound = [delivery for delivery in deliveries if delivery not in doubtful] if doubtful else deliveries
        return await self._dispatch(sound, unit_max=self._unit_max)

    async def _dispatch(
        self, deliveries: Sequence[Delivery], *, unit_max: int, aside: bool = False, apart: bool = True
    ) -> Settling:
        """Handle ``deliveries``; their heavy reads go ``apart``, or are part of the units like everything else."""
        items: list[Request | Refusal] = []
        heavy: list[tuple[Request, SharedAck]] = []
        acks: list[SharedAck] = []
        for delivery in deliveries:
            acks.append(ack := SharedAck(delivery))
            if delivery.app_id == self._own and ".commands." not in delivery.queue:
                continue
            for item in await self._reader.read(delivery, aside=aside):
                self._received.add(1)
                if isinstance(item, Unreadable):
                    refusal = item.refusal
                    trace = refusal.traceparent if refusal else traceparent(delivery)
                    await self._failures.park(delivery, item.item, item.reason, item.error, trace)
                    items += [refusal] if refusal else []
                elif apart and isinstance(item, Request) and item.session and self.heavy_reads.wants(item):
                    if self.heavy_reads.admit(item):
                        heavy.append((item, ack))
                    else:
                        items.append(Refusal(item.session, item.envelope, _too_many(), item.traceparent))
                else:
                    items.append(item)
        results: list[Result] = []
        receipt = Receipt()
        for unit in requests.units(items, unit_max):
            settled = await self._worker.run(unit)
            results += settled
            try:
                await self._teller.tell(settled, receipt)
            except NOT_TOLD as error:
                receipt.fail(error)
        # Only now: who asks sees what they did just before.
        for request, ack in heavy:
            self.heavy_reads.put(request, ack)
        return self._teller.settle(acks, results, receipt)

    async def _run_heavy(self, reads: Sequence[Request]) -> Taken:
        """Run heavy reads, or what waited behind them, as one unit of work; returns once all is confirmed."""
        started = thread_time()
        results = await self._worker.run(reads)
        took = Taken(thread_time() - started, sum(len(result.settled.answer) for result in results))
        if not any(read.handler.is_heavy_read for read in reads):
            receipt = Receipt()
            try:
                await self._teller.tell(results, receipt)
            except NOT_TOLD as error:
                receipt.fail(error)
            await self._teller.settle((), results, receipt)
            return took
        async for _ in pauses():
            try:
                await self._teller.tell_in_pages(results, self._is_here)
                break
            except NOT_TOLD as error:
                log.warning("not_published", heavy_reads=len(results), error=repr(error)[:300])
        return took


def _too_many() -> Busy:
    return Busy(
        "Too many of your large requests wait for an answer. Try again shortly.",
        retry_after_ms=RETRY_AFTER_MS,
    )
