"""Orders, from a browser's request to another backend's event."""

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import aio_pika

from towpath.testkit.client import WireClient
from towpath.testkit.eventually import eventually
from towpath.testkit.system import System


async def publish_as_another_backend(amqp_url: str, event: str, **data: Any) -> str:
    """Publish an order event by plain AMQP, as a backend without any Towpath library would."""
    msg_id = f"evt-{time.time_ns()}"
    envelope = {
        "msg_id": msg_id,
        "timestamp": int(time.time() * 1000),
        "action": event,
        "data": data,
        "version": "1.0",
    }
    connection = await aio_pika.connect(amqp_url)
    async with connection:
        channel = await connection.channel()
        exchange = await channel.get_exchange("towpath.events", ensure=False)
        message = aio_pika.Message(
            json.dumps(envelope).encode(),
            content_type="application/json",
            delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
        )
        await exchange.publish(message, routing_key=event)
    return msg_id


async def statuses(client: WireClient, last: str) -> list[str]:
    """The states in ``order.updated``, up to ``last``."""
    await client.find(lambda f: f["action"] == "order.updated" and f["data"]["status"] == last)
    return [frame["data"]["status"] for frame in client.pushes("order.updated")]


async def test_a_submitted_order_is_answered_and_pushed_to_all_connections_of_its_user(
    system: System,
) -> None:
    async with (
        system.connect("ana", 0) as phone,
        system.connect("ana", 1) as laptop,
        system.connect("ben", 1) as ben,
    ):
        answer = await phone.request("order.submit", {"order_id": "O1", "amount": 99.9})
        assert answer["action"] == "order.submit.ok"
        assert answer["data"] == {
            "order_id": "O1",
            "status": "submitted",
            "revision": 1,
            "amount": "99.90",
            "currency": "USD",
        }
        for client in (phone, laptop):
            push = await client.next("order.updated")
            assert (push["stream"], push["seq"]) == ("order:ana", 1)
        await ben.request("ping")
        assert ben.pushes("order.updated") == []


async def test_an_event_of_another_backend_reaches_only_its_user_on_all_connections(
    system: System,
) -> None:
    async with (
        system.connect("ana", 0) as phone,
        system.connect("ana", 1) as laptop,
        system.connect("ben", 0) as ben,
    ):
        await phone.request("order.submit", {"order_id": "O1", "amount": "12.50"})
        await publish_as_another_backend(system.rabbitmq.url, "order.paid", order_id="O1", user_id="ana")
        await publish_as_another_backend(
            system.rabbitmq.url, "order.shipped", order_id="O1", user_id="ana", detail="parcel 7"
        )
        for client in (phone, laptop):
            assert await statuses(client, "shipped") == ["submitted", "paid", "shipped"]
        order = (await laptop.request("order.get", {"order_id": "O1"}))["data"]
        assert (order["status"], order["revision"], order["detail"]) == ("shipped", 3, "parcel 7")
        await ben.request("order.list")
        assert ben.pushes("order.updated") == []
        assert (await ben.request("order.get", {"order_id": "O1"}))["data"]["code"] == "not_found"
        refused = await phone.request("order.cancel", {"order_id": "O1"})
        assert refused["data"]["code"] == "conflict"


async def test_two_users_with_the_same_order_id_get_their_own_pushes_only(system: System) -> None:
    async with system.connect("eve", 0) as eve, system.connect("ana", 1) as ana:
        await eve.request("order.submit", {"order_id": "O1", "amount": "1.00"})
        answer = await ana.request("order.submit", {"order_id": "O1", "amount": "500", "currency": "JPY"})
        assert (answer["action"], answer["data"]["amount"]) == ("order.submit.ok", "500")
        for amount, currency in (("100", "JPY"), (150, "JPY")):
            await publish_as_another_backend(
                system.rabbitmq.url,
                "order.refunded",
                order_id="O1",
                user_id="ana",
                amount=amount,
                currency=currency,
            )
        push = await ana.find(lambda f: f["data"].get("refunded") == "250")
        assert (push["data"]["amount"], push["data"]["status"]) == ("500", "refunded")
        assert (await eve.request("order.get", {"order_id": "O1"}))["data"]["status"] == "submitted"
        assert len(eve.pushes("order.updated")) == 1


async def test_an_order_paid_before_its_creation_is_complete_in_the_end(system: System) -> None:
    async with system.connect("ana") as ana:
        await publish_as_another_backend(
            system.rabbitmq.url, "order.paid", order_id="O1", user_id="ana", revision=7
        )
        paid = (await ana.next("order.updated"))["data"]
        assert (paid["status"], paid.keys() & {"amount", "currency"}) == ("paid", set())
        await publish_as_another_backend(
            system.rabbitmq.url,
            "order.created",
            order_id="O1",
            user_id="ana",
            revision=1,
            amount="1.234",
            currency="KWD",
        )
        created = (await ana.next("order.updated"))["data"]
        assert (created["status"], created["amount"], created["currency"]) == ("paid", "1.234", "KWD")


async def test_a_backend_in_node_reaches_the_user_with_amqplib_alone(
    system: System, node_backend: Path
) -> None:
    async with system.connect("ana", 0) as ana, system.connect("ben", 1) as ben:
        await ana.request("order.submit", {"order_id": "O1", "amount": 5})
        data = json.dumps({"order_id": "O1", "user_id": "ana"})
        publishing = await asyncio.create_subprocess_exec(
            "node", node_backend, system.rabbitmq.url, "order.shipped", data
        )
        async with asyncio.timeout(30):
            assert await publishing.wait() == 0
        assert await statuses(ana, "shipped") == ["submitted", "shipped"]
        await ben.request("order.list")
        assert ben.pushes("order.updated") == []


async def test_a_request_is_accepted_while_orders_is_down_and_answered_after_its_start(
    system: System,
) -> None:
    assert await system.orders.terminate() == 0
    async with system.connect("ana") as ana:
        msg_id = await ana.send("order.submit", {"amount": 1, "order_id": "O1"}, ack=True, msg_id="m-1")
        await ana.accepted(msg_id)
        assert not any(frame["action"] == "order.submit.ok" for frame in ana.frames)
        system.orders = system.launch_service("orders")
        await system.orders.ready()
        assert (await ana.answer(msg_id))["action"] == "order.submit.ok"


async def test_the_same_id_twice_is_one_order_and_the_same_answer(system: System) -> None:
    async with system.connect("ana", 0) as one, system.connect("ana", 1) as two:
        first = await one.request("order.submit", {"amount": 5}, msg_id="m-1")
        again = await two.request("order.submit", {"amount": 5}, msg_id="m-1")
        assert again == first
        orders = (await one.request("order.list"))["data"]["orders"]
        assert [order["order_id"] for order in orders] == [first["data"]["order_id"]]


async def test_an_event_that_cannot_be_read_is_parked_and_the_next_are_applied(system: System) -> None:
    async with system.connect("ana") as ana:
        await ana.request("order.submit", {"order_id": "O1", "amount": 5})
        await publish_as_another_backend(system.rabbitmq.url, "order.paid", order="O1", user_id="ana")
        await publish_as_another_backend(system.rabbitmq.url, "order.packed", order_id="O1", user_id="ana")
        assert await statuses(ana, "packed") == ["submitted", "packed"]
    connection = await aio_pika.connect(system.rabbitmq.url)
    async with connection:
        channel = await connection.channel()
        queue = await channel.get_queue("orders.dead", ensure=False)
        parked = await eventually(lambda: queue.get(fail=False))
        assert parked is not None
        assert "order_id" in str(parked.headers["x-error"])
        await parked.ack()


async def test_a_client_chooses_neither_the_trace_of_an_answer_nor_the_id_of_an_error(system: System) -> None:
    theirs = "4bf92f3577b34da6a3ce929d0e0e4736"
    async with system.connect("ana") as ana:
        answer = await ana.request("order.list", traceparent=f"00-{theirs}-00f067aa0ba902b7-01")
        _, ours, _, flags = answer["traceparent"].split("-")
        assert ours != theirs
        assert flags == "00"
        for _ in range(2):
            error = await ana.request("order.get", {}, traceparent=f"00-{theirs}-00f067aa0ba902b7-01")
            assert error["data"]["trace_id"] not in (theirs, ours)


async def test_many_requests_at_once_are_each_answered_once(system: System) -> None:
    async with system.connect("ana", 0) as one, system.connect("ben", 1) as two:
        answers = await asyncio.gather(
            *(client.request("order.submit", {"amount": n}) for n in range(100) for client in (one, two))
        )
        assert {answer["action"] for answer in answers} == {"order.submit.ok"}
        await eventually(lambda: len(one.pushes("order.updated")) == len(two.pushes("order.updated")) == 100)
        assert [push["seq"] for push in one.pushes("order.updated")] == list(range(1, 101))
