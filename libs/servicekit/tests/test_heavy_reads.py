"""Heavy reads: users take turns, what waits is bounded, and nothing else waits for them."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Final

import pytest
from pydantic import BaseModel

from towpath.protocol.envelope import make
from towpath.protocol.messages import Session, encode, join_batch, wrap_command
from towpath.protocol.routes import command_queue
from towpath.servicekit.broker.interface import Broker, Delivery, Message, Queue, Subscription, Topology
from towpath.servicekit.broker.memory import MemoryHub
from towpath.servicekit.handling.heavy_reads import Bounds, HeavyReads, RoundCost
from towpath.servicekit.handling.outcome import Outcome
from towpath.servicekit.handling.publishing import SharedAck
from towpath.servicekit.handling.requests import Handler, Request, read
from towpath.servicekit.messaging.ended_connections import EndedConnections
from towpath.servicekit.runtime.telemetry import Telemetry
from towpath.testkit.eventually import eventually

QUEUES: Final = [Queue(name=command_queue("shelves", number)) for number in range(2)]


class Question(BaseModel):
    n: int = 0


def look(_: Question, __: Session, ___: None) -> Outcome:
    return Outcome(answer={})


HANDLERS: Final = {
    "shelf.put": Handler(Question, look),
    "shelf.list": Handler(Question, look, changes=False, cost=20),
    "shelf.history": Handler(Question, look, changes=False, cost=20),
}


class Rounds:
    """Runs what it is given when the test lets it."""

    def __init__(self) -> None:
        self.begun: list[list[str]] = []
        self.let: dict[str, asyncio.Event] = {}
        self.seconds = 0.0
        self.error: Exception | None = None

    async def run(self, reads: Sequence[Request]) -> RoundCost:
        if self.error is not None:
            raise self.error
        self.begun.append([request.envelope.msg_id for request in reads])
        for request in reads:
            if (event := self.let.get(request.session.user_id if request.session else "")) is not None:
                await event.wait()
        return RoundCost(self.seconds * len(reads), 0)

    @property
    def ids(self) -> list[str]:
        return [msg_id for one in self.begun for msg_id in one]


def a_body(user: str, msg_id: str, action: str = "shelf.list") -> bytes:
    session = Session(user_id=user, connection_id=f"c-{user}", gateway_id="g")
    return wrap_command(encode(session), make(action, {}, msg_id=msg_id).to_json())


class Desk:
    def __init__(self, broker: Broker, work: Subscription, telemetry: Telemetry) -> None:
        self._broker, self._work, self._telemetry = broker, work, telemetry

    async def read(
        self, user: str, msg_id: str, *, action: str = "shelf.list", queue: int = 0
    ) -> tuple[Request, SharedAck]:
        body = a_body(user, msg_id, action)
        await self._broker.publish("", QUEUES[queue].name, Message(body=body))
        delivery: Delivery = await anext(self._work)
        [request] = read(delivery, HANDLERS, {}, self._telemetry)
        assert isinstance(request, Request)
        return request, SharedAck(delivery)


@pytest.fixture
async def desk(broker: Broker, telemetry: Telemetry) -> AsyncIterator[Desk]:
    await broker.declare(Topology(queues=QUEUES))
    async with broker.subscribe(*QUEUES, prefetch=1000) as work:
        yield Desk(broker, work, telemetry)


@contextlib.asynccontextmanager
async def running(reads: HeavyReads) -> AsyncIterator[None]:
    task = asyncio.create_task(reads.run())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def a_scheduler(rounds: Rounds, telemetry: Telemetry, **bounds: int) -> HeavyReads:
    return HeavyReads(rounds.run, Bounds(**bounds), lambda _: True, telemetry)


async def put(reads: HeavyReads, desk: Desk, *asked: tuple[str, str]) -> None:
    for user, msg_id in asked:
        request, ack = await desk.read(user, msg_id)
        assert reads.admit(request)
        reads.put(request, ack)
        ack.release()


async def test_users_take_turns_and_each_has_one_read_on_its_way(desk: Desk, telemetry: Telemetry) -> None:
    rounds = Rounds()
    reads = a_scheduler(rounds, telemetry)
    await put(reads, desk, *(("eve", f"e-{n}") for n in range(10)), ("ana", "a-1"), ("bob", "b-1"))
    async with running(reads):
        assert await reads.finished(5)
    assert set(rounds.begun[0]) == {"e-0", "a-1", "b-1"}
    assert [msg_id for msg_id in rounds.ids if msg_id[0] == "e"] == [f"e-{n}" for n in range(10)]
    assert all(sum(msg_id[0] == "e" for msg_id in one) <= 1 for one in rounds.begun)


async def test_a_slow_read_of_one_user_does_not_hold_up_the_others(desk: Desk, telemetry: Telemetry) -> None:
    rounds = Rounds()
    rounds.let["eve"] = asyncio.Event()
    reads = a_scheduler(rounds, telemetry)
    async with running(reads):
        await put(reads, desk, ("eve", "e-1"), ("eve", "e-2"))
        await eventually(lambda: rounds.ids == ["e-1"])
        await put(reads, desk, ("ana", "a-1"), ("ana", "a-2"))
        await eventually(lambda: rounds.ids == ["e-1", "a-1", "a-2"])
        rounds.let["eve"].set()
        assert await reads.finished(5)
    assert rounds.ids[-1] == "e-2"


async def test_the_size_of_rounds_follows_the_cost_of_the_action(desk: Desk, telemetry: Telemetry) -> None:
    rounds = Rounds()
    rounds.seconds = 1.0
    reads = a_scheduler(rounds, telemetry)
    async with running(reads):
        await put(reads, desk, ("ana", "a-1"))
        assert await reads.finished(5)
        await put(reads, desk, *((f"u-{n}", f"m-{n}") for n in range(8)))
        assert await reads.finished(5)
    assert [len(one) for one in rounds.begun] == [1] * 9


async def test_a_round_is_of_one_action(desk: Desk, telemetry: Telemetry) -> None:
    rounds = Rounds()
    reads = a_scheduler(rounds, telemetry)
    for user, action in (("ana", "shelf.list"), ("bob", "shelf.history"), ("eve", "shelf.list")):
        request, ack = await desk.read(user, user, action=action)
        assert reads.admit(request)
        reads.put(request, ack)
    async with running(reads):
        assert await reads.finished(5)
    assert sorted(rounds.begun) == [["ana", "eve"], ["bob"]]


async def test_what_may_wait_is_bounded_for_one_user_and_for_all(desk: Desk, telemetry: Telemetry) -> None:
    reads = a_scheduler(Rounds(), telemetry, user_max=3, total_max=5)
    admitted = [
        reads.admit((await desk.read(user, f"{user}-{n}"))[0]) for user in ("eve", "ana") for n in range(4)
    ]
    assert admitted == [True, True, True, False, True, True, False, False]
    assert b"heavy_reads_busy_total 3.0" in telemetry.exposition()


async def test_where_reads_hold_half_a_queue_each_user_may_have_one(desk: Desk, telemetry: Telemetry) -> None:
    rounds = Rounds()
    reads = a_scheduler(rounds, telemetry, queue_held_max=4)
    await put(reads, desk, *(("eve", f"e-{n}") for n in range(4)))
    assert not reads.admit((await desk.read("eve", "e-5"))[0])
    assert reads.admit((await desk.read("ana", "a-1"))[0])
    assert not reads.admit((await desk.read("ana", "a-2"))[0])
    assert reads.admit((await desk.read("eve", "e-6", queue=1))[0])


async def test_a_delivery_is_acked_once_all_its_reads_are_answered(
    hub: MemoryHub, broker: Broker, telemetry: Telemetry
) -> None:
    rounds = Rounds()
    rounds.let["bob"] = asyncio.Event()
    reads = a_scheduler(rounds, telemetry)
    await broker.declare(Topology(queues=QUEUES))
    bodies = [a_body(user, user) for user in ("ana", "bob")]
    await broker.publish("", QUEUES[0].name, Message(body=join_batch(bodies)))
    async with (
        running(reads),
        hub.connect(name="service") as service,
        service.subscribe(QUEUES[0], prefetch=1) as work,
    ):
        delivery = await anext(work)
        ack = SharedAck(delivery)
        for request in read(delivery, HANDLERS, {}, telemetry):
            assert isinstance(request, Request)
            assert reads.admit(request)
            reads.put(request, ack)
        ack.release()
        await eventually(lambda: len(rounds.ids) == 2)
        await broker.publish("", QUEUES[0].name, Message(body=bodies[0]))
        assert work.take_waiting(1) == []  # the first is still in hand
        rounds.let["bob"].set()
        assert await reads.finished(5)
        async with asyncio.timeout(5):
            (await anext(work)).ack()


async def test_what_comes_after_a_heavy_read_of_its_sender_waits_behind_it(
    desk: Desk, telemetry: Telemetry
) -> None:
    rounds = Rounds()
    rounds.let["ana"] = asyncio.Event()
    reads = a_scheduler(rounds, telemetry)
    async with running(reads):
        await put(reads, desk, ("ana", "a-1"))
        change, ack = await desk.read("ana", "a-2", action="shelf.put")
        other, _ = await desk.read("bob", "b-1", action="shelf.put")
        assert reads.wants(change)
        assert not reads.wants(other)
        assert reads.admit(change)
        reads.put(change, ack)
        await eventually(lambda: rounds.begun == [["a-1"]])
        rounds.let["ana"].set()
        assert await reads.finished(5)
    assert rounds.begun == [["a-1"], ["a-2"]]
    assert not reads.wants(change)


async def test_a_change_has_its_effect_though_its_connection_is_gone(
    desk: Desk, telemetry: Telemetry
) -> None:
    rounds, departures = Rounds(), EndedConnections()
    reads = HeavyReads(rounds.run, Bounds(), departures.is_connected, telemetry)
    await put(reads, desk, ("ana", "a-1"))
    change, ack = await desk.read("ana", "a-2", action="shelf.put")
    assert reads.admit(change)
    reads.put(change, ack)
    departures.ended("c-ana")
    async with running(reads):
        assert await reads.finished(5)
    assert rounds.ids == ["a-2"]


async def test_nothing_is_run_for_a_connection_that_is_gone(desk: Desk, telemetry: Telemetry) -> None:
    rounds, departures = Rounds(), EndedConnections()
    reads = HeavyReads(rounds.run, Bounds(), departures.is_connected, telemetry)
    await put(reads, desk, ("eve", "e-1"), ("eve", "e-2"), ("ana", "a-1"))
    departures.ended("c-eve")
    async with running(reads):
        assert await reads.finished(5)
    assert rounds.ids == ["a-1"]
    assert b"heavy_reads_gone_total 2.0" in telemetry.exposition()


async def test_an_unexpected_error_ends_it(desk: Desk, telemetry: Telemetry) -> None:
    rounds = Rounds()
    rounds.error = ZeroDivisionError()
    reads = a_scheduler(rounds, telemetry)
    await put(reads, desk, ("ana", "a-1"))
    with pytest.raises(ExceptionGroup):
        await reads.run()
