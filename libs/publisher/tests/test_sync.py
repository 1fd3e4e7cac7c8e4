"""The publisher for programs without an event loop."""

import asyncio
import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import aio_pika
import pytest

from towpath.publisher import BrokerUnreachable, PublisherClosed, SyncPublisher, Unroutable
from towpath.testkit.processes import free_port
from towpath.testkit.rabbitmq import Rabbit


async def test_threads_publish_at_once_and_get_errors_as_exceptions(rabbitmq: Rabbit) -> None:
    async with await aio_pika.connect(rabbitmq.url) as connection:
        channel = await connection.channel()
        exchange = await channel.declare_exchange("towpath.events", "topic", durable=True)
        await channel.declare_exchange("towpath.push", "topic", durable=True)
        queue = await channel.declare_queue("listener", durable=True)
        await queue.bind(exchange, "order.*")

        def shop() -> list[str]:
            with SyncPublisher(rabbitmq.url, app_id="shop") as publisher, ThreadPoolExecutor(8) as threads:
                published = list(
                    threads.map(lambda number: publisher.publish("order.paid", {"number": number}), range(40))
                )
                published += [
                    str(result.msg_id) for result in publisher.publish_many([("order.paid", {})] * 3)
                ]
                publisher.push("ana", "shop.greeting", {})
                with pytest.raises(Unroutable):
                    publisher.publish("parcel.sent")
                return published

        published = await asyncio.to_thread(shop)
        arrived = [json.loads((await queue.get(no_ack=True)).body)["msg_id"] for _ in range(43)]
        assert sorted(arrived) == sorted(published)
    assert "towpath-publisher" not in [thread.name for thread in threading.enumerate()]


def test_one_that_is_not_open_or_cannot_connect_has_a_clear_error_and_leaves_no_thread() -> None:
    publisher = SyncPublisher(f"amqp://127.0.0.1:{free_port()}/", app_id="shop", connect_timeout=0.3)
    with pytest.raises(PublisherClosed, match="with SyncPublisher"):
        publisher.publish("order.paid")
    with pytest.raises(BrokerUnreachable):
        publisher.open()
    assert "towpath-publisher" not in [thread.name for thread in threading.enumerate()]


async def test_one_that_was_opened_before_a_fork_names_the_remedy(
    rabbitmq: Rabbit, monkeypatch: pytest.MonkeyPatch
) -> None:
    def shop() -> None:
        with SyncPublisher(rabbitmq.url, app_id="shop") as publisher, monkeypatch.context() as patched:
            patched.setattr(os, "getpid", lambda: -1)
            with pytest.raises(PublisherClosed, match="in each worker process"):
                publisher.publish("order.paid")

    await asyncio.to_thread(shop)
