"""The intake: queues are taken and released one by one, and no message is handled by two replicas at a time."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Final

import pytest

from towpath.servicekit.broker.interface import Broker, Delivery, Message, Queue, Topology
from towpath.servicekit.broker.memory import MemoryHub
from towpath.servicekit.messaging.intake import Intake
from towpath.testkit.eventually import eventually

PATIENCE: Final = 20.0
A: Final = Queue(name="a", single_active=True, delivery_limit=20)
B: Final = Queue(name="b", single_active=True, delivery_limit=20)


@pytest.fixture
async def intake(broker: Broker) -> AsyncIterator[Intake]:
    await broker.declare(Topology(queues=[A, B]))
    async with Intake.open(broker, prefetch=10) as intake:
        yield intake


@pytest.fixture
async def other(hub: MemoryHub) -> AsyncIterator[Intake]:
    """The intake of another replica."""
    async with hub.connect(name="other") as broker, Intake.open(broker, prefetch=10) as intake:
        yield intake


async def publish(broker: Broker, queue: Queue, *numbers: int) -> None:
    for number in numbers:
        await broker.publish("", queue.name, Message(body=str(number).encode(), persistent=True))


async def take(intake: Intake, count: int) -> list[Delivery]:
    async with asyncio.timeout(PATIENCE):
        return [await anext(intake) for _ in range(count)]


async def all_of(intake: Intake) -> list[Delivery]:
    return [delivery async for delivery in intake]


def bodies(deliveries: list[Delivery]) -> list[str]:
    return [delivery.body.decode() for delivery in deliveries]


async def never(condition: Callable[[], bool]) -> None:
    """Fail if ``condition`` comes to hold in a moment."""
    with pytest.raises(AssertionError):
        await eventually(condition, timeout=0.05)


async def test_queues_are_served_round_robin(broker: Broker, intake: Intake) -> None:
    await publish(broker, A, *range(5))
    await publish(broker, B, 10)
    await intake.take(A)
    await intake.take(B)
    assert "10" in bodies(intake.take_waiting(1) + intake.take_waiting(1))


async def test_a_queue_is_released_once_its_deliveries_are_settled(
    broker: Broker, intake: Intake, other: Intake
) -> None:
    await intake.take(A)
    await publish(broker, A, 1)
    (delivery,) = await take(intake, 1)
    releasing = asyncio.create_task(intake.release(A.name, is_contested=False))
    await never(lambda: bool(intake.take_waiting(1)) or releasing.done())
    assert intake.queues == {A.name}, "it is claimed until then"
    delivery.ack()
    await asyncio.wait_for(releasing, PATIENCE)
    assert intake.queues == set()
    await other.take(A)
    await publish(broker, A, 2)
    assert bodies(await take(other, 1)) == ["2"]


async def test_arrived_deliveries_are_handed_out_before_the_release_and_not_redelivered(
    broker: Broker, intake: Intake, other: Intake
) -> None:
    await intake.take(A)
    await publish(broker, A, *range(5))
    first = await take(intake, 1)
    releasing = asyncio.create_task(intake.release(A.name, is_contested=False))
    rest = await take(intake, 4)
    for delivery in first + rest:
        delivery.ack()
    await eventually(lambda: not intake.take_waiting(1) and releasing.done())
    await other.take(A)
    await publish(broker, A, 5)
    (delivery,) = await take(other, 1)
    assert (delivery.body, delivery.redelivered) == (b"5", False)


async def test_a_waiting_consumer_starts_behind_the_unsettled_deliveries(
    broker: Broker, intake: Intake, other: Intake
) -> None:
    await intake.take(A)
    await other.take(A)
    await publish(broker, A, *range(3))
    (in_hand,) = await take(intake, 1)
    releasing = asyncio.create_task(intake.release(A.name, is_contested=True))
    await never(lambda: bool(other.take_waiting(1)))
    assert intake.take_waiting(10) == [], "no more is handed out here"
    in_hand.ack()
    await asyncio.wait_for(releasing, PATIENCE)
    assert bodies(await take(other, 2)) == ["1", "2"]


async def test_unsettled_deliveries_are_requeued_in_order_at_the_end(
    broker: Broker, hub: MemoryHub, other: Intake
) -> None:
    await broker.declare(Topology(queues=[A]))
    async with Intake.open(broker, prefetch=10) as intake:
        await intake.take(A)
        await publish(broker, A, *range(3))
        (done, *_) = await take(intake, 2)
        done.ack()
    await other.take(A)
    assert bodies(await take(other, 2)) == ["1", "2"]


async def test_the_iteration_ends_with_the_intake(broker: Broker) -> None:
    async with Intake.open(broker, prefetch=10) as intake:
        taking = asyncio.create_task(all_of(intake))
        await asyncio.sleep(0)
    assert await asyncio.wait_for(taking, PATIENCE) == []
