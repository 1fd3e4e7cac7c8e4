"""The performer: makes the calls of effects after their commit, and handles their results.

::

    due row ──▶ take (lease, attempt + 1) ──▶ perform ──▶ done, in one transaction with the end of the row
                      ▲                          │
                      └── wait, twice as long ◀──┤ failed
                                                 └──▶ refused, or the last attempt: parked, in one transaction

Guarantees:

* **The result once.** ``done`` or ``parked`` takes effect once per effect, together with the end of its row.
* **The call at least once.** It is made once, unless an attempt fails, or its process dies, freezes or loses its
  database between the call and the commit of its end. Only the outside can then find the second call, by
  ``EffectCall.id``. A result that cannot be handled is stored, and handled again without another call.
* **One replica at a time** makes a call: it leases the row for the time limit and :data:`MARGIN` seconds more.
* **Bounded.** Each attempt has a time limit. Attempts are counted before they begin, so one that ends its process
  counts. Waits between attempts grow, with jitter. Each effect has a limit of calls at the same time on each replica,
  so a slow one delays no other.
* An effect that has failed for good is kept as a *parked* row, logged and counted.
* No lock is held, and no transaction open, during a call.
* On stop no call begins; those that run may finish within :data:`STOP_GRACE` seconds. The rest is cancelled, and its
  rows are due again at once.
"""

import asyncio
import contextlib
import random
import secrets
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any, Final, Generic

import msgspec
import sqlalchemy as sa
import structlog
from pydantic import BaseModel
from sqlalchemy.ext.asyncio import AsyncConnection

from towpath.protocol.envelope import make
from towpath.servicekit.handling.effects import (
    EffectCall,
    EffectHandler,
    EffectParked,
    EffectQueue,
    EffectRefused,
    call_id,
)
from towpath.servicekit.handling.invocation import Invocation, Poison
from towpath.servicekit.handling.outcome import Outcome, outgoing
from towpath.servicekit.handling.requests import Handler, Request
from towpath.servicekit.handling.store import Store, U
from towpath.servicekit.runtime import conventions
from towpath.servicekit.runtime.backoff import attempts
from towpath.servicekit.runtime.error_text import describe_error
from towpath.servicekit.runtime.settings import ServiceSettings
from towpath.servicekit.runtime.telemetry import Counter as Metric
from towpath.servicekit.runtime.telemetry import Distribution, Telemetry
from towpath.servicekit.storage import effects, outbox
from towpath.servicekit.storage.effects import LeaseLost, Taken
from towpath.servicekit.storage.relay import Relay

log = structlog.get_logger(__name__)

#: Seconds between the time limit of a call and the end of its lease: for the commit of its end.
MARGIN: Final = 15.0
#: Seconds that calls may take after the stop.
STOP_GRACE: Final = 10.0
#: Seconds for a look that runs at the stop, and for giving rows back.
_STOP_SECONDS: Final = 2.0
#: Rows of one state that one step of the sweep deletes at most.
_STEP: Final = 500
_ERROR_LETTERS: Final = 500
#: States whose rows are counted, with the description of the gauge.
_STATES: Final = {
    effects.WAITING: f"Effects that wait for a call; {effects.COUNTED_UP_TO:,} means more",
    effects.PARKED: f"Parked effects that an operator should look at; {effects.COUNTED_UP_TO:,} means more",
}


class Performer(Generic[U]):
    """Makes the calls of one replica.

    Args:
        service: The name of the service.
        relay: Publishes what the outcomes of ``done`` and ``parked`` contain.
        margin: See :data:`MARGIN`.
    """

    def __init__(
        self,
        service: str,
        queue: EffectQueue,
        store: Store[U],
        relay: Relay,
        invocation: Invocation,
        settings: ServiceSettings,
        telemetry: Telemetry,
        *,
        margin: float = MARGIN,
    ) -> None:
        self._service = service
        self._queue = queue
        self._store = store
        self._relay = relay
        self._invocation = invocation
        self._settings = settings
        self._telemetry = telemetry
        self._margin = margin
        self._running: dict[asyncio.Task[None], Taken] = {}
        self._counts: dict[tuple[str, str], int] = {}
        self._metrics = {name: _Metrics.of(name, telemetry) for name in queue.handlers}
        for name in queue.handlers:
            for state, description in _STATES.items():
                telemetry.gauge(f"effects_{state}", description, self._counted(name, state), {"effect": name})

    async def run(self, stop: asyncio.Event) -> None:
        """Make the calls that are due, until ``stop``; then let those that run finish for a moment."""
        looking = asyncio.create_task(self._look_repeatedly(stop), name="effects: look")
        stopping = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait([looking, stopping], return_when=asyncio.FIRST_COMPLETED)
            self._queue.wake()
            await asyncio.wait([looking], timeout=_STOP_SECONDS)
            if self._running:
                await asyncio.wait([*self._running], timeout=STOP_GRACE)
        finally:
            left = dict(self._running)
            for task in (looking, stopping, *left):
                task.cancel()
            await asyncio.wait([looking, stopping, *left])
            await self._give_back(list(left.values()))
        if not looking.cancelled():
            looking.result()

    async def flush(self) -> None:
        """Make the calls that are due now and those that follow from them at once, and wait for their ends."""
        while await self._look(asyncio.Event()):
            while self._running:
                await asyncio.wait([*self._running])

    async def sweep(self) -> None:
        """Delete rows past their retention, and count the others; one bounded step for each effect."""
        retention = {
            effects.DONE: self._settings.effects_retention,
            effects.PARKED: self._settings.effects_parked_retention,
        }
        table = self._queue.table
        for name in self._queue.handlers:
            async with self._store.database.transaction() as connection:
                await effects.delete_ended(connection, table, name, seconds=retention, limit=_STEP)
            async with self._store.database.reading() as connection:
                for state in _STATES:
                    self._counts[name, state] = await effects.count(connection, table, name, state)

    # Taking

    async def _look_repeatedly(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            # Not `keep_running`: its pauses grow to 30 s, too long for a call that a user waits for.
            async for attempt in attempts():
                try:
                    await self._look(stop)
                    break
                except Exception as error:
                    log.warning("effects_not_taken", failures=attempt, error=describe_error(error, 300))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._settings.effects_poll):
                    await self._queue.woken.wait()
            # After the wait and before the next look: a commit during the look wakes the next wait.
            self._queue.woken.clear()

    async def _look(self, stop: asyncio.Event) -> bool:
        """Take the rows that are due, as many as may run now; returns whether there are any."""
        handlers, table, database = self._queue.handlers, self._queue.table, self._store.database
        # A read first: with SQLite a look that finds nothing does not wait for a writer.
        async with database.reading() as connection:
            due = await effects.due(connection, table, list(handlers))
        busy = Counter(taken.effect for taken in self._running.values())
        for name in due:
            handler = handlers[name]
            free = handler.concurrency - busy[name]
            if free <= 0 or stop.is_set():
                continue
            # Before the statement: the lease is counted from here, so at worst too short and never too long.
            taken_at = asyncio.get_running_loop().time()
            async with database.transaction() as connection:
                rows = await effects.take(
                    connection,
                    table,
                    name,
                    holder=secrets.token_hex(8),
                    seconds=handler.time_limit + self._margin,
                    limit=free,
                )
            for row in rows:
                task = asyncio.create_task(self._attempt(row, handler, taken_at), name=f"effect {name}")
                self._running[task] = row
                task.add_done_callback(self._ended)
        return bool(due)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._running.pop(task, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            # A bug of this module: its row is due again when the lease ends.
            log.error("effect_task_failed", exc_info=error)
        self._queue.wake()  # There is room for another one.

    async def _give_back(self, rows: list[Taken]) -> None:
        """Make rows due at once, so that another replica need not wait for the end of their leases."""
        if not rows:
            return
        try:
            async with asyncio.timeout(_STOP_SECONDS):
                for row in rows:
                    with contextlib.suppress(LeaseLost):
                        async with self._store.database.transaction() as connection:
                            await effects.delay(connection, self._queue.table, row, seconds=0)
        except (sa.exc.SQLAlchemyError, OSError) as error:
            log.warning("effects_not_given_back", rows=len(rows), error=describe_error(error, 300))

    # One attempt

    async def _attempt(self, taken: Taken, handler: EffectHandler, taken_at: float) -> None:
        metrics = self._metrics[taken.effect]
        trace = taken.traceparent or self._telemetry.new_trace()
        try:
            if taken.attempts > handler.attempts:
                # Only an attempt whose process died leaves the row waiting with all its attempts used.
                await self._park(taken, handler, "the process ended during the last attempt", trace)
                return
            if asyncio.get_running_loop().time() - taken_at >= self._margin:
                return  # This process was paused, and the lease may end during the call: it is due again then.
            try:
                result = await self._called(taken, handler, trace)
            except EffectRefused as error:
                await self._park(taken, handler, describe_error(error, _ERROR_LETTERS), trace)
                return
            except Exception as error:
                metrics.failed.add(1)
                await self._try_later(taken, handler, _described(error, handler), trace)
                return
            try:
                await self._end(taken, handler.done, result, trace, effects.end)
            except LeaseLost:
                raise
            except (Exception, Poison) as error:
                # The call has succeeded, so it is not made again: only its result is handled again.
                metrics.failed.add(1)
                if taken.result is None:  # The first failure, with its traceback: it is a bug of the service.
                    log.exception("effect_result_failed", effect=taken.effect, key=taken.key)
                stored = "{}" if result is None else result.model_dump_json()
                await self._try_later(
                    taken, handler, describe_error(error, _ERROR_LETTERS), trace, result=stored
                )
                return
            metrics.done.add(1)
        except LeaseLost:
            # This process was slower than the lease, or its COMMIT succeeded and the reply was lost.
            log.warning("effect_lease_lost", effect=taken.effect, key=taken.key)

    async def _called(self, taken: Taken, handler: EffectHandler, trace: str) -> BaseModel | None:
        """The result of the call, or that of an earlier attempt whose result was not handled."""
        if taken.result is not None:
            return None if handler.done is None else handler.done.model.model_validate_json(taken.result)
        data = handler.model.model_validate_json(taken.data)
        loop = asyncio.get_running_loop()
        started = loop.time()
        with self._telemetry.span(
            conventions.effect(taken.effect),
            trace,
            conventions.CLIENT,
            attributes={conventions.EFFECT_KEY: taken.key},
        ) as span:
            call = EffectCall(call_id(self._service, taken.effect, taken.key), taken.attempts, span or trace)
            try:
                async with asyncio.timeout(handler.time_limit):
                    result: Any = await handler.perform(data, call)
            finally:
                self._metrics[taken.effect].seconds.record(loop.time() - started)
        if handler.done is not None and not isinstance(result, handler.done.model):
            # Not tried again: the call was made, and another one would end in the same way.
            raise EffectRefused(
                f"the call was made, but perform returned {type(result).__name__}, and not "
                f"{handler.done.model.__name__}"
            )
        return result if isinstance(result, BaseModel) else None

    async def _try_later(
        self, taken: Taken, handler: EffectHandler, error: str, trace: str, *, result: str | None = None
    ) -> None:
        """Let the row wait for its next attempt; park it after the last one."""
        if taken.attempts >= handler.attempts:
            await self._park(taken, handler, error, trace, result=result)
            return
        # Half of it is certain: an outside that fails gets its pause, and effects that failed together do not return
        # together.
        wait = handler.wait_after(taken.attempts) * random.uniform(0.5, 1.0)  # noqa: S311  # jitter
        log.warning(
            "effect_failed",
            effect=taken.effect,
            key=taken.key,
            attempt=taken.attempts,
            of=handler.attempts,
            wait_s=round(wait, 1),
            error=error,
        )
        table = self._queue.table
        await self._committed(
            lambda connection: effects.delay(
                connection, table, taken, seconds=wait, error=error, result=result
            )
        )

    async def _park(
        self, taken: Taken, handler: EffectHandler, error: str, trace: str, *, result: str | None = None
    ) -> None:
        """The effect has failed for good."""
        park = partial(effects.park, error=error, result=result)
        payload = EffectParked(
            effect=taken.effect,
            key=taken.key,
            data=msgspec.json.decode(taken.data),
            error=error,
            attempts=taken.attempts,
        )
        try:
            await self._end(taken, handler.parked, payload, trace, park)
        except LeaseLost:
            raise
        except (Exception, Poison):
            # It is parked anyway, or it would be tried for ever.
            log.exception("effect_parked_failed", effect=taken.effect, key=taken.key)
            await self._end(taken, None, payload, trace, park)
        self._metrics[taken.effect].parked.add(1)
        log.error(
            "effect_parked",
            effect=taken.effect,
            key=taken.key,
            attempts=taken.attempts,
            error=error,
            remedy=f"towpath effects list {self._service}",
        )

    # Its end

    async def _end(
        self,
        taken: Taken,
        handler: Handler | None,
        payload: BaseModel | None,
        trace: str,
        end: Callable[[AsyncConnection, sa.Table, Taken], Awaitable[None]],
    ) -> None:
        """Handle ``payload`` and end the row, in one transaction.

        Raises:
            LeaseLost
            Exception: The handler failed, or its unit of work.
        """

        async def step(connection: AsyncConnection) -> None:
            if handler is not None:
                await self._handle(connection, handler, payload, taken, trace)
            # After the locks of the domain, as where an effect is declared: the two never wait for each other.
            await end(connection, self._queue.table, taken)

        await self._committed(step)
        self._relay.wake()

    async def _handle(
        self, connection: AsyncConnection, handler: Handler, payload: Any, taken: Taken, trace: str
    ) -> None:
        request = Request(
            delivery=_NO_DELIVERY,
            item=b"",
            envelope=make(f"effect.{taken.effect}", {}),
            payload=payload,
            handler=handler,
            session=None,
            traceparent=trace,
            sender=f"service:{self._service}",
        )
        unit = self._store.storage.unit(connection)
        await unit.load([request])
        result = self._invocation.run(request, unit)
        if result.error is not None:
            raise result.error
        outcome = result.outcome or Outcome()
        if outcome != Outcome(pushes=outcome.pushes, events=outcome.events, effects=outcome.effects):
            raise TypeError(
                f"the outcome for the end of the effect {taken.effect} may have pushes, events and effects alone: no "
                f"connection waits for an answer"
            )
        await unit.save()
        await self._queue.put(connection, [(effect, result.traceparent) for effect in outcome.effects])
        sent = outgoing(outcome)
        if self._telemetry.is_recorded(result.traceparent):
            # Written into them now: the relay that publishes them knows no request.
            sent = [item.with_trace(result.traceparent) for item in sent]
        await outbox.put(connection, self._relay.tables, sent)

    async def _committed(self, step: Callable[[AsyncConnection], Awaitable[None]]) -> None:
        """Run ``step`` in a transaction; wait for the database while it cannot be reached."""
        database = self._store.database
        # No time limit: the call was made, and its end is known only here. The lease is checked by the step itself.
        async for _ in attempts():
            try:
                async with asyncio.timeout(self._settings.unit_time_limit):
                    async with database.transaction() as connection:
                        await step(connection)
                return
            except (sa.exc.DBAPIError, sa.exc.TimeoutError, OSError) as error:
                if not await database.is_database_failure(error):
                    raise
                log.error("database_away", error=describe_error(error, 300))

    # Metrics

    def _counted(self, name: str, state: str) -> Callable[[], float]:
        return lambda: self._counts.get((name, state), 0)


@dataclass(frozen=True, slots=True)
class _Metrics:
    """The metrics of one effect."""

    done: Metric
    failed: Metric
    parked: Metric
    seconds: Distribution

    @classmethod
    def of(cls, name: str, telemetry: Telemetry) -> "_Metrics":
        label = {"effect": name}
        return cls(
            telemetry.counter("effects_done", "Effects whose result was handled", label),
            telemetry.counter("effect_attempts_failed", "Attempts of effects that failed", label),
            telemetry.counter("effects_given_up", "Effects that were parked", label),
            telemetry.histogram("effect_call", "Time of one call to the outside", label),
        )


class _NoDelivery:
    """In the place of a delivery: the end of an effect has none."""

    body, exchange, routing_key, queue = b"", "", "", ""
    redelivered = False
    app_id = user_id = None
    headers: Mapping[str, Any] = MappingProxyType({})

    def ack(self) -> None:
        """Nothing is to be settled."""

    reject = requeue = ack


_NO_DELIVERY: Final = _NoDelivery()


def _described(error: Exception, handler: EffectHandler) -> str:
    if isinstance(error, TimeoutError) and not str(error):
        return f"TimeoutError: no result within {handler.time_limit:g} s"
    return describe_error(error, _ERROR_LETTERS)
