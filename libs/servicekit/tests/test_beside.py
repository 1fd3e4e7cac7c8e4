"""Beside the main path: heavy reads and retried commands of a whole dispatcher, with its consumer."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final

import pytest
from pydantic import BaseModel

from towpath.protocol.envelope import parse
from towpath.protocol.messages import Session, join_batch, read_directed
from towpath.protocol.routes import PUSH, command_queue, connection_key
from towpath.servicekit.broker.interface import Binding, Broker, Inbox, Message, Subscription
from towpath.servicekit.broker.memory import MemoryHub
from towpath.servicekit.handling.dispatcher import Dispatcher
from towpath.servicekit.handling.outcome import Outcome
from towpath.servicekit.handling.requests import Handler
from towpath.servicekit.messaging.consumer import Consumer
from towpath.servicekit.messaging.ended_connections import EndedConnections
from towpath.servicekit.messaging.publisher import Publisher
from towpath.servicekit.runtime.settings import ServiceSettings
from towpath.servicekit.runtime.telemetry import Telemetry
from towpath.servicekit.service import Service, topology, work_queues
from towpath.testkit.dispatching import GATEWAY, Incoming, a_command
from towpath.testkit.eventually import eventually

PATIENCE: Final = 30.0
QUEUE: Final = command_queue("shelf", 0)


class Thing(BaseModel):
    name: str = ""


class Shelf:
    """A service that remembers the order in which its handlers ran.

    Attributes:
        fails: How often the next handlers fail.
    """

    def __init__(self) -> None:
        self.handled: list[str] = []
        self.fails = 0
        self.definition: Service[Any] = Service(
            name="shelf",
            domain="shelf",
            commands={
                "shelf.put": Handler(Thing, self.put),
                "shelf.list": Handler(Thing, self.put, changes=False, cost=20),
                "shelf.broken": Handler(Thing, self.broken, changes=False, cost=20),
            },
        )

    def put(self, thing: Thing, _: Session, __: None) -> Outcome:
        if self.fails:
            self.fails -= 1
            raise ConnectionError("away for a moment")
        self.handled.append(thing.name)
        return Outcome()

    def broken(self, _: Thing, __: Session, ___: None) -> Outcome:
        """A bug that shows only when the answer is made from the replay."""
        return Outcome(answer=lambda _: {"x": 1 / 0}, replay={"shelf:all": 1})


class Desk:
    """A shelf whose consumer runs, and a gateway."""

    def __init__(
        self, shelf: Shelf, hub: MemoryHub, broker: Broker, consumer: Consumer, ears: Subscription
    ) -> None:
        self.shelf = shelf
        self.hub = hub
        self.stop = asyncio.Event()
        self.consumer = consumer
        self._broker = broker
        self._ears = ears
        self._answers: list[str] = []

    async def send(self, *commands: Incoming) -> None:
        """Publish ``commands`` as one message."""
        body = join_batch([command.item for command in commands])
        await self._broker.publish("", QUEUE, Message(body=body, app_id="gateway"), mandatory=True)

    async def answers(self, number: int) -> list[str]:
        """The ids of the next answers."""
        while len(self._answers) < number:
            async with asyncio.timeout(PATIENCE):
                delivery = await anext(self._ears)
            delivery.ack()
            for item in read_directed(delivery.body):
                self._answers.append(parse(bytes(item.envelope)).correlation_id or "")
        answers, self._answers = self._answers[:number], self._answers[number:]
        return answers

    async def unsettled(self) -> int:
        """Messages of the service's queue that are not acked, once the consumer has ended."""
        async with self._broker.browse(QUEUE) as browsing:
            return browsing.waiting


@pytest.fixture
def ended_connections() -> EndedConnections:
    return EndedConnections()


@pytest.fixture
async def desk(
    hub: MemoryHub, broker: Broker, telemetry: Telemetry, ended_connections: EndedConnections
) -> AsyncIterator[Desk]:
    settings, shelf = ServiceSettings(amqp_url="memory://"), Shelf()
    service = shelf.definition
    gateway = Inbox(name="gateway", bindings=[Binding(PUSH, connection_key(GATEWAY))])
    await broker.declare(topology(service, settings.queue_max_length))
    async with (
        hub.connect(name="shelf") as own,
        Publisher.open(own, service.name, settings, telemetry) as publisher,
        broker.subscribe(gateway, prefetch=100) as ears,
    ):
        dispatcher: Dispatcher[Any] = Dispatcher(
            service.tables,
            None,
            publisher,
            settings,
            telemetry,
            is_connected=ended_connections.is_connected,
        )
        subscribe = partial(own.subscribe, *work_queues(service, settings.queue_max_length), prefetch=10)
        consumer = Consumer(subscribe, dispatcher, intake_max_bytes=settings.intake_max_bytes)
        yield Desk(shelf, hub, broker, consumer, ears)


@asynccontextmanager
async def consuming(desk: Desk) -> AsyncIterator["asyncio.Task[None]"]:
    """The consumer runs inside; it is stopped at the end, and has finished then."""
    task = asyncio.create_task(desk.consumer.run(desk.stop))
    try:
        async with asyncio.timeout(PATIENCE):
            yield task
            desk.stop.set()
            await task
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError, ExceptionGroup):
            await task


def a_list(msg_id: str, user: str = "ana") -> Incoming:
    return a_command("shelf.list", by=user, on=f"c-{user}", msg_id=msg_id, name=msg_id)


def a_put(msg_id: str, user: str = "ana") -> Incoming:
    return a_command("shelf.put", by=user, on=f"c-{user}", msg_id=msg_id, name=msg_id)


# Heavy reads


async def test_a_request_behind_a_heavy_read_runs_once_the_answer_is_confirmed(desk: Desk) -> None:
    async with consuming(desk):
        desk.hub.hold_confirms()
        sending = asyncio.create_task(desk.send(a_list("list"), a_put("behind"), a_put("other", "ben")))
        assert set(await desk.answers(2)) == {"list", "other"}
        assert set(desk.shelf.handled) == {"list", "other"}
        desk.hub.release_confirms()  # No delivery comes.
        assert await desk.answers(1) == ["behind"]
        await sending
    assert await desk.unsettled() == 0


async def test_requests_and_heavy_reads_of_one_sender_keep_their_order(desk: Desk) -> None:
    sent = [a_list(f"m-{n}") if n % 3 == 1 else a_put(f"m-{n}") for n in range(12)]
    async with consuming(desk):
        await desk.send(*sent[:7])
        await desk.send(*sent[7:])
        assert await desk.answers(12) == [f"m-{n}" for n in range(12)]
    assert desk.shelf.handled == [f"m-{n}" for n in range(12)]
    assert await desk.unsettled() == 0


async def test_a_heavy_read_that_fails_for_a_moment_is_answered(desk: Desk) -> None:
    desk.shelf.fails = 2
    async with consuming(desk):
        await desk.send(a_list("list"), a_put("behind"))
        assert await desk.answers(2) == ["list", "behind"]
    assert await desk.unsettled() == 0


async def test_no_read_runs_for_an_ended_connection_but_a_change_takes_effect(
    desk: Desk, telemetry: Telemetry, ended_connections: EndedConnections
) -> None:
    ended_connections.ended("c-ana")
    async with consuming(desk):
        await desk.send(a_list("one"), a_list("two"), a_put("behind"), a_list("other", "ben"))
        await eventually(lambda: sorted(desk.shelf.handled) == ["behind", "other"])
    assert b"heavy_reads_gone_total 2.0" in telemetry.exposition()
    assert await desk.unsettled() == 0


async def test_a_delivery_is_acked_once_its_heavy_reads_are_confirmed(desk: Desk) -> None:
    task = asyncio.create_task(desk.consumer.run(desk.stop))
    desk.hub.hold_confirms()
    sending = asyncio.create_task(desk.send(a_put("put"), a_list("list", "ben")))
    assert set(await desk.answers(2)) == {"put", "list"}
    task.cancel()  # The program ends before the confirms.
    with contextlib.suppress(asyncio.CancelledError):
        await task
    desk.hub.release_confirms()
    await sending
    assert await desk.unsettled() == 1


async def test_an_unexpected_error_of_a_heavy_read_ends_the_consumer(desk: Desk) -> None:
    await desk.send(a_command("shelf.broken", msg_id="broken"))
    with pytest.raises(ExceptionGroup):
        async with asyncio.timeout(PATIENCE):
            await desk.consumer.run(desk.stop)
    assert await desk.unsettled() == 1


# Retries


async def test_a_request_behind_a_retried_command_runs_though_no_delivery_comes(desk: Desk) -> None:
    desk.shelf.fails = 1
    async with consuming(desk):
        await desk.send(a_put("first"), a_put("behind"), a_list("list"))
        assert await desk.answers(3) == ["first", "behind", "list"]
    assert await desk.unsettled() == 0


async def test_on_stop_a_retried_command_and_what_waits_behind_it_are_finished(desk: Desk) -> None:
    desk.shelf.fails = 2
    async with consuming(desk):
        await desk.send(a_put("first"), a_put("behind"))
        await eventually(lambda: desk.shelf.fails < 2)
        desk.stop.set()
    assert desk.shelf.handled == ["first", "behind"]
    assert await desk.answers(2) == ["first", "behind"]
    assert await desk.unsettled() == 0
