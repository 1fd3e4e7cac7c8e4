"""Orders of goods in a real browser: from submitted to shipped over two services, and why one is rejected."""

import pytest
from playwright.async_api import Browser, Locator, expect

from towpath.testkit.processes import Processes
from towpath.testkit.system import System
from towpath.testkit.visitor import Visitor

from .test_inventory import set_stock
from .test_page import publishes


@pytest.fixture(scope="module")
def processes(shared_processes: Processes) -> Processes:
    return shared_processes


@pytest.fixture(scope="module")
def system(shared_system: System, processes: Processes) -> System:
    return shared_system


async def test_an_order_of_goods_is_reserved_confirmed_paid_and_shipped_and_the_next_one_rejected(
    browser: Browser, system: System, page_url: str
) -> None:
    await system.launch_service("inventory").ready()
    await set_stock(system, anvil=3)
    async with (
        Visitor.sign_in(browser, page_url, "ana", gateway=0) as ana,
        Visitor.sign_in(browser, page_url, "ben", gateway=1) as ben,
    ):
        order = await orders(ana, "anvil", 2)
        await expect(order).to_have_attribute("data-status", "confirmed")
        order_id = (await order.get_attribute("data-testid") or "").removeprefix("order-")
        for event in ("order.paid", "order.shipped"):
            await publishes(ben, order_id, "ana", event)
            await expect(order).to_have_attribute("data-status", event.removeprefix("order."))
        steps = order.get_by_test_id("timeline").locator("li")
        statuses = [await step.get_attribute("data-status") for step in await steps.all()]
        # Newest first or last; each of them once.
        assert sorted(statuses, key=str) == ["confirmed", "paid", "shipped", "submitted"]

        rejected = await orders(ben, "anvil", 2)
        await expect(rejected).to_have_attribute("data-status", "rejected")
        await expect(rejected.get_by_test_id("order-detail")).to_have_text("Out of stock: anvil")


async def orders(visitor: Visitor, sku: str, quantity: int) -> Locator:
    """Order so many of an item; returns the order in the list."""
    fields = visitor.get("item-sku")
    if not await visitor.get("add-item").is_visible():
        await visitor.page.get_by_text("By items").click()
    if not await fields.count():
        await visitor.get("add-item").click()
    await fields.fill(sku)
    await visitor.get("item-quantity").fill(str(quantity))
    await visitor.get("item-price").fill("1.00")
    await visitor.get("submit-order").click()
    order = visitor.page.locator("[data-testid^='order-O']").first
    await expect(order).to_be_visible()
    return order
