"""Transactions: a unit of work is one transaction, and the requests that make it fail find themselves.

One query for the inbox, one load, the handlers one after another as plain functions, one save, one commit. The inbox
row of a request is written in the transaction of its effect: so it takes effect once, and every repetition gets the
same outcome. Its key (sender and ``msg_id``) may be known already; the cases:

1. The inbox does not know the key: the handler runs, and its outcome is stored.
2. Known, and the *client* repeats it: the stored answer only; its pushes were published long ago.
3. Known, and the *broker* delivers it again: all of it is published again; the first time may never have left.
4. Known, and the key is in ``_unsure``: an earlier attempt of this process has committed it, but the reply to COMMIT
   was lost. Nothing of it was published. As 3.
5. Known with another fingerprint: another request uses the id. ``conflict``.
6. Twice in one unit: the second one gets the answer of the first, as in 2.

In all of them group changes are reduced to what is correct now (:mod:`towpath.servicekit.handling.memberships`). A
refusal that may pass has no row (:attr:`~towpath.servicekit.handling.result.Result.is_final`): its repetition runs.
Reads and idempotent writes have none either.

Guarantees:

* A request that fails affects no other: a unit that fails is divided and run again, until the failing requests are
  alone. Requests with the sequence of a failed command, behind it, are not run.
* While the database cannot be reached, a unit waits for it; it does not fail.
"""

import asyncio
from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager, nullcontext
from time import perf_counter
from typing import Final, Generic

import sqlalchemy as sa
import structlog
from msgspec.structs import replace
from sqlalchemy.ext.asyncio import AsyncConnection

from towpath.protocol.errors import Conflict, TowpathError
from towpath.servicekit.handling import memberships
from towpath.servicekit.handling.effects import EffectQueue, NoEffects
from towpath.servicekit.handling.invocation import Invocation, Poison
from towpath.servicekit.handling.outcome import Effect
from towpath.servicekit.handling.requests import Request, internal_error
from towpath.servicekit.handling.result import Failed, Ran, Result
from towpath.servicekit.handling.store import Store, U
from towpath.servicekit.messaging.dead_letters import DeadLetters
from towpath.servicekit.runtime import conventions
from towpath.servicekit.runtime.backoff import attempts
from towpath.servicekit.runtime.error_text import describe_error, without_frames
from towpath.servicekit.runtime.telemetry import Telemetry
from towpath.servicekit.runtime.trace_context import trace_id
from towpath.servicekit.storage import inbox
from towpath.servicekit.storage.stored_outcome import StoredOutcome

log = structlog.get_logger(__name__)

_NO_SPAN: Final[AbstractContextManager[object]] = nullcontext()


class Transactions(Generic[U]):
    """Runs units of work.

    Args:
        store: The service's open storage; without one its handlers get ``None`` as their unit of work.
        service: The name of the service.
        unit_time_limit: Seconds that a transaction may take; then it is rolled back.
        effects: Stores the effects that outcomes declare; ``None`` for a service without any.
    """

    def __init__(
        self,
        service: str,
        store: Store[U] | None,
        invocation: Invocation,
        dead_letters: DeadLetters,
        unit_time_limit: float,
        telemetry: Telemetry,
        effects: EffectQueue | None = None,
    ) -> None:
        self._service = service
        self._store = store
        self._effects = effects
        self._invocation = invocation
        self._dead_letters = dead_letters
        self._unit_time_limit = unit_time_limit
        #: Keys whose transaction this process has begun and has not seen end; empty but for failures.
        self._unsure: set[inbox.Key] = set()
        self._divided = telemetry.counter(
            "batches_failed", "Units of work that failed and were run again in parts"
        )
        self._repeated = telemetry.counter("messages_repeated", "Requests answered from the inbox")
        self._unit_seconds = telemetry.histogram("unit_of_work", "Time of one transaction with its handlers")
        self._unit_sizes = telemetry.sizes("unit_of_work_requests", "Requests and events in one transaction")
        self._telemetry = telemetry

    async def run(self, requests: Sequence[Request]) -> Ran:
        """Run one unit of work. On return each request has taken effect, is refused or parked, or has failed."""
        with self._span(requests):
            results, errors = await self._run_in_parts([one for one in requests if one.refusal is None])
        failed: dict[tuple[str, str], Failed] = {}
        ordered: list[Result] = []
        for request in requests:
            # Not run, or it would overtake the retry of the command before it (guarantee 4 of the dispatcher).
            if failed and (leader := failed.get(request.sequence_key)) is not None:
                leader.behind.append(request)
            # Refused before it ran (unreadable, `busy`): the answer has its place among the others of its sender.
            elif request.refusal is not None:
                ordered.append(self._invocation.refuse(request, request.refusal))
            elif request in results:
                ordered.append(result := results[request])
                # An event has no sender that waits for an error: an operator finds it in the dead queue.
                if result.error is not None and request.session is None:
                    await self._park_refused(request, result.error)
            # A late event does no harm, so it may leave its position and be retried in seconds or minutes (ADR 20).
            elif request.session is None:
                ordered.append(await self._retry_later(request, errors[request]))
            else:
                # Its sender waits for an answer, so a command is retried in its position, for a moment (ADR 20).
                failed[request.sequence_key] = Failed(request, errors[request])
        return Ran(ordered, list(failed.values()))

    async def attempt(self, request: Request) -> Result:
        """Run a command that failed before once more, alone.

        Raises:
            Exception: It failed again.
        """
        try:
            with self._span([request]):
                results = await self._when_database_answers([request])
        except Poison as poison:
            return await self._park_poison(poison)
        return results[request]

    def forget(self, request: Request) -> None:
        """Nothing will attempt ``request`` again."""
        self._unsure.discard(request.key)

    def _span(self, requests: Sequence[Request]) -> AbstractContextManager[object]:
        """The span of a unit of work: below the first recorded trace of its requests, linked to the others."""
        traces = self._telemetry.recorded(request.traceparent for request in requests)
        if not traces:
            return _NO_SPAN
        return self._telemetry.batch(
            conventions.process(self._service),
            traces,
            conventions.CONSUMER,
            conventions.processing(self._service, len(requests)),
        )

    # Dividing

    async def _run_in_parts(
        self, requests: list[Request]
    ) -> tuple[dict[Request, Result], dict[Request, Exception]]:
        """Run ``requests`` as one transaction; each part that fails is divided, and run again."""
        results: dict[Request, Result] = {}
        errors: dict[Request, Exception] = {}
        #: Sequences of failed commands. Events have none: they are retried later, and nothing waits for them.
        held_back: set[tuple[str, str]] = set()
        parts = [requests]  # The last one runs next.
        is_divided = False
        while parts:
            part = parts.pop()
            # A part may hold requests behind a command that failed after the part was made.
            if held_back:
                part = [request for request in part if request.sequence_key not in held_back]
            if not part:
                continue
            try:
                results |= await self._when_database_answers(part)
            except Poison as poison:
                # Nothing of the part is committed. The others run again together: they are not the reason.
                results[poison.request] = await self._park_poison(poison)
                parts.append([request for request in part if request is not poison.request])
            except Exception as error:
                # The part was rolled back as a whole, so to run it in smaller ones repeats no effect. If it was
                # committed and only the reply to COMMIT was lost, its requests are found in the inbox: case 4.
                if len(part) > 1:
                    if not is_divided:
                        self._divided.add(1)
                    is_divided = True
                    # On the top of the stack, the first half last: the order of arrival holds across parts.
                    parts += _parts(part, error)
                    continue
                # Alone, and it fails: this request is the reason. `run` decides by its kind.
                errors[part[0]] = error
                if part[0].session is not None:
                    held_back.add(part[0].sequence_key)
        return results, errors

    async def _park_refused(self, event: Request, error: TowpathError) -> None:
        """Park an event that its handler refuses; only once nothing rolls its unit back, or it is parked twice."""
        await self._dead_letters.park(
            event.delivery, event.item, error.code.value, error, event.traceparent, sender=event.sender
        )
        without_frames(error)

    async def _retry_later(self, event: Request, error: Exception) -> Result:
        """An event that fails goes to the retry queues."""
        self.forget(event)
        trace = event.traceparent
        log.error(
            "event_failed",
            action=event.envelope.action,
            msg_id=event.envelope.msg_id,
            trace_id=trace_id(trace),
            exc_info=error,
        )
        await self._dead_letters.retry(event.delivery, event.item, error, trace, sender=event.sender)
        without_frames(error)
        return Result(event, StoredOutcome(), trace)

    async def _park_poison(self, poison: Poison) -> Result:
        request = poison.request
        is_command = request.session is not None
        self.forget(request)
        # Its sender may repeat it under another `msg_id`: for a while the action runs in the crash probe first.
        self._invocation.suspect(request.envelope.action)
        await self._dead_letters.park(
            request.delivery,
            request.item,
            poison.reason,
            poison,
            request.traceparent,
            sender=None if is_command else request.sender,
            without_effect=is_command,
        )
        if is_command:
            return self._invocation.refuse(request, internal_error())
        return Result(request, StoredOutcome(), request.traceparent)

    # One transaction

    async def _when_database_answers(self, requests: Sequence[Request]) -> dict[Request, Result]:
        """Run ``requests`` as one transaction; wait for the database, however long it cannot be reached."""
        if self._store is None:
            await self._invocation.probe(requests, None)
            found = {request: self._invocation.run(request, None) for request in requests}
            if any(_effects_of(result) for result in found.values()):
                raise NoEffects("an outcome declares an effect, and the service has no storage")
            return found
        # No time limit: every request needs the database, so none is worth running before it answers; deliveries
        # stay unacked, and prefetch bounds how many. A failure of a handler must leave this loop, or it would stop
        # all senders.
        async for _ in attempts():
            try:
                # A transaction that hangs keeps its row locks, and the main path. TimeoutError is an OSError: if the
                # database answers, the requests are slow, and are run one by one.
                async with asyncio.timeout(self._unit_time_limit):
                    results = await self._transaction(self._store, requests)
                if self._unsure:
                    self._unsure.difference_update(request.key for request in requests)
                return results
            except (sa.exc.DBAPIError, sa.exc.TimeoutError, OSError) as error:
                # A handler that hung may have used up the transaction's time as well. Its rollback is interrupted
                # then, and the timeout hides which request it was.
                if (poison := _poison_before(error)) is not None:
                    raise poison from None
                # If the database answers, these requests are the cause: together they would fail again.
                if not await self._store.database.is_database_failure(error):
                    raise
                log.error("database_away", error=describe_error(error, 300))
        raise AssertionError("attempts without a time limit do not end")

    async def _transaction(self, store: Store[U], requests: Sequence[Request]) -> dict[Request, Result]:
        started = perf_counter()
        changes = [request for request in requests if request.handler.changes]
        reads = [request for request in requests if not request.handler.changes]
        writes = any(request.handler.idempotent for request in reads)
        results: dict[Request, Result] = {}
        database = store.database
        # Reads alone take no write lock: with SQLite they never wait for another program's writer.
        # https://www.sqlite.org/wal.html#concurrency
        with self._telemetry.step(conventions.TRANSACTION, {conventions.DATABASE: database.name}):
            async with database.transaction() if changes or writes else database.reading() as connection:
                if changes:
                    results |= await self._run_changes(store, connection, changes)
                if reads:
                    # After the changes are saved, so that a read sees the earlier changes of its own sender.
                    results |= await self._run_reads(store, connection, reads, writes=writes)
        self._unit_seconds.record(perf_counter() - started)
        self._unit_sizes.record(len(requests))
        if self._effects is not None and any(_effects_of(result) for result in results.values()):
            self._effects.wake()
        return results

    async def _run_reads(
        self, store: Store[U], connection: AsyncConnection, reads: Sequence[Request], *, writes: bool
    ) -> dict[Request, Result]:
        unit = store.storage.unit(connection)
        # Before any read, so that the answers include all changes up to this number.
        number = await memberships.number_before(connection, store.storage.groups, reads)
        await unit.load(reads)
        await self._invocation.probe(reads, unit)
        results = {request: self._invocation.run(request, unit) for request in reads}
        for result in results.values():
            result.number = number
        if writes:
            await unit.save()
            await self._put_effects(connection, results.values())
        return results

    async def _run_changes(
        self, store: Store[U], connection: AsyncConnection, changes: Sequence[Request]
    ) -> dict[Request, Result]:
        """The cases of a known key; see the head of this module."""
        storage = store.storage
        unit = storage.unit(connection)
        # Repetitions are known before `load`, so a flood of them costs one query and no domain data.
        known = await inbox.find(connection, storage.inbox, (request.key for request in changes))
        fresh = [request for request in changes if request.key not in known]
        unpublished = self._unsure & known.keys()  # Case 4.
        # Before anything is written: from here on, a lost reply to COMMIT leaves the end of the transaction unknown.
        self._unsure.update(request.key for request in fresh)
        if fresh:
            await unit.load(fresh)
            await self._invocation.probe(fresh, unit)
        results: dict[Request, Result] = {}
        new: dict[inbox.Key, StoredOutcome] = {}
        for request in changes:
            stored = known.get(request.key) or new.get(request.key)
            # Case 1. A refusal that may pass gets no row, so its repetition runs.
            if stored is None:
                result = self._invocation.run(request, unit)
                if result.is_final:
                    new[request.key] = replace(result.stored, fingerprint=request.fingerprint)
            # Case 5. Rows without a fingerprint match every request.
            elif stored.fingerprint not in ("", request.fingerprint):
                result = self._invocation.refuse(request, _id_is_taken(request))
            else:
                # Cases 2 and 6 publish the answer only; 3 and 4 publish everything.
                is_published = not request.is_redelivery and request.key not in unpublished
                unpublished.discard(request.key)  # For one of them only, if the unit has it twice.
                result = self._repetition(request, stored, answer_only=is_published)
            results[request] = result
        # After all handlers: each change of the unit is written once, in bulk, however many requests made it.
        if fresh:
            await unit.save()
        # In this transaction: a row without its effect would answer for a change that was never made, and an effect
        # without its row would be made twice.
        if new:
            await inbox.store(connection, storage.inbox, new)
        # After the locks of the domain, as where an effect ends: so the two never wait for each other.
        await self._put_effects(connection, results.values())
        # Last, because the number's row is locked until COMMIT, and other replicas wait for it (ADR 21).
        await memberships.number_and_correct(connection, storage.groups, results.values())
        return results

    async def _put_effects(self, connection: AsyncConnection, results: Collection[Result]) -> None:
        """Store the effects that new outcomes declare; a repetition has no outcome.

        Raises:
            NoEffects: The service has no table of effects.
        """
        declared = [(effect, result.traceparent) for result in results for effect in _effects_of(result)]
        if not declared:
            return
        if self._effects is None:
            raise NoEffects(f"an outcome declares the effect {declared[0][0].name!r}: set Service.effects")
        await self._effects.put(connection, declared)

    def _repetition(self, request: Request, stored: StoredOutcome, *, answer_only: bool) -> Result:
        """The stored outcome again; ``answer_only`` (with its group changes) if the rest was published before."""
        self._repeated.add(1)
        return Result(request, replace(stored, outgoing=[]) if answer_only else stored, request.traceparent)


def _effects_of(result: Result) -> Sequence[Effect]:
    return () if result.outcome is None else result.outcome.effects


def _id_is_taken(request: Request) -> Conflict:
    return Conflict(f"The msg_id {request.envelope.msg_id!r} was used for another request; choose a new one.")


def _poison_before(error: BaseException) -> Poison | None:
    """The poison during whose handling ``error`` was raised."""
    earlier = error.__cause__ or error.__context__
    while earlier is not None and not isinstance(earlier, Poison):
        earlier = earlier.__cause__ or earlier.__context__
    return earlier


def _parts(requests: list[Request], error: Exception) -> list[list[Request]]:
    """The parts to run of a unit that failed with ``error``; the last one runs next. ``[a, b, c, d]`` gives
    ``[[c, d], [a, b]]``, and after a timeout ``[[d], [c], [b], [a]]``.

    Halves: usually few requests fail, and each transaction costs a commit. One by one, a large unit would delay all
    others by as many commits. But after a timeout each half with the slow request would use up its time again.
    """
    if isinstance(error, TimeoutError):
        return [[request] for request in reversed(requests)]
    middle = len(requests) // 2
    return [requests[middle:], requests[:middle]]
