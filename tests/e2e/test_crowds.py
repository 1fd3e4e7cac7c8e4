"""A crowd on real processes: its members hear numbers, from whichever gateway, and messages as ever."""

from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from towpath.testkit.client import WireClient
from towpath.testkit.processes import Processes
from towpath.testkit.rabbitmq import Rabbit
from towpath.testkit.system import System

ROOM = "arena"


@pytest.fixture
async def system(rabbitmq: Rabbit, processes: Processes, tmp_path: Path) -> System:
    """A crowd is more than three."""
    system = System(rabbitmq, processes, tmp_path, crowd_members=3)
    await system.start()
    return system


async def told(client: WireClient, *, members: int, online: int) -> dict[str, Any]:
    """The data of the first ``chat.crowd`` with these numbers."""
    while True:
        data: dict[str, Any] = (await client.next("chat.crowd", timeout=30))["data"]
        if (data["members"], data["online"]) == (members, online):
            return data


async def test_the_members_of_a_crowd_hear_how_many_they_are(system: System) -> None:
    users = [f"user-{number}" for number in range(6)]
    async with AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(system.connect(user, number % 2))
            for number, user in enumerate(users)
        ]
        for client in clients:
            answer = await client.request("chat.join", {"room": ROOM}, key=ROOM)
            assert answer["action"] == "chat.join.ok", answer
        assert answer["data"] == {"room": ROOM, "seq": 3, "members": users[:3], "count": 6}
        for client in clients:
            assert await told(client, members=6, online=6) == {
                "room": ROOM,
                "members": 6,
                "online": 6,
                "seq": 3,
            }
        sent = await clients[5].request("chat.send", {"room": ROOM, "text": "hello"}, key=ROOM)
        assert sent["data"]["seq"] == 4
        for client in clients:
            assert (await client.next("chat.message"))["data"]["text"] == "hello"
        for client in clients[3:]:
            await client.request("chat.leave", {"room": ROOM}, key=ROOM)
        assert (await told(clients[0], members=3, online=3))["seq"] == 4
