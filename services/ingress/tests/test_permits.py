"""Permits: RabbitMQ's refusal of a domain costs one question, and no event of another key."""

import asyncio
import json
from pathlib import Path
from typing import cast

import httpx
import pytest

from towpath.ingress.keys import make
from towpath.ingress.permits import REFUSED_MAX, Permits
from towpath.protocol.routes import EVENTS
from towpath.servicekit.broker.interface import Broker, BrokerUnavailable
from towpath.testkit.processes import Processes, free_port
from towpath.testkit.rabbitmq import Rabbit
from towpath.testkit.rights import Rights
from towpath.tools.rabbitmq_node import RabbitControl

WAIT = 30.0


class Answers:
    """The broker as permits see it, with one allowed domain."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.at_once = self.most_at_once = 0
        self.is_there = True

    async def may_publish(self, exchange: str, routing_key: str) -> bool:
        assert exchange == EVENTS
        self.asked.append(routing_key)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await asyncio.sleep(0)
        self.at_once -= 1
        if not self.is_there:
            raise BrokerUnavailable("not there")
        return routing_key.startswith("order.")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def permits(broker: Answers, clock: Clock) -> Permits:
    return Permits(cast("Broker", broker), WAIT, clock)


async def test_a_domain_is_asked_for_once_by_all_who_send_it_at_once() -> None:
    permit = permits(broker := Answers(), Clock())
    assert await asyncio.gather(*(permit.allow(f"order.v{n}") for n in range(50))) == [True] * 50
    assert broker.asked == ["order.v0"]


async def test_a_refusal_is_remembered_for_a_while() -> None:
    permit = permits(broker := Answers(), clock := Clock())
    assert not await permit.allow("mill.a")
    assert not await permit.allow("mill.b")
    assert broker.asked == ["mill.a"]
    clock.now += WAIT
    assert not await permit.allow("mill.c")
    assert broker.asked == ["mill.a", "mill.c"]


async def test_a_stream_of_new_domains_is_asked_for_one_after_another_and_leaves_a_bounded_memory() -> None:
    permit = permits(broker := Answers(), Clock())
    names = [f"d{n}.x" for n in range(REFUSED_MAX + 10)]
    assert not any(await asyncio.gather(*map(permit.allow, names)))
    assert (broker.most_at_once, len(broker.asked)) == (1, REFUSED_MAX + 10)
    assert not await permit.allow(names[-1])
    assert len(broker.asked) == REFUSED_MAX + 10
    # The oldest were forgotten.
    assert not await permit.allow(names[0])
    assert len(broker.asked) == REFUSED_MAX + 11


async def test_a_question_without_an_answer_is_asked_again() -> None:
    permit = permits(broker := Answers(), Clock())
    broker.is_there = False
    with pytest.raises(BrokerUnavailable):
        await permit.allow("order.paid")
    broker.is_there = True
    assert await permit.allow("order.paid")


async def test_events_of_unknown_domains_are_forbidden_and_those_of_others_do_not_suffer(
    rabbitmq_node: RabbitControl, processes: Processes, tmp_path: Path
) -> None:
    async with Rabbit.on(rabbitmq_node, rights := Rights()) as rabbitmq:
        keys, port = tmp_path / "keys.json", free_port()
        key = make(keys, "shop", ("*",), push=False)
        await processes.start(
            "towpath-ingress",
            timeout=60,
            port=port,
            amqp_url=rights.url(rabbitmq.url, "ingress"),
            api_keys=keys,
        )
        headers = {"authorization": f"Bearer {key}"}
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", headers=headers) as http:

            async def send(*actions: str) -> httpx.Response:
                return await http.post("/v1/events", json=[{"action": one, "data": {}} for one in actions])

            sent = await asyncio.gather(
                *(send("order.paid", f"mill{n}.made", "order.shipped") for n in range(20)),
                *(send("order.paid") for _ in range(20)),
            )
            # Without a service, nothing receives the others: RabbitMQ took them.
            assert {one.text for one in sent if one.status_code != 409} == set()
            mixed = [[result["status"] for result in one.json()["results"]] for one in sent[:20]]
            assert mixed == [["unroutable", "forbidden", "unroutable"]] * 20
            refused = await send("mill.made")
            assert refused.status_code == 403
            assert "events of 'mill'" in json.loads(refused.text)["detail"]
