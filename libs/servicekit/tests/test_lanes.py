"""Lanes: items are batched and published in order, and each callback gets the result of its item."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from towpath.servicekit.broker.interface import (
    Binding,
    Broker,
    BrokerBlocked,
    BrokerError,
    BrokerUnavailable,
    Delivery,
    Exchange,
    Inbox,
    PublishUnconfirmed,
    Queue,
    Subscription,
    Topology,
    Unroutable,
)
from towpath.servicekit.broker.memory import MemoryHub
from towpath.servicekit.messaging.lanes import LaneFull, LaneKind, Lanes
from towpath.servicekit.runtime.settings import BrokerSettings, TelemetrySettings
from towpath.servicekit.runtime.telemetry import Telemetry
from towpath.testkit.eventually import eventually

PATIENCE: Final = 30.0
TOPICS: Final = Exchange("topics")
EARS: Final = Inbox(name="ears", bindings=[Binding(TOPICS.name, "heard.#")])


@asynccontextmanager
async def open_lanes(
    broker: Broker,
    telemetry: Telemetry,
    *,
    persistent: bool = False,
    mandatory: bool = False,
    **limits: Any,
) -> AsyncIterator[Lanes]:
    settings = BrokerSettings(amqp_url="memory://", **limits)
    kind = LaneKind(app_id="test", persistent=persistent, mandatory=mandatory)
    async with Lanes.open(broker, TOPICS.name, kind, settings, telemetry) as lanes:
        yield lanes


@pytest.fixture
async def ears(broker: Broker) -> AsyncIterator[Subscription]:
    await broker.declare(Topology([TOPICS]))
    async with broker.subscribe(EARS, prefetch=1000) as ears:
        yield ears


def items(*numbers: int) -> list[bytes]:
    return [json.dumps({"n": number}).encode() for number in numbers]


def numbers(body: bytes) -> list[int]:
    value = json.loads(body)
    return [item["n"] for item in (value if isinstance(value, list) else [value])]


async def one(ears: Subscription) -> Delivery:
    async with asyncio.timeout(PATIENCE):
        delivery = await anext(ears)
    delivery.ack()
    return delivery


async def outcomes(*sent: "asyncio.Future[None]") -> list[BaseException | None]:
    async with asyncio.timeout(PATIENCE):
        return await asyncio.gather(*sent, return_exceptions=True)


def figure(telemetry: Telemetry, name: str) -> float:
    """The value of a counter of the exchange under test."""
    for line in telemetry.exposition().decode().splitlines():
        if line.startswith(f'{name}{{exchange="{TOPICS.name}"}}'):
            return float(line.split()[-1])
    raise AssertionError(f"there is no {name}")


# Batches


async def test_an_idle_lane_publishes_an_item_at_once_and_alone(
    broker: Broker, ears: Subscription, telemetry: Telemetry
) -> None:
    async with open_lanes(broker, telemetry) as lanes:
        for number in (1, 2, 3):
            assert await outcomes(lanes.send("heard", items(number)[0])) == [None]
            assert (await one(ears)).body == b'{"n": %d}' % number


async def test_items_that_arrive_during_a_publish_are_published_together(
    hub: MemoryHub, broker: Broker, ears: Subscription, telemetry: Telemetry
) -> None:
    async with open_lanes(broker, telemetry) as lanes:
        hub.hold_confirms()
        first = lanes.send("heard", items(1)[0])
        assert numbers((await one(ears)).body) == [1]
        rest = [lanes.send("heard", item) for item in items(2, 3, 4)]
        assert not any(sent.done() for sent in (first, *rest))
        hub.release_confirms()
        assert await outcomes(first, *rest) == [None] * 4
        assert (await one(ears)).body == b'[{"n": 2},{"n": 3},{"n": 4}]'
    assert figure(telemetry, "messages_published_total") == 4
    assert figure(telemetry, "batches_published_total") == 2


async def test_lanes_do_not_wait_for_each_other(
    hub: MemoryHub, broker: Broker, ears: Subscription, telemetry: Telemetry
) -> None:
    async with open_lanes(broker, telemetry) as lanes:
        hub.hold_confirms()
        sent = [lanes.send(f"heard.{number}", item) for number, item in enumerate(items(1, 2, 3))]
        heard = [await one(ears) for _ in sent]
        assert {delivery.routing_key: numbers(delivery.body) for delivery in heard} == {
            "heard.0": [1],
            "heard.1": [2],
            "heard.2": [3],
        }
        hub.release_confirms()
        assert await outcomes(*sent) == [None] * 3


async def test_a_batch_has_the_app_id_and_the_first_trace(
    hub: MemoryHub, broker: Broker, ears: Subscription, telemetry: Telemetry
) -> None:
    async with open_lanes(broker, telemetry) as lanes:
        hub.hold_confirms()
        lanes.send("heard", items(1)[0])
        alone = await one(ears)
        assert (alone.app_id, "traceparent" in alone.headers) == ("test", False)
        for item, trace in zip(items(2, 3, 4), (None, "00-first", "00-second"), strict=True):
            lanes.send("heard", item, trace)
        hub.release_confirms()
        assert (await one(ears)).headers["traceparent"] == "00-first"


async def test_only_persistent_messages_survive_a_restart_of_the_broker(
    hub: MemoryHub, broker: Broker, telemetry: Telemetry
) -> None:
    queue = Queue(name="q", bindings=[Binding(TOPICS.name, "heard")])
    await broker.declare(Topology([TOPICS], [queue]))
    for persistent in (False, True):
        async with open_lanes(broker, telemetry, persistent=persistent) as lanes:
            await lanes.send("heard", items(int(persistent))[0])
    hub.stop()
    hub.start()
    async with broker.subscribe(queue, prefetch=10) as left:
        assert numbers((await one(left)).body) == [1]
        assert left.take_waiting(1) == []


steps = st.lists(
    st.tuples(st.just("send"), st.sampled_from("ab"), st.integers(0, 40))
    | st.sampled_from(["hold", "release", "turn"]),
    max_size=60,
)


@given(steps, st.integers(1, 4))
@settings(max_examples=60)
async def test_order_within_a_lane_is_the_order_sent_and_no_batch_is_too_large(
    steps: list[Any], largest: int
) -> None:
    hub = MemoryHub()
    sent: dict[str, list[int]] = {"heard.a": [], "heard.b": []}
    confirmed: list[asyncio.Future[None]] = []
    async with (
        hub.connect(name="under test") as broker,
        Telemetry.open("test", TelemetrySettings()) as telemetry,
    ):
        await broker.declare(Topology([TOPICS]))
        async with broker.subscribe(EARS, prefetch=1000) as ears:
            async with open_lanes(broker, telemetry, batch_max_items=largest, batch_max_bytes=1024) as lanes:
                for step in steps:
                    if step == "hold":
                        hub.hold_confirms()
                    elif step == "release":
                        hub.release_confirms()
                    elif step == "turn":
                        await asyncio.sleep(0)
                    else:
                        key, number = f"heard.{step[1]}", len(confirmed)
                        item = json.dumps({"n": number, "filler": "x" * 25 * step[2]}).encode()
                        confirmed.append(lanes.send(key, item))
                        sent[key].append(number)
                hub.release_confirms()
            assert all(future.done() and future.exception() is None for future in confirmed)
            heard: dict[str, list[int]] = {"heard.a": [], "heard.b": []}
            for delivery in ears.take_waiting(1000):
                batch = numbers(delivery.body)
                assert len(batch) <= largest
                assert len(batch) == 1 or len(delivery.body) <= 1024 + len(batch) + 1
                heard[delivery.routing_key] += batch
            assert heard == sent


# Bounds


async def test_a_full_lane_refuses_items_and_other_lanes_do_not(
    hub: MemoryHub, broker: Broker, ears: Subscription, telemetry: Telemetry
) -> None:
    async with open_lanes(broker, telemetry, lane_max_items=2) as lanes:
        hub.hold_confirms()
        sent = [lanes.send("heard.a", items(1)[0])]
        await one(ears)
        sent += [lanes.send("heard.a", item) for item in items(2, 3)]
        with pytest.raises(LaneFull, match=r"heard\.a"):
            lanes.send("heard.a", items(4)[0])
        sent.append(lanes.send("heard.b", items(5)[0]))
        hub.release_confirms()
        assert await outcomes(*sent) == [None] * 4
        assert await outcomes(lanes.send("heard.a", items(6)[0])) == [None]


async def test_all_lanes_together_are_bounded_in_bytes(
    hub: MemoryHub, broker: Broker, ears: Subscription, telemetry: Telemetry
) -> None:
    async with open_lanes(broker, telemetry, lane_max_bytes=1024) as lanes:
        hub.hold_confirms()
        sent = [lanes.send(f"heard.{name}", b'"%s"' % (b"x" * 500)) for name in "ab"]
        with pytest.raises(LaneFull):
            lanes.send("heard.c", b'"%s"' % (b"x" * 500))
        await one(ears)
        await one(ears)
        sent.append(
            lanes.send("heard.c", b'"%s"' % (b"x" * 500))
        )  # the item in flight does not wait any more
        hub.release_confirms()
        assert await outcomes(*sent) == [None] * 3


async def test_an_item_larger_than_all_bounds_is_published_alone(
    broker: Broker, ears: Subscription, telemetry: Telemetry
) -> None:
    async with open_lanes(broker, telemetry, lane_max_bytes=1024, batch_max_bytes=1024) as lanes:
        large = b'"%s"' % (b"x" * 5000)
        assert await outcomes(lanes.send("heard", large)) == [None]
        assert (await one(ears)).body == large


# Faults


async def test_nothing_is_queued_while_the_broker_is_disconnected_or_blocked(
    hub: MemoryHub, broker: Broker, ears: Subscription, telemetry: Telemetry
) -> None:
    async with open_lanes(broker, telemetry) as lanes:
        hub.stop()
        with pytest.raises(BrokerUnavailable):
            lanes.send("heard", items(1)[0])
        hub.start()
        hub.block()
        with pytest.raises(BrokerBlocked):
            lanes.send("heard", items(2)[0])
        hub.unblock()
        assert await outcomes(lanes.send("heard", items(3)[0])) == [None]
        assert numbers((await one(ears)).body) == [3]


async def test_waiting_items_fail_at_once_when_the_broker_blocks(
    hub: MemoryHub, broker: Broker, ears: Subscription, telemetry: Telemetry
) -> None:
    async with open_lanes(broker, telemetry) as lanes:
        hub.hold_confirms()
        first = lanes.send("heard", items(1)[0])
        await one(ears)
        waiting = [lanes.send("heard", item) for item in items(2, 3)]
        hub.block()
        assert [type(error) for error in await outcomes(*waiting)] == [BrokerBlocked] * 2
        assert not first.done()
        hub.release_confirms()
        assert await outcomes(first) == [None]
        hub.unblock()
        assert await outcomes(lanes.send("heard", items(4)[0])) == [None]
        assert numbers((await one(ears)).body) == [4]


async def test_after_a_lost_connection_items_in_flight_are_unknown_and_waiting_ones_unsent(
    hub: MemoryHub, broker: Broker, ears: Subscription, telemetry: Telemetry
) -> None:
    async with open_lanes(broker, telemetry) as lanes:
        hub.hold_confirms()
        first = lanes.send("heard", items(1)[0])
        await one(ears)
        second = lanes.send("heard", items(2)[0])
        hub.stop()
        assert [type(error) for error in await outcomes(first, second)] == [
            PublishUnconfirmed,
            BrokerUnavailable,
        ]
    assert figure(telemetry, "messages_unpublished_total") == 2


async def test_every_item_of_an_unroutable_batch_fails_as_unroutable(
    hub: MemoryHub, broker: Broker, ears: Subscription, telemetry: Telemetry
) -> None:
    async with open_lanes(broker, telemetry, mandatory=True) as lanes:
        lost = [lanes.send("nobody", item) for item in items(1, 2, 3)]
        kept = lanes.send("heard", items(4)[0])
        assert [type(error) for error in await outcomes(*lost)] == [Unroutable] * 3
        assert await outcomes(kept, lanes.send("heard", items(5)[0])) == [None, None]


async def test_an_unpublishable_key_fails_its_own_items_only(
    broker: Broker, ears: Subscription, telemetry: Telemetry
) -> None:
    async with open_lanes(broker, telemetry, batch_max_items=2) as lanes:
        lost = [lanes.send("x" * 300, item) for item in items(1, 2, 3, 4, 5)]
        kept = lanes.send("heard", items(6)[0])
        assert all(isinstance(error, BrokerError) for error in await outcomes(*lost))
        assert await outcomes(kept) == [None]


async def test_an_abandoned_future_does_not_affect_other_items(
    hub: MemoryHub, broker: Broker, ears: Subscription, telemetry: Telemetry
) -> None:
    async with open_lanes(broker, telemetry) as lanes:
        impatient = lanes.send("heard", items(1)[0])
        patient = lanes.send("heard", items(2)[0])
        impatient.cancel()
        assert await outcomes(patient) == [None]
        assert numbers((await one(ears)).body) == [1, 2]


# Coming and going


async def test_an_empty_lane_is_deleted(broker: Broker, ears: Subscription, telemetry: Telemetry) -> None:
    async with open_lanes(broker, telemetry) as lanes:
        await outcomes(*(lanes.send(f"heard.{number}", items(number)[0]) for number in range(100)))
        await eventually(lambda: not any(task.get_name().startswith("lane ") for task in asyncio.all_tasks()))


async def test_closing_waits_until_everything_is_confirmed(
    hub: MemoryHub, broker: Broker, ears: Subscription, telemetry: Telemetry
) -> None:
    hub.hold_confirms()
    async with open_lanes(broker, telemetry) as lanes:
        sent = [lanes.send("heard", items(1)[0])]
        await one(ears)
        sent += [lanes.send("heard", item) for item in items(2, 3)]
        asyncio.get_running_loop().call_soon(hub.release_confirms)
    assert [future.done() and future.exception() for future in sent] == [None] * 3
    assert numbers((await one(ears)).body) == [2, 3]


async def test_closing_takes_twice_the_publish_timeout_at_most(
    hub: MemoryHub, broker: Broker, ears: Subscription, telemetry: Telemetry
) -> None:
    hub.hold_confirms()  # the connection's own timeout is longer
    async with asyncio.timeout(PATIENCE), open_lanes(broker, telemetry, publish_timeout=0.05) as lanes:
        first = lanes.send("heard", items(1)[0])
        await one(ears)
        second = lanes.send("heard", items(2)[0])
    assert [type(error) for error in await outcomes(first, second)] == [PublishUnconfirmed, BrokerUnavailable]


async def test_cancellation_does_not_flush(
    hub: MemoryHub, broker: Broker, ears: Subscription, telemetry: Telemetry
) -> None:
    hub.hold_confirms()
    sent: list[asyncio.Future[None]] = []

    async def send_and_wait() -> None:
        async with open_lanes(broker, telemetry, publish_timeout=600) as lanes:
            sent.append(lanes.send("heard", items(1)[0]))
            await one(ears)
            sent.append(lanes.send("heard", items(2)[0]))
            await asyncio.Event().wait()

    program = asyncio.create_task(send_and_wait())
    await eventually(lambda: len(sent) == 2)
    program.cancel()
    with suppress(asyncio.CancelledError):
        async with asyncio.timeout(PATIENCE):
            await program
    assert [type(error) for error in await outcomes(*sent)] == [PublishUnconfirmed, BrokerUnavailable]


async def test_one_failing_callback_does_not_stop_the_others(
    hub: MemoryHub, broker: Broker, telemetry: Telemetry, ears: Subscription
) -> None:
    told: list[BrokerError | None] = []

    def fail(_: BrokerError | None) -> None:
        raise ZeroDivisionError

    async with open_lanes(broker, telemetry) as lanes:
        for item in items(1, 2):
            lanes.post("heard", item, fail)
            lanes.post("heard", item, told.append)
        await eventually(lambda: told == [None, None])
        hub.hold_confirms()
        for _ in range(2):
            lanes.post("heard", items(3)[0], fail)
            lanes.post("heard", items(4)[0], told.append)
            await anext(ears)
        hub.stop()
        await eventually(lambda: len(told) == 4)
        assert all(isinstance(error, BrokerError) for error in told[2:])
