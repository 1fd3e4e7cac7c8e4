"""The publisher: each item goes to its exchange, and answers wait for a gateway that is absent for a moment."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Any, Final

import msgspec
import pytest

from towpath.protocol.envelope import make
from towpath.protocol.messages import Directed, Session, read_directed
from towpath.protocol.routes import EVENTS, EXCHANGES, PUSH, connection_key
from towpath.servicekit.broker.interface import (
    Binding,
    Broker,
    BrokerBlocked,
    BrokerUnavailable,
    Delivery,
    Exchange,
    Inbox,
    PublishUnconfirmed,
    Queue,
    Subscription,
    Topology,
)
from towpath.servicekit.broker.memory import MemoryHub
from towpath.servicekit.messaging.confirms import PendingConfirms
from towpath.servicekit.messaging.publication import Publication
from towpath.servicekit.messaging.publisher import Publisher
from towpath.servicekit.runtime.settings import ServiceSettings
from towpath.servicekit.runtime.telemetry import Telemetry
from towpath.testkit.eventually import eventually
from towpath.testkit.publishing import published

PATIENCE: Final = 30.0
ANA: Final = Session(user_id="ana", connection_id="c-1", gateway_id="gw-1")
BO: Final = Session(user_id="bo", connection_id="c-2", gateway_id="gw-2")
EVERYTHING: Final = [Binding(exchange, "#") for exchange in (PUSH, EVENTS)]


@pytest.fixture(autouse=True)
async def exchanges(broker: Broker) -> None:
    await broker.declare(Topology([Exchange(name) for name in EXCHANGES]))


@asynccontextmanager
async def open_publisher(
    broker: Broker, telemetry: Telemetry, *, answer_patience: float = 30.0
) -> AsyncIterator[Publisher]:
    settings = ServiceSettings(amqp_url="memory://", answer_patience=answer_patience)
    async with Publisher.open(broker, "orders", settings, telemetry) as publisher:
        yield publisher


def gateway(name: str) -> Inbox:
    return Inbox(name=name, bindings=[Binding(PUSH, connection_key(name))])


def an_answer(session: Session, msg_id: str = "m-1") -> Directed:
    envelope = make("order.get.ok", correlation_id=msg_id).to_json()
    return Directed(connection_id=session.connection_id, envelope=msgspec.Raw(envelope))


def a_push(exchange: str, routing_key: str, **data: Any) -> Publication:
    return Publication(exchange, routing_key, msgspec.Raw(make("order.updated", data).to_json()))


async def one(ears: Subscription) -> Delivery:
    async with asyncio.timeout(PATIENCE):
        delivery = await anext(ears)
    delivery.ack()
    return delivery


async def answered(ears: Subscription, count: int) -> list[str | None]:
    """The ``correlation_id`` of the next ``count`` answers that a gateway gets."""
    found: list[str | None] = []
    while len(found) < count:
        for item in read_directed((await one(ears)).body):
            found.append(msgspec.json.decode(item.envelope).get("correlation_id"))
    return found


def dropped(telemetry: Telemetry) -> bool:
    return b"answers_dropped_total 1.0" in telemetry.exposition()


def unpublished(telemetry: Telemetry) -> float:
    """How many pushes the broker did not take."""
    name = f'messages_unpublished_total{{exchange="{PUSH}"}} '
    lines = telemetry.exposition().decode().splitlines()
    return next(float(line.removeprefix(name)) for line in lines if line.startswith(name))


def answer(
    publisher: Publisher, session: Session, msg_id: str, *, trace: str | None = None
) -> Awaitable[None]:
    """Queue an answer; the awaitable is done when the broker has it."""
    confirms = PendingConfirms()
    publisher.direct(session, an_answer(session, msg_id), confirms.resolve, trace)
    confirms.expect()
    return confirms.confirmed()


def control(publisher: Publisher, user_id: str) -> Awaitable[None]:
    """Queue a subscription of all of a user's connections; see :func:`answer`."""
    confirms = PendingConfirms()
    publisher.control(user_id, Directed(subscribe=["chat:lobby"]), confirms.resolve)
    confirms.expect()
    return confirms.confirmed()


# Ways out


async def test_answers_pushes_and_events_go_to_their_exchanges_and_keys(
    broker: Broker, telemetry: Telemetry
) -> None:
    async with (
        broker.subscribe(Inbox(name="ears", bindings=EVERYTHING), prefetch=10) as ears,
        open_publisher(broker, telemetry) as publisher,
    ):
        await answer(publisher, ANA, "m-1", trace="00-trace")
        await control(publisher, "a.na")
        await published(publisher, a_push(PUSH, "user.ana"))
        await published(publisher, a_push(EVENTS, "order.paid"))
        heard = [await one(ears) for _ in range(4)]
    assert [(delivery.exchange, delivery.routing_key) for delivery in heard] == [
        (PUSH, "connection.gw-1"),
        (PUSH, "control.a%2Ena"),
        (PUSH, "user.ana"),
        (EVENTS, "order.paid"),
    ]
    assert [delivery.app_id for delivery in heard] == ["orders"] * 4
    assert heard[0].headers == {"traceparent": "00-trace"}


async def test_events_survive_a_restart_of_the_broker_and_pushes_do_not(
    hub: MemoryHub, broker: Broker, telemetry: Telemetry
) -> None:
    queue = Queue(name="kept", bindings=EVERYTHING)
    await broker.declare(Topology(queues=[queue]))
    async with open_publisher(broker, telemetry) as publisher:
        await published(publisher, a_push(PUSH, "user.ana"))
        await published(publisher, a_push(EVENTS, "order.paid"))
    hub.stop()
    hub.start()
    async with broker.subscribe(queue, prefetch=10) as left:
        assert (await one(left)).routing_key == "order.paid"
        assert left.take_waiting(10) == []


async def test_a_push_without_a_receiver_is_not_an_error(broker: Broker, telemetry: Telemetry) -> None:
    async with open_publisher(broker, telemetry) as publisher:
        await published(publisher, a_push(PUSH, "user.nobody"))
        await control(publisher, "nobody")


# Answers that come late


async def test_answers_wait_for_their_gateway_and_keep_their_order(
    broker: Broker, telemetry: Telemetry
) -> None:
    async with open_publisher(broker, telemetry) as publisher:
        await asyncio.gather(*(answer(publisher, ANA, f"m-{n}") for n in range(5)))
        async with broker.subscribe(gateway("gw-1"), prefetch=10) as ears:
            assert await answered(ears, 5) == [f"m-{n}" for n in range(5)]
    assert not dropped(telemetry)


async def test_an_answer_waits_through_several_rounds(broker: Broker, telemetry: Telemetry) -> None:
    async with open_publisher(broker, telemetry) as publisher:
        await answer(publisher, ANA, "m-1")
        await answer(publisher, BO, "m-2")
        async with broker.subscribe(gateway("gw-2"), prefetch=10) as ears:
            assert await answered(ears, 1) == ["m-2"]  # a round went by, and ana's gateway was still away
        async with broker.subscribe(gateway("gw-1"), prefetch=10) as ears:
            assert await answered(ears, 1) == ["m-1"]


async def test_an_absent_gateway_delays_no_other_gateway(broker: Broker, telemetry: Telemetry) -> None:
    async with (
        broker.subscribe(gateway("gw-2"), prefetch=10) as ears,
        open_publisher(broker, telemetry) as publisher,
    ):
        await answer(publisher, ANA, "m-1")
        for number in range(3):
            await answer(publisher, BO, f"m-{number}")
        assert await answered(ears, 3) == ["m-0", "m-1", "m-2"]


async def test_an_absent_gateway_gets_one_attempt_per_round_however_many_answers_wait(
    broker: Broker, telemetry: Telemetry
) -> None:
    async with open_publisher(broker, telemetry) as publisher:
        await asyncio.gather(*(answer(publisher, ANA, f"m-{n}") for n in range(5)))
        tried = unpublished(telemetry)
        await eventually(lambda: unpublished(telemetry) > tried)
        assert unpublished(telemetry) == tried + 1


async def test_an_answer_is_dropped_if_its_gateway_stays_absent(broker: Broker, telemetry: Telemetry) -> None:
    async with open_publisher(broker, telemetry, answer_patience=0.01) as publisher:
        await answer(publisher, ANA, "m-1")
        await eventually(lambda: dropped(telemetry))
        async with broker.subscribe(gateway("gw-1"), prefetch=10) as ears:
            await answer(publisher, ANA, "m-2")
            assert await answered(ears, 1) == ["m-2"]


async def test_closing_does_not_wait_for_absent_gateways(broker: Broker, telemetry: Telemetry) -> None:
    async with asyncio.timeout(PATIENCE):
        async with open_publisher(broker, telemetry, answer_patience=3600) as publisher:
            await answer(publisher, ANA, "m-1")


# Faults


async def test_nothing_is_queued_while_the_broker_is_disconnected_or_blocked(
    hub: MemoryHub, broker: Broker, telemetry: Telemetry
) -> None:
    async with open_publisher(broker, telemetry) as publisher:
        hub.block()
        with pytest.raises(BrokerBlocked):
            answer(publisher, ANA, "m-1")
        hub.stop()
        with pytest.raises(BrokerUnavailable):
            answer(publisher, ANA, "m-1")
        with pytest.raises(BrokerUnavailable):
            control(publisher, "ana")
        with pytest.raises(BrokerUnavailable):
            published(publisher, a_push(EVENTS, "order.paid"))


async def test_an_unconfirmed_answer_is_reported_as_unconfirmed(
    hub: MemoryHub, broker: Broker, telemetry: Telemetry
) -> None:
    async with (
        broker.subscribe(gateway("gw-1"), prefetch=10) as ears,
        open_publisher(broker, telemetry) as publisher,
    ):
        hub.hold_confirms()
        waiting = answer(publisher, ANA, "m-1")
        await one(ears)
        hub.stop()
        with pytest.raises(PublishUnconfirmed):
            await waiting


async def test_late_answers_survive_a_restart_of_the_broker(
    hub: MemoryHub, broker: Broker, telemetry: Telemetry
) -> None:
    async with open_publisher(broker, telemetry) as publisher:
        await answer(publisher, ANA, "m-1")
        hub.stop()
        hub.start()
        async with broker.subscribe(gateway("gw-1"), prefetch=10) as ears:
            assert await answered(ears, 1) == ["m-1"]
