"""The dispatcher: a batch of requests is one set-based unit of work.

One query for the inbox; the unit of work loads what the batch names; the handlers run one after another as plain
functions; the unit of work saves in bulk; one commit; one publish a target; one ack a delivery. Handlers do no I/O:
they check first, change then, and return an :class:`~towpath.servicekit.outcome.Outcome`.

Guarantees:

* A request that changes state has its effect once, and the same outcome each time it is delivered or repeated. Only
  groups are changed to what is right by then: a repetition brings nobody back to one that they have left since, nor
  takes them from one that they have joined since (:mod:`towpath.servicekit.groups`).
* Three kinds of failure: what cannot be read is parked; a :class:`~towpath.protocol.errors.TowpathError` is an
  ``error`` answer (for an event: parked); anything else is retried and at last parked.
* When a batch fails as a whole its members are run one by one, so that one poison message harms nobody else. When
  the database is away the batch waits for it instead.
* A delivery is acked only after its effects are committed and the broker has confirmed all that follows from it.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Final, Generic, Protocol, TypeVar

import msgspec
import sqlalchemy as sa
import structlog
import tenacity
from opentelemetry.trace import SpanKind
from sqlalchemy.ext.asyncio import AsyncConnection

from towpath.protocol.envelope import make_error
from towpath.protocol.errors import TowpathError
from towpath.protocol.messages import NO_JSON, Session
from towpath.servicekit import groups, inbox, requests
from towpath.servicekit.broker.interface import Delivery
from towpath.servicekit.database import Database
from towpath.servicekit.failures import Failures
from towpath.servicekit.outcome import Settled, outgoing
from towpath.servicekit.pauses import pauses
from towpath.servicekit.publisher import Publisher, Sending
from towpath.servicekit.requests import Handlers, Refusal, Request, Unreadable
from towpath.servicekit.streams import Replay, StreamTables, replay
from towpath.servicekit.telemetry import Telemetry, trace_id
from towpath.servicekit.telling import NOT_TOLD, Result, Teller, answer_json, failed_sending

log = structlog.get_logger(__name__)

TRIES_IN_PLACE: Final = 3


class UnitOfWork(Protocol):
    """What handlers work on."""

    async def load(self, requests: Sequence[Request]) -> None:
        """Read, in a few queries, all that ``requests`` name; lock what may change, in one fixed order."""
        ...

    async def save(self) -> None:
        """Write all changes in bulk."""
        ...


U = TypeVar("U", bound=UnitOfWork)


@dataclass(frozen=True, slots=True)
class Store(Generic[U]):
    """Where a service keeps things, and how a unit of work on a connection is made.

    Attributes:
        may_hear: Asked at most once a batch, where a repetition names groups, or several requests the same one.
            Without it, groups are changed as the outcomes say.
    """

    database: Database
    inbox: sa.Table
    streams: StreamTables
    unit: Callable[[AsyncConnection], U]
    may_hear: groups.MayHear | None = None


class Dispatcher(Generic[U]):
    """Turns deliveries into effects, answers and pushes.

    Args:
        store: Where the service keeps things; without one its handlers get ``None`` as their unit of work.
        commands: The service's table of actions.
        events: Its table of events on ``towpath.events``.
        own: The service's ``app_id``: its own events coming round are acked unread.
        unit_max: Requests that are handled in one unit of work at most.
        replay_limit: Stream entries that one request replays at most.
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
    ) -> None:
        self._commands = commands
        self._events = events
        self._store = store
        self._teller = Teller(publisher, None if store is None else partial(self._replay, store))
        self._failures = failures
        self._telemetry = telemetry
        self._own = own
        self._unit_max = unit_max
        self._replay_limit = replay_limit
        self._received = telemetry.counter("messages_received", "Requests and events taken")
        self._repeated = telemetry.counter("messages_repeated", "Requests answered from the inbox")
        self._refused = telemetry.counter("requests_refused", "Requests answered with an error")
        self._unit_seconds = telemetry.histogram("unit_of_work", "Time of one transaction with its handlers")

    async def dispatch(self, deliveries: Sequence[Delivery]) -> "asyncio.Future[None]":
        """Handle ``deliveries`` in order.

        Returns once the effects are committed and all that follows is queued in order; the returned future is
        done when the broker has confirmed it and the deliveries are acked.
        """
        items: list[Request | Refusal] = []
        for delivery in deliveries:
            if delivery.app_id == self._own and ".commands." not in delivery.queue:
                continue
            for item in requests.read(delivery, self._commands, self._events, self._telemetry):
                self._received.add(1)
                if isinstance(item, Unreadable):
                    await self._failures.park(item.delivery, item.item, "unreadable", item.error)
                else:
                    items.append(item)
        results: list[Result] = []
        sendings: list[Sending] = []
        for unit in requests.units(items, self._unit_max):
            settled = await self._run_unit(unit)
            results += settled
            try:
                sendings += await self._teller.tell(settled)
            except NOT_TOLD as error:
                sendings.append(failed_sending(error))
        return asyncio.ensure_future(self._teller.settle(deliveries, results, sendings))

    # Running

    async def _run_unit(self, items: Sequence[Request | Refusal]) -> list[Result]:
        batch = [item for item in items if isinstance(item, Request)]
        results: dict[Request, Result] = {}
        try:
            if batch:
                results = await self._run_when_database_answers(batch)
        except Exception as error:
            log.warning("batch_failed", requests=len(batch), error=repr(error)[:500])
            for request in batch:
                results |= await self._run_alone(request)
        ordered: list[Result] = []
        for item in items:
            if isinstance(item, Refusal):
                ordered.append(self._refuse(item.session, item.envelope.msg_id, item.error, item.traceparent))
            elif item in results:
                ordered.append(results[item])
        for result in ordered:
            if result.park is not None and result.request is not None:
                request = result.request
                await self._failures.park(
                    request.delivery, request.item, result.park.code.value, result.park, request.traceparent
                )
        return ordered

    async def _run_alone(self, request: Request) -> dict[Request, Result]:
        try:
            async for attempt in tenacity.AsyncRetrying(
                stop=tenacity.stop_after_attempt(TRIES_IN_PLACE),
                wait=tenacity.wait_random_exponential(multiplier=0.05, max=0.5),
                reraise=True,
            ):
                with attempt:
                    return await self._run_when_database_answers([request])
        except Exception as error:
            envelope, trace = request.envelope, request.traceparent
            log.exception(
                "handler_failed", action=envelope.action, msg_id=envelope.msg_id, trace_id=trace_id(trace)
            )
            parked = await self._failures.retry(request.delivery, request.item, error, trace)
            if parked and request.session is not None:
                internal = TowpathError("Something went wrong here and is recorded. Try again later.")
                return {request: self._refuse(request.session, envelope.msg_id, internal, trace)}
        return {}

    async def _run_when_database_answers(self, batch: Sequence[Request]) -> dict[Request, Result]:
        if self._store is None:
            return {request: self._handle(request, None) for request in batch}
        async for _ in pauses():
            try:
                return await self._run(self._store, batch)
            except (sa.exc.DBAPIError, sa.exc.TimeoutError, OSError) as error:
                if await self._store.database.answers():
                    raise
                log.error("database_away", error=repr(error)[:300])
        raise AssertionError("pauses never end")

    async def _run(self, store: Store[U], batch: Sequence[Request]) -> dict[Request, Result]:
        started = perf_counter()
        changes = [request for request in batch if request.handler.changes]
        reads = [request for request in batch if not request.handler.changes]
        results: dict[Request, Result] = {}
        notes = any(request.handler.notes for request in reads)
        database = store.database
        async with database.transaction() if changes or notes else database.reading() as connection:
            if changes:
                await self._run_changes(store, connection, changes, results)
            if reads:
                # After the changes are saved: who asks sees what they did just before.
                unit = store.unit(connection)
                await unit.load(reads)
                results |= {request: self._handle(request, unit) for request in reads}
                if notes:
                    await unit.save()
        self._unit_seconds.record(perf_counter() - started)
        return results

    async def _run_changes(
        self,
        store: Store[U],
        connection: AsyncConnection,
        batch: Sequence[Request],
        results: dict[Request, Result],
    ) -> None:
        unit = store.unit(connection)
        known = await inbox.find(connection, store.inbox, (request.key for request in batch))
        fresh = [request for request in batch if request.key not in known]
        if fresh:
            await unit.load(fresh)
        new: dict[inbox.Key, Settled] = {}
        for request in batch:
            settled = known.get(request.key) or new.get(request.key)
            if settled is None:
                result = self._handle(request, unit)
                if result.park is None:
                    new[request.key] = result.settled
            else:
                self._repeated.add(1)
                result = Result(
                    request.session,
                    settled,
                    request.traceparent,
                    request,
                    answer_only=not request.is_redelivery,
                    changed=True,
                )
            results[request] = result
        if new:
            await unit.save()
            await inbox.store(connection, store.inbox, new)
        if store.may_hear is not None:
            await groups.correct(connection, store.may_hear, results.values())

    def _handle(self, request: Request, unit: U | None) -> Result:
        envelope, session = request.envelope, request.session
        with self._telemetry.span(
            f"handle {envelope.action}", request.traceparent, SpanKind.CONSUMER, msg_id=envelope.msg_id
        ) as trace:
            trace = trace or request.traceparent
            try:
                if session is None:
                    outcome = request.handler.run(request.payload, unit)
                else:
                    outcome = request.handler.run(request.payload, session, unit)
            except TowpathError as error:
                if session is None:
                    return Result(None, Settled(), trace, request, park=error)
                return self._refuse(session, envelope.msg_id, error, trace)
        waits_for_replay = callable(outcome.answer) and bool(outcome.replay)
        settled = Settled(
            answer=NO_JSON if waits_for_replay else answer_json(request, outcome, {}, trace),
            outgoing=outgoing(outcome),
            subscribe=list(outcome.subscribe),
            unsubscribe=list(outcome.unsubscribe),
            replay=dict(outcome.replay),
        )
        return Result(session, settled, trace, request, outcome, changed=request.handler.changes)

    def _refuse(self, session: Session, msg_id: str, error: TowpathError, trace: str) -> Result:
        self._refused.add(1)
        answer = make_error(error, correlation_id=msg_id, trace_id=trace_id(trace))
        return Result(session, Settled(answer=msgspec.Raw(answer.to_json())), trace)

    async def _replay(self, store: Store[U], starts: Sequence[Mapping[str, int]]) -> list[dict[str, Replay]]:
        async with store.database.reading() as connection:
            return await replay(connection, store.streams, starts, limit=self._replay_limit)
