"""The page in a real browser: two people on two gateways, and another backend."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

import aiohttp
import pytest
from playwright.async_api import Browser, expect

from towpath.testkit.eventually import eventually
from towpath.testkit.processes import Processes, free_port
from towpath.testkit.system import System
from towpath.testkit.visitor import Visitor

ROOT = Path(__file__).parents[2]
AXE = ROOT / "clients/node_modules/axe-core/axe.min.js"
THEMES: tuple[Literal["light"], Literal["dark"]] = ("light", "dark")
PHONE: dict[str, Any] = {
    "viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True, "device_scale_factor": 2,
}  # fmt: skip


@pytest.fixture(scope="module")
def processes(shared_processes: Processes) -> Processes:
    return shared_processes


@pytest.fixture(scope="module")
def system(shared_system: System, processes: Processes) -> System:
    return shared_system


async def test_two_users_on_two_gateways_chat_and_see_the_same(browser: Browser, page_url: str) -> None:
    async with (
        Visitor.sign_in(browser, page_url, "cyd", gateway=0) as cyd,
        Visitor.sign_in(browser, page_url, "dan", gateway=1) as dan,
    ):
        states = [await visitor.get("connection-state").inner_text() for visitor in (cyd, dan)]
        assert states[0] != states[1]  # they name two gateways
        await cyd.joins("bank")
        await dan.joins("bank")
        await cyd.says("hello <b>Dan</b>")
        await expect(dan.get("message")).to_have_count(1)
        await dan.says("hello Cyd")
        for visitor in (cyd, dan):
            await expect(visitor.get("message")).to_have_count(2)
            assert await visitor.texts() == ["hello <b>Dan</b>", "hello Cyd"]


async def test_an_order_is_shipped_by_an_event_of_another_backend(browser: Browser, page_url: str) -> None:
    async with (
        Visitor.sign_in(browser, page_url, "eve", gateway=0) as eve,
        Visitor.sign_in(browser, page_url, "fay", gateway=1) as fay,
    ):
        order_id = await submits(eve, "99.90")
        await publishes(fay, order_id, "eve", "order.shipped")
        await expect(eve.get(f"order-{order_id}")).to_have_attribute("data-status", "shipped")
        await expect(fay.page.locator("[data-testid^='order-O']")).to_have_count(0)


async def test_an_order_in_yen_has_no_decimals_and_shows_its_refunds(browser: Browser, page_url: str) -> None:
    async with Visitor.sign_in(browser, page_url, "yui", gateway=0) as yui:
        await yui.get("order-currency").select_option("JPY")
        await yui.get("order-amount").fill("99.90")
        await yui.get("submit-order").click()
        await expect(yui.get("order-problem")).to_contain_text("such as 9990")
        order_id = await submits(yui, "500")
        await publishes(yui, order_id, "yui", "order.refunded", amount="120")
        await publishes(yui, order_id, "yui", "order.refunded", amount="80")
        order = yui.get(f"order-{order_id}")
        await expect(order.get_by_test_id("order-refunded")).to_have_text("¥200 refunded")
        await expect(order.locator(".sum")).to_have_text("¥500")


async def test_every_view_of_a_demo_says_that_it_is_one(
    browser: Browser, page_url: str, processes: Processes
) -> None:
    async with Visitor.arrive(browser, page_url) as door:
        await expect(door.get("demo-bar")).to_have_text("This is a demo: anyone may sign in as anyone.")
        await door.get("name").fill("ida")
        await door.get("sign-in").click()
        await expect(door.get("connection-state")).to_have_attribute("data-state", "open")
        await expect(door.get("demo-bar")).to_be_visible()
    port = free_port()
    processes.launch("towpath", "web", "--port", str(port), amqp_url="amqp://127.0.0.1:1/")
    url = f"http://127.0.0.1:{port}/"
    await eventually(lambda: answers(url), timeout=30)
    async with Visitor.arrive(browser, url) as door:
        await expect(door.page.get_by_text("Gateway: ws://")).to_be_visible()
        await expect(door.get("demo-bar")).to_have_count(0)


async def answers(url: str) -> bool:
    try:
        async with aiohttp.ClientSession() as http, http.get(url) as response:
            return response.status == 200
    except aiohttp.ClientError:
        return False


async def test_the_page_has_no_accessibility_violations(browser: Browser, page_url: str) -> None:
    faults: list[str] = []
    async with Visitor.arrive(browser, page_url) as door:
        faults += await barriers(door, "sign-in")
    async with a_lively_page(browser, page_url, ("gus", "hal"), ("canal", "weir"), "O-7") as gus:
        faults += await barriers(gus, "chat and orders")
        for name, opened_by in DIALOGS.items():
            await gus.get(opened_by).click()
            await expect(gus.page.locator("dialog[open]")).to_be_visible()
            faults += await barriers(gus, name)
            await gus.page.keyboard.press("Escape")
            await expect(gus.page.locator("dialog[open]")).to_have_count(0)
        await gus.page.set_viewport_size(PHONE["viewport"])
        faults += await barriers(gus, "a room on a phone")
        await gus.page.get_by_role("button", name="Back to the list").click()
        for view in ("orders", "chat"):
            await gus.get(f"tab-{view}").click()
            faults += await barriers(gus, f"{view} on a phone")
    assert faults == []


# -- contents of the page

CONVERSATION = [
    "The lock at Fifield is closed until noon.",
    "Thanks! Then I take the path on the left bank.",
    "Mind the swans. They have cygnets this week.",
    "See you at the boathouse around one.",
]
DIALOGS = {
    "menu": "menu",
    "members": "show-members",
    "leave": "leave-room",
    "new room": "new-room",
    "switcher": "find-room",
}


@asynccontextmanager
async def a_lively_page(
    browser: Browser, url: str, people: tuple[str, str], rooms: tuple[str, str], order: str
) -> AsyncIterator[Visitor]:
    """The page of the first of two people: they talk, there is news in other rooms, and an order is on its way."""
    (me, other), (open_room, other_room) = people, rooms
    async with (
        Visitor.sign_in(browser, url, me, gateway=0) as mine,
        Visitor.sign_in(browser, url, other, gateway=1) as theirs,
    ):
        for visitor in (mine, theirs):
            await visitor.joins(other_room)
            await visitor.joins(open_room)
        for number, text in enumerate(CONVERSATION):
            await (theirs, mine)[number % 2].says(text)
            for visitor in (mine, theirs):
                await expect(visitor.get("message")).to_have_count(number + 1)
        await theirs.get(f"room-{other_room}").click()
        await theirs.says("Boats leave at two.")
        await theirs.get("direct-to").fill(me)
        await theirs.get("direct-open").click()
        await expect(theirs.get("room-title")).to_contain_text(me)
        await theirs.says("Bring the map, please.")
        for room in (other_room, f"dm:{me}:{other}"):
            await expect(mine.get(f"room-{room}")).to_have_attribute("data-unread", "1")
        await theirs.get(f"room-{open_room}").click()
        await publishes(theirs, order, me, "order.created", amount="99.90")
        for status in ("paid", "packed", "shipped"):
            await publishes(theirs, order, me, f"order.{status}")
            await expect(mine.get(f"order-{order}")).to_have_attribute("data-status", status)
        yield mine


async def submits(visitor: Visitor, amount: str) -> str:
    """Submit an order, and return its id once it is shown."""
    await visitor.get("order-amount").fill(amount)
    await visitor.get("submit-order").click()
    order = visitor.page.locator("[data-testid^='order-O']").first
    await expect(order).to_have_attribute("data-status", "submitted")
    return (await order.get_attribute("data-testid") or "").removeprefix("order-")


async def publishes(visitor: Visitor, order: str, user: str, event: str, *, amount: str = "") -> None:
    """Be another backend: publish an event of a user's order."""
    await visitor.get("backend-order").fill(order)
    await visitor.get("backend-user").fill(user)
    await visitor.get("backend-event").select_option(event)
    if amount:
        await visitor.get("backend-amount").fill(amount)
    await visitor.get("backend-publish").click()
    await expect(visitor.get("backend-log").locator("li").first).to_contain_text(order)


async def barriers(visitor: Visitor, place: str) -> list[str]:
    """Serious and critical findings of axe-core, in light and in dark: https://github.com/dequelabs/axe-core."""
    page, found = visitor.page, []
    for theme in THEMES:
        await page.emulate_media(color_scheme=theme)
        await page.evaluate(AXE.read_text())
        for violation in await page.evaluate("async () => (await axe.run()).violations"):
            if violation["impact"] in ("serious", "critical"):
                found += [
                    f"{place}, {theme}: {violation['help']}: {node['html'][:120]}: {node['failureSummary'][:300]}"
                    for node in violation["nodes"]
                ]
    return found
