"""POST /v1/events and /v1/push: what is accepted is published, as it came, in the caller's name."""

from services.ingress.tests.running import Consumer, IngressUnderTest, RunIngress, a_consumer
from towpath.protocol.envelope import parse
from towpath.protocol.routes import EVENTS, PUSH

PAID = {"action": "order.paid", "data": {"order_id": "O1", "user_id": "ana"}}


async def test_an_event_is_published_in_the_name_of_its_key(
    ingress: IngressUnderTest, consumer: Consumer
) -> None:
    answer = await ingress.events(PAID)
    assert answer.status_code == 202
    envelope, delivery = await consumer.next()
    assert answer.json() == {"results": [{"status": "accepted", "msg_id": envelope["msg_id"]}]}
    assert (delivery.exchange, delivery.routing_key, delivery.app_id) == (EVENTS, "order.paid", "shop")
    assert parse(delivery.body).data == PAID["data"]


async def test_the_data_is_passed_on_as_it_came(ingress: IngressUnderTest, consumer: Consumer) -> None:
    data = b'{"amount": 0.10, "big": 123456789012345678901234567890.50, "text":"\\u00e9 \xc3\xa9"}'
    body = b'{"action": "order.paid", "msg_id": "m-1", "timestamp": 7, "data": ' + data + b"}"
    assert (await ingress.events(body)).status_code == 202
    _, delivery = await consumer.next()
    assert data in delivery.body
    envelope = parse(delivery.body)
    assert (envelope.msg_id, envelope.timestamp, envelope.version) == ("m-1", 7, "1.0")


async def test_an_array_is_published_in_its_order(ingress: IngressUnderTest, consumer: Consumer) -> None:
    actions = [f"order.{verb}" for verb in ("created", "paid", "packed", "shipped")] * 100
    events = [{"action": action, "data": {"n": n}} for n, action in enumerate(actions)]
    answer = await ingress.events(events)
    assert answer.status_code == 202
    arrived = await consumer.take(400)
    assert [one["data"]["n"] for one in arrived] == list(range(400))
    assert [one["msg_id"] for one in arrived] == [one["msg_id"] for one in answer.json()["results"]]


async def test_each_item_has_its_result(ingress: IngressUnderTest, consumer: Consumer) -> None:
    answer = await ingress.events([PAID, {"action": "order.paid"}, {"action": "stock.low", "data": {}}, PAID])
    assert answer.status_code == 207
    results = answer.json()["results"]
    assert [one["status"] for one in results] == ["accepted", "invalid", "unroutable", "accepted"]
    assert "data: Field required" in results[1]["detail"]
    assert "stock.low" in results[2]["detail"]
    assert len(await consumer.take(2)) == 2


async def test_an_event_that_no_service_receives_is_a_conflict(
    ingress: IngressUnderTest, consumer: Consumer
) -> None:
    answer = await ingress.events({"action": "stock.low", "data": {}})
    assert answer.status_code == 409
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["type"] == "urn:towpath:problem:unroutable"
    assert problem["detail"] == "No service receives stock.low: check its name, or start the service."
    assert (problem["status"], problem["retryable"]) == (409, True)
    assert [one["status"] for one in problem["results"]] == ["unroutable"]


async def test_a_push_reaches_the_key_of_its_user(ingress: IngressUnderTest, consumer: Consumer) -> None:
    push = {"user_id": "ana.b", "envelope": {"action": "sale.started", "data": {"until": 5}}}
    answer = await ingress.post("/v1/push", [push])
    assert answer.status_code == 202
    envelope, delivery = await consumer.next()
    assert (delivery.exchange, delivery.routing_key, delivery.app_id) == (PUSH, "user.ana%2Eb", "shop")
    assert (envelope["action"], envelope["data"]) == ("sale.started", {"until": 5})


async def test_an_action_of_gateways_cannot_be_pushed(ingress: IngressUnderTest, consumer: Consumer) -> None:
    envelope = {"action": "session.closing", "data": {"code": 4502}}
    answer = await ingress.post("/v1/push", {"user_id": "ana", "envelope": envelope})
    assert answer.status_code == 403
    assert "only gateways" in answer.json()["detail"]
    assert await consumer.nothing()


async def test_while_the_broker_is_away_the_answer_is_503_with_retry_after(
    ingress: IngressUnderTest, consumer: Consumer
) -> None:
    ingress.hub.stop()
    answer = await ingress.events(PAID)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
    assert answer.json()["retryable"] is True
    assert await ingress.health() == 503


async def test_an_unconfirmed_item_is_not_accepted_and_stops_those_after_it(run_ingress: RunIngress) -> None:
    async with run_ingress(publish_timeout=0.3, publish_window=1) as ingress, a_consumer(ingress.hub):
        ingress.hub.hold_confirms()
        answer = await ingress.events([PAID, PAID])
        assert answer.status_code == 503
        assert [one["status"] for one in answer.json()["results"]] == ["unconfirmed", "skipped"]
        ingress.hub.release_confirms()
        assert (await ingress.events(PAID)).status_code == 202


async def test_a_stopping_ingress_answers_what_it_has(ingress: IngressUnderTest, consumer: Consumer) -> None:
    import asyncio

    ingress.hub.hold_confirms()
    asking = asyncio.create_task(ingress.events(PAID))
    await consumer.next()
    ingress.drain()
    await asyncio.sleep(0.2)  # a drain that does not wait would be over
    ingress.hub.release_confirms()
    assert (await asking).status_code == 202
