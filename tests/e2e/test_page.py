"""The page in a real browser: two people on two gateways, and another backend."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from playwright.async_api import Browser, Page, async_playwright, expect

from towpath.testkit.eventually import eventually
from towpath.testkit.processes import Processes, free_port
from towpath.testkit.system import System
from towpath.testkit.tokens import SECRET

CHROMIUM_ARGUMENTS = [
    "--no-sandbox",  # tests may run as root
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]


@pytest.fixture
async def browser(chromium_path: Path) -> AsyncIterator[Browser]:
    """Headless Chromium."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=str(chromium_path), args=CHROMIUM_ARGUMENTS
        )
        yield browser
        await browser.close()


@pytest.fixture
async def page_url(system: System, processes: Processes) -> str:
    """The page, served by ``towpath web``, with both gateways to choose from."""
    port = free_port()
    gateways = [word for url in system.urls for word in ("--gateway", url)]
    processes.launch(
        "towpath", "web", "--port", str(port), "--demo", *gateways,
        amqp_url=system.rabbitmq.url, auth_secret=SECRET,
    )  # fmt: skip
    url = f"http://127.0.0.1:{port}/"

    async def answers() -> bool:
        try:
            async with aiohttp.ClientSession() as http, http.get(url) as response:
                return response.status == 200
        except aiohttp.ClientError:
            return False

    await eventually(answers, timeout=30)
    return url


@asynccontextmanager
async def signed_in(browser: Browser, url: str, user: str, gateway: int) -> AsyncIterator[Page]:
    """A person with a window of their own; fails the test if the page has an error."""
    context = await browser.new_context(viewport={"width": 1360, "height": 900})
    page = await context.new_page()
    page.set_default_timeout(15_000)
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    await page.goto(f"{url}?gateway={gateway}")
    await page.get_by_test_id("name").fill(user)
    await page.get_by_test_id("sign-in").click()
    await expect(page.get_by_test_id("connection-state")).to_have_attribute("data-state", "open")
    yield page
    await context.close()
    assert problems == []


async def join(page: Page, room: str) -> None:
    await page.get_by_test_id("room-input").fill(room)
    await page.get_by_test_id("join-room").click()
    await expect(page.get_by_test_id("room-title")).to_contain_text(room)


async def say(page: Page, text: str) -> None:
    await page.get_by_test_id("message-input").fill(text)
    await page.get_by_test_id("send-message").click()


async def test_two_people_on_two_gateways_chat_and_see_the_same(
    system: System, browser: Browser, page_url: str
) -> None:
    async with signed_in(browser, page_url, "ana", 0) as ana, signed_in(browser, page_url, "ben", 1) as ben:
        states = [await page.get_by_test_id("connection-state").inner_text() for page in (ana, ben)]
        assert states[0] != states[1]  # they name two gateways
        await join(ana, "lobby")
        await join(ben, "lobby")
        await say(ana, "hello <b>Ben</b>")
        await say(ben, "hello Ana")
        for page in (ana, ben):
            messages = page.get_by_test_id("message")
            await expect(messages).to_have_count(2)
            await expect(messages.nth(0)).to_contain_text("hello <b>Ben</b>")
            await expect(messages.nth(1)).to_contain_text("hello Ana")


async def test_an_order_moves_when_another_backend_publishes_that_it_is_shipped(
    system: System, browser: Browser, page_url: str
) -> None:
    async with signed_in(browser, page_url, "ana", 0) as ana, signed_in(browser, page_url, "ben", 1) as ben:
        await ana.get_by_test_id("order-amount").fill("99.90")
        await ana.get_by_test_id("submit-order").click()
        order = ana.locator("[data-testid^='order-O']").first
        await expect(order).to_have_attribute("data-status", "submitted")
        order_id = (await order.get_attribute("data-testid") or "").removeprefix("order-")
        await ben.get_by_test_id("backend-order").fill(order_id)
        await ben.get_by_test_id("backend-user").fill("ana")
        await ben.get_by_test_id("backend-event").select_option("order.shipped")
        await ben.get_by_test_id("backend-publish").click()
        await expect(order).to_have_attribute("data-status", "shipped")
        await expect(ben.locator("[data-testid^='order-O']")).to_have_count(0)


async def test_a_page_whose_gateway_is_killed_recovers_and_misses_nothing(
    system: System, browser: Browser, page_url: str
) -> None:
    async with signed_in(browser, page_url, "ana", 0) as ana, signed_in(browser, page_url, "ben", 1) as ben:
        await join(ana, "lobby")
        await join(ben, "lobby")
        await say(ana, "before")
        await expect(ben.get_by_test_id("message")).to_have_count(1)
        await system.gateways[0].kill()
        await say(ben, "meanwhile")
        await expect(ana.get_by_test_id("message")).to_have_count(2, timeout=30_000)
        await expect(ana.get_by_test_id("connection-state")).to_have_attribute("data-state", "open")
        await say(ana, "after")
        for page in (ana, ben):
            await expect(page.get_by_test_id("message")).to_have_count(3)
            texts = await page.get_by_test_id("message").all_inner_texts()
            assert [word for text in texts for word in ("before", "meanwhile", "after") if word in text] == [
                "before", "meanwhile", "after",
            ]  # fmt: skip
