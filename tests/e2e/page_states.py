"""Every state of the page, by name: the world it shows, and how one gets there."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final, Literal

from playwright.async_api import Browser, expect

from towpath.protocol import chat, orders
from towpath.testkit.visitor import Visitor

from .page_stage import MINUTE, NOON, Refused, Stage, World

DESKTOP: Final = (1280, 800)
PHONE: Final = (390, 844)

Steps = Callable[[Visitor, Stage], Awaitable[None]]


@dataclass(frozen=True)
class State:
    """One state of the page.

    Attributes:
        world: The data of the services.
        steps: The deeds of the user after the sign-in, or, at the door, instead of it.
        at_the_door: Whether no user is signed in.
    """

    world: Callable[[], World]
    steps: Steps
    size: tuple[int, int] = DESKTOP
    at_the_door: bool = False
    scheme: Literal["light", "dark"] = "light"
    language: str = "en-GB"
    more: dict[str, Any] = field(default_factory=dict)


@asynccontextmanager
async def shown(
    browser: Browser, state: State, *, size: tuple[int, int] | None = None, me: str = "ana"
) -> AsyncIterator[tuple[Visitor, Stage]]:
    """The page in a state."""
    world = state.world().seen_by(me)
    width, height = size or state.size
    async with (
        Stage.set(world) as stage,
        Visitor.arrive(
            browser,
            stage.url,
            viewport={"width": width, "height": height},
            color_scheme=state.scheme,
            locale=state.language,
            timezone_id="UTC",
            has_touch=width < 720,
            **state.more,
        ) as visitor,
    ):
        await visitor.page.clock.set_fixed_time(NOON / 1000)
        await visitor.page.reload()
        if not state.at_the_door:
            await visitor.get("name").fill(me)
            await visitor.get("sign-in").click()
            await expect(visitor.get("connection-state")).to_have_attribute("data-state", "open")
        await state.steps(visitor, stage)
        yield visitor, stage


# -- worlds

CONVERSATION: Final = [
    ("ben", "The lock at Fifield is closed until noon."),
    ("ana", "Thanks! Then I take the path on the left bank."),
    ("ben", "Mind the swans, see https://swans.example/cygnets (they have cygnets)."),
    ("zoë", "我们一点左右在船屋见。"),
    ("ana", "See you at the boathouse around one."),
]


def an_order(
    order: str, *statuses: str, amount: str = "99.90", detail: str | None = None
) -> list[orders.OrderState]:
    """The states that an order went through, a minute apart."""
    return [
        orders.OrderState(
            order_id=order,
            status=orders.Status(status),
            revision=number,
            amount=Decimal(amount),
            currency="USD",
            updated_at=NOON - (10 - number) * MINUTE,
            detail=detail if number == len(statuses) else None,
        )
        for number, status in enumerate(statuses, start=1)
    ]


def empty() -> World:
    """No room, no order; some rooms of others."""
    rooms = [("harbour", "The harbour", 12), ("lobby", "lobby", 3), ("regatta", "Regatta of 2026", 0)]
    return World(open_rooms=[chat.FoundRoom(room=room, title=t, members=n) for room, t, n in rooms])


def bare() -> World:
    """Nothing at all: the first visitor of a new system."""
    return World()


def lively() -> World:
    """Some rooms, a conversation, an invitation, and orders on their way."""
    world = empty()
    world.texts = {"harbour": CONVERSATION, "dm:ana:ben": [("ben", "Bring the map, please.")]}
    world.room("harbour", "The harbour")
    world.room("lock-7", "Lock 7")
    world.room("regatta", "Regatta of 2026", unread=3)
    world.room("den", "Crew only", private=True, owner="ana")
    world.room("dm:ana:ben", unread=1)
    world.members = {
        "harbour": [("ana", True), ("ben", True), ("zoë", False)],
        "den": [("ana", True), ("ben", True), ("cyd", False)],
        "dm:ana:ben": [("ana", True), ("ben", True)],
    }
    world.invitations = [chat.Invitation(room="jury", title="The jury", by="dan")]
    world.moments = [
        *an_order("O-1041", "submitted", "confirmed", "rejected", detail="out_of_stock"),
        *an_order("O-1042", "submitted", "confirmed", "paid", "shipped", amount="1249.00"),
    ]
    world.items = {"O-1042": [orders.Item(sku="rope", quantity=3, unit_price=Decimal("416.33"))]}
    return world


def crowded() -> World:
    """More rooms than fit, the unread ones last by name; a room of a crowd."""
    world = lively()
    world.invitations = []
    for number in range(18):
        world.room(f"berth-{number:02}", f"Berth {number}")
    world.room("weir", "Weir", unread=12)
    world.crowds = {"harbour": 2_345}
    return world


#: As long as the contract allows, in letters that are wide.
LONG: Final = "W" * 64
LONGER: Final = "Mw" * 40
LONGEST: Final = "Wide" * 50


def hostile() -> World:
    """Everything is as long as it may be."""
    world = World()
    room, other = "W" * 120, f"room-{LONG}"
    world.texts = {
        room: [(LONG, LONGEST * 4), ("ana", f"https://{LONG}.example/{LONGEST}"), (LONGER, "short")]
    }
    world.room(room, LONGEST, private=True, owner="ana")
    world.room(other, LONGEST, unread=1_000)
    world.room(f"dm:ana:{LONG}", unread=12)
    world.members = {room: [("ana", True), (LONG, True), (LONGER, False), ("W" * 128, False)]}
    world.invitations = [chat.Invitation(room=f"to-{LONG}", title=LONGEST, by=LONGER)]
    world.open_rooms = [
        chat.FoundRoom(room=f"W{LONG}{n}", title=LONGEST, members=1_000_000) for n in range(25)
    ]
    world.moments = [
        *an_order("O" * 64, "submitted", "rejected", amount="9999999999999.99", detail=LONGEST),
        *an_order("o" * 64, *orders.Status, amount="9999999999999.99", detail=f"https://{LONG}.example/"),
    ]
    items = [orders.Item(sku=LONG, quantity=1_000_000, unit_price=Decimal("9999999999999.99"))]
    world.items = {"o" * 64: items, "O" * 64: items}
    return world


# -- steps


async def nothing(_: Visitor, __: Stage) -> None:
    """The state is there at once."""


async def settled(visitor: Visitor) -> None:
    """All that comes by itself has come."""
    await visitor.page.evaluate(
        """async () => {
            const isBusy = () => [...document.querySelectorAll(".empty, .nothing p")]
                .some((element) => /…$/.test(element.textContent));
            for (let frame = 0; frame < 4 || (frame < 300 && isBusy()); frame++)
                await new Promise(requestAnimationFrame);
            await document.fonts.ready;
        }"""
    )


async def restyled(visitor: Visitor, style: str) -> None:
    """The page with some more style, instead of what was added before."""
    await visitor.page.evaluate(
        """(style) => {
            const sheet = new CSSStyleSheet();
            sheet.replaceSync(style);
            document.adoptedStyleSheets = [sheet];
        }""",
        style,
    )


async def in_first_room(visitor: Visitor, stage: Stage) -> None:
    """The first room that has texts is open."""
    room = next(iter(stage.world.texts))
    await visitor.page.evaluate("(room) => (location.hash = `#/chat/${encodeURIComponent(room)}`)", room)
    await expect(visitor.get("message").first).to_be_visible()
    await settled(visitor)


def opened(button: str, *, first: Steps = in_first_room) -> Steps:
    """A button is pressed, and its dialog is open."""

    async def steps(visitor: Visitor, stage: Stage) -> None:
        await first(visitor, stage)
        await visitor.get(button).click()
        await expect(visitor.page.locator("dialog[open]")).to_be_visible()
        await settled(visitor)

    return steps


async def finds_rooms(visitor: Visitor, stage: Stage) -> None:
    await opened("find-room")(visitor, stage)
    await visitor.get("switcher-input").fill("l")
    await expect(visitor.get("choice-+lobby")).to_be_visible()


async def pastes_too_much(visitor: Visitor, stage: Stage) -> None:
    await in_first_room(visitor, stage)
    await visitor.get("message-input").fill("long " * 899 + "swans")
    await expect(visitor.get("message-problem")).to_be_visible()


async def gets_notices(visitor: Visitor, stage: Stage) -> None:
    await in_first_room(visitor, stage)
    stage.world.answers["chat.join"] = lambda _: Refused(
        "forbidden", "Room 'vault' is private: ask a member for an invitation."
    )
    await visitor.get("room-input").fill("vault")
    await visitor.get("join-room").click()
    await stage.push("chat.invited", chat.Invitation(room="race", title="The race", by="zoë"))
    await expect(visitor.get("notice")).to_have_count(2)


async def loses_the_gateway(visitor: Visitor, stage: Stage) -> None:
    await in_first_room(visitor, stage)
    await stage.fall()
    await expect(visitor.get("connection-state")).to_have_attribute("data-state", "recovering")
    await visitor.page.evaluate("document.querySelector('.countdown')?.remove()")


async def is_kicked(visitor: Visitor, stage: Stage) -> None:
    await in_first_room(visitor, stage)
    await stage.fall(4502)
    await expect(visitor.get("closed-banner")).to_be_visible()


async def is_a_stranger(visitor: Visitor, _: Stage) -> None:
    await visitor.page.evaluate("location.hash = '#/chat/vault'")
    await expect(visitor.get("stranger")).to_be_visible()


async def sends_in_vain(visitor: Visitor, stage: Stage) -> None:
    stage.world.answers["chat.send"] = lambda _: Refused("rate_limited", "Slow down.", retryable=False)
    await in_first_room(visitor, stage)
    await visitor.says("A text that does not arrive.")
    await expect(visitor.get("try-again")).to_be_visible()


async def edits_a_message(visitor: Visitor, stage: Stage) -> None:
    await in_first_room(visitor, stage)
    deletion = chat.MessageDeleted(room="harbour", seq=2, user="ben", deleted_at=NOON)
    await stage.push("chat.deleted", deletion, stream="chat:harbour", seq=len(CONVERSATION) + 2)
    await visitor.get("message").last.hover()
    await visitor.get("edit-message").last.click()
    await expect(visitor.get("edit-input")).to_be_visible()


async def orders_by_items(visitor: Visitor, _: Stage) -> None:
    await visitor.get("by-items").click()
    await visitor.get("item-sku").fill("rope")
    await visitor.get("item-price").fill("99999999999999")
    await visitor.get("submit-order").click()
    await expect(visitor.get("order-problem")).to_be_visible()


async def folds_the_backend(visitor: Visitor, stage: Stage) -> None:
    await in_first_room(visitor, stage)
    await visitor.get("fold-backend").click()


async def asks_before_leaving(visitor: Visitor, stage: Stage) -> None:
    await opened("leave-room")(visitor, stage)


async def removes_a_member(visitor: Visitor, stage: Stage) -> None:
    stage.world.texts = {"den": CONVERSATION}
    await opened("show-members")(visitor, stage)
    await visitor.get("remove-ben").click()


async def at_the_orders(visitor: Visitor, _: Stage) -> None:
    await visitor.get("tab-orders").click()
    await expect(visitor.get("submit-order")).to_be_visible()


async def at_the_list(visitor: Visitor, _: Stage) -> None:
    await expect(visitor.get("room-input")).to_be_visible()
    await settled(visitor)


async def types_a_long_name(visitor: Visitor, _: Stage) -> None:
    await visitor.get("name").fill(LONGEST)
    await visitor.get("sign-in").click()
    await expect(visitor.get("name-problem")).to_be_visible()


async def starts(visitor: Visitor, _: Stage) -> None:
    await expect(visitor.get("start-room")).to_be_visible()
    await settled(visitor)


STATES: Final[dict[str, State]] = {
    "the door": State(empty, nothing, at_the_door=True),
    "a name that is too long": State(empty, types_a_long_name, at_the_door=True),
    "the start": State(empty, starts),
    "the start of a new system": State(bare, starts),
    "a conversation": State(lively, in_first_room),
    "a conversation in the dark": State(lively, in_first_room, scheme="dark"),
    "a conversation in Chinese": State(lively, in_first_room, language="zh-CN"),
    "many rooms, and a crowd": State(crowded, in_first_room),
    "rooms that are found": State(lively, finds_rooms),
    "a text that is too long": State(lively, pastes_too_much),
    "notices": State(lively, gets_notices),
    "no connection": State(lively, loses_the_gateway),
    "a connection that is closed": State(lively, is_kicked),
    "a room of others": State(lively, is_a_stranger),
    "a message that did not arrive": State(lively, sends_in_vain),
    "a message being edited": State(lively, edits_a_message),
    "a new room": State(lively, opened("new-room")),
    "members": State(lively, removes_a_member),
    "leaving": State(lively, asks_before_leaving),
    "the menu": State(lively, opened("menu")),
    "an order by items": State(lively, orders_by_items),
    "a folded backend": State(lively, folds_the_backend),
    "the list on a phone": State(crowded, at_the_list, size=PHONE),
    "the start on a phone": State(empty, at_the_list, size=PHONE),
    "a room on a phone": State(lively, in_first_room, size=PHONE),
    "orders on a phone": State(lively, at_the_orders, size=PHONE),
    "orders on a phone in Chinese": State(lively, at_the_orders, size=PHONE, language="zh-CN", scheme="dark"),
}

#: Each width at which a layout begins or ends, and how high its windows are.
WIDTHS: Final = ((320, 640), (390, 844), (768, 1024), (1280, 720), (1920, 1080))


async def at(visitor: Visitor, address: str) -> None:
    """Somewhere on the page."""
    await visitor.page.evaluate("(address) => (location.hash = address)", address)
    await settled(visitor)


def goes_to(address: str) -> Steps:
    async def steps(visitor: Visitor, _: Stage) -> None:
        await at(visitor, address)

    return steps


async def gets_long_notices(visitor: Visitor, stage: Stage) -> None:
    await in_first_room(visitor, stage)
    for name in (LONG, LONGER, LONGEST):
        await stage.push("chat.invited", chat.Invitation(room=name, title=name, by=LONGER))
    await expect(visitor.get("notice")).to_have_count(3)


async def finds_long_rooms(visitor: Visitor, stage: Stage) -> None:
    await opened("find-room")(visitor, stage)
    await visitor.get("switcher-input").fill("W")
    await expect(visitor.get("choice-+more")).to_be_visible()


async def types_long_items(visitor: Visitor, _: Stage) -> None:
    await visitor.page.set_viewport_size({"width": 1280, "height": 720})
    await visitor.get("by-items").click()
    await visitor.get("item-sku").fill(LONGEST)
    await visitor.get("item-quantity").fill("9" * 40)
    await visitor.get("item-price").fill("9" * 40)
    await visitor.get("add-item").click()
    await visitor.get("submit-order").click()
    await visitor.get("backend-order").fill(LONGEST)
    await visitor.get("backend-user").fill(LONGEST)
    await visitor.get("backend-publish").click()
    await at(visitor, "#/orders")


async def asks_for_all(visitor: Visitor, stage: Stage) -> None:
    await opened("show-members")(visitor, stage)
    await visitor.get(f"remove-{LONG}").click()
    await visitor.get(f"transfer-{'W' * 128}").click()


async def types_a_long_room(visitor: Visitor, stage: Stage) -> None:
    await opened("new-room")(visitor, stage)
    await visitor.get("new-room-name").fill(LONGEST)
    await visitor.get("new-room-title").fill(LONGEST * 2)


async def says_too_much(visitor: Visitor, stage: Stage) -> None:
    await in_first_room(visitor, stage)
    await visitor.get("message-input").fill(LONGEST * 30)


def long_offers() -> World:
    world = hostile()
    world.rooms, world.texts, world.invitations = [], {}, []
    return world


#: States in which everything is as long as it may be.
HOSTILE: Final[dict[str, State]] = {
    "the door": State(hostile, types_a_long_name, at_the_door=True),
    "the start": State(long_offers, starts),
    "a room": State(hostile, in_first_room),
    "a room in Chinese": State(hostile, in_first_room, language="zh-CN"),
    "a text that is too long": State(hostile, says_too_much),
    "the list": State(hostile, goes_to("#/chat")),
    "many rooms": State(crowded, goes_to("#/chat")),
    "the orders": State(hostile, goes_to("#/orders")),
    "an order by items": State(hostile, types_long_items),
    "notices": State(hostile, gets_long_notices),
    "a connection that is closed": State(hostile, is_kicked),
    "a room of others": State(hostile, goes_to(f"#/chat/{LONGEST}")),
    "members": State(hostile, asks_for_all),
    "rooms that are found": State(hostile, finds_long_rooms),
    "a new room": State(hostile, types_a_long_room),
    "leaving": State(hostile, opened("leave-room")),
    "the menu": State(hostile, opened("menu")),
}
