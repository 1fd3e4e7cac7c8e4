"""The dispatcher: deliveries are decoded, handled and their outcomes published, in order; then they are acked.

It puts together the :class:`~towpath.servicekit.handling.reader.Reader`, the
:class:`~towpath.servicekit.handling.unit_runner.UnitRunner` and the
:class:`~towpath.servicekit.handling.publishing.Publishing`. A batch is one set-based unit of work: a few queries,
one commit, one publish per target, one ack per delivery. Handlers do no I/O: they check, then change state, then
return an :class:`~towpath.servicekit.handling.outcome.Outcome`.

Guarantees:

* A delivery is acked only after its effects are committed and the broker has confirmed every message it causes.
* Three kinds of failure: an unreadable message is parked; a :class:`~towpath.protocol.errors.TowpathError` is an
  ``error`` answer (an event is parked); any other error is retried, for a command in place
  (:mod:`towpath.servicekit.handling.command_retries`), for an event later.
* A handler that hangs is interrupted and its request parked (:mod:`towpath.servicekit.handling.watchdog`). A
  handler that
  crashes the program does so once: redelivered requests are first run in a forked copy of the process, and parked if
  the copy crashes (:mod:`towpath.servicekit.handling.crash_probe`).
* Heavy reads run separately (:mod:`towpath.servicekit.handling.heavy_reads`); other requests never wait for them.
* The next unit of work is chosen from all waiting requests, including new arrivals, and shared fairly between senders
  (:mod:`towpath.servicekit.handling.pending`).
"""

from collections.abc import Callable, Coroutine, Sequence
from contextlib import AbstractContextManager
from time import thread_time
from typing import Any, Final, Generic

import structlog

from towpath.protocol.errors import Busy
from towpath.protocol.messages import Session
from towpath.servicekit.broker.interface import Delivery
from towpath.servicekit.handling.command_retries import CommandRetries
from towpath.servicekit.handling.heavy_reads import RETRY_AFTER_MS, Bounds, HeavyReads, RoundCost
from towpath.servicekit.handling.pending import PendingRequests
from towpath.servicekit.handling.publishing import PUBLISH_ERRORS, Publishing, Result, SharedAck
from towpath.servicekit.handling.reader import Reader, needs_isolation, returns, traceparent
from towpath.servicekit.handling.requests import Handlers, Refusal, Request, Unreadable
from towpath.servicekit.handling.store import Store, U
from towpath.servicekit.handling.unit_runner import UnitResult, UnitRunner
from towpath.servicekit.messaging import senders
from towpath.servicekit.messaging.confirms import PendingConfirms
from towpath.servicekit.messaging.dead_letters import DeadLetters
from towpath.servicekit.messaging.publisher import Publisher
from towpath.servicekit.runtime.backoff import attempts
from towpath.servicekit.runtime.error_text import describe_error
from towpath.servicekit.runtime.telemetry import Telemetry
from towpath.servicekit.storage.replays import Replays

log = structlog.get_logger(__name__)

Completion = Coroutine[Any, Any, None]
_DEFAULT_BOUNDS: Final = Bounds()
#: Seconds that a suspect redelivery waits for the suspect before it to be settled.
_SUSPECT_SECONDS: Final = 60.0


class Dispatcher(Generic[U]):
    """Turns deliveries into effects, answers and pushes.

    Args:
        store: The service's open storage; without one its handlers get ``None`` as their unit of work.
        commands: The service's table of actions.
        events: Its table of events on ``towpath.events``.
        own: The service's name: its own events are acked without being handled.
        unit_max: Maximum number of requests in one unit of work.
        replay_limit, replay_max_bytes: Maximum number and bytes of stream entries that one request replays.
        handler_time_limit: Seconds that a handler may take in a crash probe.
        unit_time_limit: Seconds that a unit of work may take; then it is rolled back and retried.
        try_seconds: Seconds during which a failed command is retried.
        crash_limit: Number of redeliveries from which the first suspect delivery is deferred instead of handled.
        watched: Entered around each handler; it may raise :class:`~towpath.servicekit.handling.watchdog.Overdue`
            inside.
        heavy: Bounds of the heavy reads.
        is_connected: False if a session's connection is known to have ended.

    Attributes:
        heavy_reads, command_retries: Background work; run it beside the consumer.
    """

    def __init__(
        self,
        commands: Handlers,
        events: Handlers,
        store: Store[U] | None,
        publisher: Publisher,
        dead_letters: DeadLetters,
        telemetry: Telemetry,
        *,
        own: str,
        unit_max: int,
        replay_limit: int,
        replay_max_bytes: int = 1024 * 1024,
        handler_time_limit: float = 10.0,
        unit_time_limit: float = 30.0,
        try_seconds: float = 2.5,
        crash_limit: int = 5,
        watched: AbstractContextManager[None] | None = None,
        heavy: Bounds = _DEFAULT_BOUNDS,
        is_connected: Callable[[Session], bool] = lambda _: True,
    ) -> None:
        self._reader = Reader(
            commands, events, dead_letters, telemetry, time_limit=handler_time_limit, watched=watched
        )
        self._worker = UnitRunner(
            store,
            dead_letters,
            telemetry,
            handler_time_limit=handler_time_limit,
            unit_time_limit=unit_time_limit,
            try_seconds=try_seconds,
            watched=watched,
        )
        replays = (
            None if store is None else Replays(store.database, store.streams, replay_limit, replay_max_bytes)
        )
        self._publishing = Publishing(publisher, replays, None if store is None else store.streams.confirmed)
        self._pool = PendingRequests()
        self.command_retries = CommandRetries(self._run_to_end, telemetry)
        self._is_here = is_connected
        self.heavy_reads = HeavyReads(self._run_heavy, heavy, is_connected, telemetry)
        self._dead_letters = dead_letters
        self._own = own
        self._unit_max = unit_max
        self._crash_limit = crash_limit
        self._received = telemetry.counter("messages_received", "Requests and events taken")

    @property
    def waiting_bytes(self) -> int:
        """Bytes of the requests that were taken and wait for a unit of work; 0 when none waits."""
        return self._pool.bytes

    async def dispatch(self, deliveries: Sequence[Delivery]) -> Completion:
        """Handle ``deliveries`` in order, after the requests that already wait.

        Returns once the effects are committed and every resulting message is queued in order. Awaiting the returned
        coroutine waits for the broker's confirms and then acks the deliveries.
        """
        await self.take(deliveries)
        settling = [await self.work() for _ in iter(self._pool.has_more, False)]
        await self.command_retries.end_all()
        return _one_by_one(settling)

    async def take(self, deliveries: Sequence[Delivery]) -> None:
        """Queue the requests of ``deliveries`` behind those that already wait."""
        # In an order that is the same after each restart: else other deliveries could always come before the culprit.
        doubtful = sorted(filter(needs_isolation, deliveries), key=lambda delivery: delivery.queue)
        if doubtful:
            await self._settle_all(self._unit_max)
        limit_reached = False
        for delivery in doubtful:
            # Each is settled before the next one starts. So a delivery that crashes the program is always the first
            # of the redelivered ones, and no other delivery has to be deferred with it.
            defer = not limit_reached and returns(delivery) >= self._crash_limit
            limit_reached |= defer
            await self._take(delivery, defer=defer, apart=False)
            await self._settle_all(unit_max=1)
        for delivery in deliveries:
            if not doubtful or delivery not in doubtful:
                await self._take(delivery)

    async def work(self) -> Completion:
        """Run the next unit of work; returns the same kind of coroutine as :meth:`dispatch`."""
        return await self._work(self._unit_max)

    async def _settle_all(self, unit_max: int) -> None:
        while self._pool.has_more():
            await (await self._work(unit_max))
            await self.command_retries.end_all()
            await self.command_retries.finished(_SUSPECT_SECONDS)

    async def _take(self, delivery: Delivery, *, defer: bool = False, apart: bool = True) -> None:
        """Decode one delivery; its heavy reads run separately if ``apart``, else in the units of work."""
        ack = SharedAck(delivery)
        if senders.service_of(delivery) != self._own or ".commands." in delivery.queue:
            for item in await self._reader.read(delivery, defer=defer):
                self._received.add(1)
                if isinstance(item, Unreadable):
                    refusal = item.refusal
                    trace = refusal.traceparent if refusal else traceparent(delivery)
                    await self._dead_letters.park(delivery, item.item, item.reason, item.error, trace)
                    if refusal:
                        self._pool.add(refusal, len(item.item), ack)
                elif self.command_retries.holds(item):
                    ack.hold()
                    self.command_retries.put(item, ack)
                elif apart and isinstance(item, Request) and item.session and self.heavy_reads.wants(item):
                    if self.heavy_reads.admit(item):
                        self._pool.add_heavy_read(item, ack)
                    else:
                        refusal = Refusal(item.session, item.envelope, _too_many(), item.traceparent)
                        self._pool.add(refusal, len(item.item), ack)
                else:
                    size = len(item.item) if isinstance(item, Request) else 0
                    self._pool.add(item, size, ack)
        self._pool.all_added(ack)

    async def _work(self, unit_max: int) -> Completion:
        unit, acks = self._next_unit(unit_max)
        results: list[Result] = []
        confirms = PendingConfirms()
        if unit:
            ran = await self._worker.run(unit)
            results = ran.results
            if ran.failed:
                acks = self._start_retries(ran, unit, acks)
            try:
                await self._publishing.publish(results, confirms)
            except PUBLISH_ERRORS as error:
                confirms.fail(error)
        # Only now, so that a heavy read sees the earlier changes of its own sender.
        for request, ack in self._pool.ready_heavy_reads():
            self.heavy_reads.put(request, ack)
            acks.append(ack)
        return self._publishing.complete(acks, results, confirms)

    def _next_unit(self, unit_max: int) -> tuple[list[Request | Refusal], list[SharedAck]]:
        unit, acks = self._pool.next_unit(unit_max)
        if not any(map(self.command_retries.holds, unit)):
            return unit, acks
        idle = acks[: len(acks) - len(unit)]
        free: list[Request | Refusal] = []
        for item, ack in zip(unit, acks[len(idle) :], strict=True):
            if self.command_retries.holds(item):
                self.command_retries.put(item, ack)
            else:
                free.append(item)
                idle.append(ack)
        return free, idle

    def _start_retries(
        self, ran: UnitResult, unit: Sequence[Request | Refusal], acks: Sequence[SharedAck]
    ) -> list[SharedAck]:
        """Move failed commands, and the requests ordered behind them, to the retries; returns the acks of the
        others."""
        idle = list(acks[: len(acks) - len(unit)])
        behind = {id(item) for item in ran.behind}
        for item, ack in zip(unit, acks[len(idle) :], strict=True):
            if isinstance(item, Request) and item in ran.failed:
                self.command_retries.begin(item, ack, ran.failed[item])
            elif id(item) in behind:
                self.command_retries.put(item, ack)
            else:
                idle.append(ack)
        return idle

    async def _run_to_end(
        self, items: Sequence[Request | Refusal], error: BaseException | None = None
    ) -> list[Result]:
        """Run requests until each has its result, and wait until every resulting message is confirmed.

        Args:
            error: The error of the first request, a command that has failed already.
        """
        waiting = list(items)
        results: list[Result] = []
        while waiting:
            if error is not None and isinstance(first := waiting[0], Request):
                new, waiting, error = await self._worker.retry(first, error), waiting[1:], None
            else:
                ran = await self._worker.run(waiting)
                new, waiting = ran.results, ran.behind
                for request, why in ran.failed.items():
                    new += await self._worker.retry(request, why)
            confirms = PendingConfirms()
            try:
                await self._publishing.publish(new, confirms)
            except PUBLISH_ERRORS as untold:
                confirms.fail(untold)
            await self._publishing.complete((), new, confirms)
            results += new
        return results

    async def _run_heavy(self, reads: Sequence[Request]) -> RoundCost:
        """Run heavy reads, or requests that waited behind them, as one unit of work; returns once all is
        confirmed."""
        started = thread_time()
        if not any(read.handler.is_heavy_read for read in reads):
            results = await self._run_to_end(reads)
            return _taken(started, results)
        ran = await self._worker.run(reads)
        results = ran.results
        for request, error in ran.failed.items():
            results += await self._worker.retry(request, error)
        took = _taken(started, results)
        async for _ in attempts():
            try:
                await self._publishing.publish_in_pages(results, self._is_here)
                break
            except PUBLISH_ERRORS as error:
                log.warning("not_published", heavy_reads=len(results), error=describe_error(error, 300))
        if ran.behind:
            await self._run_to_end(ran.behind)
        return took


def _taken(started: float, results: Sequence[Result]) -> RoundCost:
    return RoundCost(thread_time() - started, sum(len(result.stored.answer) for result in results))


async def _one_by_one(settling: Sequence[Completion]) -> None:
    for settled in settling:
        await settled


def _too_many() -> Busy:
    return Busy(
        "Too many of your large requests wait for an answer. Try again shortly.",
        retry_after_ms=RETRY_AFTER_MS,
    )
