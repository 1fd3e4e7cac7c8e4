"""Resync: after the inbox was recreated, every session starts again with its services."""

import asyncio
import contextlib
from typing import Any

from towpath.testkit.client import WireClient
from towpath.testkit.eventually import eventually
from towpath.testkit.gateway import Backend, GatewayUnderTest, RunGateway, a_backend


async def test_after_a_resync_a_session_is_in_no_group_until_a_service_subscribes_it(
    gateway: GatewayUnderTest, backend: Backend
) -> None:
    async with gateway.connect("ana") as ana:
        started = (await backend.event())["data"]
        await backend.direct(started, subscribe=["left", "kept"])
        await _receives(backend, ana, "left")
        gateway.hub.stop()
        gateway.hub.start()
        await ana.next("session.resync")
        assert (await backend.event())["data"] == {**started, "inbox": 1}
        await backend.push("group.left", a_push("not for ana"))
        await backend.direct(started, subscribe=["kept"])
        await _receives(backend, ana, "kept")
    assert "not for ana" not in [push["data"]["text"] for push in ana.pushes("chat.message")]


async def test_every_session_is_announced_again_in_bounded_steps(run_gateway: RunGateway) -> None:
    users = {f"user{number}" for number in range(7)}
    async with (
        run_gateway(resync_step=2, alive_interval=3600) as gateway,
        a_backend(gateway.hub) as backend,
        contextlib.AsyncExitStack() as stack,
    ):
        for user in users:
            await stack.enter_async_context(gateway.connect(user))
            await backend.event()
        gateway.hub.stop()
        gateway.hub.start()
        async with asyncio.timeout(10):
            received = await _users(backend, len(users))
        assert received == users


async def _users(backend: Backend, count: int) -> set[str]:
    """Of the next ``count`` starts, which may come in batches."""
    received: list[str] = []
    while len(received) < count:
        body: Any = await backend.event()
        for event in body if isinstance(body, list) else [body]:
            assert event["action"] == "session.started"
            received.append(event["data"]["user_id"])
    return set(received)


def a_push(text: str) -> dict[str, object]:
    return {
        "msg_id": "m", "timestamp": 1, "action": "chat.message", "data": {"text": text}, "version": "1.0",
    }  # fmt: skip


async def _receives(backend: Backend, client: WireClient, group: str) -> None:
    text = f"to {group}"
    await backend.push(f"group.{group}", a_push(text))
    await eventually(lambda: text in [push["data"]["text"] for push in client.pushes("chat.message")])
