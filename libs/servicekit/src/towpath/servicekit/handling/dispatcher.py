"""From delivery to ack: what a batch goes through. Read this module first; the rest of the folder serves it.

::

    take     delivery ──▶ Reader ──▶ Backlog         unreadable ──▶ dead queue
    work                             Backlog ──▶ Transactions ──▶ Publishing ──▶ confirms ──▶ ack
    run      beside it, the same for heavy reads, and for failed commands that are retried

A batch is one set-based unit of work: a few queries, one commit, one publish per target, one ack per delivery.
Handlers do no I/O: they check, then change state, then return an
:class:`~towpath.servicekit.handling.outcome.Outcome`. One unit runs at a time; while it runs, up to four earlier ones
wait for their confirms (:mod:`towpath.servicekit.messaging.consumer`).

Five nouns: a *request* arrives; a handler returns an *outcome*; the inbox keeps the *stored outcome*; a *publication*
is one text that is published; a *result* is one request and what became of it.

Guarantees, and where each is kept:

1. **Ack last.** A delivery is acked after its effects are committed and the broker has confirmed everything that
   follows from them. :meth:`Dispatcher._settle` and :meth:`Dispatcher._finish_beside` wait for the confirms;
   ``acks`` counts.
2. **Once.** A request that changes state takes effect once; a repetition gets the stored outcome. The inbox row is
   written in the same transaction (``transactions``, cases 1-6).
3. **Nothing committed stays unpublished.** What has no confirm is published again, until it has one or the program
   ends; then the broker delivers it again, and 2 applies (``publishing``, cases 1-4).
4. **Order.** Requests with the same sender and ordering key are handled and published in the order of arrival, also
   behind a heavy read or a command that is retried (``backlog``).
5. **Fairness.** A flood delays other users by one unit of work, not by the flood (``fairness``).
6. **A failure costs its own request.** Unreadable: parked. ``TowpathError``: the command is answered with ``error``,
   the event is parked. Any other error: a command is retried for ``try_seconds`` and then answered
   ``internal`` (``retries``); an event goes to the retry queues (``transactions``).
7. **Heavy reads delay no other request.** They run in rounds beside the main path, one per user at a time
   (``reads``).
8. **One crash per culprit.** (a) A handler that hangs is interrupted (``watchdog``). (b) What the broker delivers
   again runs in a forked copy first (``crash_probe``). (c) What was redelivered twice runs alone, each request
   settled before the next (:meth:`Dispatcher._isolate`), so that the culprit of the next crash is known.
   https://www.rabbitmq.com/docs/quorum-queues#poison-message-handling

Three mechanisms in 8, because each sees what the others cannot: the watchdog a first hang, the probe a first crash in
a handler, isolation a crash anywhere else (``load``, ``save``, the driver).
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import AbstractContextManager, nullcontext
from time import thread_time
from typing import Any, Final, Generic, TypeVar

from towpath.protocol.messages import Session
from towpath.servicekit.broker.interface import Delivery
from towpath.servicekit.handling.acks import Acks
from towpath.servicekit.handling.backlog import Backlog
from towpath.servicekit.handling.effects import EffectQueue
from towpath.servicekit.handling.invocation import Invocation
from towpath.servicekit.handling.publishing import Publishing
from towpath.servicekit.handling.reader import Reader, needs_isolation, returns
from towpath.servicekit.handling.reads import ReadTurns
from towpath.servicekit.handling.requests import HandlerTables, Request
from towpath.servicekit.handling.result import Failed, Result
from towpath.servicekit.handling.retries import Retries
from towpath.servicekit.handling.store import Store, U
from towpath.servicekit.handling.transactions import Transactions
from towpath.servicekit.messaging.confirms import PendingConfirms
from towpath.servicekit.messaging.publisher import Publisher
from towpath.servicekit.runtime.settings import ServiceSettings
from towpath.servicekit.runtime.telemetry import Telemetry

T = TypeVar("T")

Completion = Coroutine[Any, Any, None]

#: Failed commands that are retried at a time: each takes up to ``try_seconds``, most of it pauses.
_RETRIES: Final = 8
#: Rounds of heavy reads at a time: while one waits for its confirms, another one reads.
_READ_ROUNDS: Final = 2
#: Seconds that isolation waits for the work beside the main path. Longer work stays unacked meanwhile.
_ISOLATION_SECONDS: Final = 60.0
_NOT_WATCHED: Final[AbstractContextManager[None]] = nullcontext()


class Dispatcher(Generic[U]):
    """Turns deliveries into effects, answers and pushes.

    Args:
        tables: The service's handlers, and its name.
        store: The service's open storage; ``None`` for a service that keeps nothing.
        publisher: Answers, pushes, events and dead letters are published through it.
        settings: The limits: ``unit_max_items``, ``try_seconds``, ``crash_limit``, ``handler_time_limit`` and others.
        watchdog: Entered around each handler and each validator; it may raise
            :class:`~towpath.servicekit.handling.watchdog.Overdue` inside.
        is_connected: False for a session whose connection is known to have ended: its heavy reads are not run.
        effects: Stores the effects that outcomes declare.
    """

    def __init__(
        self,
        tables: HandlerTables,
        store: Store[U] | None,
        publisher: Publisher,
        settings: ServiceSettings,
        telemetry: Telemetry,
        *,
        watchdog: AbstractContextManager[None] = _NOT_WATCHED,
        is_connected: Callable[[Session], bool] = lambda _: True,
        effects: EffectQueue | None = None,
    ) -> None:
        self._settings = settings
        self._is_connected = is_connected
        dead_letters = publisher.dead_letters
        self._acks = Acks()
        self._reader = Reader(tables, dead_letters, settings.handler_time_limit, watchdog, telemetry)
        self._backlog = Backlog(telemetry)
        self._reads = ReadTurns(self._backlog, settings, telemetry)
        invocation = Invocation(watchdog, settings.handler_time_limit, telemetry)
        self._transactions = Transactions(
            tables.service, store, invocation, dead_letters, settings.unit_time_limit, telemetry, effects
        )
        self._retries = Retries(self._transactions, invocation, dead_letters, settings.try_seconds)
        self._publishing = Publishing(publisher, store, settings, is_connected, telemetry)
        self._not_run = telemetry.counter(
            "heavy_reads_gone", "Heavy reads not run: their connection had gone"
        )

    @property
    def waiting_bytes(self) -> int:
        """Bytes of the requests that wait for the main path; 0 if :meth:`work` has nothing to do."""
        return self._backlog.ready_bytes

    async def until_ready(self) -> None:
        """Wait until the main path has work without a delivery: what its requests waited for beside it has ended."""
        await self._backlog.until_ready()

    # The main path

    async def take(self, deliveries: Sequence[Delivery]) -> None:
        """Read ``deliveries`` into the backlog, in their order."""
        # Suspects run before the rest of this intake: if one ends the program again, it was alone in its unit.
        suspects = [delivery for delivery in deliveries if needs_isolation(delivery)]
        if suspects:
            await self._isolate(suspects)
        for delivery in deliveries:
            if not suspects or delivery not in suspects:
                await self._take(delivery)

    async def work(self) -> Completion:
        """Run the next unit of work and queue what follows from it, in order.

        Awaiting the returned coroutine waits for the broker's confirms, and then acks.
        """
        return await self._work(self._settings.unit_max_items)

    async def _work(self, unit_max: int) -> Completion:
        unit = self._backlog.next_unit(unit_max)  # Guarantees 4 and 5.
        ran = await self._transactions.run(unit)  # Committed on return: 2 and 6.
        # On return all is queued in order, and group changes are confirmed: 3.
        confirms = await self._publishing.publish(ran.results)
        # Only now may a heavy read of the same sender start: it sees what this unit did, and is answered after it.
        self._backlog.unit_done(ran.failed)
        return self._settle(ran.results, confirms)

    async def _settle(self, results: Sequence[Result], confirms: PendingConfirms) -> None:
        """Wait until the broker has everything, then ack: guarantee 1."""
        # An ack is final: RabbitMQ forgets the delivery, and nothing would cause a lost message to be published
        # again. https://www.rabbitmq.com/docs/confirms#acknowledgement-modes
        await self._publishing.until_confirmed(results, confirms)
        for result in results:
            self._acks.release(result.request.delivery)

    async def _take(self, delivery: Delivery, *, isolated: bool = False, defer: bool = False) -> None:
        requests = await self._reader.read(delivery, isolated=isolated, defer=defer)
        # Before any of them can finish, because `release` counts down from here. Without requests (all items parked,
        # or events without a handler) the delivery is acked now.
        self._acks.hold(delivery, len(requests))
        for request in requests:
            self._backlog.add(self._reads.admitted(request))

    # Beside it: heavy reads, and failed commands

    async def run(self) -> None:
        """Run what goes beside the main path, until cancelled. An unexpected error ends it, and the program."""
        async with asyncio.TaskGroup() as tasks:
            # A fixed number of tasks: whatever fails, at most this much competes with the main path.
            for number in range(_RETRIES):
                retries = self._keep_running(self._backlog.next_retry, self._retry)
                tasks.create_task(retries, name=f"retries {number}")
            for number in range(_READ_ROUNDS):
                rounds = self._keep_running(self._reads.next_round, self._read)
                tasks.create_task(rounds, name=f"heavy reads {number}")

    async def finished(self, timeout: float) -> bool:
        """Wait until nothing is left beside the main path, or the main path has work again (:attr:`waiting_bytes`).

        Returns:
            False if that takes longer than ``timeout`` seconds.
        """
        return await self._backlog.ready_or_empty(timeout)

    async def _keep_running(self, take: Callable[[], T | None], run: Callable[[T], Awaitable[None]]) -> None:
        while True:
            # No `await` between the look and the wait, so no change is missed: see `Backlog.changed`.
            if (taken := take()) is None:
                await self._backlog.changed()
                continue
            await run(taken)
            await asyncio.sleep(0)  # New arrivals of the main path come first.

    async def _retry(self, failed: Failed) -> None:
        result = await self._retries.run(failed.request, failed.error)
        await self._finish_beside([failed.request], [result])

    async def _read(self, reads: Sequence[Request]) -> None:
        """Run a round of heavy reads as one unit; those whose connection has ended are finished without running."""
        wanted = [read for read in reads if read.session is None or self._is_connected(read.session)]
        self._not_run.add(len(reads) - len(wanted))
        results: list[Result] = []
        if wanted:
            # Processor time: while a round waits for the database, the event loop serves other users.
            since = thread_time()
            ran = await self._transactions.run(wanted)
            # Here and now: they are the first of their lines, and nothing else of their lines runs.
            retried = [await self._retries.run(one.request, one.error) for one in ran.failed]
            results = ran.results + retried
            size = sum(len(result.stored.answer) for result in results)
            self._reads.learn(wanted, thread_time() - since, size)
        await self._finish_beside(reads, results, in_pages=True)
        # After the confirms: the next heavy read of the same user starts only now, so a user who asks for ten large
        # answers has one of them in the memory of this process.
        self._reads.finished(reads)

    async def _finish_beside(
        self, requests: Sequence[Request], results: Sequence[Result], *, in_pages: bool = False
    ) -> None:
        """Publish ``results`` until the broker has everything; then what waits behind ``requests`` goes on."""
        confirms = await self._publishing.publish(results, in_pages=in_pages)
        await self._publishing.until_confirmed(results, confirms, in_pages=in_pages)
        for request in requests:
            self._reads.release(self._backlog.finish(request))  # Guarantee 4.
            self._acks.release(request.delivery)  # Guarantee 1.

    # Isolation: guarantee 8c

    async def _isolate(self, suspects: Sequence[Delivery]) -> None:
        """Handle ``suspects`` one request at a time, each settled before the next is read.

        So a crash is always the fault of the first suspect. The first one that was redelivered ``crash_limit`` times
        is deferred unread, through the retry queues, and nothing else with it.
        """
        # Nothing that was taken before may still be in work, or a crash from here on could be its fault.
        await self._drain(self._settings.unit_max_items)
        may_defer = True
        # By queue: the same order after each restart, or others could come before the culprit each time.
        for delivery in sorted(suspects, key=lambda one: one.queue):
            defer = may_defer and returns(delivery) >= self._settings.crash_limit
            may_defer = may_defer and not defer
            await self._take(delivery, isolated=True, defer=defer)
            # One request per transaction: two requests that share one could only be blamed together.
            await self._drain(unit_max=1)

    async def _drain(self, unit_max: int) -> None:
        """Run and settle everything that was taken; what runs beside the main path may free more."""
        while True:
            while self._backlog.ready_bytes:
                await (await self._work(unit_max))
            # Ready requests are a reason to go on, not to return: they waited behind the work beside the main path.
            if not await self.finished(_ISOLATION_SECONDS) or not self._backlog.ready_bytes:
                return
