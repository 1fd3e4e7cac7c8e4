"""Dead letters: a message is retried after growing delays, and parked in the end."""

import asyncio
import json
from dataclasses import replace
from typing import Final

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from towpath.protocol.envelope import now_ms
from towpath.protocol.routes import RETRY_DELAYS, dead_queue, retry_queue
from towpath.servicekit.broker.interface import (
    Binding,
    Broker,
    Delivery,
    Exchange,
    HeaderValue,
    Message,
    Queue,
    Subscription,
    Topology,
)
from towpath.servicekit.broker.memory import MemoryHub
from towpath.servicekit.messaging import dead_letters
from towpath.servicekit.messaging.dead_letters import DeadLetters
from towpath.servicekit.messaging.failure_headers import attempts, history
from towpath.servicekit.runtime.telemetry import Telemetry
from towpath.testkit.eventually import eventually

PATIENCE: Final = 30.0
EVENTS: Final = Exchange("events")
WORK: Final = Queue(
    name="orders.events",
    bindings=[Binding(EVENTS.name, "order.#"), dead_letters.way_back("orders", "orders.events")],
    delivery_limit=20,
)
DEAD: Final = Queue(name=dead_queue("orders"))
ITEM: Final = b'{"n":1}'
TRACE: Final = f"00-{'ab' * 16}-{'cd' * 8}-00"


@pytest.fixture(autouse=True)
async def topology(broker: Broker) -> None:
    """The queues of a service, whose delays are over in a moment."""
    waits = [
        replace(queue, message_ttl_ms=queue.message_ttl_ms and 20)
        for queue in dead_letters.queues("orders", 1000)
    ]
    await broker.declare(Topology([EVENTS, *dead_letters.exchanges("orders")], [WORK, *waits]))


@pytest.fixture
def letters(broker: Broker, telemetry: Telemetry) -> DeadLetters:
    return DeadLetters(broker, "orders", telemetry)


async def one(subscription: Subscription) -> Delivery:
    async with asyncio.timeout(PATIENCE):
        return await anext(subscription)


async def a_delivery(broker: Broker, work: Subscription, **headers: HeaderValue) -> Delivery:
    message = Message(body=ITEM, app_id="backend", headers=headers)
    await broker.publish(EVENTS.name, "order.paid", message)
    return await one(work)


async def parked(broker: Broker) -> Delivery:
    async with broker.subscribe(DEAD, prefetch=1) as dead:
        delivery = await one(dead)
        delivery.ack()
        return delivery


async def test_a_retried_message_returns_to_its_queue_with_the_error_in_its_headers(
    broker: Broker, letters: DeadLetters
) -> None:
    async with broker.subscribe(WORK, prefetch=10) as work:
        before = now_ms()
        delivery = await a_delivery(broker, work)
        assert not await letters.retry(delivery, ITEM, ValueError("too late"), TRACE)
        delivery.ack()
        again = await one(work)
    assert (again.queue, again.body, again.app_id) == (WORK.name, ITEM, "backend")
    headers = dict(again.headers)
    assert before <= headers["x-first-failed-at"] <= now_ms()
    assert headers["x-attempt"] == 1
    assert headers["x-error"] == "ValueError: too late"
    assert (headers["x-queue"], headers["x-routing-key"]) == (WORK.name, "order.paid")
    assert headers["traceparent"] == TRACE


async def test_a_message_is_parked_after_the_last_delay(
    broker: Broker, letters: DeadLetters, telemetry: Telemetry
) -> None:
    async with broker.subscribe(WORK, prefetch=10) as work:
        delivery = await a_delivery(broker, work)
        first_failed_at = None
        for attempt in range(len(RETRY_DELAYS)):
            assert not await letters.retry(delivery, ITEM, ValueError(f"try {attempt + 1}"), None)
            delivery.ack()
            delivery = await one(work)
            assert attempts(delivery.headers) == attempt + 1
            first_failed_at = first_failed_at or delivery.headers["x-first-failed-at"]
        assert await letters.retry(delivery, ITEM, ValueError("the last"), None)
        delivery.ack()
    dead = await parked(broker)
    assert dead.body == ITEM
    assert dead.headers["x-reason"] == "failed"
    assert dead.headers["x-error"] == "ValueError: the last"
    assert dead.headers["x-first-failed-at"] == first_failed_at
    assert (dead.headers["x-queue"], dead.headers["x-routing-key"]) == (WORK.name, "order.paid")
    figures = telemetry.exposition()
    assert b"messages_retried_total 4.0" in figures
    assert b"messages_parked_total 1.0" in figures


def test_the_delays_of_the_retry_queues_grow() -> None:
    waits = {queue.name: queue for queue in dead_letters.queues("orders", 1000)}
    assert {name: queue.message_ttl_ms for name, queue in waits.items()} == {
        "orders.dead": None,
        "orders.retry.5s": 5_000,
        "orders.retry.30s": 30_000,
        "orders.retry.2min": 120_000,
        "orders.retry.10min": 600_000,
    }
    assert {exchange.name for exchange in dead_letters.exchanges("orders")} == {*waits, "orders.again"}


def test_no_retry_queue_leads_to_the_queues_of_other_services() -> None:
    """The default exchange would: a right to dead-letter there is a right to write to every queue."""
    ways = {queue.dead_letter_exchange for queue in dead_letters.queues("orders", 1000)}
    assert ways == {None, "orders.again"}


async def test_each_attempt_goes_to_the_retry_queue_of_its_delay(
    broker: Broker, letters: DeadLetters
) -> None:
    async with broker.subscribe(WORK, prefetch=10) as work:
        for number, delay in enumerate(RETRY_DELAYS):
            waiting = Queue(name=retry_queue("orders", delay))
            async with broker.subscribe(waiting, prefetch=1) as queue:
                delivery = await a_delivery(broker, work, **{"x-attempt": number})
                await letters.retry(delivery, ITEM, ValueError(), None)
                delivery.ack()
                (await one(queue)).ack()


async def test_a_parked_message_has_its_body_reason_and_trace(broker: Broker, letters: DeadLetters) -> None:
    async with broker.subscribe(WORK, prefetch=10) as work:
        delivery = await a_delivery(broker, work)
        await letters.park(delivery, b"not json", "unreadable", ValueError("x" * 2000), TRACE)
        delivery.ack()
    dead = await parked(broker)
    assert dead.body == b"not json"
    assert (dead.headers["x-reason"], dead.headers["x-attempt"]) == ("unreadable", 0)
    assert len(dead.headers["x-error"]) == 500
    assert dead.headers["traceparent"] == TRACE


async def test_park_returns_only_once_the_broker_has_confirmed_the_message(
    hub: MemoryHub, broker: Broker, letters: DeadLetters
) -> None:
    async with broker.subscribe(WORK, prefetch=10) as work:
        delivery = await a_delivery(broker, work)
        hub.stop()
        parking = asyncio.create_task(letters.park(delivery, ITEM, "unreadable", ValueError(), None))
        await asyncio.wait([parking], timeout=0.05)
        assert not parking.done()
        hub.start()
        async with asyncio.timeout(PATIENCE):
            await parking
    hub.stop()
    hub.start()
    assert (await parked(broker)).body == ITEM


async def test_a_retry_waits_while_the_broker_is_blocked(
    hub: MemoryHub, broker: Broker, letters: DeadLetters
) -> None:
    async with broker.subscribe(WORK, prefetch=10) as work:
        delivery = await a_delivery(broker, work)
        hub.block()
        retrying = asyncio.create_task(letters.retry(delivery, ITEM, ValueError(), None))
        await asyncio.wait([retrying], timeout=0.05)
        assert not retrying.done()
        hub.unblock()
        async with asyncio.timeout(PATIENCE):
            assert not await retrying
        delivery.ack()
        assert attempts((await one(work)).headers) == 1


@given(st.none() | st.integers() | st.booleans() | st.text() | st.binary() | st.lists(st.integers()))
def test_a_forged_attempt_count_is_clamped(count: object) -> None:
    forged = isinstance(count, int) and not isinstance(count, bool)
    assert attempts({"x-attempt": count}) == (min(max(count, 0), 4) if forged else 0)  # type: ignore[call-overload]


# The history of a message


async def test_a_parked_message_has_time_error_and_location_of_each_failure(
    broker: Broker, letters: DeadLetters
) -> None:
    async with broker.subscribe(WORK, prefetch=10) as work:
        delivery = await a_delivery(broker, work)
        for attempt in range(2):
            assert not await letters.retry(delivery, ITEM, raised(f"try {attempt + 1}"), TRACE)
            delivery.ack()
            delivery = await one(work)
        await letters.park(delivery, ITEM, "conflict", ValueError("never raised"), TRACE)
        delivery.ack()
    failures = history((await parked(broker)).headers)
    assert [attempt.error for attempt in failures] == [
        "ValueError: try 1",
        "ValueError: try 2",
        "ValueError: never raised",
    ]
    assert [attempt.at for attempt in failures] == sorted(attempt.at for attempt in failures)
    assert all("test_parking.raised:" in attempt.where for attempt in failures[:2])
    assert failures[2].where == ""


async def test_the_history_keeps_the_last_attempts_and_stays_small(
    broker: Broker, letters: DeadLetters
) -> None:
    many = json.dumps([{"at": n, "error": "x" * 200, "where": "y" * 200} for n in range(100)])
    async with broker.subscribe(WORK, prefetch=10) as work:
        delivery = await a_delivery(broker, work, **{"x-attempts": many})
        await letters.park(delivery, ITEM, "failed", ValueError("z" * 10_000), None)
        delivery.ack()
    headers = (await parked(broker)).headers
    assert [attempt.at for attempt in history(headers)][:-1] == list(range(91, 100))
    assert len(headers["x-attempts"]) < 6000


@given(
    st.none() | st.integers() | st.binary() | st.text() | st.just("[" * 100_000) | st.just('[{"at": "now"}]')
)
def test_an_unreadable_history_counts_as_empty(written: object) -> None:
    assert history({"x-attempts": written}) == [] or written == "[]"


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise ValueError("no words")


@pytest.mark.parametrize(
    ("error", "text"),
    [(Unspeakable(), "Unspeakable: (its text raised ValueError)"), (ValueError("\ud800"), "ValueError: ?")],
)
async def test_an_error_without_readable_text_is_parked_like_any_other(
    broker: Broker, letters: DeadLetters, error: Exception, text: str
) -> None:
    async with broker.subscribe(WORK, prefetch=10) as work:
        delivery = await a_delivery(broker, work)
        await letters.park(delivery, ITEM, "failed", error, None)
        delivery.ack()
    assert (await parked(broker)).headers["x-error"] == text


async def test_a_replayed_message_that_fails_again_keeps_its_replay_count(
    broker: Broker, letters: DeadLetters
) -> None:
    async with broker.subscribe(WORK, prefetch=10) as work:
        known: dict[str, HeaderValue] = {"x-replayed": 2, "x-routing-key": "order.first"}
        delivery = await a_delivery(broker, work, **known)
        await letters.park(delivery, ITEM, "failed", ValueError(), None)
        delivery.ack()
    headers = (await parked(broker)).headers
    assert (headers["x-replayed"], headers["x-routing-key"]) == (2, "order.first")


# A dead queue that is full


async def test_a_full_dead_queue_blocks_parking_visibly_until_there_is_room(
    hub: MemoryHub, telemetry: Telemetry
) -> None:
    async with hub.connect(name="small") as broker:
        await broker.declare(Topology(dead_letters.exchanges("small"), dead_letters.queues("small", 1)))
        await broker.declare(Topology([], [Queue(name="small.events")]))
        letters = DeadLetters(broker, "small", telemetry)
        async with broker.subscribe(Queue(name="small.events"), prefetch=10) as work:
            for number in range(2):
                await broker.publish("", "small.events", Message(body=b'{"n":%d}' % number))
            first, second = [await one(work) for _ in range(2)]
            await letters.park(first, first.body, "failed", ValueError())
            assert not letters.blocked
            with structlog.testing.capture_logs() as logs:
                parking = asyncio.create_task(letters.park(second, second.body, "failed", ValueError()))
                await eventually(lambda: letters.blocked)
                assert b"parking_blocked 1.0" in telemetry.exposition()
                async with broker.browse(dead_queue("small")) as looking:
                    (await anext(looking)).ack()
                async with asyncio.timeout(PATIENCE):
                    await parking
            assert not letters.blocked
            assert b"parking_blocked 0.0" in telemetry.exposition()
            alarms = [log for log in logs if log["event"] == "parking_blocked"]
            assert len(alarms) == 1  # not one for each attempt
            assert "towpath dead-letters list small" in alarms[0]["remedy"]


async def test_the_number_of_parked_messages_is_a_metric(
    broker: Broker, letters: DeadLetters, telemetry: Telemetry
) -> None:
    async with broker.subscribe(WORK, prefetch=10) as work:
        delivery = await a_delivery(broker, work)
        await letters.park(delivery, ITEM, "failed", ValueError())
        delivery.ack()
    counting = asyncio.create_task(letters.keep_count())
    await eventually(lambda: b"dead_letters_waiting 1.0" in telemetry.exposition())
    counting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await counting
    assert (await parked(broker)).body == ITEM


def test_browsing_never_reaches_the_delivery_limit_of_parked_messages() -> None:
    [dead] = [queue for queue in dead_letters.queues("orders", 10) if queue.name == dead_queue("orders")]
    assert dead.delivery_limit >= 1_000_000


def raised(text: str) -> ValueError:
    try:
        raise ValueError(text)
    except ValueError as error:
        return error
