"""A crowd on real processes: its members hear numbers, from whichever gateway, and messages as ever."""

from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, expect

from towpath.testkit.client import WireClient
from towpath.testkit.processes import Processes
from towpath.testkit.rabbitmq import Rabbit
from towpath.testkit.system import System
from towpath.testkit.visitor import Visitor

ROOT = Path(__file__).parents[2]
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


async def test_the_members_of_a_crowd_get_its_counts(system: System) -> None:
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


async def test_the_page_shows_the_numbers_of_a_crowd(system: System, browser: Browser, page_url: str) -> None:
    async with AsyncExitStack() as stack:
        for number in range(5):
            client = await stack.enter_async_context(system.connect(f"user-{number}", number % 2))
            answer = await client.request("chat.join", {"room": ROOM}, key=ROOM)
            assert answer["action"] == "chat.join.ok", answer
        zoe = await stack.enter_async_context(Visitor.sign_in(browser, page_url, "zoe"))
        await zoe.joins(ROOM)
        await expect(zoe.get("room-members")).to_have_text("6 members, 6 online")
        sent = await client.request("chat.send", {"room": ROOM, "text": "hello all"}, key=ROOM)
        assert sent["action"] == "chat.send.ok", sent
        await expect(zoe.get("message")).to_have_count(1)
        await zoe.get("show-members").click()
        await expect(zoe.get("members-counted")).to_have_text("6 members, 6 online")
        await expect(zoe.get("members-listed")).to_have_text("The first 3 of 6 are listed.")
        await expect(zoe.get("members").locator("li")).to_have_count(3)
        await expect(zoe.get("members").locator("[data-online]")).to_have_count(0)
        folder = ROOT / "test-results"
        folder.mkdir(exist_ok=True)
        await zoe.page.screenshot(path=folder / "page-crowd-members.png")
        await zoe.page.keyboard.press("Escape")
        await zoe.page.screenshot(path=folder / "page-crowd.png")
        for number in range(3):
            async with system.connect(f"user-{number}", 0) as client:
                await client.request("chat.leave", {"room": ROOM}, key=ROOM)
        await expect(zoe.get("room-members")).to_have_text("3 members, 3 online")
        await zoe.get("show-members").click()
        await expect(zoe.get("members-counted")).to_have_count(0)
        await expect(zoe.get("members").locator("li[data-online=true]")).to_have_count(3)
