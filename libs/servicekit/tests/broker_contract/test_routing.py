"""Which queues get a message, and what a delivery holds; on each implementation of the broker."""

from towpath.servicekit.broker.interface import (
    Binding,
    Broker,
    Exchange,
    ExchangeType,
    HeaderValue,
    Message,
    Queue,
    Topology,
)

from .contract import EVERYONE, TOPICS, WORK, a_message, bound, drain, take_and_ack


async def test_a_topic_exchange_delivers_to_every_queue_whose_pattern_matches(broker: Broker) -> None:
    exact = Queue(name="exact", bindings=[Binding(TOPICS.name, "order.paid")])
    star = Queue(name="star", bindings=[Binding(TOPICS.name, "order.*")])
    all_below = Queue(name="all_below", bindings=[Binding(TOPICS.name, "order.#")])
    everything = Queue(name="everything", bindings=[Binding(TOPICS.name, "#")])
    await broker.declare(bound(exact, star, all_below, everything))

    for key in ("order.paid", "order.sent", "order", "order.paid.twice", "chat.paid", "orders.paid"):
        await broker.publish(TOPICS.name, key, a_message(key))

    assert await drain(broker, exact) == ["order.paid"]
    assert await drain(broker, star) == ["order.paid", "order.sent"]
    assert await drain(broker, all_below) == ["order.paid", "order.sent", "order", "order.paid.twice"]
    assert len(await drain(broker, everything)) == 6


async def test_a_queue_bound_twice_gets_one_copy(broker: Broker) -> None:
    queue = Queue(name="q", bindings=[Binding(TOPICS.name, "a.*"), Binding(TOPICS.name, "*.b")])
    await broker.declare(bound(queue))
    await broker.publish(TOPICS.name, "a.b", a_message())
    assert await drain(broker, queue) == ["hello"]


async def test_a_fanout_exchange_delivers_to_every_bound_queue_whatever_the_key(broker: Broker) -> None:
    queues = [Queue(name=f"q{n}", bindings=[Binding(EVERYONE.name, f"ignored.{n}")]) for n in range(3)]
    await broker.declare(bound(*queues))
    await broker.publish(EVERYONE.name, "some.key", a_message("one"))
    await broker.publish(EVERYONE.name, "another", a_message("two"))
    for queue in queues:
        assert await drain(broker, queue) == ["one", "two"]


async def test_a_direct_exchange_delivers_to_the_queues_bound_with_the_whole_key(broker: Broker) -> None:
    direct = Exchange("test.direct", ExchangeType.DIRECT)
    exact = Queue(name="exact", bindings=[Binding(direct.name, "a.b")])
    star = Queue(name="star", bindings=[Binding(direct.name, "a.*")])  # A star is a star, and no wildcard.
    await broker.declare(Topology([direct], [exact, star]))
    for key in ("a.b", "a.c", "a", "a.b.c", "a.*"):
        await broker.publish(direct.name, key, a_message(key))
    assert await drain(broker, exact) == ["a.b"]
    assert await drain(broker, star) == ["a.*"]


async def test_the_default_exchange_routes_by_queue_name(broker: Broker) -> None:
    first, second = Queue(name="first"), Queue(name="second")
    await broker.declare(Topology(queues=[first, second]))
    await broker.publish("", "second", a_message())
    assert await drain(broker, first) == []
    assert await drain(broker, second) == ["hello"]


async def test_a_delivery_has_its_body_headers_and_origin(broker: Broker) -> None:
    await broker.declare(bound(WORK))
    headers: dict[str, HeaderValue] = {"traceparent": "00-ab-cd-01", "x-attempt": 3, "x-last": True}
    message = Message(body=b'{"a":[1,2]}', type="work", app_id="tests", headers=headers)
    async with broker.subscribe(WORK, prefetch=1) as subscription:
        await broker.publish(TOPICS.name, "work.hard", message)
        [delivery] = await take_and_ack(subscription, 1)
    assert delivery.body == b'{"a":[1,2]}'
    assert (delivery.exchange, delivery.routing_key, delivery.queue) == (TOPICS.name, "work.hard", WORK.name)
    assert delivery.app_id == "tests"
    assert delivery.headers.items() >= headers.items()
    assert not delivery.redelivered
