"""Odd and refused messages through a real RabbitMQ: each affects only itself, and the connection stays open."""

import asyncio
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any, Final

import msgspec
import pytest

from towpath.protocol.messages import Directed, Session, split_directed
from towpath.protocol.routes import EVENTS, EVERYONE, EXCHANGES, PUSH, dead_queue, group_key, user_key
from towpath.servicekit.broker.interface import (
    Binding,
    Broker,
    BrokerError,
    BrokerState,
    Delivery,
    Exchange,
    Inbox,
    Message,
    Queue,
    Topology,
    Unpublishable,
    undecodable,
)
from towpath.servicekit.broker.rabbitmq import RabbitBroker
from towpath.servicekit.messaging import dead_letters
from towpath.servicekit.messaging.confirms import PendingConfirms
from towpath.servicekit.messaging.lanes import LaneFull
from towpath.servicekit.messaging.publication import Publication
from towpath.servicekit.messaging.publisher import Publisher
from towpath.servicekit.runtime.settings import ServiceSettings
from towpath.servicekit.runtime.telemetry import Telemetry
from towpath.testkit.eventually import eventually
from towpath.testkit.odd_messages import (
    RawPublisher,
    message,
    odd_messages,
    properties,
    short,
    table,
    u64,
)
from towpath.testkit.publishing import published

PATIENCE: Final = 40.0
WORK: Final = Queue(name="odd.work", bindings=[Binding(EVENTS, "#")], delivery_limit=10)
NANOSECONDS: Final = u64(1_764_300_000 * 10**9)
END: Final = b'{"end":true}'
KEY: Final = b"order.paid"
ODD: Final = [
    message(EVENTS, KEY, properties(timestamp=NANOSECONDS), b"{}"),
    message(EVENTS, KEY, properties(headers=table({b"at": b"T" + NANOSECONDS})), b"{}"),
    message(EVENTS, KEY, properties(headers=table({b"at": b"T" + u64(-5)})), b"{}"),
    message(EVENTS, KEY, properties(message_id=short(b"caf\xe9")), b"{}"),
    message(EVENTS, b"order.caf\xe9", properties(), b"{}"),
]


@pytest.fixture
async def broker(rabbitmq: Any) -> AsyncIterator[Broker]:
    async with RabbitBroker.connect(rabbitmq.url, name="under test", reconnect_max=0.5) as broker:
        exchanges = [Exchange(name) for name in EXCHANGES]
        await broker.declare(
            Topology(
                [*exchanges, *dead_letters.exchanges("shop")], [WORK, *dead_letters.queues("shop", 1_000)]
            )
        )
        yield broker


async def test_an_undecodable_message_is_delivered_with_the_reason_and_its_body(
    broker: Broker, rabbitmq: Any
) -> None:
    rebuilt: list[None] = []
    broker.on_rebuilt(lambda: rebuilt.append(None))
    await publish_raw(rabbitmq.url, ODD)
    async with broker.subscribe(WORK, prefetch=10) as work:
        for _ in ODD:
            delivery = await one(work)
            assert undecodable(delivery)
            assert delivery.body == b"{}"
        await broker.publish(EVENTS, "order.paid", Message(body=END))
        assert (await one(work)).body == END
    assert not rebuilt


async def test_an_undecodable_message_can_be_browsed_and_left_in_its_queue(
    broker: Broker, rabbitmq: Any
) -> None:
    await publish_raw(rabbitmq.url, ODD)
    for _ in range(2):
        async with broker.browse(WORK.name) as waiting:
            assert [bool(undecodable(delivery)) async for delivery in waiting] == [True] * len(ODD)


async def test_hundreds_of_odd_messages_do_not_end_the_connection(broker: Broker, rabbitmq: Any) -> None:
    rebuilt: list[None] = []
    broker.on_rebuilt(lambda: rebuilt.append(None))
    async with broker.subscribe(WORK, prefetch=50) as work:
        targets = [(EVENTS, KEY)]
        taken = await publish_raw(
            rabbitmq.url, odd_messages(seed=11, count=400, targets=targets, bodies=[b"{}"])
        )
        await broker.publish(EVENTS, "order.paid", Message(body=END))
        seen = 0
        while (await one(work)).body != END:
            seen += 1
    assert seen >= 0.8 * taken  # an expiration of its own takes some away
    assert not rebuilt


async def test_a_broker_with_a_smaller_limit_refuses_only_the_large_message(
    broker: Broker,
) -> None:
    large = Message(body=b"x" * (160 * 1024 * 1024), as_received=True)
    small = [broker.publish(EVENTS, "a.b", Message(body=b"%d" % n)) for n in range(20)]
    results = await asyncio.gather(broker.publish(EVENTS, "a.b", large), *small, return_exceptions=True)
    assert isinstance(results[0], Unpublishable)
    assert not any(isinstance(result, Unpublishable) for result in results[1:])
    await broker.publish(EVENTS, "a.b", Message(body=END))


@pytest.mark.parametrize(
    "refused",
    [
        Message(body=b"x" * (9 * 1024 * 1024)),
        Message(body=b"{}", headers={"x": "\ud800"}),
        Message(body=b"{}", headers={"x": "y" * 70_000}),
        Message(body=b"{}", headers={"x": 2**64}),
        Message(body=b"{}", app_id="a" * 256),
    ],
    ids=["9 MiB", "surrogate", "70 KB header", "2**64", "app_id"],
)
async def test_an_unpublishable_message_is_refused_before_it_is_sent(
    broker: Broker, refused: Message
) -> None:
    with pytest.raises(Unpublishable):
        await broker.publish(EVENTS, "a.b", refused)
    with pytest.raises(Unpublishable):
        await broker.publish(EVENTS, "ä" * 128, Message(body=b"{}"))
    await broker.publish(EVENTS, "a.b", Message(body=END))


async def test_a_publish_to_an_undeclared_exchange_is_unpublishable(broker: Broker) -> None:
    with pytest.raises(Unpublishable):
        await broker.publish("no.such", "a.b", Message(body=b"{}"))


async def test_a_forbidden_message_is_parked_and_delays_no_other(
    broker: Broker, rabbitmq: Any, telemetry: Telemetry
) -> None:
    await rabbitmq.allow_topics(EVENTS, "^shop\\..*")
    settings = ServiceSettings(amqp_url=rabbitmq.url)
    async with (
        RabbitBroker.connect(rabbitmq.url, name="shop", reconnect_max=0.5) as bound,
        Publisher.open(bound, "shop", settings, telemetry) as publisher,
        broker.subscribe(WORK, prefetch=10) as work,
    ):
        await eventually(lambda: bound.state is BrokerState.READY)
        keys = ["shop.opened", "order.paid", "shop.closed"]
        async with asyncio.timeout(PATIENCE):
            # RabbitMQ closes the channel with the publishes in flight: they are published again, as services do.
            await asyncio.gather(*(told_until_taken(publisher, key) for key in keys))
        heard = {(await one(work)).routing_key for _ in range(2)}
        while heard != {"shop.opened", "shop.closed"}:
            heard.add((await one(work)).routing_key)
    async with broker.browse(dead_queue("shop")) as parked:
        found = [(delivery.body, delivery.headers["x-reason"]) async for delivery in parked]
    assert set(found) == {(b'{"key":"order.paid"}', "unpublishable")}


async def told_until_taken(publisher: Publisher, key: str) -> None:
    """Publish an event again and again until nothing of it is left to do."""
    while True:
        confirms = PendingConfirms()
        event = msgspec.Raw(b'{"key":"%s"}' % key.encode())
        try:
            publisher.post(Publication(EVENTS, key, event), confirms.resolve)
            confirms.expect()
            await confirms.confirmed()
        except BrokerError:
            await asyncio.sleep(0.05)
        else:
            return


SIZES: Final = (1, 64 * 1024, 1024 * 1024, 9 * 1024 * 1024, 17 * 1024 * 1024)


@pytest.mark.timeout(240)
async def test_messages_behind_one_of_any_size_arrive(broker: Broker, telemetry: Telemetry) -> None:
    settings = ServiceSettings()
    ann = Session(user_id="ann", connection_id="c-1", gateway_id="gw-1")
    ears = Inbox(name="ears", bindings=[Binding(PUSH, "#"), Binding(EVENTS, "#")], max_bytes=2**30)
    async with (
        broker.subscribe(ears, prefetch=100) as heard,
        Publisher.open(broker, "shop", settings, telemetry) as publisher,
    ):
        keys = [(PUSH, user_key("ann")), (PUSH, group_key("g")), (PUSH, EVERYONE), (EVENTS, "order.paid")]
        for size in SIZES:
            raw = msgspec.Raw(msgspec.json.encode({"correlation_id": "m", "text": "x" * size}))
            confirms = PendingConfirms()
            for exchange, key in keys:
                publisher.post(Publication(exchange, key, raw), confirms.resolve)
                confirms.expect()
            publisher.direct(ann, Directed(connection_id="c-1", envelope=raw), confirms.resolve)
            confirms.expect()
            publisher.control("ann", Directed(envelope=raw), confirms.resolve)
            confirms.expect()
            await asyncio.wait_for(confirms.confirmed(), PATIENCE)
        for count in (1, 500, 150_000):
            groups = [f"chat:{'room' * 25}-{number}" for number in range(count)]
            confirms = PendingConfirms()
            for part in split_directed(Directed(connection_id="c-1", subscribe=groups)):
                await queued(partial(publisher.direct, ann, part, confirms.resolve))
                confirms.expect()
            for part in split_directed(Directed(subscribe=groups)):
                await queued(partial(publisher.control, "ann", part, confirms.resolve))
                confirms.expect()
            await asyncio.wait_for(confirms.confirmed(), PATIENCE)
        ends = [Publication(exchange, key, msgspec.Raw(END)) for exchange, key in keys]
        await asyncio.wait_for(asyncio.gather(*(published(publisher, end) for end in ends)), PATIENCE)
        left = len(ends)
        while left:
            left -= END in (await one(heard)).body
    async with broker.browse(dead_queue("shop")) as parked:
        reasons = [delivery.headers["x-reason"] async for delivery in parked]
    assert reasons == ["unpublishable"] * 12  # six kinds at 9 and 17 MiB


async def queued(post: Callable[[], None]) -> None:
    """Post as soon as there is room in the lane."""

    def is_posted() -> bool:
        try:
            post()
        except LaneFull:
            return False
        return True

    await eventually(is_posted)


async def publish_raw(url: str, odd: Any) -> int:
    async with RawPublisher.open(url) as publisher:
        for each in odd:
            await publisher.publish(each)
        return publisher.taken


async def one(work: Any) -> Delivery:
    async with asyncio.timeout(PATIENCE):
        delivery: Delivery = await anext(work)
    delivery.ack()
    return delivery
