"""Accounts on RabbitMQ: messages name theirs, and a program may use what others have made."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

import pytest
from yarl import URL

from towpath.servicekit.broker.interface import (
    Binding,
    BrokerRefused,
    Delivery,
    Exchange,
    Message,
    Queue,
    Topology,
    Unpublishable,
)
from towpath.servicekit.broker.rabbitmq import RabbitBroker
from towpath.servicekit.broker.rabbitmq.declaring import Existing
from towpath.servicekit.broker.rabbitmq.link import Link
from towpath.servicekit.messaging import dead_letters
from towpath.testkit.rabbitmq import Rabbit
from towpath.tools.rabbitmq_node import RabbitControl

TOPICS: Final = Exchange("test.topics")
WORK: Final = Queue(name="test.work", bindings=[Binding(TOPICS.name, "work.#")])
HELLO: Final = Message(body=b'"hello"')
PATIENCE: Final = 30.0


@dataclass
class Guest:
    """An account beside that of the test.

    Attributes:
        url: The test's virtual host, with the guest's name and password.
    """

    name: str
    url: str
    vhost: str
    control: RabbitControl

    def may(self, *, configure: str = ".*", write: str = ".*", read: str = ".*") -> None:
        """Have these permissions in the virtual host."""
        texts = (self.name, self.vhost, configure, write, read, "towpath")
        words = ", ".join(f'<<"{text}">>' for text in texts)
        self.control.evaluate(f"rabbit_auth_backend_internal:set_permissions({words})")


@pytest.fixture
async def guest(rabbitmq: Rabbit, rabbitmq_node: RabbitControl) -> AsyncIterator[Guest]:
    name, password = f"guest-{secrets.token_hex(4)}", secrets.token_hex(8)
    rabbitmq_node.evaluate(
        f'rabbit_auth_backend_internal:add_user(<<"{name}">>, <<"{password}">>, <<"towpath">>)'
    )
    url = URL(rabbitmq.url)
    own = str(url.with_user(name).with_password(password))
    try:
        yield Guest(name, own, url.path.removeprefix("/"), rabbitmq_node)
    finally:
        rabbitmq_node.evaluate(f'rabbit_auth_backend_internal:delete_user(<<"{name}">>, <<"towpath">>)')


async def first_of(broker: RabbitBroker, queue: Queue) -> Delivery:
    async with asyncio.timeout(PATIENCE), broker.subscribe(queue, prefetch=1) as subscription:
        delivery = await anext(subscription)
        delivery.ack()
        return delivery


# The account that a message names


async def test_a_delivery_has_the_account_of_its_publisher(rabbitmq: Rabbit, guest: Guest) -> None:
    guest.may()
    async with (
        RabbitBroker.connect(rabbitmq.url, name="reader") as reader,
        RabbitBroker.connect(guest.url, name="writer", user_id=guest.name) as writer,
    ):
        await reader.declare(Topology([TOPICS], [WORK]))
        await writer.until_ready()
        await writer.publish(TOPICS.name, "work.1", HELLO, mandatory=True)
        assert (await first_of(reader, WORK)).user_id == guest.name
        await reader.publish(TOPICS.name, "work.1", HELLO, mandatory=True)
        assert (await first_of(reader, WORK)).user_id is None


async def test_rabbitmq_refuses_the_account_of_another(rabbitmq: Rabbit, guest: Guest) -> None:
    guest.may()
    async with (
        asyncio.timeout(PATIENCE),
        RabbitBroker.connect(guest.url, name="liar", user_id="towpath") as liar,
    ):
        await liar.declare(Topology([TOPICS], [WORK]))
        with pytest.raises(Unpublishable, match="TOWPATH_AMQP_USER_ID") as error:
            await liar.publish(TOPICS.name, "work.1", HELLO, mandatory=True)
        assert "\n" not in str(error.value)
        # A program finds it at its start.
        with pytest.raises(BrokerRefused, match="TOWPATH_AMQP_USER_ID"):
            await liar.declare(Topology([TOPICS], [WORK], writes=[TOPICS.name]))


async def test_one_refused_message_costs_no_other_program_its_messages(
    rabbitmq: Rabbit, guest: Guest
) -> None:
    guest.may()
    async with (
        asyncio.timeout(PATIENCE),
        RabbitBroker.connect(guest.url, name="liar", user_id="towpath") as liar,
        RabbitBroker.connect(rabbitmq.url, name="honest", user_id="towpath") as honest,
    ):
        await honest.declare(Topology([TOPICS], [WORK]))
        await liar.until_ready()
        for _ in range(3):
            with pytest.raises(Unpublishable):
                await liar.publish(TOPICS.name, "work.1", HELLO)
            await honest.publish(TOPICS.name, "work.1", HELLO, mandatory=True)


# Declarations


async def test_an_exchange_and_a_queue_that_others_made_are_used(rabbitmq: Rabbit, guest: Guest) -> None:
    guest.may(configure="^$")
    wanted = Topology([TOPICS], [WORK], writes=[TOPICS.name])
    async with (
        asyncio.timeout(PATIENCE),
        RabbitBroker.connect(rabbitmq.url, name="operator") as operator,
        RabbitBroker.connect(guest.url, name="program") as program,
    ):
        await operator.declare(wanted)
        await program.declare(wanted)
        await program.publish(TOPICS.name, "work.1", HELLO, mandatory=True)
        assert (await first_of(program, WORK)).body == HELLO.body


async def test_a_declaration_that_rabbitmq_refused_is_not_repeated(rabbitmq: Rabbit, guest: Guest) -> None:
    """RabbitMQ logs an error for each declaration that it refuses, and declarations are repeated."""
    guest.may(configure="^$")
    wanted = Topology([TOPICS], [WORK])
    async with asyncio.timeout(PATIENCE), RabbitBroker.connect(rabbitmq.url, name="operator") as operator:
        await operator.declare(wanted)
        existing = Existing()
        link = await Link.open(URL(guest.url), "program", existing)
        try:
            await link.declare(wanted)
            assert existing.foreign == {TOPICS.name, WORK.name}
            # Now a declaration would succeed and change nothing: that it is not tried shows in what is remembered.
            guest.may()
            assert await link.declare(wanted) == {WORK.name: 0}
            assert existing.foreign == {TOPICS.name, WORK.name}
        finally:
            await link.close()


async def test_an_exchange_that_others_made_and_deleted_is_declared_if_it_may_be(
    rabbitmq: Rabbit, guest: Guest
) -> None:
    guest.may(configure="^$")
    wanted = Topology([TOPICS], [WORK])
    async with asyncio.timeout(PATIENCE), RabbitBroker.connect(rabbitmq.url, name="operator") as operator:
        await operator.declare(wanted)
        existing = Existing()
        link = await Link.open(URL(guest.url), "program", existing)
        try:
            await link.declare(wanted)
            guest.control.evaluate(
                f'rabbit_exchange:delete(rabbit_misc:r(<<"{guest.vhost}">>, exchange, <<"{TOPICS.name}">>), '
                f'false, <<"test">>)'
            )
            with pytest.raises(BrokerRefused, match="lacks the permission to configure the exchange"):
                await link.declare(wanted)
            guest.may()
            await link.declare(wanted)
            assert existing.foreign == {WORK.name}
        finally:
            await link.close()


async def test_an_exchange_that_does_not_exist_and_may_not_be_made_names_the_remedy(guest: Guest) -> None:
    guest.may(configure="^$")
    async with asyncio.timeout(PATIENCE), RabbitBroker.connect(guest.url, name="program") as program:
        with pytest.raises(BrokerRefused, match="towpath broker setup"):
            await program.declare(Topology([TOPICS]))


# Queues of earlier versions


async def test_retry_queues_of_an_earlier_version_stay_usable(rabbitmq: Rabbit) -> None:
    """They dead-letter to the default exchange, and RabbitMQ lets no argument of a queue change."""
    work = Queue(name="orders.events", bindings=[dead_letters.way_back("orders", "orders.events")])
    now = dead_letters.queues("orders", 1000)
    before = [
        Queue(
            name=queue.name,
            bindings=queue.bindings,
            max_length=queue.max_length,
            delivery_limit=queue.delivery_limit,
            message_ttl_ms=queue.message_ttl_ms,
            dead_letter_exchange=queue.earlier_dead_letter_exchange,
        )
        for queue in now
    ]
    async with asyncio.timeout(PATIENCE):
        async with RabbitBroker.connect(rabbitmq.url, name="of old") as old:
            await old.declare(Topology(dead_letters.exchanges("orders"), before))
            await old.publish("orders.retry.5s", "orders.events", HELLO, mandatory=True)
        existing = Existing()
        link = await Link.open(URL(rabbitmq.url), "of today", existing)
        try:
            for _ in range(2):
                await link.declare(Topology(dead_letters.exchanges("orders"), [work, *now]))
            assert existing.earlier == {queue.name for queue in now if queue.message_ttl_ms}
        finally:
            await link.close()
        async with RabbitBroker.connect(rabbitmq.url, name="of today") as today:
            await today.declare(Topology(dead_letters.exchanges("orders"), [work, *now]))
            back = await first_of(today, work)
            assert (back.exchange, back.routing_key) == ("", "orders.events")
