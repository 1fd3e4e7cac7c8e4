"""Replicas of a service share its queues evenly and soon, and messages stay in order while a queue moves."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, field
from typing import Final

import pytest

from towpath.protocol.envelope import make
from towpath.protocol.routes import EVENTS, SERVICE_REPLICA
from towpath.protocol.services import ServiceReplica
from towpath.servicekit.broker.interface import Broker, Exchange, Message, Queue, Topology
from towpath.servicekit.broker.memory import MemoryHub
from towpath.servicekit.broker.rabbitmq import RabbitBroker
from towpath.servicekit.messaging.replica import Replica
from towpath.servicekit.runtime.telemetry import Telemetry
from towpath.testkit.eventually import eventually
from towpath.testkit.rabbitmq import Rabbit

#: Seconds. The promise is 15; this is for a busy machine.
SOON: Final = 30.0
QUEUES: Final = [Queue(name=f"shared.{number}", single_active=True, delivery_limit=20) for number in range(8)]
TOPOLOGY: Final = Topology([Exchange(EVENTS)], QUEUES)

Connect = Callable[[str], AbstractAsyncContextManager[Broker]]


@pytest.fixture(params=["memory", "rabbitmq"])
def connect(request: pytest.FixtureRequest) -> Connect:
    """Connects to one broker, by name."""
    if request.param == "memory":
        hub = MemoryHub()
        return lambda name: hub.connect(name=name)
    rabbitmq: Rabbit = request.getfixturevalue("rabbitmq")
    return lambda name: RabbitBroker.connect(rabbitmq.url, name=name)


@dataclass
class Ledger:
    """The published and handled numbers of each queue, in order."""

    handled: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    by: Counter[str] = field(default_factory=Counter)
    redelivered: int = 0
    at_work: Counter[str] = field(default_factory=Counter)
    together: list[str] = field(default_factory=list)


class Fleet:
    """Replicas in one process, each with a connection of its own."""

    def __init__(self, connect: Connect, telemetry: Telemetry, ledger: Ledger) -> None:
        self._connect = connect
        self._telemetry = telemetry
        self._ledger = ledger
        self.running: dict[str, tuple[Replica, AsyncExitStack, asyncio.Task[None]]] = {}

    async def start(self, name: str) -> None:
        stack = AsyncExitStack()
        broker = await stack.enter_async_context(self._connect(name))
        await broker.declare(TOPOLOGY)
        replica = Replica(broker, "shared", [QUEUES], self._telemetry, prefetch=20)
        intake = await stack.enter_async_context(replica.subscribe())

        async def work() -> None:
            async for delivery in intake:
                ledger, queue = self._ledger, delivery.queue
                ledger.at_work[queue] += 1
                if ledger.at_work[queue] > 1:
                    ledger.together.append(queue)
                try:
                    await asyncio.sleep(0.001)
                finally:
                    ledger.at_work[queue] -= 1
                ledger.handled[queue].append(int(delivery.body))
                ledger.redelivered += delivery.redelivered
                ledger.by[name] += 1
                delivery.ack()

        self.running[name] = replica, stack, asyncio.create_task(work())

    async def stop(self, name: str) -> None:
        _, stack, task = self.running.pop(name)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await stack.aclose()

    def shares(self) -> list[int]:
        return sorted(len(replica.queues) for replica, _, _ in self.running.values())

    def is_shared(self) -> bool:
        """Whether each queue has one consumer, and each replica its share."""
        held = Counter(name for replica, _, _ in self.running.values() for name in replica.queues)
        least, rest = divmod(len(QUEUES), len(self.running))
        fair = [least] * (len(self.running) - rest) + [least + 1] * rest
        return self.shares() == fair and held == Counter(queue.name for queue in QUEUES)


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


@pytest.fixture
async def fleet(connect: Connect, telemetry: Telemetry, ledger: Ledger) -> AsyncIterator[Fleet]:
    fleet = Fleet(connect, telemetry, ledger)
    yield fleet
    for name in list(fleet.running):
        await fleet.stop(name)


async def test_replicas_that_start_and_stop_have_their_share_soon(fleet: Fleet) -> None:
    for number in range(4):
        await fleet.start(f"r{number}")
        await eventually(fleet.is_shared, timeout=SOON)
    for number in range(3):
        await fleet.stop(f"r{number}")
        await eventually(fleet.is_shared, timeout=SOON)


async def test_replicas_that_start_together_share_the_queues(fleet: Fleet) -> None:
    await asyncio.gather(*(fleet.start(f"r{number}") for number in range(3)))
    await eventually(fleet.is_shared, timeout=SOON)


async def test_no_queue_moves_while_the_replicas_stay_the_same(fleet: Fleet) -> None:
    for number in range(3):
        await fleet.start(f"r{number}")
    await eventually(fleet.is_shared, timeout=SOON)
    before = {name: replica.queues for name, (replica, _, _) in fleet.running.items()}
    for _ in range(60):
        await asyncio.sleep(0.05)
        assert {name: replica.queues for name, (replica, _, _) in fleet.running.items()} == before


async def test_messages_are_handled_once_and_in_order_while_queues_move(
    connect: Connect, fleet: Fleet, ledger: Ledger
) -> None:
    await fleet.start("r0")
    published: Counter[str] = Counter()
    stop = asyncio.Event()

    async def publish() -> None:
        async with connect("publisher") as broker:
            await broker.until_ready()
            while not stop.is_set():
                for queue in QUEUES:
                    body = str(published[queue.name]).encode()
                    published[queue.name] += 1
                    await broker.publish("", queue.name, Message(body=body, persistent=True))
                await asyncio.sleep(0.005)

    publishing = asyncio.create_task(publish())
    for step in ("+r1", "+r2", "-r0", "+r3", "-r1", "+r0"):
        await (fleet.start if step[0] == "+" else fleet.stop)(step[1:])
        await eventually(fleet.is_shared, timeout=SOON)
        await asyncio.sleep(0.2)  # some messages under each division
    stop.set()
    await publishing
    await eventually(lambda: sum(map(len, ledger.handled.values())) >= published.total(), timeout=SOON)
    assert ledger.handled == {name: list(range(count)) for name, count in published.items()}
    assert not ledger.together, "two replicas had one queue in hand at a time"
    assert len(ledger.by) == 4


async def test_a_queue_is_not_taken_while_a_silent_replica_consumes_it(
    connect: Connect, fleet: Fleet
) -> None:
    """A replica that hangs: it is silent, and its connection is open."""
    async with connect("hangs") as broker:
        await broker.declare(TOPOLOGY)
        async with broker.subscribe(QUEUES[0], prefetch=20):
            await fleet.start("r0")
            await eventually(lambda: fleet.shares() == [7], timeout=SOON)
            for _ in range(40):
                await asyncio.sleep(0.05)  # for longer than a replica takes to look again, several times
                assert fleet.shares() == [7]
    await eventually(lambda: fleet.shares() == [8], timeout=SOON)


async def test_a_replica_that_takes_no_queue_gets_no_share(
    connect: Connect, fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("towpath.servicekit.messaging.replica._IDLE_SECONDS", 3.0)
    said = ServiceReplica(service="shared", replica="0", queues=[])
    hello = make(SERVICE_REPLICA, said.model_dump()).to_json()
    await fleet.start("r0")
    async with connect("idle") as broker:
        await broker.until_ready()

        async def announce() -> None:
            while True:
                await broker.publish(EVENTS, SERVICE_REPLICA, Message(body=hello))
                await asyncio.sleep(0.2)  # as often as that, and oftener than a replica is silent

        announcing = asyncio.create_task(announce())
        await eventually(lambda: fleet.shares() == [4], timeout=SOON)
        await eventually(lambda: fleet.shares() == [8], timeout=SOON)
        announcing.cancel()
        await asyncio.gather(announcing, return_exceptions=True)


async def test_partitions_that_no_replica_holds_are_counted(
    connect: Connect, fleet: Fleet, telemetry: Telemetry
) -> None:
    async with connect("holds") as broker:
        await broker.declare(TOPOLOGY)
        # Consumed by a program that announces nothing: no replica may take it, and none knows of a holder.
        async with broker.subscribe(QUEUES[0], prefetch=20):
            await fleet.start("r0")
            await eventually(lambda: unheld(telemetry) == 1, timeout=SOON)
        await eventually(lambda: unheld(telemetry) == 0, timeout=SOON)


def unheld(telemetry: Telemetry) -> float:
    lines = telemetry.exposition().decode().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith("partitions_unheld "))
