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
* A handler that hangs is interrupted and its request parked (:mod:`towpath.servicekit.watchdog`). One that takes the
  program with it does so once: what comes again is tried in a copy of the process before it is handled, and parked if
  the copy dies of it (:mod:`towpath.servicekit.trial`).
* A delivery is acked only after its effects are committed and the broker has confirmed all that follows from it.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from time import monotonic, perf_counter
from typing import Any, Final, Generic, Protocol, TypeVar

import msgspec
import sqlalchemy as sa
import structlog
import tenacity
from opentelemetry.trace import SpanKind
from sqlalchemy.ext.asyncio import AsyncConnection

from towpath.protocol.envelope import make_error
from towpath.protocol.errors import BadEnvelope, TowpathError
from towpath.protocol.messages import NO_JSON, Session, split_batch
from towpath.servicekit import groups, inbox, requests
from towpath.servicekit.broker.interface import Delivery
from towpath.servicekit.database import Database
from towpath.servicekit.failures import ATTEMPT, Failures
from towpath.servicekit.outcome import Outcome, Settled, outgoing
from towpath.servicekit.pauses import pauses
from towpath.servicekit.publisher import Publisher, Sending
from towpath.servicekit.requests import Handlers, Refusal, Request, Unreadable, went_wrong
from towpath.servicekit.streams import Replay, StreamTables, replay
from towpath.servicekit.telemetry import Telemetry, trace_id
from towpath.servicekit.telling import NOT_TOLD, Result, Teller, answer_json, failed_sending
from towpath.servicekit.trial import End, fallen
from towpath.servicekit.watchdog import Overdue

log = structlog.get_logger(__name__)

TRIES_IN_PLACE: Final = 3
#: Seconds that an action is tried first after one of its requests was found to crash or hang.
SUSPICION: Final = 600.0


class Poison(Exception):
    """What must not be handled here: it ends the program, or does not come to an end.

    Attributes:
        reason: A word for it, in ``x-reason``.
        request: The request, where it can be read at all.
    """

    def __init__(self, reason: End, how: str, request: Request | None = None) -> None:
        super().__init__(how)
        self.reason = reason
        self.request = request


class DiedInHand(Exception):
    """Again and again the program ended, or lost the broker, while it had this in hand."""


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
        handler_time_limit: Seconds that a handler may take in a trial.
        unit_time_limit: Seconds that a unit of work may take; then it is rolled back and tried again.
        crash_limit: What came back as often, and is the first to do so, is not handled as it is.
        watched: Entered around each handler; it may raise :class:`~towpath.servicekit.watchdog.Overdue` inside.
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
        handler_time_limit: float = 10.0,
        unit_time_limit: float = 30.0,
        crash_limit: int = 5,
        watched: AbstractContextManager[None] | None = None,
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
        self._handler_time_limit = handler_time_limit
        self._unit_time_limit = unit_time_limit
        self._crash_limit = crash_limit
        self._watched = watched or nullcontext()
        self._suspected_until: dict[str, float] = {}
        self._received = telemetry.counter("messages_received", "Requests and events taken")
        self._repeated = telemetry.counter("messages_repeated", "Requests answered from the inbox")
        self._refused = telemetry.counter("requests_refused", "Requests answered with an error")
        self._unit_seconds = telemetry.histogram("unit_of_work", "Time of one transaction with its handlers")

    async def dispatch(self, deliveries: Sequence[Delivery]) -> "asyncio.Future[None]":
        """Handle ``deliveries`` in order.

        Returns once the effects are committed and all that follows is queued in order; the returned future is
        done when the broker has confirmed it and the deliveries are acked.
        """
        doubtful = [delivery for delivery in deliveries if _is_doubtful(delivery)]
        limit_reached = False
        for delivery in doubtful:
            # Each is settled before the next has its turn. So what ends the program is always the first of those that
            # come again, and nobody else has to be put aside with it.
            aside = not limit_reached and _returns(delivery) >= self._crash_limit
            limit_reached |= aside
            await (await self._dispatch([delivery], unit_max=1, aside=aside))
        sound = [delivery for delivery in deliveries if delivery not in doubtful] if doubtful else deliveries
        return await self._dispatch(sound, unit_max=self._unit_max)

    async def _dispatch(
        self, deliveries: Sequence[Delivery], *, unit_max: int, aside: bool = False
    ) -> "asyncio.Future[None]":
        items: list[Request | Refusal] = []
        for delivery in deliveries:
            if delivery.app_id == self._own and ".commands." not in delivery.queue:
                continue
            for item in await self._read(delivery, aside=aside):
                self._received.add(1)
                if isinstance(item, Unreadable):
                    refusal = item.refusal
                    trace = refusal.traceparent if refusal else _traceparent(delivery)
                    await self._failures.park(delivery, item.item, item.reason, item.error, trace)
                    items += [refusal] if refusal else []
                else:
                    items.append(item)
        results: list[Result] = []
        sendings: list[Sending] = []
        for unit in requests.units(items, unit_max):
            settled = await self._run_unit(unit)
            results += settled
            try:
                sendings += await self._teller.tell(settled)
            except NOT_TOLD as error:
                sendings.append(failed_sending(error))
        return asyncio.ensure_future(self._teller.settle(deliveries, results, sendings))

    # Reading

    async def _read(self, delivery: Delivery, *, aside: bool) -> list[Request | Refusal | Unreadable]:
        try:
            parts = split_batch(delivery.body)
        except BadEnvelope as error:
            return [Unreadable(delivery, delivery.body, error)]
        returns = _returns(delivery)
        if aside:
            return await self._put_aside(delivery, parts, returns)
        # Back a second time: the trial of the handlers did not help. A validator of a model may be the culprit.
        found = await self._try_reading(delivery, parts) if returns > 1 else {}
        items = (found.get(n) or self._read_item(delivery, part) for n, part in enumerate(parts))
        return [item for item in items if item is not None]

    def _read_item(self, delivery: Delivery, part: bytes) -> Request | Refusal | Unreadable | None:
        return requests.read_item(
            delivery, part, self._commands, self._events, self._telemetry, self._watched
        )

    async def _try_reading(self, delivery: Delivery, parts: Sequence[bytes]) -> dict[int, Unreadable]:
        found: dict[int, Unreadable] = {}
        first = 0
        while first < len(parts):
            steps = [partial(self._read_item, delivery, part) for part in parts[first:]]
            fell = await fallen(steps, time_limit=self._handler_time_limit)
            if fell is None:
                break
            at = first + fell.step
            refusal = requests.refusal(delivery, parts[at], self._telemetry)
            found[at] = Unreadable(delivery, parts[at], Poison(fell.end, fell.how), fell.end, refusal)
            first = at + 1
        return found

    async def _put_aside(
        self, delivery: Delivery, parts: Sequence[bytes], returns: int
    ) -> list[Request | Refusal | Unreadable]:
        """Let each part come back alone and later, as nothing else is known of what it does to the program."""
        refusals: list[Request | Refusal | Unreadable] = []
        for part in parts:
            error = DiedInHand(f"it came back {returns} times without being settled")
            parked = await self._failures.retry(
                delivery, part, error, _traceparent(delivery), reason=End.CRASHED
            )
            if parked and (refusal := requests.refusal(delivery, part, self._telemetry)):
                refusals.append(refusal)
        return refusals

    # Running

    async def _run_unit(self, items: Sequence[Request | Refusal]) -> list[Result]:
        batch = [item for item in items if isinstance(item, Request)]
        results: dict[Request, Result] = {}
        while batch:
            try:
                results |= await self._run_when_database_answers(batch)
                break
            except Poison as poison:
                results |= await self._park_poison(poison)
                batch = [request for request in batch if request is not poison.request]
            except Exception as error:
                log.warning("batch_failed", requests=len(batch), error=repr(error)[:500])
                for request in batch:
                    results |= await self._run_alone(request)
                break
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
                # Each try of what takes all of its time costs the others as much.
                retry=tenacity.retry_if_not_exception_type((Poison, TimeoutError)),
                reraise=True,
            ):
                with attempt:
                    return await self._run_when_database_answers([request])
        except Poison as poison:
            return await self._park_poison(poison)
        except Exception as error:
            envelope, trace = request.envelope, request.traceparent
            log.exception(
                "handler_failed", action=envelope.action, msg_id=envelope.msg_id, trace_id=trace_id(trace)
            )
            parked = await self._failures.retry(request.delivery, request.item, error, trace)
            if parked and request.session is not None:
                return {request: self._refuse(request.session, envelope.msg_id, went_wrong(), trace)}
        return {}

    async def _park_poison(self, poison: Poison) -> dict[Request, Result]:
        request = poison.request
        assert request is not None
        envelope, trace = request.envelope, request.traceparent
        self._suspected_until[envelope.action] = monotonic() + SUSPICION
        await self._failures.park(request.delivery, request.item, poison.reason, poison, trace)
        if request.session is None:
            return {}
        return {request: self._refuse(request.session, envelope.msg_id, went_wrong(), trace)}

    async def _run_when_database_answers(self, batch: Sequence[Request]) -> dict[Request, Result]:
        if self._store is None:
            await self._try_first(batch, None)
            return {request: self._handle(request, None) for request in batch}
        async for _ in pauses():
            try:
                async with asyncio.timeout(self._unit_time_limit):
                    return await self._run(self._store, batch)
            except (sa.exc.DBAPIError, sa.exc.TimeoutError, OSError) as error:
                if not await self._store.database.is_to_blame(error):
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
                await self._try_first(reads, unit)
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
            await self._try_first(fresh, unit)
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
                with self._watched:
                    outcome, settled = _decided(request, unit, trace)
            except TowpathError as error:
                if session is None:
                    return Result(None, Settled(), trace, request, park=error)
                return self._refuse(session, envelope.msg_id, error, trace)
            except Overdue as overdue:
                raise Poison(End.HUNG, str(overdue), request) from overdue
        return Result(session, settled, trace, request, outcome, changed=request.handler.changes)

    async def _try_first(self, batch: Sequence[Request], unit: U | None) -> None:
        """Handle ``batch`` in a copy of this process, if it may be what ended another.

        Raises:
            Poison: The copy did not survive it.
        """
        if not any(map(self._is_suspected, batch)):
            return
        steps = [partial(_decided, request, unit, request.traceparent) for request in batch]
        if (fell := await fallen(steps, time_limit=self._handler_time_limit)) is not None:
            raise Poison(fell.end, fell.how, batch[fell.step])

    def _is_suspected(self, request: Request) -> bool:
        if request.is_redelivery:
            return True
        until = self._suspected_until.get(request.envelope.action)
        return until is not None and monotonic() < until

    def _refuse(self, session: Session, msg_id: str, error: TowpathError, trace: str) -> Result:
        self._refused.add(1)
        answer = make_error(error, correlation_id=msg_id, trace_id=trace_id(trace))
        return Result(session, Settled(answer=msgspec.Raw(answer.to_json())), trace)

    async def _replay(self, store: Store[U], starts: Sequence[Mapping[str, int]]) -> list[dict[str, Replay]]:
        async with store.database.reading() as connection:
            return await replay(connection, store.streams, starts, limit=self._replay_limit)


def _decided(request: Request, unit: Any, trace: str) -> tuple[Outcome, Settled]:
    """What the handler makes of it, and all of that which is known before anything is replayed."""
    if request.session is None:
        outcome = request.handler.run(request.payload, unit)
    else:
        outcome = request.handler.run(request.payload, request.session, unit)
    waits_for_replay = callable(outcome.answer) and bool(outcome.replay)
    settled = Settled(
        answer=NO_JSON if waits_for_replay else answer_json(request, outcome, {}, trace),
        outgoing=outgoing(outcome),
        subscribe=list(outcome.subscribe),
        unsubscribe=list(outcome.unsubscribe),
        replay=dict(outcome.replay),
    )
    return outcome, settled


def _returns(delivery: Delivery) -> int:
    """How often it was handed out before, as far as the broker tells.

    https://www.rabbitmq.com/docs/quorum-queues#poison-message-handling
    """
    told = [delivery.headers.get(name) for name in ("x-delivery-count", "x-acquired-count")]
    return max((count for count in told if isinstance(count, int)), default=0)


def _is_doubtful(delivery: Delivery) -> bool:
    """Whether it may do harm that a trial does not show: it came back twice, or failed before."""
    return _returns(delivery) > 1 or ATTEMPT in delivery.headers


def _traceparent(delivery: Delivery) -> str | None:
    told = delivery.headers.get("traceparent")
    return told if isinstance(told, str) else None
