"""Small things of the page, each of which was wrong once. Its server is real; its services play a part on a stage."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from functools import partial
from typing import Any

import pytest
from playwright.async_api import Browser, expect

from towpath.protocol import chat, orders
from towpath.testkit.eventually import eventually
from towpath.testkit.visitor import Visitor

from .page_stage import NOON, Refused, Stage, World
from .page_states import DESKTOP, PHONE, State, at, crowded, empty, in_first_room, lively, nothing, shown

#: Clicks, and goes to a field before anything is answered: both in one step of the page.
_MEANWHILE = """({click, field, text}) => {
    const get = (id) => document.querySelector(`[data-testid="${id}"]`);
    get(click).click();
    get(field).focus();
    if (text === undefined) return;
    get(field).value = text;
    get(field).dispatchEvent(new Event("input", {bubbles: true}));
}"""

#: Clicks; returns the test id of the element that has the focus once another one is there, before it is drawn.
_FOCUS_AT_ONCE = """({click, awaited}) => new Promise((done) => {
    const get = (id) => document.querySelector(`[data-testid="${id}"]`);
    new MutationObserver((_, observer) => {
        if (get(awaited) === null) return;
        observer.disconnect();
        done(document.activeElement.dataset.testid);
    }).observe(document.body, {childList: true, subtree: true});
    const found = document.querySelectorAll(`[data-testid="${click}"]`);
    found[found.length - 1].click();
})"""


@asynccontextmanager
async def at_home(browser: Browser, world: Any = lively, **more: Any) -> AsyncIterator[tuple[Visitor, Stage]]:
    async with shown(browser, State(world, nothing, **more)) as (ana, stage):
        yield ana, stage


def has_joined(stage: Stage, room: str) -> bool:
    return ("chat.join", {"room": room}) in stage.asked


def takes_messages(world: World) -> None:
    """Chat answers ``chat.send``."""

    def sent(data: dict[str, Any]) -> chat.Sent:
        return chat.Sent(room=data["room"], seq=90, sent_at=NOON)

    world.answers["chat.send"] = sent


def takes_order(_: dict[str, Any]) -> orders.OrderAnswer:
    """Orders answers ``order.submit``."""
    return orders.OrderAnswer(
        order_id="O-7", status=orders.Status.SUBMITTED, revision=1, amount=Decimal("7.50"), currency="USD"
    )


async def test_a_reload_goes_on_where_one_was_and_signing_out_ends_it(browser: Browser) -> None:
    async with at_home(browser) as (ana, stage):
        await in_first_room(ana, stage)
        await ana.page.reload()
        await expect(ana.get("account-name")).to_have_text("ana")
        await expect(ana.get("room-title")).to_contain_text("The harbour")
        await expect(ana.get("message")).to_have_count(5)
        await ana.get("menu").click()
        await ana.get("sign-out").click()
        await expect(ana.get("sign-in")).to_be_visible()
        assert await ana.page.evaluate("sessionStorage.length") == 0
        await ana.page.reload()
        await expect(ana.get("sign-in")).to_be_visible()


async def test_a_link_with_another_name_signs_no_one_in(browser: Browser) -> None:
    async with at_home(browser) as (ana, stage):
        await ana.page.goto(f"{stage.url}?user=ben")
        await expect(ana.get("name")).to_have_value("ben")
        await ana.page.goto(f"{stage.url}?user=ana")
        await expect(ana.get("account-name")).to_have_text("ana")


async def test_a_notice_goes_once_it_is_dealt_with(browser: Browser) -> None:
    async with at_home(browser) as (ana, stage):
        await in_first_room(ana, stage)
        await stage.push("chat.invited", chat.Invitation(room="race", title="The race", by="ben"))
        await expect(ana.get("notice")).to_have_text("ben invites you to The race.")
        await ana.get("decline-race").click()
        await expect(ana.get("notice")).to_have_count(0)
        stage.world.answers["chat.join"] = lambda _: Refused("forbidden", "Room 'vault' is private.")
        await ana.get("room-input").fill("vault")
        await ana.get("join-room").click()
        await expect(ana.get("notice")).to_have_text("Room 'vault' is private.")
        stage.world.answers["chat.join"] = lambda data: chat.Joined(room=data["room"], seq=1, members=["ana"])
        await ana.get("join-room").click()
        await expect(ana.get("notice")).to_have_count(0)


async def test_rooms_of_others_are_found_page_by_page(browser: Browser) -> None:
    async with at_home(browser) as (ana, stage):
        stage.world.open_rooms = [
            chat.FoundRoom(room=f"q{n:02}", title=f"Quay {n}", members=n) for n in range(25)
        ]
        await ana.get("find-room").click()
        await ana.get("switcher-input").fill("q")
        found = ana.page.locator("[data-testid^='choice-+q']")
        await expect(found).to_have_count(20)
        await ana.get("choice-+more").click()
        await expect(found).to_have_count(25)
        stage.world.answers["chat.join"] = lambda data: chat.Joined(room=data["room"], seq=1, members=["ana"])
        await ana.get("choice-+q24").click()
        await eventually(partial(has_joined, stage, "q24"))


async def test_a_user_in_no_room_is_offered_the_liveliest_one(browser: Browser) -> None:
    for size in (DESKTOP, PHONE):
        async with at_home(browser, empty, size=size) as (ana, stage):
            stage.world.answers["chat.join"] = lambda data: chat.Joined(
                room=data["room"], seq=1, members=["ana"]
            )
            await ana.get("start-room" if size == DESKTOP else "offer-harbour").click()
            await eventually(partial(has_joined, stage, "harbour"))


async def test_without_the_action_nothing_is_found_and_the_page_goes_on(browser: Browser) -> None:
    async with at_home(browser) as (ana, stage):
        stage.world.answers["chat.find"] = lambda _: Refused()
        await ana.get("find-room").click()
        await ana.get("switcher-input").fill("lock")
        await expect(ana.get("choice-lock-7")).to_be_visible()
        await expect(ana.get("notice")).to_have_count(0)


async def test_of_many_rooms_the_unread_ones_and_what_is_below_the_list_are_in_sight(
    browser: Browser,
) -> None:
    async with at_home(browser, crowded) as (ana, _):
        for element in ("room-weir", "room-regatta", "room-input", "room-dm:ana:ben", "direct-to"):
            await expect(ana.get(element)).to_be_in_viewport(ratio=1)
        await expect(ana.get("room-berth-17")).not_to_be_in_viewport()
        await ana.get("room-berth-17").scroll_into_view_if_needed()
        await expect(ana.get("room-input")).to_be_in_viewport(ratio=1)


async def test_a_text_that_is_too_long_stays_whole_and_is_counted_in_letters(browser: Browser) -> None:
    async with at_home(browser) as (ana, stage):
        takes_messages(stage.world)
        await in_first_room(ana, stage)
        field, problem = ana.get("message-input"), ana.get("message-problem")
        await field.fill("x" * 4_500)
        await expect(problem).to_have_text("500 letters too many: at most 4,000 fit.")
        await ana.get("send-message").click()
        await expect(field).to_have_value("x" * 4_500)
        await field.fill("🦢" * 4_000)  # 8,000 units of UTF-16
        await expect(problem).to_have_text("")
        await ana.get("send-message").click()
        await eventually(lambda: any(action == "chat.send" for action, _ in stage.asked))
        assert [data["text"] for action, data in stage.asked if action == "chat.send"] == ["🦢" * 4_000]


@pytest.mark.parametrize(
    ("opened_by", "field", "limit"),
    [
        ("new-room", "new-room-name", 128),
        ("new-room", "new-room-title", 200),
        ("show-members", "invite-user", 128),
    ],
)
async def test_no_field_cuts_what_is_pasted(browser: Browser, opened_by: str, field: str, limit: int) -> None:
    async with at_home(browser) as (ana, stage):
        await in_first_room(ana, stage)
        await ana.get(opened_by).click()
        await ana.get(field).fill("🦢" * (limit + 3))
        await expect(ana.get(field)).to_have_value("🦢" * (limit + 3))
        await expect(ana.page.get_by_text(f"3 letters too many: at most {limit} fit.")).to_be_visible()
        await ana.get(field).fill("🦢" * limit)
        await expect(ana.page.get_by_text("too many")).to_have_count(0)


async def test_addresses_in_texts_are_links_without_a_referrer(browser: Browser) -> None:
    async with at_home(browser) as (ana, stage):
        await in_first_room(ana, stage)
        link = ana.page.locator(".message a")
        await expect(link).to_have_text("https://swans.example/cygnets")
        for name, value in {
            "href": "https://swans.example/cygnets", "target": "_blank", "rel": "noopener noreferrer"
        }.items():  # fmt: skip
            await expect(link).to_have_attribute(name, value)


async def test_in_chinese_no_problem_is_half_english(browser: Browser) -> None:
    refusals = [
        Refused("forbidden", "Room 'vault' is private: ask a member for an invitation."),
        Refused("conflict", "Some words that are new."),
        Refused("invalid_data", "data: room: String should match pattern '^x$'"),
        Refused(
            "rate_limited", "You have made 200 rooms within 24 hours, which is the limit: try again later."
        ),
    ]
    async with at_home(browser, language="zh-CN") as (ana, stage):
        await in_first_room(ana, stage)
        stage.world.answers["chat.join"] = lambda _: refusals.pop()
        for _ in range(len(refusals)):
            await ana.get("room-input").fill("vault")
            await ana.get("join-room").click()
            await expect(ana.get("notice")).to_have_count(1)
            said = await ana.get("notice").inner_text()
            assert re.search("[\u4e00-\u9fff]", said)
            assert re.findall("[A-Za-z]+", said) in ([], ["vault"]), said
            await ana.get("notice").get_by_role("button").click()


async def test_the_backend_can_be_folded_and_stays_so(browser: Browser) -> None:
    async with at_home(browser) as (ana, _):
        await ana.get("fold-backend").click()
        await expect(ana.get("backend-order")).to_be_hidden()
        await ana.page.reload()
        await expect(ana.get("fold-backend")).to_have_attribute("aria-expanded", "false")
        await ana.get("pick-O-1042").click()  # for which it is needed
        await expect(ana.get("backend-order")).to_have_value("O-1042")
        await expect(ana.get("backend-order")).to_be_visible()


async def test_no_order_is_suggested_in_a_field_that_has_the_focus(browser: Browser) -> None:
    async with at_home(browser, empty) as (ana, stage):
        stage.world.answers["order.submit"] = takes_order
        await ana.get("order-amount").fill("7.50")
        await ana.page.evaluate(_MEANWHILE, {"click": "submit-order", "field": "backend-order"})
        await expect(ana.get("order-O-7")).to_be_visible()
        await expect(ana.get("order-amount")).to_have_value("")
        await expect(ana.get("backend-order")).to_have_value("")
        await ana.get("order-amount").fill("7.50")
        await ana.get("submit-order").click()
        await expect(ana.get("backend-order")).to_have_value("O-7")


async def test_an_amount_typed_before_the_answer_stays(browser: Browser) -> None:
    async with at_home(browser, empty) as (ana, stage):
        stage.world.answers["order.submit"] = takes_order
        await ana.get("order-amount").fill("7.50")
        await ana.page.evaluate(_MEANWHILE, {"click": "submit-order", "field": "order-amount", "text": "8"})
        await expect(ana.get("backend-order")).to_have_value("O-7")
        await expect(ana.get("submit-order")).to_be_enabled()
        await expect(ana.get("order-amount")).to_have_value("8")


async def test_a_detail_typed_before_an_event_is_published_stays(browser: Browser) -> None:
    async with at_home(browser, empty) as (ana, _):
        await ana.page.route("**/demo/events", lambda route: route.fulfill(json={"msg_id": "m-1"}))
        await ana.get("backend-order").fill("O-7")
        await ana.get("backend-detail").fill("first")
        await ana.page.evaluate(
            _MEANWHILE, {"click": "backend-publish", "field": "backend-detail", "text": "next"}
        )
        await expect(ana.get("backend-log").locator("li")).to_have_count(1)
        await expect(ana.get("backend-detail")).to_have_value("next")
        await ana.get("backend-publish").click()
        await expect(ana.get("backend-detail")).to_have_value("")


async def test_a_field_that_opens_has_the_focus_before_it_is_drawn(browser: Browser) -> None:
    opened_by = {"room-harbour": "message-input", "edit-message": "edit-input", "sign-out": "name"}
    async with at_home(browser) as (ana, _):
        for click, field in opened_by.items():
            if click == "sign-out":
                await ana.get("menu").click()
            await expect(ana.get(click).last).to_be_attached()
            opens = {"click": click, "awaited": field}
            assert await ana.page.evaluate(_FOCUS_AT_ONCE, opens) == field


async def test_an_order_by_items_begins_with_a_line(browser: Browser) -> None:
    async with at_home(browser, empty) as (ana, stage):
        stage.world.answers["order.submit"] = takes_order
        await ana.get("by-items").click()
        await expect(ana.get("item-sku")).to_be_focused()
        await ana.get("by-items").click()  # nothing was written: it is an order by its amount again
        await expect(ana.get("order-amount")).to_be_editable()
        await ana.get("by-items").click()
        await ana.get("item-sku").fill("rope")
        await ana.get("item-price").fill("7.5")
        await ana.get("submit-order").click()
        await expect(ana.get("order-O-7")).to_be_visible()
        (order,) = [data for action, data in stage.asked if action == "order.submit"]
        assert order["items"] == [{"sku": "rope", "quantity": 1, "unit_price": "7.50"}]


async def test_the_hint_fits_what_is_wrong_with_an_amount(browser: Browser) -> None:
    async with at_home(browser, empty) as (ana, _):
        for amount, hint in {
            "99999999999999": "An amount may be 9999999999999.99 at most.",
            "9999999999999,991": "Give an amount such as 99.90, or add items.",
            "ten": "Give an amount such as 99.90, or add items.",
        }.items():
            await ana.get("order-amount").fill(amount)
            await ana.get("submit-order").click()
            await expect(ana.get("order-problem")).to_have_text(hint)
        await ana.get("backend-order").fill("O-1")
        await ana.get("backend-event").select_option("order.refunded")
        await ana.get("backend-amount").fill("1" * 30)
        await ana.get("backend-publish").click()
        await expect(ana.get("backend-problem")).to_contain_text("9999999999999.99 at most")


async def test_services_that_are_not_there_have_no_panels(browser: Browser) -> None:
    async with at_home(browser) as (ana, stage):
        await at(ana, "#/chat/harbour")
        await eventually(
            lambda: {"inventory.list", "notification.list"} <= {action for action, _ in stage.asked}
        )
        await expect(ana.get("bell")).to_have_count(0)
        await expect(ana.get("stock")).to_have_count(0)
        await expect(ana.get("notice")).to_have_count(0)
