"""Units of work: requests run in transactions on the store; each gets a result.

A unit of work is one transaction: one query for the inbox, one load, the handlers one after another as plain
functions, one save, one commit. If it fails, the failing requests are found by running parts of it.

Guarantees:

* A request that changes state takes effect once, and has the same outcome each time it is delivered or repeated. Only
  membership changes are adjusted to the current state: a repetition does not put a user back into a group left since,
  nor remove a user from a group joined since (:mod:`towpath.servicekit.storage.group_numbers`).
* If a batch fails, it is divided into halves repeatedly, so that one poison message affects no other. A command that
  fails alone is retried for a while, and finally answered ``internal``; an event is retried later. If the database
  cannot be reached, the batch waits for it instead.
* Requests that may crash or hang the program run in a crash probe first
  (:mod:`towpath.servicekit.handling.crash_probe`).
"""

import asyncio
import inspect
import random
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from time import monotonic, perf_counter
from typing import Any, Final, Generic

import msgspec
import sqlalchemy as sa
import structlog
from opentelemetry.trace import SpanKind
from sqlalchemy.ext.asyncio import AsyncConnection

from towpath.protocol.envelope import make_error
from towpath.protocol.errors import Conflict, ErrorCode, TowpathError
from towpath.protocol.messages import NO_JSON, Session
from towpath.servicekit.handling import memberships
from towpath.servicekit.handling.crash_probe import End, run_crash_probe
from towpath.servicekit.handling.outcome import Outcome, outgoing
from towpath.servicekit.handling.publishing import Result, answer_json
from towpath.servicekit.handling.requests import Refusal, Request, internal_error
from towpath.servicekit.handling.store import Store, U
from towpath.servicekit.handling.watchdog import Overdue
from towpath.servicekit.messaging.dead_letters import DeadLetters
from towpath.servicekit.messaging.failure_headers import FAILED
from towpath.servicekit.runtime.backoff import attempts
from towpath.servicekit.runtime.error_text import describe_error
from towpath.servicekit.runtime.telemetry import Telemetry, trace_id
from towpath.servicekit.storage import group_numbers, inbox
from towpath.servicekit.storage.group_numbers import Groups
from towpath.servicekit.storage.stored_outcome import StoredOutcome

log = structlog.get_logger(__name__)

#: Seconds that an action counts as failing after one of its commands failed for good.
FAILING_SECONDS: Final = 10.0
_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 1.0
#: Seconds that an action runs in a crash probe first after one of its requests crashed or hung.
SUSPICION: Final = 600.0


class Poison(Exception):
    """A request that must not be handled in this process: it crashes or hangs the program.

    Attributes:
        reason: The value of ``x-reason``.
    """

    def __init__(self, reason: End, how: str, request: Request) -> None:
        super().__init__(how)
        self.reason = reason
        self.request = request


@dataclass(frozen=True, slots=True)
class UnitResult:
    """The result of a unit of work.

    Attributes:
        results: The results to publish, in the order of the requests.
        failed: Commands that failed, the first per sender and ordering key, with their errors.
        behind: Requests ordered behind a failed command, which were not run.
    """

    results: list[Result]
    failed: dict[Request, Exception]
    behind: list[Request | Refusal]


class UnitRunner(Generic[U]):
    """Runs units of work.

    Args:
        store: The service's open storage; without one its handlers get ``None`` as their unit of work.
        handler_time_limit: Seconds that a handler may take in a crash probe.
        unit_time_limit: Seconds that a unit of work may take; then it is rolled back and retried.
        try_seconds: Seconds during which a failed command is retried.
        watched: Entered around each handler; it may raise :class:`~towpath.servicekit.handling.watchdog.Overdue`
            inside.
    """

    def __init__(
        self,
        store: Store[U] | None,
        dead_letters: DeadLetters,
        telemetry: Telemetry,
        *,
        handler_time_limit: float,
        unit_time_limit: float,
        try_seconds: float,
        watched: AbstractContextManager[None] | None = None,
    ) -> None:
        self._store = store
        self._dead_letters = dead_letters
        self._telemetry = telemetry
        self._handler_time_limit = handler_time_limit
        self._unit_time_limit = unit_time_limit
        self._watched = watched or nullcontext()
        self._try_seconds = try_seconds
        self._suspected_until: dict[str, float] = {}
        self._failing_until: dict[str, float] = {}
        self._batches_failed = telemetry.counter(
            "batches_failed", "Units of work that failed and were run again in parts"
        )
        self._repeated = telemetry.counter("messages_repeated", "Requests answered from the inbox")
        self._refused = {
            code: telemetry.counter(
                "requests_refused", "Requests answered with an error, by its code", {"code": code.value}
            )
            for code in ErrorCode
        }
        self._unit_seconds = telemetry.histogram("unit_of_work", "Time of one transaction with its handlers")

    async def run(self, items: Sequence[Request | Refusal]) -> "UnitResult":
        """Run one unit of work; failed requests have no result."""
        batch = [item for item in items if isinstance(item, Request)]
        results: dict[Request, Result] = {}
        unpublished: set[inbox.Key] = set()
        failed: dict[Request, Exception] = {}
        while batch:
            try:
                results |= await self._run_when_database_answers(batch, unpublished)
                break
            except Poison as caught:
                poison: Poison | None = caught
            except Exception as error:
                poison = None
                failed = {batch[0]: error}
            if poison is not None:
                results |= await self._park_poison(poison)
                batch = [request for request in batch if request is not poison.request]
                continue
            if len(batch) > 1:
                self._batches_failed.add(1)
                failed, ran = await self._run_in_parts(_parts(batch, failed[batch[0]]), unpublished)
                results |= ran
            break
        events = [request for request in failed if request.session is None]
        for request in events:
            await self._retry_later(request, failed.pop(request))
        troubled = {request.sequence_key for request in failed}
        behind: list[Request | Refusal] = []
        done: list[Request | Refusal] = []
        seen: set[tuple[str, str]] = set()
        for item in items:
            if item in failed:
                seen.add(item.sequence_key)
            elif item.sequence_key in troubled and item.sequence_key in seen:
                behind.append(item)
            else:
                done.append(item)
        return UnitResult(await self._in_order(done, results), failed, behind)

    async def _run_in_parts(
        self, parts: list[Sequence[Request]], unpublished: set[inbox.Key]
    ) -> tuple[dict[Request, Exception], dict[Request, Result]]:
        """Find the failing requests of a failed batch: each part that fails is divided, and run again.

        Requests ordered behind a failed one are not run.

        Args:
            parts: Parts of the batch; the last one runs next.
        """
        failed: dict[Request, Exception] = {}
        results: dict[Request, Result] = {}
        troubled: set[tuple[str, str]] = set()
        while parts:
            part = [request for request in parts.pop() if request.sequence_key not in troubled]
            if not part:
                continue
            try:
                results |= await self._run_when_database_answers(part, unpublished)
            except Poison as poison:
                results |= await self._park_poison(poison)
                parts.append([request for request in part if request is not poison.request])
            except Exception as error:
                if len(part) > 1:
                    parts += _parts(part, error)
                    continue
                (request,) = part
                failed[request] = error
                if request.session is not None:
                    troubled.add(request.sequence_key)
        return failed, results

    async def retry(self, request: Request, error: BaseException) -> list[Result]:
        """Retry a failed command for a while; it takes effect, or is answered ``internal``."""
        action = request.envelope.action
        unpublished = {request.key}  # An earlier COMMIT may have succeeded although its reply was lost.
        last = error
        until = monotonic() + self._try_seconds
        pause = _FIRST_PAUSE
        # An attempt that uses up its time limit costs the other requests that much each time.
        while not isinstance(last, TimeoutError) and not self._fails_for_good(action):
            wait = pause * random.uniform(0.5, 1.0)  # noqa: S311  # jitter
            if monotonic() + wait > until:
                break
            await asyncio.sleep(wait)
            pause = min(2 * pause, _LONGEST_PAUSE)
            try:
                done = await self._run_when_database_answers([request], unpublished)
                return await self._in_order([request], done)
            except Poison as poison:
                return await self._in_order([request], await self._park_poison(poison))
            except Exception as again:
                last = again
        return [await self._give_up(request, last)]

    def _fails_for_good(self, action: str) -> bool:
        return monotonic() < self._failing_until.get(action, 0.0)

    async def _give_up(self, request: Request, error: BaseException) -> Result:
        """Answer ``internal``, and park the command for an operator: it has no effect, now or later."""
        assert request.session is not None
        envelope, trace = request.envelope, request.traceparent
        self._failing_until[envelope.action] = monotonic() + FAILING_SECONDS
        await self._dead_letters.park(
            request.delivery, request.item, FAILED, error, trace, without_effect=True, quiet=True
        )
        log.error(
            "handler_failed",
            action=envelope.action,
            msg_id=envelope.msg_id,
            trace_id=trace_id(trace),
            exc_info=error,
        )
        return self._refuse(request.session, envelope.msg_id, internal_error(), trace)

    async def _retry_later(self, event: Request, error: Exception) -> None:
        """Retry an event later."""
        envelope, trace = event.envelope, event.traceparent
        log.error(
            "event_failed",
            action=envelope.action,
            msg_id=envelope.msg_id,
            trace_id=trace_id(trace),
            exc_info=error,
        )
        await self._dead_letters.retry(event.delivery, event.item, error, trace, sender=event.sender)

    async def _in_order(
        self, items: Sequence[Request | Refusal], results: dict[Request, Result]
    ) -> list[Result]:
        ordered: list[Result] = []
        for item in items:
            if isinstance(item, Refusal):
                ordered.append(self._refuse(item.session, item.envelope.msg_id, item.error, item.traceparent))
            elif item in results:
                ordered.append(results[item])
        for result in ordered:
            if result.park is not None and result.request is not None:
                request = result.request
                await self._dead_letters.park(
                    request.delivery,
                    request.item,
                    result.park.code.value,
                    result.park,
                    request.traceparent,
                    sender=request.sender if request.session is None else None,
                )
        return ordered

    async def _park_poison(self, poison: Poison) -> dict[Request, Result]:
        request = poison.request
        envelope, trace = request.envelope, request.traceparent
        self._suspected_until[envelope.action] = monotonic() + SUSPICION
        if request.session is None:
            await self._dead_letters.park(
                request.delivery, request.item, poison.reason, poison, trace, sender=request.sender
            )
            return {}
        await self._dead_letters.park(
            request.delivery, request.item, poison.reason, poison, trace, without_effect=True
        )
        return {request: self._refuse(request.session, envelope.msg_id, internal_error(), trace)}

    async def _run_when_database_answers(
        self, batch: Sequence[Request], unpublished: set[inbox.Key]
    ) -> dict[Request, Result]:
        """Run ``batch`` as one transaction; waits for the database, however long it cannot be reached.

        Args:
            unpublished: Keys handled by earlier attempts; this attempt adds its keys if it fails. If the inbox has
                such a key now, its COMMIT succeeded although the reply was lost, and its outcome is not published
                yet.
        """
        if self._store is None:
            await self._run_crash_probe(batch, None)
            return {request: self._handle(request, None) for request in batch}
        async for _ in attempts():
            try:
                async with asyncio.timeout(self._unit_time_limit):
                    results = await self._run(self._store, batch, unpublished)
                unpublished.difference_update(request.key for request in batch)
                return results
            except (sa.exc.DBAPIError, sa.exc.TimeoutError, OSError) as error:
                if not await self._store.database.is_database_failure(error):
                    raise
                log.error("database_away", error=describe_error(error, 300))
        raise AssertionError("pauses never end")

    async def _run(
        self, store: Store[U], batch: Sequence[Request], unpublished: set[inbox.Key]
    ) -> dict[Request, Result]:
        started = perf_counter()
        changes = [request for request in batch if request.handler.changes]
        reads = [request for request in batch if not request.handler.changes]
        results: dict[Request, Result] = {}
        writes = any(request.handler.idempotent for request in reads)
        database = store.database
        async with database.transaction() if changes or writes else database.reading() as connection:
            if changes:
                await self._run_changes(store, connection, changes, results, unpublished)
            if reads:
                # After the changes are saved, so that a read sees the earlier changes of its own sender.
                unit = store.unit(connection)
                # Before any read, so that the answers include all changes up to this number.
                as_of = await _number_of(store, connection, reads)
                await unit.load(reads)
                await self._run_crash_probe(reads, unit)
                for request in reads:
                    results[request] = result = self._handle(request, unit)
                    result.as_of = as_of
                if writes:
                    await unit.save()
        self._unit_seconds.record(perf_counter() - started)
        return results

    async def _run_changes(
        self,
        store: Store[U],
        connection: AsyncConnection,
        batch: Sequence[Request],
        results: dict[Request, Result],
        unpublished: set[inbox.Key],
    ) -> None:
        unit = store.unit(connection)
        known = await inbox.find(connection, store.inbox, (request.key for request in batch))
        fresh = [request for request in batch if request.key not in known]
        committed = unpublished & known.keys()
        unpublished.update(request.key for request in fresh)
        if fresh:
            await unit.load(fresh)
            await self._run_crash_probe(fresh, unit)
        new: dict[inbox.Key, StoredOutcome] = {}
        for request in batch:
            settled = known.get(request.key) or new.get(request.key)
            if settled is None:
                result = self._handle(request, unit)
                if result.park is None and not result.is_temporary:
                    new[request.key] = msgspec.structs.replace(result.stored, asked=request.asked)
            elif settled.asked not in ("", request.asked):
                result = self._conflicts(request)
            else:
                self._repeated.add(1)
                tells = request.is_redelivery or request.key in committed
                committed.discard(request.key)
                result = Result(
                    request.session,
                    settled,
                    request.traceparent,
                    request,
                    answer_only=not tells,
                    changed=True,
                )
            results[request] = result
        if fresh:
            await unit.save()
        if new:
            await inbox.store(connection, store.inbox, new)
        if store.groups is not None:
            await _number_changes(store.groups, connection, results.values())

    def _handle(self, request: Request, unit: U | None) -> Result:
        envelope, session = request.envelope, request.session
        with self._telemetry.span(
            f"handle {envelope.action}", request.traceparent, SpanKind.CONSUMER, msg_id=envelope.msg_id
        ) as trace:
            trace = trace or request.traceparent
            try:
                with self._watched:
                    outcome, settled = _handled(request, unit, trace)
            except TowpathError as error:
                if session is None:
                    return Result(None, StoredOutcome(), trace, request, park=error)
                return self._refuse(session, envelope.msg_id, error, trace)
            except Overdue as overdue:
                raise Poison(End.HUNG, str(overdue), request) from overdue
        return Result(session, settled, trace, request, outcome, changed=request.handler.changes)

    async def _run_crash_probe(self, batch: Sequence[Request], unit: U | None) -> None:
        """Handle ``batch`` in a copy of this process, if it may have crashed another one.

        Raises:
            Poison: A request ended the copy.
        """
        if not any(map(self._is_suspected, batch)):
            return
        steps = [partial(_handled, request, unit, request.traceparent) for request in batch]
        if (fell := await run_crash_probe(steps, time_limit=self._handler_time_limit)) is not None:
            raise Poison(fell.end, fell.how, batch[fell.step])

    def _is_suspected(self, request: Request) -> bool:
        if request.is_redelivery:
            return True
        until = self._suspected_until.get(request.envelope.action)
        return until is not None and monotonic() < until

    def _conflicts(self, request: Request) -> Result:
        error = Conflict(
            f"The msg_id {request.envelope.msg_id!r} was used for another request; choose a new one."
        )
        if request.session is None:
            return Result(None, StoredOutcome(), request.traceparent, request, park=error)
        return self._refuse(request.session, request.envelope.msg_id, error, request.traceparent)

    def _refuse(self, session: Session, msg_id: str, error: TowpathError, trace: str) -> Result:
        self._refused[error.code].add(1)
        answer = make_error(error, correlation_id=msg_id, trace_id=trace_id(trace))
        settled = StoredOutcome(answer=msgspec.Raw(answer.to_json()))
        return Result(session, settled, trace, is_temporary=error.code.retryable)


async def _number_of(store: Store[Any], connection: AsyncConnection, reads: Sequence[Request]) -> int:
    if store.groups is None or not any(request.handler.groups for request in reads):
        return 0
    return await group_numbers.read_number(connection, store.groups.numbers)


async def _number_changes(kept: Groups, connection: AsyncConnection, results: Iterable[Result]) -> None:
    changing = [result for result in results if result.stored.changes_groups]
    if not changing:
        return
    # Last, because other transactions wait for the number; and before the correction, which then sees all changes
    # with lower numbers.
    number = await group_numbers.next_number(connection, kept.numbers)
    await memberships.correct(connection, kept.may_receive, changing)
    for result in changing:
        result.as_of = number


def _parts(batch: Sequence[Request], error: Exception) -> list[Sequence[Request]]:
    """The parts to run of a batch that failed with ``error``; the last one runs next.

    Halves: usually few requests fail, and each unit of work costs a commit. One by one, a large batch would delay all
    others by as many commits. But after a timeout each half with the slow request would use up its time again.
    """
    if isinstance(error, TimeoutError):
        return [[request] for request in reversed(batch)]
    middle = len(batch) // 2
    return [batch[middle:], batch[:middle]]


def _handled(request: Request, unit: Any, trace: str) -> tuple[Outcome, StoredOutcome]:
    """The handler's outcome, and its stored form as far as it is known before the replay."""
    outcome: Any
    if request.session is None:
        outcome = request.handler.run(request.payload, unit)
    else:
        outcome = request.handler.run(request.payload, request.session, unit)
    if not isinstance(outcome, Outcome):
        if inspect.iscoroutine(outcome):
            outcome.close()
        raise TypeError(
            f"the handler of {request.envelope.action} returned {type(outcome).__name__}, and not an Outcome"
        )
    waits_for_replay = callable(outcome.answer) and bool(outcome.replay)
    settled = StoredOutcome(
        answer=NO_JSON if waits_for_replay else answer_json(request, outcome, {}, trace),
        outgoing=outgoing(outcome),
        subscribe=list(outcome.subscribe if outcome.groups is None else outcome.groups),
        unsubscribe=list(outcome.unsubscribe),
        replay=dict(outcome.replay),
        complete=outcome.groups is not None,
        leaves=list({leave.token: leave for push in outcome.pushes for leave in push.leaves}.values()),
    )
    return outcome, settled
