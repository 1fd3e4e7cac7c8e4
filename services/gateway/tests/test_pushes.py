"""Pushes: which connections get which push."""

from typing import Any

import msgspec
import pytest

from towpath.protocol.envelope import make
from towpath.protocol.routes import EVENTS, SERVICE_ALIVE, control_key, group_key, user_key
from towpath.servicekit.broker.interface import Message
from towpath.testkit.client import WireClient
from towpath.testkit.eventually import eventually
from towpath.testkit.gateway import Backend, GatewayUnderTest


def push(action: str = "test.pushed", **data: Any) -> dict[str, Any]:
    envelope: dict[str, Any] = msgspec.json.decode(make(action, data).to_json())
    return envelope


async def received(client: WireClient, last: str = "end") -> list[dict[str, Any]]:
    """The data of all ``test.pushed`` up to the one that says it is the last."""
    await client.find(lambda f: f["action"] == "test.pushed" and f["data"].get("n") == last)
    return [f["data"] for f in client.pushes("test.pushed") if f["data"].get("n") != last]


async def session_of(client: WireClient) -> dict[str, str]:
    data: dict[str, str] = (await client.find(lambda f: f["action"] == "session.welcome"))["data"]
    return data


async def test_a_push_to_a_user_reaches_all_connections_of_that_user_only(
    gateway: GatewayUnderTest, backend: Backend
) -> None:
    async with gateway.connect("ana") as one, gateway.connect("ana") as two, gateway.connect("ben") as ben:
        for client in (one, two, ben):
            await session_of(client)
        await backend.push(user_key("ana"), push(n=1))
        await backend.push("everyone", push(n="end"))
        assert await received(one) == await received(two) == [{"n": 1}]
        assert await received(ben) == []


async def test_a_push_arrives_as_the_backend_wrote_it(gateway: GatewayUnderTest, backend: Backend) -> None:
    raw = b'{ "msg_id":"b-1", "timestamp":5,"action":"test.pushed","data":{"n":1.10},"version":"1.0","odd":[null] }'
    async with gateway.connect("ana") as ana:
        await session_of(ana)
        await backend.push("user.ana", raw)
        assert await ana.next("test.pushed") == msgspec.json.decode(raw)


async def test_a_batch_is_delivered_in_its_order(gateway: GatewayUnderTest, backend: Backend) -> None:
    async with gateway.connect("ana") as ana:
        await session_of(ana)
        await backend.push("user.ana", [push(n=n) for n in range(50)] + [push(n="end")])
        assert await received(ana) == [{"n": n} for n in range(50)]


@pytest.mark.parametrize("user", ["a.b", "*", "#", "a b", "ünï", "x%2Ey", "group.g", "everyone", "a:b"])
async def test_a_user_with_any_id_gets_only_the_pushes_for_it(
    gateway: GatewayUnderTest, backend: Backend, user: str
) -> None:
    async with gateway.connect(user) as odd, gateway.connect("a") as other:
        for client in (odd, other):
            await session_of(client)
        await backend.push(user_key(user), push(n=1))
        await backend.push(user_key("a"), push(n=2))
        await backend.push("everyone", push(n="end"))
        assert await received(odd) == [{"n": 1}]
        assert await received(other) == [{"n": 2}]


async def test_a_group_push_reaches_connections_from_subscribe_to_unsubscribe(
    gateway: GatewayUnderTest, backend: Backend
) -> None:
    async with gateway.connect("ana") as ana, gateway.connect("ben") as ben:
        session, _ = await session_of(ana), await session_of(ben)
        await backend.push(group_key("g.1"), push(n="before"))
        await backend.direct(session, subscribe=["g.1"], envelope=push(n="subscribed"))
        await backend.push(group_key("g.1"), push(n="in"))
        await backend.direct(session, unsubscribe=["g.1"])
        await backend.push(group_key("g.1"), push(n="after"))
        await backend.push("everyone", push(n="end"))
        assert [data["n"] for data in await received(ana)] == ["subscribed", "in"]
        assert await received(ben) == []


async def test_a_control_item_applies_to_all_connections_of_a_user(
    gateway: GatewayUnderTest, backend: Backend
) -> None:
    async with gateway.connect("ana") as one, gateway.connect("ana") as two, gateway.connect("ben") as ben:
        for client in (one, two, ben):
            await session_of(client)
        await backend.push(control_key("ana"), {"subscribe": ["g"], "envelope": push(n="welcome")})
        await backend.push(group_key("g"), push(n="in"))
        await backend.push("everyone", push(n="end"))
        assert (
            [d["n"] for d in await received(one)]
            == [d["n"] for d in await received(two)]
            == ["welcome", "in"]
        )
        assert await received(ben) == []
        await backend.push(control_key("ana"), {"disconnect": {"code": 4502, "reason": "kicked"}})
        assert (await one.next("session.closing"))["data"] == {"code": 4502, "reason": "kicked"}
        assert await one.closed() == await two.closed() == 4502
        assert (await ben.request("ping"))["action"] == "pong"


@pytest.mark.parametrize(
    "body",
    [b"", b"nonsense", b"7", b"[1,2]", b"{}", b'{"action":"x.y"}', b"\xff\xfe", b'["a"]'],
)
@pytest.mark.parametrize("key", ["user.ana", "group.g", "everyone", "connection.{gateway}", "control.ana"])
async def test_a_push_that_is_not_an_envelope_is_dropped_without_harm(
    gateway: GatewayUnderTest, backend: Backend, key: str, body: bytes
) -> None:
    async with gateway.connect("ana") as ana:
        session = await session_of(ana)
        await backend.direct(session, subscribe=["g"])
        await backend.push(key.format(gateway=gateway.settings.gateway_id), body)
        await backend.push("user.ana", push(n="end"))
        assert await received(ana) == []


async def test_an_invalid_push_in_a_batch_does_not_affect_the_others(
    gateway: GatewayUnderTest, backend: Backend
) -> None:
    async with gateway.connect("ana") as ana:
        await session_of(ana)
        await backend.push("user.ana", [push(n=1), {"action": "bad"}, push(n=2), push(n="end")])
        assert await received(ana) == [{"n": 1}, {"n": 2}]


async def test_an_item_for_an_ended_connection_reaches_no_other(
    gateway: GatewayUnderTest, backend: Backend
) -> None:
    async with gateway.connect("ana") as ana:
        session = await session_of(ana)
        await backend.direct({**session, "connection_id": "gone"}, envelope=push(n=1), subscribe=["g"])
        await backend.push(group_key("g"), push(n=2))
        await backend.push("everyone", push(n="end"))
        assert await received(ana) == []


async def test_an_unreadable_announcement_of_a_service_is_counted_like_an_unreadable_push(
    gateway: GatewayUnderTest, backend: Backend
) -> None:
    for body in (b'{"odd":1}', b'[{"odd":1},{"odd":2}]', b"no JSON"):
        await backend.broker.publish(EVENTS, SERVICE_ALIVE, Message(body=body, persistent=False))

    async def is_counted() -> bool:
        metrics = (await gateway.admin("/metrics"))[1]
        return "pushes_unreadable_total 4.0" in metrics and "pushes_failed_total 0.0" in metrics

    await eventually(is_counted, timeout=10)
