"""The dispatcher: a batch of requests is one set-based unit of work.

One query for the inbox; the unit of work loads what the batch names; the handlers run one after another as plain
functions; the unit of work saves in bulk; one commit; one publish a target; one ack a delivery. Handlers do no I/O:
they check first, change then, and return an :class:`~towpath.servicekit.outcome.Outcome`.

Guarantees:

* A request that changes state has its effect once, and the same outcome each time it is delivered or repeated.
* Three kinds of failure: what cannot be read is parked; a :class:`~towpath.protocol.errors.TowpathError` is an
  ``error`` answer (for an event: parked); anything else is retried and at last parked.
* When a batch fails as a whole its members are run one by one, so that one poison message harms nobody else. When
  the database is away the batch waits for it instead.
* A delivery is acked only after its effects are committed and the broker has confirmed all that follows from it.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Final, Generic, Protocol, TypeVar

import msgspec
import sqlalchemy as sa
import structlog
import tenacity
from opentelemetry.trace import SpanKind
from sqlalchemy.ext.asyncio import AsyncConnection

from towpath.protocol.envelope import make, make_error
from towpath.protocol.errors import TowpathError
from towpath.protocol.messages import NO_JSON, Directed, Session
from towpath.protocol.routes import PUSH
from towpath.servicekit import inbox, requests
from towpath.servicekit.broker.interface import BrokerError, Delivery
from towpath.servicekit.database import Database
from towpath.servicekit.failures import Failures
from towpath.servicekit.lanes import LaneFull
from towpath.servicekit.outcome import Outcome, Settled, answer_data, outgoing
from towpath.servicekit.publisher import Publisher, Sending, confirmed
from towpath.servicekit.requests import Handlers, Refusal, Request, Unreadable
from towpath.servicekit.streams import Replay, StreamTables, replay
from towpath.servicekit.telemetry import Telemetry, trace_id

log = structlog.get_logger(__name__)

TRIES_IN_PLACE: Final = 3
_LANE_PAUSE: Final = 0.02
#: The broker is away, or the database is while entries are to be replayed.
_NOT_PUBLISHED: Final = (BrokerError, sa.exc.SQLAlchemyError, OSError)


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
    """Where a service keeps things, and how a unit of work on a connection is made."""

    database: Database
    inbox: sa.Table
    streams: StreamTables
    unit: Callable[[AsyncConnection], U]


@dataclass(slots=True)
class _Result:
    """What is to be published about one request."""

    session: Session | None
    settled: Settled
    traceparent: str
    request: Request | None = None
    outcome: Outcome | None = None
    answer_only: bool = False
    park: TowpathError | None = None


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
        self._publisher = publisher
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
        results: list[_Result] = []
        sendings: list[Sending] = []
        for unit in requests.units(items, self._unit_max):
            settled = await self._run_unit(unit)
            results += settled
            try:
                sendings += await self._publish(settled)
            except _NOT_PUBLISHED as error:
                sendings.append(_failed(error))
        return asyncio.ensure_future(self._settle(deliveries, results, sendings))

    # Running

    async def _run_unit(self, items: Sequence[Request | Refusal]) -> list[_Result]:
        batch = [item for item in items if isinstance(item, Request)]
        results: dict[Request, _Result] = {}
        try:
            if batch:
                results = await self._run_when_database_answers(batch)
        except Exception as error:
            log.warning("batch_failed", requests=len(batch), error=repr(error)[:500])
            for request in batch:
                results |= await self._run_alone(request)
        ordered: list[_Result] = []
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

    async def _run_alone(self, request: Request) -> dict[Request, _Result]:
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

    async def _run_when_database_answers(self, batch: Sequence[Request]) -> dict[Request, _Result]:
        if self._store is None:
            return {request: self._handle(request, None) for request in batch}
        async for _ in _pauses():
            try:
                return await self._run(self._store, batch)
            except (sa.exc.DBAPIError, sa.exc.TimeoutError, OSError) as error:
                if await self._store.database.answers():
                    raise
                log.error("database_away", error=repr(error)[:300])
        raise AssertionError("pauses never end")

    async def _run(self, store: Store[U], batch: Sequence[Request]) -> dict[Request, _Result]:
        started = perf_counter()
        changes = [request for request in batch if request.handler.changes]
        reads = [request for request in batch if not request.handler.changes]
        results: dict[Request, _Result] = {}
        database = store.database
        async with database.transaction() if changes else database.reading() as connection:
            if changes:
                await self._run_changes(store, connection, changes, results)
            if reads:
                # After the changes are saved: who asks sees what they did just before.
                unit = store.unit(connection)
                await unit.load(reads)
                results |= {request: self._handle(request, unit) for request in reads}
        self._unit_seconds.record(perf_counter() - started)
        return results

    async def _run_changes(
        self,
        store: Store[U],
        connection: AsyncConnection,
        batch: Sequence[Request],
        results: dict[Request, _Result],
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
                result = _Result(
                    request.session,
                    settled,
                    request.traceparent,
                    request,
                    answer_only=not request.is_redelivery,
                )
            results[request] = result
        if new:
            await unit.save()
            await inbox.store(connection, store.inbox, new)

    def _handle(self, request: Request, unit: U | None) -> _Result:
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
                    return _Result(None, Settled(), trace, request, park=error)
                return self._refuse(session, envelope.msg_id, error, trace)
        waits_for_replay = callable(outcome.answer) and bool(outcome.replay)
        settled = Settled(
            answer=NO_JSON if waits_for_replay else _answer(request, outcome, {}, trace),
            outgoing=outgoing(outcome),
            subscribe=list(outcome.subscribe),
            unsubscribe=list(outcome.unsubscribe),
            replay=dict(outcome.replay),
        )
        return _Result(session, settled, trace, request, outcome)

    def _refuse(self, session: Session, msg_id: str, error: TowpathError, trace: str) -> _Result:
        self._refused.add(1)
        answer = make_error(error, correlation_id=msg_id, trace_id=trace_id(trace))
        return _Result(session, Settled(answer=msgspec.Raw(answer.to_json())), trace)

    # Publishing

    async def _publish(self, results: Sequence[_Result]) -> list[Sending]:
        """Queue everything that follows from ``results``, in their order."""
        replays = await self._subscribe(results)
        sendings: list[Sending] = []
        for result, replayed in zip(results, replays, strict=True):
            if not result.answer_only:
                for item in result.settled.outgoing:
                    await _queue(sendings, self._publisher.send, item)
            if result.session is not None:
                for directed in _directed(result, result.session, replayed):
                    await _queue(
                        sendings, self._publisher.direct, result.session, directed, result.traceparent
                    )
        return sendings

    async def _subscribe(self, results: Sequence[_Result]) -> list[dict[str, Replay]]:
        """Change groups, wait until the broker has told the gateways, and only then read what to replay to each.

        In that order nothing falls between: what is committed after the read is pushed after the subscription.
        """
        sendings: list[Sending] = []
        for result in results:
            settled = result.settled
            if not settled.subscribe and not settled.unsubscribe:
                continue
            target = (result.outcome.connection if result.outcome else None) or result.session
            if target is not None:
                item = Directed(
                    connection_id=target.connection_id,
                    subscribe=settled.subscribe,
                    unsubscribe=settled.unsubscribe,
                )
                await _queue(sendings, self._publisher.direct, target, item)
            if result.session is not None:
                item = Directed(subscribe=settled.subscribe, unsubscribe=settled.unsubscribe)
                await _queue(sendings, self._publisher.control, result.session.user_id, item)
        await confirmed(sendings)
        starts = _starts(results)
        if self._store is None or not any(starts):
            return [{} for _ in results]
        async with self._store.database.reading() as connection:
            return await replay(connection, self._store.streams, starts, limit=self._replay_limit)

    async def _settle(
        self, deliveries: Sequence[Delivery], results: Sequence[_Result], sendings: Sequence[Sending]
    ) -> None:
        # Committed but not told: told again until the broker takes it. If it was away meanwhile, the deliveries
        # are stale; they come again, and the inbox tells once more.
        async for _ in _pauses():
            try:
                await confirmed(sendings)
                break
            except BrokerError as error:
                log.warning("not_published", deliveries=len(deliveries), error=repr(error)[:300])
            try:
                sendings = await self._publish(results)
            except _NOT_PUBLISHED as error:
                sendings = [_failed(error)]
        for delivery in deliveries:
            delivery.ack()


def _answer(request: Request, outcome: Outcome, replays: Mapping[str, Replay], trace: str) -> msgspec.Raw:
    answer = outcome.answer(replays) if callable(outcome.answer) else outcome.answer
    if answer is None or request.session is None:
        return NO_JSON
    return msgspec.Raw(
        make(
            f"{request.envelope.action}.ok",
            answer_data(answer),
            correlation_id=request.envelope.msg_id,
            traceparent=trace,
        ).to_json()
    )


def _directed(result: _Result, session: Session, replays: Mapping[str, Replay]) -> list[Directed]:
    """The replayed entries and the answer, for the asking connection."""
    settled = result.settled
    items = [
        Directed(connection_id=session.connection_id, envelope=msgspec.Raw(entry))
        for stream in replays.values()
        for entry in stream.entries
    ]
    answer = settled.answer
    if not answer and result.request is not None and result.outcome is not None:
        answer = _answer(result.request, result.outcome, replays, result.traceparent)
    if answer:
        items.append(
            Directed(
                connection_id=session.connection_id,
                envelope=answer,
                subscribe=settled.subscribe,
                unsubscribe=settled.unsubscribe,
            )
        )
    return items


async def _queue(sendings: list[Sending], send: Callable[..., Sending], *args: Any) -> None:
    """Queue one item, waiting for room where a lane is full."""
    while True:
        try:
            sendings.append(send(*args))
            return
        except LaneFull:
            await asyncio.sleep(_LANE_PAUSE)


async def _pauses() -> AsyncIterator[None]:
    """Once at once, then again and again with full jitter, up to 5 s apart."""
    async for attempt in tenacity.AsyncRetrying(
        wait=tenacity.wait_random_exponential(multiplier=0.2, max=5), retry=tenacity.retry_always
    ):
        yield None
        attempt.retry_state.set_result(None)


def _failed(error: BaseException) -> Sending:
    failed: Sending = asyncio.get_running_loop().create_future()
    failed.set_exception(error if isinstance(error, BrokerError) else BrokerError(repr(error)))
    return failed


class _Place(msgspec.Struct):
    """Where an envelope stands, if it is of a stream."""

    stream: str = ""
    seq: int = 0


_PLACE: Final = msgspec.json.Decoder(_Place)


def _starts(results: Sequence[_Result]) -> list[Mapping[str, int]]:
    """The positions from which each result is to be replayed.

    What is about to be pushed, after the subscription, need not be replayed as well: else a thousand who join a room
    together would each be told of all others twice. (An answer that tells of the replay needs all of it.)
    """
    if not any(result.settled.replay for result in results):
        return [{} for _ in results]
    pushed: dict[str, set[int]] = {}
    for result in results:
        for item in () if result.answer_only else result.settled.outgoing:
            if item.exchange == PUSH and (place := _PLACE.decode(item.item)).stream:
                pushed.setdefault(place.stream, set()).add(place.seq)
    last: dict[tuple[str, int], int] = {}
    for stream, seqs in pushed.items():
        for seq in sorted(seqs, reverse=True):
            last[stream, seq] = last.get((stream, seq + 1), seq)
    return [
        {stream: last.get((stream, seq + 1), seq) for stream, seq in result.settled.replay.items()}
        if result.settled.answer
        else result.settled.replay
        for result in results
    ]
