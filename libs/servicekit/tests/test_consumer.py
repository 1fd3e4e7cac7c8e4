"""The consumer: deliveries in order, all that have arrived at once, and a stop that finishes what was dispatched."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any, Final

import pytest

from towpath.servicekit.broker.interface import (
    Binding,
    Broker,
    Delivery,
    Exchange,
    Inbox,
    Message,
    Queue,
    Topology,
)
from towpath.servicekit.broker.memory import MemoryHub
from towpath.servicekit.messaging.consumer import Consumer, Dispatch
from towpath.testkit.eventually import eventually

PATIENCE: Final = 30.0
WORK: Final = Queue(name="work", delivery_limit=20)
PLENTY: Final = 1024 * 1024


class Hands:
    """Takes the deliveries of a consumer; settles them on request, or at once.

    Attributes:
        units: The bodies of each unit, in the order they were dispatched.
    """

    def __init__(self, *, at_once: bool = True) -> None:
        self.units: list[list[str]] = []
        self.at_once = at_once
        self._open: list[tuple[Sequence[Delivery], asyncio.Future[None]]] = []

    async def dispatch(self, deliveries: Sequence[Delivery]) -> Coroutine[Any, Any, None]:
        self.units.append([delivery.body.decode() for delivery in deliveries])
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._open.append((deliveries, done))
        if self.at_once:
            self.settle()

        async def settled() -> None:
            await done

        return settled()

    def settle(self) -> None:
        while self._open:
            deliveries, done = self._open.pop(0)
            for delivery in deliveries:
                delivery.ack()
            done.set_result(None)

    @property
    def bodies(self) -> list[str]:
        return [body for unit in self.units for body in unit]


@pytest.fixture(autouse=True)
async def queue(broker: Broker) -> None:
    await broker.declare(Topology(queues=[WORK]))


async def publish(broker: Broker, *names: object) -> None:
    for name in names:
        await broker.publish("", WORK.name, Message(body=str(name).encode()))


def a_consumer(
    broker: Broker,
    dispatch: Dispatch,
    *,
    prefetch: int = 100,
    intake_max_bytes: int = PLENTY,
) -> Consumer:
    return Consumer(
        partial(broker.subscribe, WORK, prefetch=prefetch), dispatch, intake_max_bytes=intake_max_bytes
    )


async def never(condition: Callable[[], bool]) -> None:
    """Fail if ``condition`` comes to hold in a moment."""
    with pytest.raises(AssertionError):
        await eventually(condition, timeout=0.05)


async def left_in(broker: Broker) -> list[str]:
    """The messages in the queue, in order."""
    await publish(broker, "end")
    left: list[str] = []
    async with asyncio.timeout(PATIENCE), broker.subscribe(WORK, prefetch=100) as subscription:
        while not left or left[-1] != "end":
            delivery = await anext(subscription)
            delivery.ack()
            left.append(delivery.body.decode())
    return left[:-1]


async def test_deliveries_are_dispatched_in_their_order(broker: Broker) -> None:
    hands, stop = Hands(), asyncio.Event()
    async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as tasks:
        tasks.create_task(a_consumer(broker, hands.dispatch).run(stop))
        await publish(broker, *range(50))
        await eventually(lambda: len(hands.bodies) == 50)
        stop.set()
    assert hands.bodies == [str(number) for number in range(50)]
    assert await left_in(broker) == []


async def test_arrived_deliveries_are_dispatched_together(broker: Broker) -> None:
    hands, stop = Hands(), asyncio.Event()
    await publish(broker, *range(10))
    async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as tasks:
        tasks.create_task(a_consumer(broker, hands.dispatch).run(stop))
        await eventually(lambda: len(hands.bodies) == 10)
        stop.set()
    assert hands.units == [[str(number) for number in range(10)]]


async def test_a_unit_is_bounded_in_bytes_but_holds_one_delivery_at_least(broker: Broker) -> None:
    hands, stop = Hands(), asyncio.Event()
    await publish(broker, "x" * 100, *"abcdefg")
    async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as tasks:
        tasks.create_task(a_consumer(broker, hands.dispatch, intake_max_bytes=3).run(stop))
        await eventually(lambda: len(hands.bodies) == 8)
        stop.set()
    assert hands.units == [["x" * 100], ["a", "b", "c"], ["d", "e", "f"], ["g"]]


async def test_running_is_called_when_deliveries_flow(broker: Broker) -> None:
    stop, running = asyncio.Event(), asyncio.Event()
    async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as tasks:
        tasks.create_task(a_consumer(broker, Hands().dispatch).run(stop, running=running.set))
        await running.wait()
        stop.set()


async def test_inboxes_are_consumed_like_queues(broker: Broker) -> None:
    hands, stop, running = Hands(), asyncio.Event(), asyncio.Event()
    topics = Exchange("topics")
    await broker.declare(Topology([topics]))
    inbox = Inbox(name="inbox", bindings=[Binding(topics.name, "#")])
    consumer = Consumer(
        partial(broker.subscribe, WORK, inbox, prefetch=10), hands.dispatch, intake_max_bytes=PLENTY
    )
    async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as tasks:
        tasks.create_task(consumer.run(stop, running=running.set))
        await running.wait()
        await broker.publish(topics.name, "any", Message(body=b"topic"))
        await publish(broker, "work")
        await eventually(lambda: sorted(hands.bodies) == ["topic", "work"])
        stop.set()


async def test_a_few_more_units_run_while_earlier_ones_wait_for_their_confirms(broker: Broker) -> None:
    hands, stop = Hands(at_once=False), asyncio.Event()
    async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as tasks:
        tasks.create_task(a_consumer(broker, hands.dispatch).run(stop))
        for number in range(4):
            await publish(broker, number)
            await eventually(lambda number=number: len(hands.units) == number + 1)  # type: ignore[misc]
        await publish(broker, 4, 5)
        await never(lambda: len(hands.units) > 4)
        hands.settle()
        await eventually(lambda: len(hands.units) == 5)
        assert hands.units[4] == ["4", "5"]
        hands.settle()
        stop.set()


async def test_the_prefetch_bounds_the_unsettled_deliveries(broker: Broker) -> None:
    hands, stop = Hands(at_once=False), asyncio.Event()
    await publish(broker, *range(5))
    async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as tasks:
        tasks.create_task(a_consumer(broker, hands.dispatch, prefetch=2).run(stop))
        await eventually(lambda: hands.bodies == ["0", "1"])
        await publish(broker, 5)
        await never(lambda: len(hands.bodies) > 2)
        hands.settle()
        await eventually(lambda: hands.bodies == ["0", "1", "2", "3"])
        hands.at_once = True
        hands.settle()
        await eventually(lambda: hands.bodies == ["0", "1", "2", "3", "4", "5"])
        stop.set()


# Stopping


async def test_it_stops_at_once_when_there_is_nothing_to_do(broker: Broker) -> None:
    stop = asyncio.Event()
    stop.set()
    async with asyncio.timeout(PATIENCE):
        await a_consumer(broker, Hands().dispatch).run(stop)


async def test_on_stop_dispatched_deliveries_are_finished_and_the_rest_is_requeued_in_order(
    broker: Broker,
) -> None:
    hands, stop = Hands(at_once=False), asyncio.Event()
    working, go_on = asyncio.Event(), asyncio.Event()

    async def work(deliveries: Sequence[Delivery]) -> Coroutine[Any, Any, None]:
        working.set()
        await go_on.wait()
        return await hands.dispatch(deliveries)

    await publish(broker, *range(8))
    async with asyncio.timeout(PATIENCE):
        consuming = asyncio.create_task(a_consumer(broker, work, prefetch=6, intake_max_bytes=3).run(stop))
        await working.wait()
        stop.set()
        go_on.set()
        await eventually(lambda: hands.bodies == ["0", "1", "2"])
        await never(consuming.done)
        hands.settle()
        await consuming
    assert await left_in(broker) == ["3", "4", "5", "6", "7"]


async def test_on_stop_units_that_wait_for_their_confirms_are_finished(broker: Broker) -> None:
    hands, stop = Hands(at_once=False), asyncio.Event()
    async with asyncio.timeout(PATIENCE):
        consuming = asyncio.create_task(a_consumer(broker, hands.dispatch).run(stop))
        for number in range(2):
            await publish(broker, number)
            await eventually(lambda number=number: len(hands.units) == number + 1)  # type: ignore[misc]
        stop.set()
        await never(consuming.done)
        hands.settle()
        await consuming
    assert await left_in(broker) == []


async def test_cancellation_waits_for_no_work_and_requeues_everything(broker: Broker) -> None:
    hands, stop = Hands(at_once=False), asyncio.Event()
    await publish(broker, *range(3))
    consuming = asyncio.create_task(a_consumer(broker, hands.dispatch).run(stop))
    await eventually(lambda: hands.bodies == ["0", "1", "2"])
    consuming.cancel()
    with pytest.raises(asyncio.CancelledError):
        async with asyncio.timeout(PATIENCE):
            await consuming
    assert await left_in(broker) == ["0", "1", "2"]


async def test_a_failing_dispatch_ends_the_run_and_its_deliveries_are_requeued(broker: Broker) -> None:
    async def fail(_: Sequence[Delivery]) -> None:
        raise ZeroDivisionError

    await publish(broker, *range(3))
    with pytest.RaisesGroup(ZeroDivisionError):
        async with asyncio.timeout(PATIENCE):
            await a_consumer(broker, fail).run(asyncio.Event())
    assert await left_in(broker) == ["0", "1", "2"]


async def test_a_failing_completion_ends_the_run_and_its_deliveries_are_requeued(broker: Broker) -> None:
    async def settle() -> None:
        raise ZeroDivisionError

    async def dispatch(_: Sequence[Delivery]) -> Coroutine[Any, Any, None]:
        return settle()

    await publish(broker, *range(3))
    with pytest.RaisesGroup(ZeroDivisionError):
        async with asyncio.timeout(PATIENCE):
            await a_consumer(broker, dispatch).run(asyncio.Event())
    assert await left_in(broker) == ["0", "1", "2"]


async def test_consuming_continues_when_the_broker_is_back(hub: MemoryHub, broker: Broker) -> None:
    hands, stop = Hands(at_once=False), asyncio.Event()
    async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as tasks:
        tasks.create_task(a_consumer(broker, hands.dispatch).run(stop))
        await publish(broker, "before")
        await eventually(lambda: hands.bodies == ["before"])
        hub.stop()
        hub.start()
        await publish(broker, "after")
        await eventually(lambda: hands.bodies == ["before", "before", "after"])
        hands.settle()
        stop.set()
    assert await left_in(broker) == []


# Work beside the units


class Beside:
    """A dispatcher whose work runs beside its units until the test ends it; then a follower is ready.

    Attributes:
        units: The bodies of each unit.
    """

    def __init__(self) -> None:
        self.units: list[list[str]] = []
        self.waiting_bytes = 0
        self.cancelled = False
        self._taken: list[Delivery] = []
        self._held: list[Delivery] = []
        self._freed = asyncio.Event()
        self._done = asyncio.Event()

    @property
    def holds(self) -> list[str]:
        return [delivery.body.decode() for delivery in self._held]

    def end(self) -> None:
        """End the work beside: what it held is handled in the next unit."""
        self._taken, self._held = self._held, []
        self.waiting_bytes = 1
        self._freed.set()
        self._done.set()

    async def take(self, deliveries: Sequence[Delivery]) -> None:
        self._held += deliveries

    async def work(self) -> None:
        self.units.append([delivery.body.decode() for delivery in self._taken])
        self.waiting_bytes = 0
        for delivery in self._taken:
            delivery.ack()

    async def until_ready(self) -> None:
        await self._freed.wait()
        self._freed.clear()

    async def run(self) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise

    async def finished(self, timeout: float) -> bool:
        try:
            async with asyncio.timeout(timeout):
                await self._done.wait()
        except TimeoutError:
            return False
        return True


def consumer_of(broker: Broker, dispatcher: Beside) -> Consumer:
    return Consumer(partial(broker.subscribe, WORK, prefetch=10), dispatcher, intake_max_bytes=PLENTY)


async def test_requests_that_waited_beside_are_handled_without_another_delivery(broker: Broker) -> None:
    dispatcher, stop = Beside(), asyncio.Event()
    async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as tasks:
        tasks.create_task(consumer_of(broker, dispatcher).run(stop))
        await publish(broker, "heavy")
        await eventually(lambda: dispatcher.holds == ["heavy"])
        dispatcher.end()
        await eventually(lambda: dispatcher.units == [["heavy"]])
        await publish(broker, "next")  # It still hears deliveries.
        await eventually(lambda: dispatcher.holds == ["next"])
        dispatcher.end()
        await eventually(lambda: dispatcher.units == [["heavy"], ["next"]])
        stop.set()
    assert await left_in(broker) == []


async def test_on_stop_work_beside_and_what_waits_behind_it_is_finished(broker: Broker) -> None:
    dispatcher, stop = Beside(), asyncio.Event()
    async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as tasks:
        consuming = tasks.create_task(consumer_of(broker, dispatcher).run(stop))
        await publish(broker, "heavy")
        await eventually(lambda: dispatcher.holds == ["heavy"])
        stop.set()
        await never(consuming.done)
        dispatcher.end()
    assert dispatcher.units == [["heavy"]]
    assert dispatcher.cancelled
    assert await left_in(broker) == []


async def test_on_stop_what_does_not_finish_beside_is_requeued(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("towpath.servicekit.messaging.consumer._BESIDE_SECONDS", 0.05)
    dispatcher, stop = Beside(), asyncio.Event()
    async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as tasks:
        tasks.create_task(consumer_of(broker, dispatcher).run(stop))
        await publish(broker, "heavy")
        await eventually(lambda: dispatcher.holds == ["heavy"])
        stop.set()
    assert dispatcher.cancelled
    assert await left_in(broker) == ["heavy"]


async def test_an_unexpected_error_beside_ends_the_run_and_requeues_all(broker: Broker) -> None:
    class Broken(Beside):
        async def run(self) -> None:
            await eventually(lambda: self.holds == ["heavy"])
            raise ZeroDivisionError

    await publish(broker, "heavy")
    with pytest.RaisesGroup(ZeroDivisionError):
        async with asyncio.timeout(PATIENCE):
            await consumer_of(broker, Broken()).run(asyncio.Event())
    assert await left_in(broker) == ["heavy"]
