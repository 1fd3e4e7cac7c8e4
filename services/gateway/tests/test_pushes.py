"""Pushes: who gets what."""

from typing import Any

import msgspec
import pytest

from towpath.protocol.envelope import make
from towpath.protocol.routes import EVENTS, SERVICE_ALIVE, control_key, group_key, user_key
from towpath.servicekit.broker.interface import Message
from towpath.testkit.client import WireClient
from towpath.testkit.eventually import eventually
from towpath.testkit.gateway import Backend, GatewayUnderTest


def push(action: str = "test.told", **data: Any) -> dict[str, Any]:
    envelope: dict[str, Any] = msgspec.json.decode(make(action, data).to_json())
    return envelope


async def heard(client: WireClient, last: str = "end") -> list[dict[str, Any]]:
    """The data of all ``test.told`` up to the one that says it is the last."""
    await client.find(lambda f: f["action"] == "test.told" and f["data"].get("n") == last)
    return [f["data"] for f in client.pushes("test.told") if f["data"].get("n") != last]


async def session_of(client: WireClient) -> dict[str, str]:
    data: dict[str, str] = (await client.find(lambda f: f["action"] == "session.welcome"))["data"]
    return data


async def test_a_push_to_a_user_reaches_all_their_connections_and_nobody_else(
    gateway: GatewayUnderTest, backend: Backend
) -> None:
    async with gateway.connect("ana") as one, gateway.connect("ana") as two, gateway.connect("ben") as ben:
        for client in (one, two, ben):
            await session_of(client)
        await backend.push(user_key("ana"), push(n=1))
        await backend.push("everyone", push(n="end"))
        assert await heard(one) == await heard(two) == [{"n": 1}]
        assert await heard(ben) == []


async def test_a_push_arrives_as_the_backend_wrote_it(gateway: GatewayUnderTest, backend: Backend) -> None:
    raw = b'{ "msg_id":"b-1", "timestamp":5,"action":"test.told","data":{"n":1.10},"version":"1.0","odd":[null] }'
    async with gateway.connect("ana") as ana:
        await session_of(ana)
        await backend.push("user.ana", raw)
        assert await ana.next("test.told") == msgspec.json.decode(raw)


async def test_a_batch_is_delivered_in_its_order(gateway: GatewayUnderTest, backend: Backend) -> None:
    async with gateway.connect("ana") as ana:
        await session_of(ana)
        await backend.push("user.ana", [push(n=n) for n in range(50)] + [push(n="end")])
        assert await heard(ana) == [{"n": n} for n in range(50)]


@pytest.mark.parametrize("user", ["a.b", "*", "#", "a b", "ünï", "x%2Ey", "group.g", "everyone", "a:b"])
async def test_whatever_a_user_is_called_only_they_get_their_pushes(
    gateway: GatewayUnderTest, backend: Backend, user: str
) -> None:
    async with gateway.connect(user) as odd, gateway.connect("a") as other:
        for client in (odd, other):
            await session_of(client)
        await backend.push(user_key(user), push(n=1))
        await backend.push(user_key("a"), push(n=2))
        await backend.push("everyone", push(n="end"))
        assert await heard(odd) == [{"n": 1}]
        assert await heard(other) == [{"n": 2}]


async def test_a_group_is_who_was_subscribed_until_unsubscribed(
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
        assert [data["n"] for data in await heard(ana)] == ["subscribed", "in"]
        assert await heard(ben) == []


async def test_control_means_all_connections_of_a_user(gateway: GatewayUnderTest, backend: Backend) -> None:
    async with gateway.connect("ana") as one, gateway.connect("ana") as two, gateway.connect("ben") as ben:
        for client in (one, two, ben):
            await session_of(client)
        await backend.push(control_key("ana"), {"subscribe": ["g"], "envelope": push(n="welcome")})
        await backend.push(group_key("g"), push(n="in"))
        await backend.push("everyone", push(n="end"))
        assert [d["n"] for d in await heard(one)] == [d["n"] for d in await heard(two)] == ["welcome", "in"]
        assert await heard(ben) == []
        await backend.push(control_key("ana"), {"disconnect": {"code": 4502, "reason": "kicked"}})
        assert (await one.next("session.closing"))["data"] == {"code": 4502, "reason": "kicked"}
        assert await one.closed() == await two.closed() == 4502
        assert (await ben.request("ping"))["action"] == "pong"


@pytest.mark.parametrize(
    "body",
    [b"", b"nonsense", b"7", b"[1,2]", b"{}", b'{"action":"x.y"}', b"\xff\xfe", b'["a"]'],
)
@pytest.mark.parametrize("key", ["user.ana", "group.g", "everyone", "connection.{gateway}", "control.ana"])
async def test_a_push_that_is_no_envelope_is_dropped_and_harms_nobody(
    gateway: GatewayUnderTest, backend: Backend, key: str, body: bytes
) -> None:
    async with gateway.connect("ana") as ana:
        session = await session_of(ana)
        await backend.direct(session, subscribe=["g"])
        await backend.push(key.format(gateway=gateway.settings.gateway_id), body)
        await backend.push("user.ana", push(n="end"))
        assert await heard(ana) == []


async def test_one_bad_member_of_a_batch_costs_only_itself(
    gateway: GatewayUnderTest, backend: Backend
) -> None:
    async with gateway.connect("ana") as ana:
        await session_of(ana)
        await backend.push("user.ana", [push(n=1), {"action": "bad"}, push(n=2), push(n="end")])
        assert await heard(ana) == [{"n": 1}, {"n": 2}]


async def test_an_item_for_a_connection_that_is_gone_reaches_nobody(
    gateway: GatewayUnderTest, backend: Backend
) -> None:
    async with gateway.connect("ana") as ana:
        session = await session_of(ana)
        await backend.direct({**session, "connection_id": "gone"}, envelope=push(n=1), subscribe=["g"])
        await backend.push(group_key("g"), push(n=2))
        await backend.push("everyone", push(n="end"))
        assert await heard(ana) == []


async def test_an_announcement_of_a_service_that_cannot_be_read_is_counted_like_an_unreadable_push(
    gateway: GatewayUnderTest, backend: Backend
) -> None:
    for body in (b'{"odd":1}', b'[{"odd":1},{"odd":2}]', b"no JSON"):
        await backend.broker.publish(EVENTS, SERVICE_ALIVE, Message(body=body, persistent=False))

    async def is_counted() -> bool:
        metrics = (await gateway.admin("/metrics"))[1]
        return "pushes_unreadable_total 4.0" in metrics and "pushes_failed_total 0.0" in metrics

    await eventually(is_counted, timeout=10)
