"""The corpus of odd messages: repeatable, odd in fact, and mostly taken by a broker."""

from typing import Any, Final

from towpath.testkit.odd_messages import RawPublisher, message, odd_messages, properties, short, table, u64

TARGETS: Final = [("amq.topic", b"user.ann"), ("amq.topic", b"order.paid")]
BODIES: Final = [b'{"v":1,"action":"order.paid","msg_id":"m-1","data":{}}']


def test_a_seed_repeats_the_same_messages() -> None:
    first = list(odd_messages(seed=7, count=300, targets=TARGETS, bodies=BODIES))
    assert first == list(odd_messages(seed=7, count=300, targets=TARGETS, bodies=BODIES))
    assert first != list(odd_messages(seed=8, count=300, targets=TARGETS, bodies=BODIES))


async def test_a_broker_accepts_most_odd_messages_and_the_publisher_survives_its_refusals(
    rabbitmq: Any,
) -> None:
    async with RawPublisher.open(rabbitmq.url) as publisher:
        for odd in odd_messages(seed=3, count=300, targets=TARGETS, bodies=BODIES):
            await publisher.publish(odd)
        assert publisher.taken >= 270
        assert publisher.refused >= 1


async def test_a_broker_accepts_every_message_where_refusals_are_forbidden(rabbitmq: Any) -> None:
    async with RawPublisher.open(rabbitmq.url) as publisher:
        for odd in odd_messages(seed=4, count=300, targets=TARGETS, bodies=BODIES, refusable=0.0):
            assert await publisher.publish(odd), (odd.what, publisher.last_reason)


async def test_a_single_odd_message_can_be_published(rabbitmq: Any) -> None:
    odd = message(
        "amq.topic",
        b"caf\xe9",
        properties(
            headers=table({b"at": b"T" + u64(-1)}), message_id=short(b"caf\xe9"), timestamp=u64(10**19)
        ),
        b"{}",
    )
    async with RawPublisher.open(rabbitmq.url) as publisher:
        assert await publisher.publish(odd), publisher.last_reason
