"""After an inbox was made anew: sessions begin again, as services know them by then."""

import asyncio
import contextlib
from typing import Any

from towpath.testkit.client import WireClient
from towpath.testkit.eventually import eventually
from towpath.testkit.gateway import Backend, GatewayUnderTest, RunGateway, a_backend


async def test_a_session_is_out_of_all_groups_until_a_service_subscribes_it_again(
    gateway: GatewayUnderTest, backend: Backend
) -> None:
    async with gateway.connect("ana") as ana:
        started = (await backend.event())["data"]
        await backend.direct(started, subscribe=["left", "kept"])
        await _hears(backend, ana, "left")
        gateway.hub.stop()
        gateway.hub.start()
        await ana.next("session.resync")
        assert (await backend.event())["data"] == {**started, "inbox": 1}
        await backend.push("group.left", a_push("not for ana"))
        await backend.direct(started, subscribe=["kept"])
        await _hears(backend, ana, "kept")
    assert "not for ana" not in [push["data"]["text"] for push in ana.pushes("chat.message")]


async def test_sessions_are_announced_again_step_by_step_and_each_of_them(run_gateway: RunGateway) -> None:
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
            heard = await _users(backend, len(users))
        assert heard == users


async def _users(backend: Backend, count: int) -> set[str]:
    """Of the next ``count`` starts, which may come in batches."""
    heard: list[str] = []
    while len(heard) < count:
        body: Any = await backend.event()
        for event in body if isinstance(body, list) else [body]:
            assert event["action"] == "session.started"
            heard.append(event["data"]["user_id"])
    return set(heard)


def a_push(text: str) -> dict[str, object]:
    return {
        "msg_id": "m", "timestamp": 1, "action": "chat.message", "data": {"text": text}, "version": "1.0",
    }  # fmt: skip


async def _hears(backend: Backend, client: WireClient, group: str) -> None:
    text = f"to {group}"
    await backend.push(f"group.{group}", a_push(text))
    await eventually(lambda: text in [push["data"]["text"] for push in client.pushes("chat.message")])
