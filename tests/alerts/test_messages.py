"""The alerts on messages fire when the fault happens to real programs."""

import asyncio

import aio_pika
import pytest

from tests.faults.conftest import StartSystem
from tests.faults.mails import PostOffice
from tests.faults.postgres_server import PostgresServer
from towpath.protocol.envelope import make
from towpath.testkit.network import Proxy
from towpath.testkit.postbox import Postbox
from towpath.testkit.rabbitmq import Rabbit
from towpath.testkit.system import System

from .causes import again_and_again, gateway_and_chat, publish, ready, watched
from .conftest import Watch

pytestmark = pytest.mark.timeout(900)


async def test_an_unreadable_event(watch: Watch, system: System) -> None:
    prometheus = await watched(watch, system)
    await publish(system.rabbitmq.url, "towpath.events", "order.paid", b"not JSON")
    await prometheus.fires("MessagesParked")


async def test_a_full_dead_queue(watch: Watch, rabbitmq: Rabbit, start_system: StartSystem) -> None:
    system = await start_system(rabbitmq, gateways=1, queue_max_length=2)
    prometheus = await watched(watch, system)
    await publish(rabbitmq.url, "towpath.events", "order.paid", b"not JSON", times=6)
    await prometheus.fires("ParkingBlocked", "MessagesParked")


async def test_mails_that_the_server_refuses(watch: Watch, parts: System) -> None:
    async with Postbox.open() as box:
        box.refused["ana@example.com"] = "550 No such user"
        notifications = parts.launch_service("notifications", **PostOffice(box).settings)
        parts.gateways = [parts.launch_gateway()]
        await ready(notifications, *parts.gateways)
        prometheus = await watch(notifications=notifications)
        async with parts.connect("ana") as ana:
            answer = await ana.request("notification.preferences", {"email": "ana@example.com"})
            assert answer["action"] == "notification.preferences.ok"
        event = make("order.paid", {"order_id": "o-1", "user_id": "ana"}).to_json()
        await publish(parts.rabbitmq.url, "towpath.events", "order.paid", event)
        await prometheus.fires("EffectsParked")  # counted every 15 s


async def test_a_message_that_cannot_leave_the_outbox(watch: Watch, parts: System, rabbitmq: Rabbit) -> None:
    async with Proxy.before(rabbitmq.url) as proxy:
        chat = await gateway_and_chat(parts, amqp_url=proxy.instead_of(rabbitmq.url), presence_grace=0.1)
        prometheus = await watch(chat=chat)
        async with parts.connect("ben") as ben:
            await ben.request("chat.join", {"room": "tea"})
            async with parts.connect("ana") as ana:
                await ana.request("chat.join", {"room": "tea"})
                # Chat hears that ana leaves, and what it publishes about that is lost on the way.
                proxy.to_server.hold()
            await prometheus.fires("OutboxLags")
            proxy.heal()
            await prometheus.ends("OutboxLags")


async def test_a_queue_that_another_program_consumes(watch: Watch, parts: System, rabbitmq: Rabbit) -> None:
    async def keep(_: aio_pika.abc.AbstractIncomingMessage) -> None:
        """Neither handle nor settle it."""

    chat = parts.launch_service("chat")
    await ready(chat)  # it makes its queues
    await chat.terminate()
    connection = await aio_pika.connect(rabbitmq.url)
    async with connection:
        channel = await connection.channel()
        await channel.set_qos(prefetch_count=1)
        queue = await channel.get_queue("chat.commands.3", ensure=False)
        await queue.consume(keep)
        chat = parts.launch_service("chat")
        await ready(chat)
        prometheus = await watch(chat=chat)
        await prometheus.fires("PartitionsUnheld")
    await prometheus.ends("PartitionsUnheld")


async def test_a_service_that_answers_late(watch: Watch, parts: System, server: PostgresServer) -> None:
    url = server.create("chat")
    async with Proxy.before(url) as proxy:
        await gateway_and_chat(parts, database_url=proxy.instead_of(url))
        prometheus = await watch(gateway=parts.gateways)
        async with parts.connect("ana") as ana:
            await ana.request("chat.join", {"room": "tea"})
            proxy.to_client.delay = 0.5  # of each statement

            async def ask() -> None:
                await ana.send("chat.send", {"room": "tea", "text": "Is it ready?"})
                await asyncio.sleep(0.2)  # the load between two looks

            async with again_and_again(ask):
                await prometheus.fires("RequestsSlow", timeout=90)
