"""Effects: one call for each key after the commit, retried, bounded, and its result once, through crashes."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext
from dataclasses import replace
from functools import partial
from itertools import count, takewhile
from typing import Any, Final

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel
from sqlalchemy.ext.asyncio import AsyncConnection

from towpath.protocol.envelope import make
from towpath.protocol.errors import Conflict
from towpath.protocol.messages import Session
from towpath.servicekit import (
    BadService,
    Effect,
    EffectCall,
    EffectHandler,
    EffectParked,
    EffectRefused,
    Handler,
    KitTables,
    Outcome,
    Request,
    Service,
    ServiceSettings,
    Storage,
    TimerRun,
    UnknownEffect,
    serve_domain,
    to_user,
)
from towpath.servicekit.broker.interface import BrokerError, Message
from towpath.servicekit.broker.memory import MemoryHub
from towpath.servicekit.handling.checks import check_effects
from towpath.servicekit.handling.effects import EffectHandlers, EffectQueue, call_id
from towpath.servicekit.handling.invocation import Invocation
from towpath.servicekit.handling.performer import Performer
from towpath.servicekit.handling.store import Store
from towpath.servicekit.messaging.publisher import Publisher
from towpath.servicekit.runtime.telemetry import Telemetry
from towpath.servicekit.storage import effects
from towpath.servicekit.storage.database import Database
from towpath.servicekit.storage.effects import LeaseLost
from towpath.servicekit.storage.relay import Relay
from towpath.testkit.dispatching import ServiceUnderTest, a_command, an_event
from towpath.testkit.eventually import eventually

METADATA: Final = sa.MetaData()
KIT: Final = KitTables.define(METADATA, "test")
SOON: Final = 0.01
SELDOM: Final = 3600.0
PATIENCE: Final = 30.0


class Charge(BaseModel):
    order: str
    cents: int = 100


class Charged(BaseModel):
    order: str


class Outside:
    """The outside as the tests script it.

    Attributes:
        calls: Each call that reached it, by order, with its id.
        script: By order, what the next calls do: raise, wait for an event, or nothing.
    """

    def __init__(self) -> None:
        self.calls: list[tuple[str, EffectCall]] = []
        self.script: dict[str, list[Exception | asyncio.Event]] = {}
        self.at_once = 0
        self.most_at_once = 0

    async def charge(self, request: Charge, call: EffectCall) -> Charged:
        self.calls.append((request.order, call))
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await asyncio.sleep(0)
            step = steps.pop(0) if (steps := self.script.get(request.order)) else None
            if isinstance(step, asyncio.Event):
                await step.wait()
            elif step is not None:
                raise step
            return Charged(order=request.order)
        finally:
            self.at_once -= 1

    def counted(self) -> Counter[str]:
        return Counter(order for order, _ in self.calls)


class Book:
    """A unit of work that counts, in memory, which results were saved; a stream is not needed here."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def load(self, requests: Sequence[Request]) -> None: ...

    async def save(self) -> None: ...


def charged(result: Charged, _: Book) -> Outcome:
    paid = make("shop.paid", {"order": result.order})
    return Outcome(pushes=[to_user("ana", paid)], events=[paid])


def given_up(effect: EffectParked, _: Book) -> Outcome:
    return Outcome(events=[make("shop.unpaid", {"order": effect.data["order"], "error": effect.error})])


def a_row(outside: Outside, **changes: Any) -> EffectHandler:
    """The row of the effect `charge`: no waits to speak of."""
    row = EffectHandler(
        model=Charge,
        perform=outside.charge,
        done=Handler(Charged, charged),
        parked=Handler(EffectParked, given_up),
        first_wait=SOON,
        longest_wait=SOON,
    )
    return replace(row, **changes)


class Replica:
    """One replica: its performer, which runs on demand or beside the test."""

    def __init__(
        self, performer: Performer[Book], queue: EffectQueue, relay: Relay, database: Database
    ) -> None:
        self.performer = performer
        self.queue = queue
        self.database = database
        self.relay = relay

    async def declare(self, *orders: str, **more: Any) -> None:
        """Commit an effect for each of ``orders``."""
        async with self.database.transaction() as connection:
            await self.put(connection, *orders, **more)
        self.queue.wake()

    async def put(self, connection: AsyncConnection, *orders: str, **more: Any) -> None:
        declared = [Effect(name="charge", key=order, data=Charge(order=order), **more) for order in orders]
        await self.queue.put(connection, [(effect, "") for effect in declared])

    @asynccontextmanager
    async def running(self) -> AsyncIterator[asyncio.Event]:
        """The performer runs inside; gives the event that stops it."""
        stop = asyncio.Event()
        task = asyncio.create_task(self.performer.run(stop))
        try:
            yield stop
        finally:
            stop.set()
            async with asyncio.timeout(PATIENCE):
                await task

    async def ended(self, orders: int) -> None:
        """Wait until no effect waits any more."""

        async def no_row_waits() -> bool:
            rows = await self.rows()
            return len(rows) == orders and all(row.state != "waiting" for row in rows)

        await eventually(no_row_waits)

    async def rows(self) -> list[Any]:
        async with self.database.reading() as connection:
            return list(await connection.execute(sa.select(KIT.effects).order_by(KIT.effects.c.key)))

    async def published(self) -> Counter[tuple[str, str]]:
        """The results in the outbox, by action and order: once for each time that one was handled."""
        async with self.database.reading() as connection:
            items = await connection.execute(sa.select(KIT.outbox.items.c.exchange, KIT.outbox.items.c.item))
            found = [(row.exchange, json.loads(row.item)) for row in items]
        return Counter(
            (item["action"], item["data"]["order"])
            for exchange, item in found
            if exchange == "towpath.events"
        )


Opened = Callable[..., Awaitable[Replica]]


@pytest.fixture
def outside() -> Outside:
    return Outside()


@pytest.fixture
async def anywhere(database_url: str, hub: MemoryHub) -> AsyncIterator[Opened]:
    """Opens replicas on one database, SQLite and PostgreSQL."""
    async with opener(database_url, hub) as opened:
        yield opened


@pytest.fixture
async def replica(tmp_path_url: str, hub: MemoryHub) -> AsyncIterator[Opened]:
    """Opens replicas on SQLite alone, where no statement is in question."""
    async with opener(tmp_path_url, hub) as opened:
        yield opened


@asynccontextmanager
async def opener(url: str, hub: MemoryHub) -> AsyncIterator[Opened]:
    """Their relays publish nothing, so that the outbox shows all results."""
    numbers = count()
    async with AsyncExitStack() as stack:

        async def opened(handlers: EffectHandlers, *, margin: float = 30.0, **limits: Any) -> Replica:
            chosen = ServiceSettings(
                amqp_url="memory://", database_url=url, **{"effects_poll": SOON, **limits}
            )
            database = await stack.enter_async_context(Database.open(chosen.database_url, service="test"))
            telemetry = await stack.enter_async_context(Telemetry.open("test", chosen))
            broker = await stack.enter_async_context(hub.connect(name=f"replica-{next(numbers)}"))
            publisher = await stack.enter_async_context(Publisher.open(broker, "test", chosen, telemetry))
            relay = Relay(database, KIT.outbox, publisher, chosen, telemetry)
            queue = EffectQueue(KIT.effects, handlers)
            store = Store(Storage(KIT.inbox, KIT.streams, Book), database)
            invocation = Invocation(nullcontext(), 10.0, telemetry)
            performer = Performer("test", queue, store, relay, invocation, chosen, telemetry, margin=margin)
            return Replica(performer, queue, relay, database)

        yield opened


# Once


async def test_a_call_is_made_after_the_commit_and_its_result_is_published_once(
    replica: Opened, outside: Outside
) -> None:
    one = await replica({"charge": a_row(outside)})
    async with one.running():
        async with one.database.transaction() as connection:
            await one.put(connection, "o-1")
            await asyncio.sleep(5 * SOON)  # some looks for due rows
            assert outside.calls == [], "before the commit"
        await one.ended(1)
    assert outside.counted() == {"o-1": 1}
    assert await one.published() == {("shop.paid", "o-1"): 1}


async def test_an_effect_of_a_rolled_back_transaction_is_not_called(
    replica: Opened, outside: Outside
) -> None:
    one = await replica({"charge": a_row(outside)})
    async with one.database.transaction() as connection:
        await one.put(connection, "o-1")
        await connection.rollback()
    await one.performer.flush()
    assert outside.calls == []
    assert await one.rows() == []


async def test_an_effect_that_is_declared_again_is_called_once(anywhere: Opened, outside: Outside) -> None:
    one, two = await anywhere({"charge": a_row(outside)}), await anywhere({"charge": a_row(outside)})
    await asyncio.gather(*(each.declare("o-1", "o-2") for each in (one, two, one, two)))
    await asyncio.gather(one.performer.flush(), two.performer.flush())
    await one.declare("o-1")  # Also after its end.
    await one.performer.flush()
    assert outside.counted() == {"o-1": 1, "o-2": 1}
    assert await one.published() == {("shop.paid", "o-1"): 1, ("shop.paid", "o-2"): 1}


async def test_replicas_share_the_calls_and_make_each_once(anywhere: Opened, outside: Outside) -> None:
    replicas = [await anywhere({"charge": a_row(outside, concurrency=3)}) for _ in range(3)]
    orders = [f"o-{number:03}" for number in range(60)]
    async with AsyncExitStack() as stack:
        for each in replicas:
            await stack.enter_async_context(each.running())
        for start in range(0, 60, 20):
            await replicas[0].declare(*orders[start : start + 20])
        await replicas[0].ended(60)
    assert outside.counted() == dict.fromkeys(orders, 1)
    assert await replicas[0].published() == {("shop.paid", order): 1 for order in orders}


async def test_the_data_of_an_effect_that_is_done_are_deleted_and_its_key_stays(
    replica: Opened, outside: Outside
) -> None:
    one = await replica({"charge": a_row(outside)})
    await one.declare("o-1")
    await one.performer.flush()
    (row,) = await one.rows()
    assert (row.effect, row.key, row.state, row.data, row.result) == ("charge", "o-1", "done", "", None)


async def test_an_effect_may_wait(anywhere: Opened, outside: Outside) -> None:
    one = await anywhere({"charge": a_row(outside)})
    await one.declare("o-1", after=SELDOM)
    await one.declare("o-2")
    await one.performer.flush()
    assert outside.counted() == {"o-2": 1}


# Failures


async def test_a_failed_call_is_made_again_with_the_same_id_until_it_succeeds(
    replica: Opened, outside: Outside
) -> None:
    one = await replica({"charge": a_row(outside, attempts=4)})
    outside.script["o-1"] = [OSError("away"), RuntimeError("busy"), TimeoutError()]
    await one.declare("o-1", "o-2")
    async with one.running():
        await one.ended(2)
    calls = [call for order, call in outside.calls if order == "o-1"]
    assert [call.attempt for call in calls] == [1, 2, 3, 4]
    assert {call.id for call in calls} == {call_id("test", "charge", "o-1")}
    assert outside.counted()["o-2"] == 1, "a failure costs its own effect only"
    assert await one.published() == {("shop.paid", "o-1"): 1, ("shop.paid", "o-2"): 1}


async def test_an_effect_is_parked_after_its_last_attempt(anywhere: Opened, outside: Outside) -> None:
    one = await anywhere({"charge": a_row(outside, attempts=3)})
    outside.script["o-1"] = [OSError(f"away {number}") for number in range(9)]
    await one.declare("o-1")
    async with one.running():
        await one.ended(1)
    (row,) = await one.rows()
    assert (row.state, row.attempts, row.error) == ("parked", 3, "OSError: away 2")
    assert json.loads(row.data) == {"order": "o-1", "cents": 100}, "an operator sees what was to be done"
    assert outside.counted() == {"o-1": 3}
    assert await one.published() == {("shop.unpaid", "o-1"): 1}


async def test_a_call_that_is_refused_is_parked_at_once(replica: Opened, outside: Outside) -> None:
    one = await replica({"charge": a_row(outside)})
    outside.script["o-1"] = [EffectRefused("no such card")]
    await one.declare("o-1")
    await one.performer.flush()
    (row,) = await one.rows()
    assert (row.state, row.attempts, row.error) == ("parked", 1, "EffectRefused: no such card")
    assert await one.published() == {("shop.unpaid", "o-1"): 1}


async def test_a_parked_effect_is_called_again_when_an_operator_asks_for_it(
    anywhere: Opened, outside: Outside
) -> None:
    """The statement of docs/operations/effects.md."""
    one = await anywhere({"charge": a_row(outside)})
    outside.script["o-1"] = [EffectRefused("no such card")]
    await one.declare("o-1")
    await one.performer.flush()
    async with one.database.transaction() as connection:
        await connection.execute(
            sa.text(
                "UPDATE test_effects SET state = 'waiting', attempts = 0, due_at = 0 "
                "WHERE state = 'parked' AND effect = 'charge' AND key = 'o-1'"
            )
        )
    await one.performer.flush()
    assert [row.state for row in await one.rows()] == ["done"]
    assert await one.published() == {("shop.unpaid", "o-1"): 1, ("shop.paid", "o-1"): 1}


async def test_a_call_that_hangs_is_cancelled_and_made_again(replica: Opened, outside: Outside) -> None:
    one = await replica({"charge": a_row(outside, time_limit=0.05)})
    outside.script["o-1"] = [asyncio.Event()]
    await one.declare("o-1")
    async with one.running():
        await one.ended(1)
    assert outside.counted() == {"o-1": 2}
    assert outside.at_once == 0
    assert await one.published() == {("shop.paid", "o-1"): 1}


async def test_a_result_that_cannot_be_handled_is_handled_again_without_another_call(
    anywhere: Opened, outside: Outside
) -> None:
    failures: list[Exception] = [RuntimeError("a bug"), Conflict("not now")]

    def fails_twice(result: Charged, book: Book) -> Outcome:
        if failures:
            raise failures.pop()
        return charged(result, book)

    one = await anywhere({"charge": a_row(outside, done=Handler(Charged, fails_twice))})
    await one.declare("o-1")
    async with one.running():
        await one.ended(1)
    assert outside.counted() == {"o-1": 1}
    assert await one.published() == {("shop.paid", "o-1"): 1}


class Note(BaseModel):
    text: str | None


async def test_empty_fields_of_data_and_of_a_stored_result_stay(replica: Opened, outside: Outside) -> None:
    notes: list[Note] = []

    async def write(note: Note, _: EffectCall) -> Note:
        notes.append(note)
        return note

    def written(note: Note, _: Book) -> Outcome:
        notes.append(note)
        if len(notes) == 2:
            raise RuntimeError("a bug")
        return Outcome()

    one = await replica({"charge": a_row(outside, model=Note, perform=write, done=Handler(Note, written))})
    async with one.database.transaction() as connection:
        await one.queue.put(connection, [(Effect(name="charge", key="n-1", data={"text": None}), "")])
    async with one.running():
        await one.ended(1)
    assert notes == [Note(text=None)] * 3


async def test_an_effect_whose_result_is_never_handled_is_parked_with_its_result(
    replica: Opened, outside: Outside
) -> None:
    def fails(_: Charged, __: Book) -> Outcome:
        raise RuntimeError("a bug")

    one = await replica({"charge": a_row(outside, attempts=3, done=Handler(Charged, fails))})
    await one.declare("o-1")
    async with one.running():
        await one.ended(1)
    (row,) = await one.rows()
    assert (row.state, json.loads(row.result)) == ("parked", {"order": "o-1"})
    assert outside.counted() == {"o-1": 1}


async def test_a_handler_of_parked_effects_that_fails_does_not_keep_the_effect_waiting(
    replica: Opened, outside: Outside
) -> None:
    def fails(_: EffectParked, __: Book) -> Outcome:
        raise RuntimeError("a bug")

    one = await replica({"charge": a_row(outside, parked=Handler(EffectParked, fails))})
    outside.script["o-1"] = [EffectRefused("no such card")]
    await one.declare("o-1")
    await one.performer.flush()
    assert [row.state for row in await one.rows()] == ["parked"]
    assert await one.published() == {}


@pytest.mark.parametrize(
    "wrong",
    [Outcome(answer={"a": 1}), Outcome(subscribe=["room"]), Outcome(groups=[]), Outcome(replay={"a": 1})],
)
async def test_the_end_of_an_effect_has_no_connection_to_answer(
    wrong: Outcome, replica: Opened, outside: Outside
) -> None:
    one = await replica({"charge": a_row(outside, attempts=1, done=Handler(Charged, lambda *_: wrong))})
    await one.declare("o-1")
    await one.performer.flush()
    (row,) = await one.rows()
    assert row.state == "parked"
    assert "no connection waits for an answer" in row.error


async def test_a_call_that_returns_another_model_is_not_made_again(replica: Opened, outside: Outside) -> None:
    async def wrong(_: Charge, __: EffectCall) -> Charge:
        return Charge(order="o-9")

    one = await replica({"charge": a_row(outside, perform=wrong)})
    await one.declare("o-1")
    await one.performer.flush()
    (row,) = await one.rows()
    assert (row.state, row.attempts) == ("parked", 1)
    assert "returned Charge, and not Charged" in row.error


# Limits


async def test_calls_at_the_same_time_are_bounded_and_a_slow_effect_delays_no_other(
    replica: Opened, outside: Outside
) -> None:
    slow, quick = Outside(), Outside()
    never = asyncio.Event()
    slow.script = {f"o-{number}": [never] for number in range(20)}
    rows = {
        "charge": a_row(slow, concurrency=2, done=None),
        "refund": EffectHandler(model=Charge, perform=quick.charge),
    }
    one = await replica(rows)
    async with one.running():
        await one.declare(*(f"o-{number}" for number in range(20)))
        await eventually(lambda: slow.at_once == 2)
        async with one.database.transaction() as connection:
            refund = Effect(name="refund", key="r-1", data={"order": "r-1"})
            await one.queue.put(connection, [(refund, "")])
        await eventually(lambda: quick.counted() == {"r-1": 1})
        assert slow.most_at_once == 2
        never.set()
        await one.ended(21)
    assert slow.most_at_once == 2


async def test_on_stop_a_call_may_finish_and_no_other_begins(replica: Opened, outside: Outside) -> None:
    one = await replica({"charge": a_row(outside, concurrency=1)})
    holding = asyncio.Event()
    outside.script["o-1"] = [holding]
    await one.declare("o-1")
    async with one.running() as stop:
        await eventually(lambda: outside.at_once)
        await one.declare("o-2")
        stop.set()
        await asyncio.sleep(5 * SOON)  # a look would have found the second one
        holding.set()
    assert outside.counted() == {"o-1": 1}
    assert [row.state for row in await one.rows()] == ["done", "waiting"]
    assert await one.published() == {("shop.paid", "o-1"): 1}


async def test_on_stop_a_call_that_hangs_is_given_to_another_replica_at_once(
    replica: Opened, outside: Outside, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("towpath.servicekit.handling.performer.STOP_GRACE", 0.1)
    one, two = await replica({"charge": a_row(outside)}), await replica({"charge": a_row(outside)})
    outside.script["o-1"] = [asyncio.Event()]
    await one.declare("o-1")
    async with one.running():
        await eventually(lambda: outside.at_once)
    await two.performer.flush()
    assert outside.counted() == {"o-1": 2}
    assert await two.published() == {("shop.paid", "o-1"): 1}


async def test_rows_are_deleted_when_their_retention_is_over(anywhere: Opened, outside: Outside) -> None:
    one = await anywhere({"charge": a_row(outside)}, effects_retention=60, effects_parked_retention=7200)
    outside.script["o-2"] = [EffectRefused("no such card")]
    await one.declare("o-1", "o-2")
    await one.performer.flush()
    await one.declare("o-3", after=SELDOM)
    await one.performer.sweep()
    assert [row.key for row in await one.rows()] == ["o-1", "o-2", "o-3"]

    async def an_hour_passes() -> None:
        async with one.database.transaction() as connection:
            await connection.execute(KIT.effects.update().values(due_at=KIT.effects.c.due_at - 3_600_000))

    await an_hour_passes()
    await one.performer.sweep()
    assert [row.key for row in await one.rows()] == ["o-2", "o-3"], (
        "parked rows are kept longer, waiting ones for ever"
    )
    await an_hour_passes()
    await one.performer.sweep()
    assert [row.key for row in await one.rows()] == ["o-3"]


# Crashes


async def test_a_process_that_dies_between_the_call_and_the_commit_costs_a_second_call_and_no_second_result(
    anywhere: Opened, outside: Outside
) -> None:
    """At least once for the outside, once for the result: docs/reference/effects.md."""
    one = await anywhere({"charge": a_row(outside, time_limit=0.1)}, margin=0.1)
    two = await anywhere({"charge": a_row(outside)})
    await one.declare("o-1")
    async with one.database.transaction() as connection:
        # A replica takes the row, makes the call, and is killed.
        (taken,) = await effects.take(connection, KIT.effects, "charge", holder="dead", seconds=0.2, limit=9)
    await outside.charge(
        Charge(order="o-1"), EffectCall(call_id("test", "charge", "o-1"), taken.attempts, "")
    )
    async with two.running():
        await two.ended(1)
    assert outside.counted() == {"o-1": 2}
    assert len({call.id for _, call in outside.calls}) == 1
    assert await two.published() == {("shop.paid", "o-1"): 1}


async def test_a_replica_whose_lease_has_ended_changes_nothing(anywhere: Opened, outside: Outside) -> None:
    one = await anywhere({"charge": a_row(outside)})
    await one.declare("o-1")
    async with one.database.transaction() as connection:
        (late,) = await effects.take(connection, KIT.effects, "charge", holder="late", seconds=0, limit=9)
        (last,) = await effects.take(connection, KIT.effects, "charge", holder="last", seconds=60, limit=9)
    changes: tuple[Callable[..., Awaitable[None]], ...] = (
        effects.end,
        partial(effects.park, error="late"),
        partial(effects.delay, seconds=0),
    )
    for change in changes:
        with pytest.raises(LeaseLost, match="o-1"):
            async with one.database.transaction() as connection:
                await change(connection, KIT.effects, late)
    async with one.database.transaction() as connection:
        await effects.end(connection, KIT.effects, last)
    assert [(row.state, row.attempts) for row in await one.rows()] == [("done", 2)]


async def test_an_effect_that_ends_its_process_each_time_is_parked(replica: Opened, outside: Outside) -> None:
    one = await replica({"charge": a_row(outside, attempts=2)})
    await one.declare("o-1")
    for _ in range(2):
        async with one.database.transaction() as connection:
            assert await effects.take(connection, KIT.effects, "charge", holder="dead", seconds=0, limit=1)
    await one.performer.flush()
    (row,) = await one.rows()
    assert (row.state, row.error) == ("parked", "the process ended during the last attempt")
    assert outside.calls == []


STEPS: Final = st.lists(st.sampled_from(["ok", "fails", "crash", "handler"]), max_size=5)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(story=st.dictionaries(st.sampled_from(["a", "b", "c"]), STEPS, min_size=1))
async def test_each_result_is_handled_once_in_any_story_of_failures_and_crashes(
    story: dict[str, list[str]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """``crash``: the process dies after the call; ``handler``: the result is not handled."""
    url = f"sqlite:///{tmp_path_factory.mktemp('effects') / 'story.db'}"
    outside, left = Outside(), {order: list(steps) for order, steps in story.items()}

    async def perform(request: Charge, call: EffectCall) -> Charged:
        result = await outside.charge(request, call)
        step = left[request.order][0] if left[request.order] else "ok"
        if step != "handler" and left[request.order]:
            left[request.order].pop(0)
        if step == "fails":
            raise OSError("away")
        if step == "crash":
            # The lease is over at once, as if it had passed: the row is taken by the next holder, now.
            async with one.database.transaction() as connection:
                here = sa.and_(KIT.effects.c.key == request.order, KIT.effects.c.state == "waiting")
                await connection.execute(KIT.effects.update().where(here).values(holder="next", due_at=0))
            raise asyncio.CancelledError
        return result

    def handle(result: Charged, book: Book) -> Outcome:
        if left[result.order] and left[result.order][0] == "handler":
            left[result.order].pop(0)
            raise RuntimeError("a bug")
        return charged(result, book)

    row = a_row(outside, perform=perform, done=Handler(Charged, handle), attempts=20, first_wait=0.001)
    async with opener(url, MemoryHub()) as opened:
        one = await opened({"charge": row})
        async with one.running():
            await one.declare(*story)
            await one.ended(len(story))
        assert await one.published() == {("shop.paid", order): 1 for order in story}
    for order, steps in story.items():
        # A call for each failure and each crash, then one that succeeds, and none for a handler's failures after it.
        failed = takewhile(lambda step: step in ("fails", "crash"), steps)
        assert outside.counted()[order] == 1 + len(list(failed))


# Declared by handlers and timers


class Pay(BaseModel):
    order: str


def pay(request: Pay, _: Session, __: Book) -> Outcome:
    charge = Effect(name="charge", key=request.order, data={"order": request.order})
    return Outcome(answer={"order": request.order}, effects=[charge])


def on_late(request: Pay, _: Book) -> Outcome:
    return Outcome(effects=[Effect(name="charge", key=request.order, data=Charge(order=request.order))])


def unknown(_: Pay, __: Session, ___: Book) -> Outcome:
    return Outcome(effects=[Effect(name="charm", key="k")])


def misfit(_: Pay, __: Session, ___: Book) -> Outcome:
    return Outcome(effects=[Effect(name="charge", key="k", data={"order": 7})])


def shop(outside: Outside, **changes: Any) -> Service[Book]:
    return Service(
        name="test",
        domain="shop",
        commands={
            "shop.pay": Handler(Pay, pay),
            "shop.signal": Handler(Pay, pay, changes=False, idempotent=True),
            "shop.look": Handler(Pay, pay, changes=False),
            "shop.unknown": Handler(Pay, unknown),
            "shop.misfit": Handler(Pay, misfit),
        },
        events={"shop.late": Handler(Pay, on_late)},
        storage=Storage(KIT.inbox, KIT.streams, Book, outbox=KIT.outbox, effects=KIT.effects),
        effects={"charge": a_row(outside, **changes)},
    )


async def test_a_redelivered_command_has_its_effect_once(database_url: str, outside: Outside) -> None:
    async with ServiceUnderTest.running(shop(outside), database_url) as test:
        command = a_command("shop.pay", order="o-1", msg_id="m-1")
        await test.dispatch(command, an_event("shop.late", order="o-2", msg_id="e-1"))
        await test.dispatch(command, redelivered=True)
        await test.perform()
        await test.dispatch(command)
        await test.perform()
        assert outside.counted() == {"o-1": 1, "o-2": 1}
        # Effects have no order.
        assert sorted(event.data["order"] for event in test.events()) == ["o-1", "o-2"]
        assert [push.action for push in test.pushes("user.ana")] == ["shop.paid", "shop.paid"]
        assert {answer.data["order"] for answer in test.answers("m-1")} == {"o-1"}


async def test_an_idempotent_write_may_declare_an_effect_and_a_read_may_not(
    tmp_path_url: str, outside: Outside
) -> None:
    async with ServiceUnderTest.running(shop(outside), tmp_path_url) as test:
        await test.dispatch(
            a_command("shop.signal", order="o-1"), a_command("shop.look", order="o-2", msg_id="m")
        )
        await test.perform()
        assert outside.counted() == {"o-1": 1}
        assert test.error("m") == "internal"


@pytest.mark.parametrize("action", ["shop.unknown", "shop.misfit"])
async def test_an_effect_that_the_table_refuses_is_an_error_of_its_handler(
    action: str, tmp_path_url: str, outside: Outside
) -> None:
    async with ServiceUnderTest.running(shop(outside), tmp_path_url) as test:
        await test.dispatch(a_command(action, order="o-1", msg_id="m"))
        assert test.error("m") == "internal"
        assert await test.rows(KIT.effects) == []


async def test_a_timer_declares_effects_in_its_transaction(tmp_path_url: str, outside: Outside) -> None:
    async def remind(run: TimerRun) -> bool:
        async with run.transaction() as connection:
            effect = Effect(name="charge", key="o-1", data=Charge(order="o-1"))
            await run.publish(connection, effects=[effect])
            with pytest.raises(UnknownEffect, match=r"charm.*which has charge"):
                await run.publish(connection, effects=[Effect(name="charm", key="o-1")])
        return False

    async with ServiceUnderTest.running(shop(outside), tmp_path_url) as test:
        await test.turn(remind)
        await test.turn(remind)
        await test.perform()
        assert outside.counted() == {"o-1": 1}


async def test_a_service_makes_its_calls_from_its_start_to_its_stop(
    database_url: str, outside: Outside
) -> None:
    hub, stop = MemoryHub(), asyncio.Event()
    chosen = ServiceSettings(amqp_url="memory://", database_url=database_url, admin_port=0)
    async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as tasks:
        serving = serve_domain(shop(outside), chosen, stop, lambda _, name: hub.connect(name=name))
        tasks.create_task(serving)
        async with hub.connect(name="test") as broker:
            message = an_event("shop.late", order="o-1")

            async def published() -> bool:
                try:
                    await broker.publish(
                        message.exchange,
                        message.routing_key,
                        Message(body=message.item, app_id="b"),
                        mandatory=True,
                    )
                except BrokerError:
                    return False
                return True

            await eventually(published)
            await eventually(lambda: outside.counted() == {"o-1": 1})
        stop.set()


# Refused definitions


@pytest.fixture
def tmp_path_url(tmp_path: Any) -> str:
    return f"sqlite+aiosqlite:///{tmp_path}/test.db"


STORAGE: Final = Storage(KIT.inbox, KIT.streams, Book, outbox=KIT.outbox, effects=KIT.effects)


def plain(_: Charge, __: EffectCall) -> None: ...


@pytest.mark.parametrize(
    ("name", "changes", "storage", "said"),
    [
        ("charge", {}, None, "set effects=KIT.effects"),
        ("charge", {}, replace(STORAGE, outbox=None), "set effects=KIT.effects and outbox=KIT.outbox"),
        ("charge", {}, replace(STORAGE, effects=None), "set effects=KIT.effects"),
        ("Charge!", {}, STORAGE, "not a valid name"),
        ("charge", {"perform": plain}, STORAGE, "not async"),
        ("charge", {"perform": "charge"}, STORAGE, "cannot be called"),
        ("charge", {"parked": Handler(Charged, charged)}, STORAGE, "its model is EffectParked"),
        ("charge", {"done": Handler(Charged, pay)}, STORAGE, "does not take the arguments"),
    ],
)
def test_an_effect_that_cannot_work_is_refused_when_its_service_starts(
    name: str, changes: dict[str, Any], storage: Any, said: str
) -> None:
    with pytest.raises(BadService, match=said):
        check_effects("shop", {name: a_row(Outside(), **changes)}, storage)


def test_an_effect_that_can_work_is_accepted() -> None:
    check_effects("shop", {"charge": a_row(Outside())}, STORAGE)


@pytest.mark.parametrize(
    "limit", [{"time_limit": 0}, {"attempts": 0}, {"first_wait": -1}, {"longest_wait": 0}, {"concurrency": 0}]
)
def test_a_limit_out_of_range_is_refused(limit: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(limit))}=.* of Charge"):
        a_row(Outside(), **limit)


@pytest.mark.parametrize(
    "wrong", [{"key": ""}, {"key": "k" * 513}, {"key": "a\0b"}, {"key": "k", "after": -1.0}]
)
def test_a_key_or_time_out_of_range_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="effect charge"):
        Effect(name="charge", **wrong)


def test_the_id_of_a_call_distinguishes_services_effects_and_keys() -> None:
    ids = {call_id(*which) for which in (("a", "b", "c"), ("a", "b", "d"), ("a", "c", "c"), ("b", "b", "c"))}
    assert len(ids) == 4
    assert all(len(one) <= 64 and one.replace("-", "").isalnum() and one.isascii() for one in ids)
    assert call_id("a", "x" * 64, "\ud800 鍵\r\n").isprintable()
