"""Orders of goods, stock and notifications in a real browser, on the real services and a real RabbitMQ."""

import asyncio
import os
import re
from collections import Counter
from typing import Final

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Locator, expect

from towpath.testkit.processes import Processes
from towpath.testkit.system import System
from towpath.testkit.visitor import Visitor

from .page_panels import watches
from .test_inventory import set_stock
from .test_page import CONVERSATION, PHONE, ROOT, a_lively_page, publishes

#: Collects the announcements to screen readers, in order; a text that stays is one.
_HEAR: Final = """() => {
    window.heard = [];
    const last = new WeakMap();
    const look = () => {
        for (const element of document.querySelectorAll(".unseen[role=status]")) {
            const text = element.textContent.trim();
            if (text && last.get(element) !== text) window.heard.push(text);
            last.set(element, text);
        }
    };
    new MutationObserver(look).observe(document, {subtree: true, childList: true, characterData: true});
    look();
}"""


@pytest.fixture(scope="module")
def processes(shared_processes: Processes) -> Processes:
    return shared_processes


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def system(shared_system: System) -> System:
    """The shared system, with inventory and notifications."""
    services = [shared_system.launch_service(name) for name in ("inventory", "notifications")]
    await asyncio.gather(*(service.ready(timeout=60) for service in services))
    return shared_system


async def test_pictures_of_the_page(browser: Browser, system: System, page_url: str) -> None:
    """They are for people to look at; what can fail here is only that nothing is to be seen.

    With TOWPATH_WRITE_SCREENSHOTS=1 one of them is the README's.
    """
    folder = ROOT / "test-results"
    folder.mkdir(exist_ok=True)
    await set_stock(system, lantern=12, oar=40)
    async with a_lively_page(browser, page_url, ("ana", "ben"), ("lobby", "harbour"), "O-1042") as ana:
        await watches(ana, "lantern", "oar")
        await ana.get("fold-backend").click()
        await ana.page.mouse.move(0, 0)
        await ana.page.screenshot(path=folder / "page-desktop.png")
        if os.environ.get("TOWPATH_WRITE_SCREENSHOTS") == "1":
            picture = ROOT / "docs/images/page.png"
            picture.parent.mkdir(exist_ok=True)
            await ana.page.screenshot(path=picture)
        await ana.page.emulate_media(color_scheme="dark")
        await ana.page.screenshot(path=folder / "page-dark.png")
    async with Visitor.sign_in(browser, page_url, "ana", **PHONE) as ana:
        await ana.get("room-lobby").click()
        await expect(ana.get("message")).to_have_count(len(CONVERSATION))
        await ana.page.screenshot(path=folder / "page-phone.png")
    for name in ("desktop", "dark", "phone"):
        assert (folder / f"page-{name}.png").stat().st_size > 20_000


async def test_each_step_of_an_order_is_announced_once_in_every_window_and_not_again_after_a_reload(
    browser: Browser, system: System, page_url: str
) -> None:
    await set_stock(system, anvil=3)
    async with (
        Visitor.sign_in(browser, page_url, "ian", gateway=0) as ian,
        Visitor.sign_in(browser, page_url, "ian", gateway=1) as elsewhere,
        Visitor.sign_in(browser, page_url, "joy", gateway=1) as joy,
    ):
        windows = (ian, elsewhere)
        for window in windows:
            await expect(window.get("bell")).to_have_attribute("data-unread", "0")
            await window.page.add_init_script(f"({_HEAR})()")  # after a reload
            await window.page.evaluate(_HEAR)
        order_id = await orders(ian, "anvil", 2)
        for number, status in enumerate(("confirmed", "paid", "shipped"), start=2):
            if status != "confirmed":  # which is the inventory's
                await publishes(joy, order_id, "ian", f"order.{status}")
            for window in windows:
                await expect(window.get(f"order-{order_id}")).to_have_attribute("data-status", status)
                await expect(window.get("bell")).to_have_attribute("data-unread", str(number))
        for window in windows:
            await has_its_steps(window, order_id, "submitted", "confirmed", "paid", "shipped")
            announced = Counter(await heard(window))
            for status, title in [("confirmed", "confirmed"), ("paid", "paid"), ("shipped", "shipped")]:
                assert announced[f"Order {order_id} is {status}."] == 1, announced
                assert how_often(announced, f"Order {order_id} {title}: ") == 1, announced
            assert how_often(announced, f"Order {order_id} received: ") == 1, announced
            assert announced.total() == 7, announced

        for window in windows:
            await window.page.reload()
            await expect(window.get("bell")).to_have_attribute("data-unread", "4")
            await has_its_steps(window, order_id, "submitted", "confirmed", "paid", "shipped")
        await publishes(joy, order_id, "ian", "order.delivered")
        for window in windows:
            await expect(window.get("bell")).to_have_attribute("data-unread", "5")
            await has_its_steps(window, order_id, "submitted", "confirmed", "paid", "shipped", "delivered")
            first, second = sorted(await heard(window))  # and nothing of before
            assert first.startswith(f"Order {order_id} delivered: ")
            assert second == f"Order {order_id} is delivered."
        await ian.get("bell").click()
        kinds = ("created", "confirmed", "paid", "shipped", "delivered")
        await expect(ian.get("notification")).to_have_count(len(kinds))
        for kind in kinds:
            await expect(ian.page.locator(f"[data-kind='order.{kind}']")).to_have_count(1)
        await ian.get("mark-read").click()
        for window in windows:
            await expect(window.get("bell")).to_have_attribute("data-unread", "0")


async def test_an_order_of_more_than_there_is_is_rejected_with_the_reason(
    browser: Browser, system: System, page_url: str
) -> None:
    await set_stock(system, lamp=1)
    async with Visitor.sign_in(browser, page_url, "cyd") as cyd:
        order_id = await orders(cyd, "lamp", 2)
        order = cyd.get(f"order-{order_id}")
        await expect(order).to_have_attribute("data-status", "rejected")
        await expect(order.get_by_test_id("order-detail")).to_have_text("Out of stock: lamp")
        await expect(cyd.get("bell")).to_have_attribute("data-unread", "2")
        await cyd.get("bell").click()
        rejected = cyd.page.locator("[data-kind='order.rejected']")
        await expect(rejected).to_contain_text("Something you ordered is out of stock.")
        await rejected.get_by_role("button").click()
        await expect(cyd.get("notifications-dialog")).to_have_count(0)
        await expect(order).to_be_visible()


async def test_watched_stock_follows_what_others_order_and_set_also_after_a_reload(
    browser: Browser, page_url: str
) -> None:
    async with (
        Visitor.sign_in(browser, page_url, "dan", gateway=0) as dan,
        Visitor.sign_in(browser, page_url, "eve", gateway=1) as eve,
    ):
        await dan.get("stock-sku").fill("rope")
        await dan.get("watch-stock").click()
        await expect(dan.get("stock-problem")).to_contain_text("rope")  # there is none yet
        await dan.get("stock-count").fill("40")
        await dan.get("watch-stock").click()
        await has_available(dan, "rope", 40)
        await watches(eve, "rope")
        await has_available(eve, "rope", 40)

        order_id = await orders(eve, "rope", 3)
        await expect(eve.get(f"order-{order_id}")).to_have_attribute("data-status", "confirmed")
        for visitor in (dan, eve):
            await has_available(visitor, "rope", 37)
        await publishes(dan, order_id, "eve", "order.cancelled")
        for visitor in (dan, eve):
            await has_available(visitor, "rope", 40)

        await eve.page.reload()
        await has_available(eve, "rope", 40)
        await dan.get("stock-sku").fill("rope")
        await dan.get("stock-count").fill("12")
        await dan.get("watch-stock").click()
        await has_available(eve, "rope", 12)
        await dan.get("stock-rope").get_by_role("button").click()
        await orders(eve, "rope", 1)
        await has_available(eve, "rope", 11)
        await expect(dan.get("stock-rope")).to_have_count(0)

        await eve.get("by-items").click()
        await eve.get("item-sku").fill("rope")
        await expect(eve.get("item-available")).to_have_text("11 available")


async def test_an_invitation_is_notified_in_the_chosen_language_and_leads_to_its_room(
    browser: Browser, page_url: str
) -> None:
    async with (
        Visitor.sign_in(browser, page_url, "fay", gateway=0) as fay,
        Visitor.sign_in(browser, page_url, "gus", gateway=1) as gus,
    ):
        await fay.get("bell").click()
        await fay.get("mail-preferences").click()
        await fay.get("mail-language").select_option("zh")
        await fay.get("mail-order.shipped").uncheck()
        await fay.get("save-mail").click()
        await expect(fay.page.get_by_text("Saved.")).to_be_visible()
        await fay.page.reload()
        await fay.get("bell").click()
        await fay.get("mail-preferences").click()
        await expect(fay.get("mail-language")).to_have_value("zh")
        await expect(fay.get("mail-order.shipped")).not_to_be_checked()

        await gus.get("direct-to").fill("fay")
        await gus.get("direct-open").click()
        await gus.says("Bring the map, please.")
        note = fay.get("notification")
        await expect(note).to_have_attribute("data-kind", "chat.direct")
        assert re.search("[\u4e00-\u9fff]", await note.inner_text())
        await note.get_by_role("button").click()
        await expect(fay.get("room-title")).to_contain_text("gus")
        await expect(fay.get("message")).to_have_count(1)


async def orders(visitor: Visitor, sku: str, quantity: int) -> str:
    """Order so many of an item; returns the order's id once it is in the list."""
    if not await visitor.get("add-item").is_visible():
        await visitor.get("by-items").click()
    await visitor.get("item-sku").fill(sku)
    await visitor.get("item-quantity").fill(str(quantity))
    await visitor.get("item-price").fill("1.00")
    entries = visitor.page.locator("[data-testid^='order-O']")
    before = await entries.count()
    await visitor.get("submit-order").click()
    await expect(entries).to_have_count(before + 1)
    return (await entries.first.get_attribute("data-testid") or "").removeprefix("order-")


async def has_its_steps(visitor: Visitor, order_id: str, *statuses: str) -> None:
    """Wait until the timeline of an order has these states, each once."""
    steps: Locator = visitor.get(f"order-{order_id}").get_by_test_id("timeline").locator("li")
    await expect(steps).to_have_count(len(statuses))
    assert [await step.get_attribute("data-status") for step in await steps.all()] == list(statuses)


async def has_available(visitor: Visitor, sku: str, count: int) -> None:
    await expect(visitor.get(f"stock-{sku}")).to_have_attribute("data-available", str(count))


async def heard(visitor: Visitor) -> list[str]:
    texts: list[str] = await visitor.page.evaluate("window.heard")
    return texts


def how_often(announced: Counter[str], beginning: str) -> int:
    return sum(count for text, count in announced.items() if text.startswith(beginning))
