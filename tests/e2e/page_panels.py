"""Stock and notifications on the stage, and the states of their panels."""

from typing import Any, Final

from playwright.async_api import expect

from towpath.protocol import inventory
from towpath.testkit.visitor import Visitor

from .page_stage import MINUTE, NOON, Answer, Refused, Stage, World
from .page_states import LONG, LONGEST, PHONE, State, at, hostile, in_first_room, lively, settled


def with_stock(world: World, stock: dict[str, tuple[int, int]]) -> World:
    """The inventory is there: by article how many there are, and how many of them are reserved."""

    def view(sku: str, revision: int = 1) -> inventory.StockView:
        on_hand, reserved = stock[sku]
        return inventory.StockView(
            sku=sku,
            on_hand=on_hand,
            reserved=reserved,
            available=on_hand - reserved,
            revision=revision,
            seq=revision,
        )

    def watch(data: dict[str, Any]) -> Answer:
        sku = data["sku"]
        return view(sku) if sku in stock else Refused("not_found", f"There is no item {sku!r}.")

    def set_stock(data: dict[str, Any]) -> Answer:
        stock[data["sku"]] = (data["on_hand"], 0)
        return view(data["sku"], revision=2)

    world.answers |= {
        "inventory.list": lambda _: inventory.StockPage(items=[view(sku) for sku in sorted(stock)]),
        "inventory.watch": watch,
        "inventory.unwatch": lambda data: inventory.Unwatched(sku=data["sku"]),
        "inventory.set": set_stock,
    }
    return world


def a_notification(seq: int, kind: str, title: str, text: str, link: str) -> dict[str, Any]:
    """``data`` of ``notification.new``."""
    return {
        "id": f"n-{seq}", "seq": seq, "kind": kind, "title": title, "text": text, "link": link,
        "created_at": NOON - (90 - seq) * MINUTE,
    }  # fmt: skip


def with_notifications(world: World, given: list[dict[str, Any]], *, read_seq: int = 0) -> World:
    """The service of notifications is there."""
    preferences: dict[str, Any] = {"language": "en", "kinds": ["order.shipped", "chat.direct"]}

    def page(_: dict[str, Any]) -> Answer:
        newest_first = sorted(given, key=lambda one: -int(one["seq"]))
        return {
            "notifications": newest_first,
            "seq": newest_first[0]["seq"],
            "read_seq": read_seq,
            "unread": sum(one["seq"] > read_seq for one in given),
            "has_more": False,
        }

    def prefer(data: dict[str, Any]) -> Answer:
        preferences.update(data)
        return preferences

    world.answers |= {
        "notification.list": page,
        "notification.read": lambda data: {"read_seq": data["up_to"], "unread": 0},
        "notification.preferences": prefer,
    }
    return world


def at_work() -> World:
    """All services are there."""
    world = with_stock(lively(), {"anvil": (3, 3), "lamp": (12, 0), "rope": (40, 3)})
    given = [
        a_notification(1, "chat.invited", "Invitation", "dan invites you to The jury.", "room/jury"),
        a_notification(
            2, "order.rejected", "Order O-1041 is rejected", "Out of stock: anvil", "order/O-1041"
        ),
        a_notification(3, "order.shipped", "Order O-1042 is shipped", "It is on its way.", "order/O-1042"),
    ]
    return with_notifications(world, given, read_seq=1)


def at_long_work() -> World:
    """All services are there, and all they say is as long as it may be."""
    world = with_stock(hostile(), {LONG: (1_000_000_000, 999_999_999), f"{LONG[:-1]}M": (0, 0)})
    given = [a_notification(n, "order.paid", LONGEST, LONGEST * 3, f"order/{LONG}") for n in range(1, 120)]
    return with_notifications(world, given)


async def watches(visitor: Visitor, *skus: str) -> None:
    """Watch articles."""
    for sku in skus:
        await visitor.get("stock-sku").fill(sku)
        await visitor.get("watch-stock").click()
        await expect(visitor.get(f"stock-{sku}")).to_be_visible()


async def watches_stock(visitor: Visitor, stage: Stage) -> None:
    await in_first_room(visitor, stage)
    await watches(visitor, "anvil", "rope")


async def orders_what_there_is(visitor: Visitor, _: Stage) -> None:
    await visitor.get("by-items").click()
    await visitor.get("item-sku").fill("lamp")
    await visitor.get("item-quantity").fill("13")
    await expect(visitor.get("item-available")).to_be_visible()


async def reads_notifications(visitor: Visitor, _: Stage) -> None:
    await visitor.get("bell").click()
    await expect(visitor.get("notification").first).to_be_visible()
    await settled(visitor)


async def chooses_mails(visitor: Visitor, stage: Stage) -> None:
    await reads_notifications(visitor, stage)
    await visitor.get("mail-preferences").click()
    await expect(visitor.get("mail-order.shipped")).to_be_checked()
    await visitor.get("save-mail").scroll_into_view_if_needed()


async def watches_long_stock(visitor: Visitor, _: Stage) -> None:
    await visitor.page.set_viewport_size({"width": 1280, "height": 720})
    await watches(visitor, LONG, f"{LONG[:-1]}M")
    await visitor.get("stock-sku").fill(LONGEST)
    await visitor.get("stock-count").fill("9" * 30)
    await visitor.get("watch-stock").click()
    await expect(visitor.get("stock-problem")).not_to_be_empty()
    await visitor.get("by-items").click()
    await visitor.get("item-sku").fill(LONG)
    await at(visitor, "#/orders")


PANELS: Final[dict[str, State]] = {
    "stock that is watched": State(at_work, watches_stock),
    "an order of what there is": State(at_work, orders_what_there_is),
    "notifications": State(at_work, reads_notifications),
    "mails of notifications": State(at_work, chooses_mails),
    "notifications on a phone": State(at_work, reads_notifications, size=PHONE, scheme="dark"),
}
HOSTILE_PANELS: Final[dict[str, State]] = {
    "stock": State(at_long_work, watches_long_stock),
    "long notifications": State(at_long_work, chooses_mails),
}
