"""The publisher on a real RabbitMQ: confirms, refusals, outages."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import aio_pika
import pytest

from towpath.publisher import (
    BadEvent,
    BrokerBlocked,
    BrokerRefused,
    BrokerUnreachable,
    BufferFull,
    ExchangeMissing,
    NotConfirmed,
    Publisher,
    PublisherClosed,
    QueueFull,
    Refused,
    Unroutable,
    make,
)
from towpath.testkit.eventually import eventually
from towpath.testkit.processes import free_port
from towpath.testkit.rabbitmq import Rabbit
from towpath.tools.rabbitmq_node import RabbitControl

QUEUE = "listener"
#: Arguments of a queue that takes one message.
FULL: dict[str, Any] = {"x-max-length": 1, "x-overflow": "reject-publish"}
PAID: dict[str, Any] = {"order_id": "o-1", "user_id": "ana"}


async def declare(url: str, *keys: str, exchange: str = "towpath.events", **arguments: Any) -> None:
    """The exchange, and a durable queue that no program consumes."""
    async with await aio_pika.connect(url) as connection:
        channel = await connection.channel()
        declared = await channel.declare_exchange(exchange, "topic", durable=True)
        queue = await channel.declare_queue(QUEUE, durable=True, arguments=arguments)
        for key in keys:
            await queue.bind(declared, key)


async def received(url: str) -> list[aio_pika.abc.AbstractIncomingMessage]:
    """All messages of the queue, taken out of it."""
    async with await aio_pika.connect(url) as connection:
        queue = await (await connection.channel()).get_queue(QUEUE, ensure=False)
        messages = []
        while (message := await queue.get(no_ack=True, fail=False)) is not None:
            messages.append(message)
        return messages


def ids(messages: list[aio_pika.abc.AbstractIncomingMessage]) -> list[str]:
    return [json.loads(message.body)["msg_id"] for message in messages]


@pytest.fixture
async def publisher(rabbitmq: Rabbit) -> AsyncIterator[Publisher]:
    async with Publisher(rabbitmq.url, app_id="shop", timeout=20.0, reconnect_max=0.5) as publisher:
        yield publisher


async def test_an_event_arrives_with_its_action_as_key_and_names_its_sender(
    rabbitmq: Rabbit, publisher: Publisher
) -> None:
    await declare(rabbitmq.url, "order.*")
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    msg_id = await publisher.publish(make("order.paid", PAID, traceparent=trace))
    (message,) = await received(rabbitmq.url)
    envelope = json.loads(message.body)
    assert (envelope["msg_id"], envelope["action"], envelope["data"]) == (msg_id, "order.paid", PAID)
    assert message.routing_key == "order.paid"
    assert (message.app_id, message.user_id) == ("shop", "towpath")
    assert message.headers["traceparent"] == trace
    assert message.delivery_mode == aio_pika.DeliveryMode.PERSISTENT
    assert message.content_type == "application/json"


async def test_an_event_that_no_queue_is_bound_to_is_unroutable(
    rabbitmq: Rabbit, publisher: Publisher
) -> None:
    await declare(rabbitmq.url, "order.*")
    with pytest.raises(Unroutable, match=r"no queue is bound to 'parcel\.sent'") as raised:
        await publisher.publish("parcel.sent", {}, msg_id="m-1")
    assert raised.value.msg_id == "m-1"


async def test_many_events_wait_for_their_confirms_together_and_each_has_its_result(
    rabbitmq: Rabbit, publisher: Publisher
) -> None:
    await declare(rabbitmq.url, "order.*")
    events: list[Any] = [("order.paid", {"number": number}) for number in range(300)]
    events[7], events[200] = ("parcel.sent", {}), ("Order paid", {})
    most = 0

    async def watch() -> None:
        nonlocal most
        while True:
            most = max(most, publisher.waiting)
            await asyncio.sleep(0)

    watching = asyncio.create_task(watch())
    results = await publisher.publish_many(events)
    watching.cancel()
    assert [number for number, result in enumerate(results) if not result.ok] == [7, 200]
    assert isinstance(results[7].error, Unroutable)
    assert isinstance(results[200].error, BadEvent)
    assert most > 100
    arrived = await received(rabbitmq.url)
    assert ids(arrived) == [result.msg_id for result in results if result.ok]


async def test_a_push_reaches_the_key_of_its_user_and_needs_no_listener(
    rabbitmq: Rabbit, publisher: Publisher
) -> None:
    await declare(rabbitmq.url, "user.*", exchange="towpath.push")
    await publisher.push("ana.b", "shop.greeting", {"text": "Hello"})
    (message,) = await received(rabbitmq.url)
    assert message.routing_key == "user.ana%2Eb"
    assert json.loads(message.body)["data"] == {"text": "Hello"}
    await publisher.push("ana.b.c", make("shop.greeting", {}))
    with pytest.raises(BadEvent, match="must not be empty"):
        await publisher.push("", "shop.greeting", {})


@pytest.mark.parametrize(
    ("action", "data", "problem"),
    [
        ("Order paid", {}, "action"),
        ("ping", {}, "domain.verb"),
        ("order", {}, "action"),
        ("order.paid", {"at": object()}, "cannot be sent as JSON"),
        ("order.paid", {"text": "x" * 9_000_000}, "at most 8388608 are published"),
        ("order.paid", {"n": 10**5000}, "cannot be sent as JSON"),
    ],
)
async def test_an_event_that_is_none_is_refused_with_its_problem(
    publisher: Publisher, action: str, data: dict[str, Any], problem: str
) -> None:
    with pytest.raises(BadEvent, match=problem):
        await publisher.publish(action, data)


async def test_events_in_flight_while_connections_are_closed_arrive_with_their_msg_id(
    rabbitmq: Rabbit, publisher: Publisher
) -> None:
    await declare(rabbitmq.url, "order.*")
    publishing = asyncio.create_task(
        publisher.publish_many([("order.paid", {"number": number}) for number in range(600)])
    )
    await eventually(lambda: publisher.waiting)
    await rabbitmq.stop()
    await eventually(lambda: not publisher.is_connected)
    await rabbitmq.start()
    results = await publishing
    assert [result for result in results if not result.ok] == []
    assert set(ids(await received(rabbitmq.url))) == {result.msg_id for result in results}


async def test_one_refused_event_does_not_fail_those_in_flight_with_it(rabbitmq: Rabbit) -> None:
    await declare(rabbitmq.url, "order.*", "parcel.*")
    await rabbitmq.allow_topics("towpath.events", r"^order\..*$")
    events: list[Any] = [("order.paid", {"number": number}) for number in range(60)]
    events[30] = ("parcel.sent", {})
    async with Publisher(rabbitmq.url, app_id="shop") as publisher:
        results = await publisher.publish_many(events)
    assert [number for number, result in enumerate(results) if not result.ok] == [30]
    assert isinstance(results[30].error, Refused)
    assert "parcel.sent" in str(results[30].error)
    assert set(ids(await received(rabbitmq.url))) == {result.msg_id for result in results if result.ok}


async def test_a_message_in_the_name_of_another_account_is_refused(rabbitmq: Rabbit) -> None:
    await declare(rabbitmq.url, "order.*")
    async with Publisher(rabbitmq.url, app_id="shop", user_id="stranger") as publisher:
        with pytest.raises(Refused, match="user_id property"):
            await publisher.publish("order.paid", PAID)


async def test_a_full_queue_is_reported_after_the_time_limit_and_takes_the_event_once_it_has_room(
    rabbitmq: Rabbit, publisher: Publisher
) -> None:
    await declare(rabbitmq.url, "order.*", **FULL)
    await publisher.publish("order.paid", PAID, msg_id="m-1")
    with pytest.raises(QueueFull, match="Publish it again with the same msg_id"):
        await publisher.publish("order.paid", PAID, msg_id="m-2", timeout=0.5)
    waiting = asyncio.create_task(publisher.publish("order.paid", PAID, msg_id="m-3"))
    await eventually(lambda: publisher.waiting)
    assert ids(await received(rabbitmq.url)) == ["m-1"]
    assert await waiting == "m-3"


async def test_a_virtual_host_without_towpath_is_named(rabbitmq_node: RabbitControl) -> None:
    # Without accounts (`--rights`): their definitions have the exchanges.
    async with Rabbit.on(rabbitmq_node) as empty, Publisher(empty.url, app_id="shop") as publisher:
        with pytest.raises(ExchangeMissing, match=r"'towpath\.events' does not exist"):
            await publisher.publish("order.paid", PAID, timeout=0.5)


async def test_an_alarm_is_reported_and_waited_for(rabbitmq: Rabbit, publisher: Publisher) -> None:
    await declare(rabbitmq.url, "order.*")
    await rabbitmq.block()
    # RabbitMQ reports its alarm to a connection when that publishes.
    with pytest.raises(BrokerBlocked, match="memory or disk alarm"):
        await publisher.publish("order.paid", PAID, msg_id="m-1", timeout=1.0)
    assert publisher.problem == "RabbitMQ accepts no messages (memory or disk alarm)"
    waiting = asyncio.create_task(publisher.publish("order.paid", PAID, msg_id="m-2"))
    await asyncio.sleep(0.1)  # long enough to see that it does not end
    assert not waiting.done()
    await rabbitmq.unblock()
    assert await waiting == "m-2"
    assert "m-2" in ids(await received(rabbitmq.url))


async def test_a_bounded_number_of_events_waits_and_the_rest_is_held_back(rabbitmq: Rabbit) -> None:
    await declare(rabbitmq.url, "order.*")
    async with Publisher(rabbitmq.url, app_id="shop", max_waiting=5) as publisher:
        await rabbitmq.stop()
        await eventually(lambda: not publisher.is_connected)
        # The first wait longer than the rest: there is no room while the rest waits.
        calls = [
            publisher.publish("order.paid", {"number": number}, timeout=5 if number < 5 else 0.5)
            for number in range(8)
        ]
        errors = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(error) for error in errors] == [BrokerUnreachable] * 5 + [BufferFull] * 3
        await rabbitmq.start()
        await eventually(lambda: publisher.is_connected)
        await publisher.publish("order.paid", PAID, timeout=10)


async def test_a_broker_that_is_not_there_is_named_within_the_time_limit() -> None:
    begun = time.monotonic()
    with pytest.raises(
        BrokerUnreachable, match=r"no connection to RabbitMQ at amqp://127\.0\.0\.1"
    ) as raised:
        async with Publisher(
            f"amqp://shop:secret@127.0.0.1:{free_port()}/", app_id="shop", connect_timeout=0.5
        ):
            pytest.fail("it was entered")
    assert "secret" not in str(raised.value)
    assert time.monotonic() - begun < 10


async def test_a_wrong_password_is_an_error_at_once(rabbitmq: Rabbit) -> None:
    url = rabbitmq.url.replace("://towpath:", "://towpath:x")
    with pytest.raises(BrokerRefused, match="does not accept this program"):
        async with Publisher(url, app_id="shop", connect_timeout=20):
            pytest.fail("it was entered")


async def test_a_virtual_host_that_does_not_exist_is_an_error(rabbitmq: Rabbit) -> None:
    with pytest.raises(BrokerRefused, match=r"vhost test-\w+-other not found"):
        async with Publisher(rabbitmq.url + "-other", app_id="shop", connect_timeout=20):
            pytest.fail("it was entered")


async def test_a_publisher_that_is_not_open_says_so(rabbitmq: Rabbit) -> None:
    publisher = Publisher(rabbitmq.url, app_id="shop")
    with pytest.raises(PublisherClosed, match="async with"):
        await publisher.publish("order.paid", PAID)
    async with publisher:
        pass
    with pytest.raises(PublisherClosed, match="not open"):
        await publisher.publish("order.paid", PAID)
    assert issubclass(PublisherClosed, NotConfirmed)


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("http://broker/", "not amqp://"),
        ("amqp:///vhost", "names no host"),
        ("amqps://broker/?no_verify_ssl=1", "only 'auth' is taken"),
        ("amqp://shop:secret@one:x/", "not amqp://"),
    ],
)
def test_an_address_that_is_none_is_refused_without_its_password(url: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem) as raised:
        Publisher(url, app_id="shop")
    assert "secret" not in str(raised.value)


def test_limits_and_names_are_checked() -> None:
    with pytest.raises(ValueError, match="timeout=0"):
        Publisher("amqp://broker/", app_id="shop", timeout=0)
    with pytest.raises(ValueError, match="app_id=''"):
        Publisher("amqp://broker/", app_id="")
    with pytest.raises(ValueError, match="use amqps://"):
        Publisher("amqp://broker/", app_id="shop", ca="authority.pem")
