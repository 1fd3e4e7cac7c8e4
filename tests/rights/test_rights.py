"""Each account may do its program's work on RabbitMQ; RabbitMQ itself refuses everything else.

``TOWPATH_RABBITMQ_SERVER`` chooses another version of RabbitMQ.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

import aiormq
import pytest
from aiormq.exceptions import AMQPChannelError

from towpath.protocol.routes import COMMANDS, EVENTS, PUSH
from towpath.servicekit.broker.interface import Message
from towpath.servicekit.broker.rabbitmq import RabbitBroker

from .conftest import OTHERS_INBOX, Installation

pytestmark = pytest.mark.asyncio(loop_scope="module")

Channel = aiormq.abc.AbstractChannel
Operation = tuple[str, Callable[[Channel], Awaitable[Any]]]

#: AMQP's reply codes: a permission is missing, a queue is exclusive to another connection, a property is wrong.
FORBIDDEN: Final = 403
LOCKED: Final = 405
WRONG: Final = 406
PATIENCE: Final = 20.0


def publish(exchange: str, key: str, user_id: str | None = None) -> Operation:
    properties = aiormq.spec.Basic.Properties(user_id=user_id)
    title = f"publish {exchange or 'the default exchange'} {key}" + (f" as {user_id}" if user_id else "")
    # An empty batch: services and gateways that get it do nothing.
    return title, lambda channel: channel.basic_publish(
        b"[]", exchange=exchange, routing_key=key, properties=properties
    )


def bind(queue: str, exchange: str, key: str) -> Operation:
    """Bind a queue that is made for it, if its name ends with ``.new``."""

    async def run(channel: Channel) -> None:
        if queue.endswith(".new"):
            await channel.queue_declare(queue, exclusive=True, auto_delete=True)
        await channel.queue_bind(queue, exchange, key)

    return f"bind {queue} to {exchange} {key}", run


def make_queue(name: str, **arguments: Any) -> Operation:
    async def run(channel: Channel) -> None:
        await channel.queue_declare(name, durable=True, arguments=arguments)
        await channel.queue_delete(name)

    return f"make the queue {name} {arguments or ''}", run


def make_exchange(name: str) -> Operation:
    async def run(channel: Channel) -> None:
        await channel.exchange_declare(name, exchange_type="topic", durable=True)
        await channel.exchange_delete(name)

    return f"make the exchange {name}", run


def delete_queue(name: str) -> Operation:
    return f"delete the queue {name}", lambda channel: channel.queue_delete(name)


def delete_exchange(name: str) -> Operation:
    return f"delete the exchange {name}", lambda channel: channel.exchange_delete(name)


def purge(queue: str) -> Operation:
    return f"purge {queue}", lambda channel: channel.queue_purge(queue)


def get(queue: str) -> Operation:
    return f"get from {queue}", lambda channel: channel.basic_get(queue)


def look_for(exchange: str) -> Operation:
    return f"look for {exchange}", lambda channel: channel.exchange_declare(exchange, passive=True)


def look_for_queue(queue: str) -> Operation:
    return f"look for {queue}", lambda channel: channel.queue_declare(queue, passive=True)


def consume_log() -> Operation:
    async def run(channel: Channel) -> None:
        async def ignore(_: Any) -> None: ...

        await channel.basic_qos(prefetch_count=10)
        await channel.basic_consume("towpath.revocations", ignore, arguments={"x-stream-offset": "first"})

    return "consume the log of revocations", run


QUORUM: Final = {"x-queue-type": "quorum"}
PROBE: Final = "probe-0123456789abcdef"
ASKER: Final = "ops-0123456789abcdef"

MAY: Final[dict[str, list[Operation]]] = {
    "gateway": [
        publish(COMMANDS, "chat.0", "gateway"),
        publish(COMMANDS, "a_new_domain.7", "gateway"),
        publish(EVENTS, "session.started", "gateway"),
        publish(EVENTS, "session.ended", "gateway"),
        publish(PUSH, f"everyone.{PROBE}"),
        publish(PUSH, f"connection.gw-1.{PROBE}"),
        publish(PUSH, f"user.{PROBE}"),
        publish(PUSH, "probe.ana%2E1"),
        publish(PUSH, "revoke.reader", "gateway"),
        *(publish(exchange, "proof") for exchange in (COMMANDS, EVENTS, PUSH)),
        *(bind("gateway.gw-1.new", PUSH, key) for key in ("everyone.#", "connection.gw-1.#", "user.*")),
        *(bind("gateway.gw-1.new", PUSH, key) for key in ("control.*.*.#", "*.ana%2E1")),
        bind("gateway.gw-1.new", EVENTS, "service.alive"),
        *(look_for(exchange) for exchange in (COMMANDS, EVENTS, PUSH)),
        consume_log(),
    ],
    "chat": [
        publish(COMMANDS, "chat.3"),
        publish(EVENTS, "chat.room.opened", "chat"),
        publish(EVENTS, "service.alive", "chat"),
        publish(EVENTS, "proof.chat"),
        publish(PUSH, "user.ana", "chat"),
        publish(PUSH, "group.chat:lobby", "chat"),
        publish(PUSH, "connection.gw-1", "chat"),
        publish(PUSH, "control.ana", "chat"),
        publish("chat.dead", "chat.commands.0"),
        publish("chat.retry.5s", "chat.events"),
        publish("chat.again", "chat.commands.1"),
        bind("chat.events", EVENTS, "session.alive"),
        bind("chat.commands.0", COMMANDS, "chat.0"),
        bind("chat.owners.new", EVENTS, "service.alive"),
        get("chat.dead"),
        make_queue("chat.more", **QUORUM, **{"x-dead-letter-exchange": "chat.again"}),
    ],
    "orders": [
        publish(EVENTS, "order.submitted", "orders"),
        publish(PUSH, "group.order:vip", "orders"),
        bind("orders.events", EVENTS, "order.paid"),
    ],
    "inventory": [
        publish(EVENTS, "order.confirmed", "inventory"),
        publish(EVENTS, "order.rejected", "inventory"),
        publish(EVENTS, "inventory.counted", "inventory"),
        publish(PUSH, "group.inventory:anvil", "inventory"),
        bind("inventory.events", EVENTS, "order.created"),
    ],
    "notifications": [
        publish(EVENTS, "notification.mailed", "notifications"),
        publish(PUSH, "user.ana", "notifications"),
        bind("notifications.events", EVENTS, "order.paid"),
        bind("notifications.events", EVENTS, "chat.direct_sent"),
        bind("notifications.events", EVENTS, "session.ended"),
    ],
    "backend": [
        publish(EVENTS, "order.paid", "backend"),
        publish(PUSH, "user.ana", "backend"),
        bind("backend.backend.new", EVENTS, "order.*"),
        look_for(EVENTS),
    ],
    "ops": [
        publish(PUSH, "control.ana", "ops"),
        publish(PUSH, "revoke.user", "ops"),
        publish(PUSH, "revoke.reader", "ops"),
        publish("chat.again", "chat.commands.1", "ops"),
        publish(PUSH, "everyone.ask", "ops"),
        publish(PUSH, "connection.gw-1.ask", "ops"),
        publish(PUSH, "connection.gw-1.drain", "ops"),
        *(
            bind("ops.status.new", EVENTS, key)
            for key in ("service.alive", "service.replica", "session.alive")
        ),
        *(bind("ops.tap.new", PUSH, key) for key in ("user.ana%2E1", "group.chat:lobby", f"probe.{ASKER}")),
        bind("ops.tap.new", COMMANDS, "order.7"),
        bind("ops.tap.new", EVENTS, "order.#"),
        *(look_for(exchange) for exchange in (COMMANDS, EVENTS, PUSH)),
        look_for_queue("chat.commands.0"),
        look_for_queue("orders.dead"),
        get("orders.dead"),
        consume_log(),
    ],
}

MAY_NOT: Final[dict[str, list[tuple[Operation, int]]]] = {
    "gateway": [
        *(
            (publish(EVENTS, key), FORBIDDEN)
            for key in ("order.paid", "chat.room.opened", "service.alive", "service.replica")
        ),
        *(
            (publish(PUSH, key), FORBIDDEN)
            for key in ("everyone", "user.ana", "group.chat:lobby", "control.ana", "connection.gw-2")
        ),
        *((publish(PUSH, key), FORBIDDEN) for key in ("revoke.user", "revoke.token", "revoke.issued_before")),
        (publish("", "chat.commands.0"), FORBIDDEN),
        (publish("chat.again", "chat.commands.0"), FORBIDDEN),
        (publish(COMMANDS, "chat.0", "chat"), WRONG),
        *((bind("gateway.gw-1.new", PUSH, key), FORBIDDEN) for key in ("#", "user.#", "revoke.*")),
        *((bind("gateway.gw-1.new", EVENTS, key), FORBIDDEN) for key in ("#", "order.paid")),
        (bind("gateway.gw-1.new", COMMANDS, "chat.0"), FORBIDDEN),
        (get("chat.commands.0"), FORBIDDEN),
        (get("orders.dead"), FORBIDDEN),
        (get(OTHERS_INBOX), LOCKED),
        (bind(OTHERS_INBOX, PUSH, "user.*"), LOCKED),
        (purge("chat.commands.0"), FORBIDDEN),
        (purge(OTHERS_INBOX), LOCKED),
        (delete_queue("orders.events"), FORBIDDEN),
        (delete_queue("towpath.revocations"), FORBIDDEN),
        (delete_exchange(PUSH), FORBIDDEN),
        (make_exchange("towpath.more"), FORBIDDEN),
        (make_queue("chat.more", **QUORUM), FORBIDDEN),
    ],
    "chat": [
        (publish(COMMANDS, "order.0"), FORBIDDEN),
        *(
            (publish(EVENTS, key), FORBIDDEN)
            for key in ("order.paid", "session.started", "session.ended", "chatty.x")
        ),
        (publish(PUSH, "group.order:vip"), FORBIDDEN),
        (publish(PUSH, "revoke.user"), FORBIDDEN),
        (publish(PUSH, f"probe.{PROBE}"), FORBIDDEN),
        (publish(EVENTS, "chat.room.opened", "orders"), WRONG),
        (publish("", "orders.commands.0"), FORBIDDEN),
        (publish("", "chat.commands.0"), FORBIDDEN),
        (publish("orders.again", "orders.commands.0"), FORBIDDEN),
        (publish("orders.dead", "orders.commands.0"), FORBIDDEN),
        (bind("chat.more.new", PUSH, "user.*"), FORBIDDEN),
        (bind("chat.more.new", COMMANDS, "order.0"), FORBIDDEN),
        (bind("chat.more.new", EVENTS, "#"), FORBIDDEN),
        (bind("chat.more.new", EVENTS, "order.paid"), FORBIDDEN),
        (get("orders.commands.0"), FORBIDDEN),
        (get("towpath.revocations"), FORBIDDEN),
        (get(OTHERS_INBOX), FORBIDDEN),
        (purge("orders.commands.0"), FORBIDDEN),
        (purge("orders.dead"), FORBIDDEN),
        (delete_queue("orders.commands.0"), FORBIDDEN),
        (delete_queue(OTHERS_INBOX), FORBIDDEN),
        (delete_exchange(EVENTS), FORBIDDEN),
        # Dead letters of its own queues go nowhere else either: its user may write to neither exchange.
        (make_queue("chat.more", **QUORUM, **{"x-dead-letter-exchange": ""}), FORBIDDEN),
        (make_queue("chat.more", **QUORUM, **{"x-dead-letter-exchange": "orders.again"}), FORBIDDEN),
    ],
    "orders": [
        (publish(COMMANDS, "chat.0"), FORBIDDEN),
        (publish(EVENTS, "chat.room.opened"), FORBIDDEN),
        (publish(PUSH, "group.chat:lobby"), FORBIDDEN),
        (get("chat.commands.0"), FORBIDDEN),
        (purge("chat.events"), FORBIDDEN),
    ],
    "inventory": [
        *((publish(EVENTS, key), FORBIDDEN) for key in ("order.paid", "order.confirmed.again", "order")),
        (publish(EVENTS, "order.confirmed", "orders"), WRONG),
        (publish(COMMANDS, "order.0"), FORBIDDEN),
        (publish(PUSH, "group.order:vip"), FORBIDDEN),
        (bind("inventory.events", EVENTS, "order.paid"), FORBIDDEN),
        (get("orders.events"), FORBIDDEN),
    ],
    "notifications": [
        *((publish(EVENTS, key), FORBIDDEN) for key in ("order.paid", "chat.direct_sent", "session.started")),
        (publish(COMMANDS, "order.0"), FORBIDDEN),
        (publish(PUSH, "group.chat:lobby"), FORBIDDEN),
        (bind("notifications.events", EVENTS, "chat.room.opened"), FORBIDDEN),
        (get("orders.events"), FORBIDDEN),
    ],
    "backend": [
        *((publish(COMMANDS, key), FORBIDDEN) for key in ("order.0", "chat.0", "proof")),
        *(
            (publish(EVENTS, key), FORBIDDEN)
            for key in ("session.started", "service.alive", "proof.orders", "chat.room.opened", "order")
        ),
        *(
            (publish(PUSH, key), FORBIDDEN)
            for key in ("connection.gw-1", "control.ana", "everyone", "group.chat:lobby", "revoke.user")
        ),
        (publish(PUSH, "user.ana", "shop"), WRONG),
        (publish(EVENTS, "order.paid", "orders"), WRONG),
        (publish("", "orders.events"), FORBIDDEN),
        (publish("orders.again", "orders.events"), FORBIDDEN),
        (bind("backend.backend.new", EVENTS, "#"), FORBIDDEN),
        (bind("backend.backend.new", EVENTS, "session.*"), FORBIDDEN),
        (bind("backend.backend.new", PUSH, "user.ana"), FORBIDDEN),
        (get("orders.events"), FORBIDDEN),
        (purge("orders.events"), FORBIDDEN),
        (delete_queue("orders.commands.0"), FORBIDDEN),
        (delete_exchange(EVENTS), FORBIDDEN),
        (make_queue("backend.shop.more", **QUORUM), FORBIDDEN),
    ],
    "ingress": [
        (publish(COMMANDS, "order.0"), FORBIDDEN),
        *(
            (publish(EVENTS, key), FORBIDDEN)
            for key in ("session.started", "service.alive", "proof.orders", "order", "orders.paid")
        ),
        *(
            (publish(PUSH, key), FORBIDDEN)
            for key in ("connection.gw-1", "control.ana", "everyone", "group.chat:lobby", "revoke.user")
        ),
        (publish(EVENTS, "order.paid", "backend"), WRONG),
        (publish("orders.again", "orders.events"), FORBIDDEN),
        (get("orders.events"), FORBIDDEN),
        (make_queue("ingress.more", **QUORUM), FORBIDDEN),
        (delete_exchange(EVENTS), FORBIDDEN),
    ],
    "ops": [
        (publish(COMMANDS, "order.0"), FORBIDDEN),
        (publish(EVENTS, "order.paid"), FORBIDDEN),
        (publish(PUSH, "user.ana"), FORBIDDEN),
        (publish(PUSH, "everyone"), FORBIDDEN),
        (publish(PUSH, "connection.gw-1"), FORBIDDEN),
        (publish(PUSH, f"everyone.{PROBE}"), FORBIDDEN),
        (publish(PUSH, f"probe.{ASKER}"), FORBIDDEN),
        (publish("", "chat.commands.0"), FORBIDDEN),
        *(
            (bind("ops.tap.new", PUSH, key), FORBIDDEN)
            for key in ("#", "user.*", "control.ana", "everyone.#")
        ),
        *((bind("ops.tap.new", EVENTS, key), FORBIDDEN) for key in ("#", "session.started", "session.#")),
        *((bind("ops.tap.new", COMMANDS, key), FORBIDDEN) for key in ("#", "*.0")),
        (bind("chat.commands.0", COMMANDS, "order.0"), FORBIDDEN),
        (get("chat.commands.0"), FORBIDDEN),
        (get(OTHERS_INBOX), FORBIDDEN),
        (purge("chat.commands.0"), FORBIDDEN),
        (delete_queue("chat.dead"), FORBIDDEN),
        (delete_queue("chat.commands.0"), FORBIDDEN),
        (make_queue("chat.more", **QUORUM), FORBIDDEN),
        (make_exchange("towpath.more"), FORBIDDEN),
        (delete_exchange(PUSH), FORBIDDEN),
    ],
}


def rows(table: dict[str, list[Any]]) -> list[Any]:
    return [
        pytest.param(account, row, id=f"{account} {(row if callable(row[1]) else row[0])[0]}")
        for account, operations in table.items()
        for row in operations
    ]


@pytest.mark.parametrize(("account", "operation"), rows(MAY))
async def test_an_account_may(installation: Installation, account: str, operation: Operation) -> None:
    async with asyncio.timeout(PATIENCE):
        channel = await installation.channel(account)
        await operation[1](channel)
        await channel.close()


@pytest.mark.parametrize(("account", "refused"), rows(MAY_NOT))
async def test_rabbitmq_refuses(
    installation: Installation, account: str, refused: tuple[Operation, int]
) -> None:
    (_, run), code = refused
    async with asyncio.timeout(PATIENCE):
        channel = await installation.channel(account)
        with pytest.raises(AMQPChannelError) as error:
            await run(channel)
        assert _code_of(error.value) == code
        # And nothing but the permission is in the way.
        if code == FORBIDDEN:
            assert "refused for user" in str(error.value)


async def test_a_program_may_ask_and_no_other_publish_of_it_suffers(installation: Installation) -> None:
    url = installation.rights.url(installation.url, "ingress")
    async with asyncio.timeout(PATIENCE), RabbitBroker.connect(url, name="ingress") as broker:
        await broker.until_ready()

        async def ask(domain: str) -> bool:
            publishing = broker.publish(EVENTS, "order.paid", Message(body=b"[]", persistent=False))
            answer, _ = await asyncio.gather(broker.may_publish(EVENTS, f"{domain}.paid"), publishing)
            return answer

        asked = ["order", "orders", "proof", "chat", "session"] * 4
        assert [await ask(domain) for domain in asked] == [one in ("order", "chat") for one in asked]


def _code_of(error: AMQPChannelError) -> int:
    names = {"ChannelAccessRefused": FORBIDDEN, "ChannelLockedResource": LOCKED}
    return names.get(type(error).__name__, WRONG if "PRECONDITION_FAILED" in str(error) else 0)
