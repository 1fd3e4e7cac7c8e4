"""The page while gateways are killed."""

import asyncio
from itertools import count

from playwright.async_api import Browser, expect

from towpath.testkit.eventually import eventually
from towpath.testkit.system import System
from towpath.testkit.visitor import Visitor


async def test_two_users_who_write_while_a_gateway_is_killed_see_every_message_once_and_in_order(
    system: System, browser: Browser, page_url: str
) -> None:
    async with (
        Visitor.sign_in(browser, page_url, "ana", gateway=0) as ana,
        Visitor.sign_in(browser, page_url, "ben", gateway=1) as ben,
    ):
        people = {"ana": ana, "ben": ben}
        for visitor in people.values():
            await visitor.joins("lobby")
        silence = asyncio.Event()

        async def writes(name: str) -> list[str]:
            written: list[str] = []
            for number in count(1):
                written.append(f"{name} {number}")
                await people[name].says(written[-1])
                if silence.is_set():
                    break
            return written

        async with asyncio.TaskGroup() as tasks:
            writing = {name: tasks.create_task(writes(name)) for name in people}
            await expect(ben.get("message").filter(has_text="ana 3")).not_to_have_count(0)
            await system.gateways[0].kill()
            await eventually(lambda: is_back(ana), timeout=30)
            silence.set()
        written = {name: task.result() for name, task in writing.items()}
        total = sum(map(len, written.values()))
        for visitor in people.values():
            await expect(visitor.get("message")).to_have_count(total, timeout=30_000)
            await expect(visitor.get("draft")).to_have_count(0)
        seen = await ana.texts()
        assert await ben.texts() == seen
        for name in people:
            assert [text for text in seen if text.startswith(name)] == written[name]
        assert await ana.connection_states() == ["open", "recovering", "open"]
        assert await ben.connection_states() == ["open"]


async def is_back(visitor: Visitor) -> bool:
    states = await visitor.connection_states()
    return "recovering" in states and states[-1] == "open"
