"""The panels of stock and notifications, on a stage."""

from playwright.async_api import Browser, expect

from towpath.protocol import inventory
from towpath.testkit.eventually import eventually

from .page_panels import a_notification, at_work, watches
from .page_states import State, nothing, shown

ALL = State(at_work, nothing)


async def test_a_notification_is_counted_until_it_is_read_here_or_elsewhere(browser: Browser) -> None:
    async with shown(browser, ALL) as (ana, stage):
        bell = ana.get("bell")
        await expect(bell).to_have_attribute("data-unread", "2")
        shipped = a_notification(4, "order.shipped", "Order O-7 is shipped", "It is on its way.", "order/O-7")
        for _ in range(2):  # a push may come twice
            await stage.push("notification.new", shipped, stream="notification:ana", seq=4)
        await expect(bell).to_have_attribute("data-unread", "3")
        await expect(ana.page.get_by_text("Order O-7 is shipped: It is on its way.")).to_have_count(1)
        await bell.click()
        await expect(ana.get("notification")).to_have_count(4)
        await expect(ana.get("notification").first).to_contain_text("Order O-7 is shipped")
        await ana.get("mark-read").click()
        await expect(bell).to_have_attribute("data-unread", "0")
        assert ("notification.read", {"up_to": 4}) in stage.asked
        await stage.push(
            "notification.new",
            a_notification(5, "order.paid", "Paid", "x", "order/O-7"),
            stream="notification:ana",
            seq=5,
        )
        await expect(bell).to_have_attribute("data-unread", "1")
        await stage.push("notification.read", {"read_seq": 5, "unread": 0})
        await expect(bell).to_have_attribute("data-unread", "0")


async def test_a_notification_leads_to_what_it_is_about(browser: Browser) -> None:
    async with shown(browser, ALL, size=(390, 844)) as (ana, _):
        await ana.get("bell").click()
        await ana.get("notification").first.get_by_role("button", name="To the orders").click()
        await expect(ana.get("order-O-1042")).to_be_visible()


async def test_mails_are_chosen_and_kept_by_the_service(browser: Browser) -> None:
    async with shown(browser, ALL) as (ana, stage):
        await ana.get("bell").click()
        await ana.get("mail-preferences").click()
        await ana.get("mail-address").fill("ana@towpath.example")
        await ana.get("mail-language").select_option("zh")
        await ana.get("mail-order.shipped").uncheck()
        await ana.get("save-mail").click()
        await expect(ana.page.get_by_text("Saved.")).to_be_visible()
        changes = {"email": "ana@towpath.example", "language": "zh", "kinds": ["chat.direct"]}
        assert ("notification.preferences", changes) in stage.asked


async def test_watched_stock_follows_what_happens_and_outlives_a_reload(browser: Browser) -> None:
    async with shown(browser, ALL) as (ana, stage):
        await watches(ana, "rope")
        await expect(ana.get("stock-rope")).to_have_attribute("data-available", "37")
        sold = inventory.StockState(sku="rope", on_hand=40, reserved=40, available=0, revision=2)
        await stage.push("inventory.updated", sold, stream="inventory:rope", seq=2)
        await expect(ana.get("stock-rope")).to_have_attribute("data-available", "0")
        await ana.page.reload()
        await expect(ana.get("stock-rope")).to_be_visible()
        await ana.get("stock-rope").get_by_role("button").click()
        await expect(ana.get("stock-rope")).to_have_count(0)
        await eventually(lambda: ("inventory.unwatch", {"sku": "rope"}) in stage.asked)


async def test_stock_is_set_with_the_right_and_an_item_that_is_not_there_is_named(browser: Browser) -> None:
    async with shown(browser, ALL) as (ana, stage):
        await ana.get("stock-sku").fill("oar")
        await ana.get("watch-stock").click()
        await expect(ana.get("stock-problem")).to_have_text("There is no item 'oar'.")
        await ana.get("stock-count").fill("8")
        await ana.get("watch-stock").click()
        await expect(ana.get("stock-oar")).to_have_attribute("data-available", "8")
        assert ("inventory.set", {"sku": "oar", "on_hand": 8}) in stage.asked


async def test_an_order_says_how_many_there_are(browser: Browser) -> None:
    async with shown(browser, ALL) as (ana, stage):
        await ana.get("by-items").click()
        await ana.get("item-sku").fill("lamp")
        await expect(ana.get("item-available")).to_have_text("12 available")
        await ana.get("item-quantity").fill("13")
        await expect(ana.get("item-available")).to_have_attribute("data-enough", "false")
        await eventually(lambda: ("inventory.watch", {"sku": "lamp"}) in stage.asked)
