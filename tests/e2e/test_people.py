"""Owners and blocks on two gateways and two replicas of chat, on the wire and on the page."""

from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, expect

from towpath.testkit.client import Frame, WireClient
from towpath.testkit.eventually import eventually
from towpath.testkit.processes import Processes
from towpath.testkit.system import System
from towpath.testkit.visitor import Visitor

PICTURES = Path(__file__).parents[2] / "test-results"
PHONE: dict[str, Any] = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}


@pytest.fixture(scope="module")
def processes(shared_processes: Processes) -> Processes:
    return shared_processes


@pytest.fixture(scope="module")
def system(shared_system: System, processes: Processes) -> System:
    return shared_system


async def ask(client: WireClient, action: str, **data: Any) -> Frame:
    """The data of the answer, also of an error."""
    answer: Frame = await client.request(action, data, key=data.get("room"))
    told: Frame = answer["data"]
    return told


def of_room(client: WireClient, room: str) -> list[Frame]:
    """The pushes of a room that a client has got."""
    return [
        frame
        for frame in client.frames
        if "correlation_id" not in frame and frame.get("data", {}).get("room") == room
    ]


async def in_room(room: str, owner: WireClient, *others: tuple[str, WireClient]) -> None:
    await ask(owner, "chat.create", room=room, private=True)
    for user, client in others:
        await ask(owner, "chat.invite", room=room, user=user)
        assert (await ask(client, "chat.join", room=room))["room"] == room


async def test_a_removed_member_gets_nothing_on_any_gateway(system: System) -> None:
    async with (
        system.connect("ann", 0) as ann,
        system.connect("bea", 0) as here,
        system.connect("bea", 1) as there,
        system.connect("cid", 1) as cid,
    ):
        await in_room("vault", ann, ("bea", here), ("cid", cid))
        await ask(there, "chat.resume", positions={"chat:vault": 0})
        assert await ask(ann, "chat.remove", room="vault", user="bea") == {"room": "vault", "user": "bea"}
        await ask(ann, "chat.send", room="vault", text="a secret")
        assert (await cid.next("chat.message"))["data"]["text"] == "a secret"
        for client in (here, there):
            left = await client.next("chat.left")
            assert (left["data"]["user"], left["data"]["by"]) == ("bea", "ann")
            assert (await ask(client, "chat.history", room="vault"))["code"] == "forbidden"
            answer = await ask(client, "chat.resume", positions={"chat:vault": 1})
            assert answer == {"streams": {"chat:vault": {"seq": 1, "complete": False}}}
            assert of_room(client, "vault")[-1]["action"] == "chat.left"


async def test_a_dropped_room_is_gone_on_every_gateway_and_its_name_is_free(system: System) -> None:
    async with (
        system.connect("dot", 0) as dot,
        system.connect("eli", 1) as eli,
        system.connect("fay", 0) as fay,
    ):
        await in_room("cellar", dot, ("eli", eli))
        await ask(dot, "chat.transfer", room="cellar", user="eli")
        assert (await dot.next("chat.owner"))["data"]["user"] == "eli"
        assert (await ask(dot, "chat.drop", room="cellar"))["code"] == "forbidden"
        assert await ask(eli, "chat.drop", room="cellar") == {"room": "cellar"}
        for client in (dot, eli):
            assert (await client.next("chat.dropped"))["data"] == {"room": "cellar", "by": "eli"}
        await ask(fay, "chat.create", room="cellar", private=True)
        await ask(fay, "chat.send", room="cellar", text="a secret")
        for client in (dot, eli):
            assert (await ask(client, "chat.history", room="cellar"))["code"] == "forbidden"
            assert of_room(client, "cellar")[-1]["action"] == "chat.dropped"


async def test_a_blocked_sender_sees_nothing_of_it_and_the_reader_nothing_of_the_sender(
    system: System,
) -> None:
    async with system.connect("gus", 0) as gus, system.connect("hal", 1) as hal:
        room = "dm:gus:hal"
        await ask(gus, "chat.direct", to="hal", text="before")
        await hal.next("chat.message")
        assert await ask(hal, "chat.block", user="gus") == {"user": "gus"}
        sent = await ask(gus, "chat.direct", to="hal", text="hidden")
        assert sent.keys() == {"room", "seq", "sent_at"}
        await eventually(lambda: len(gus.pushes("chat.message")) == 2)
        await ask(gus, "chat.typing", room=room)
        assert [one["text"] for one in (await ask(gus, "chat.history", room=room))["messages"]] == [
            "before",
            "hidden",
        ]
        await ask(hal, "chat.unblock", user="gus")
        await ask(gus, "chat.direct", to="hal", text="after")
        await eventually(lambda: len(hal.pushes("chat.message")) == 2)
        # The reader sees a hole in the stream, and resumes: the hidden message fills it, without its text.
        answer = await ask(hal, "chat.resume", positions={f"chat:{room}": 1})
        assert answer == {"streams": {f"chat:{room}": {"seq": 3, "complete": True}}}
        replayed = hal.pushes("chat.message")[2:]
        assert [(push["seq"], push["data"]["text"]) for push in replayed] == [(2, ""), (3, "after")]
        assert hal.pushes("chat.typing") == []
        assert "hidden" not in [push["data"]["text"] for push in hal.pushes("chat.message")]


async def test_the_page_has_owners_and_blocks(browser: Browser, page_url: str) -> None:
    PICTURES.mkdir(exist_ok=True)
    async with (
        Visitor.sign_in(browser, page_url, "ina", gateway=0) as ina,
        Visitor.sign_in(browser, page_url, "jon", gateway=1) as jon,
    ):
        await ina.get("new-room").click()
        await ina.get("new-room-name").fill("loft")
        await ina.get("new-room-private").check()
        await ina.get("create-room").click()
        await expect(ina.get("room-title")).to_contain_text("loft")
        await invites(ina, "jon")
        await jon.get("decline-loft").click()
        await expect(jon.get("invitations")).to_have_count(0)
        await invites(ina, "jon")
        await jon.get("accept-loft").click()
        await jon.says("is it warm up there?")
        await expect(ina.get("message")).to_have_count(1)

        # A block hides what jon says from ina, and only from her.
        await ina.get("show-members").click()
        await expect(ina.get("member-ina")).to_contain_text("owner")
        await ina.page.screenshot(path=PICTURES / "page-members.png")
        await ina.get("block-jon").click()
        await ina.page.screenshot(path=PICTURES / "page-members-asked.png")
        await ina.get("block-jon-go").click()
        await expect(ina.get("member-jon")).to_contain_text("blocked")
        await ina.page.keyboard.press("Escape")
        await expect(ina.get("blocked-text")).to_have_count(1)
        await jon.says("hello?")
        await expect(ina.get("blocked-text")).to_have_count(2)
        await expect(jon.get("message")).to_have_count(2)
        await ina.page.screenshot(path=PICTURES / "page-blocked.png")
        await ina.get("menu").click()
        await ina.page.screenshot(path=PICTURES / "page-menu-blocked.png")
        await ina.get("menu-unblock-jon").click()
        await ina.page.keyboard.press("Escape")
        await expect(ina.get("blocked-text")).to_have_count(0)

        # Hand it over, be removed, see it deleted.
        await ina.get("show-members").click()
        await ina.get("transfer-jon").click()
        await ina.get("transfer-jon-go").click()
        await expect(ina.get("member-jon")).to_contain_text("owner")
        await ina.page.keyboard.press("Escape")
        await jon.get("show-members").click()
        await jon.get("remove-ina").click()
        await jon.get("remove-ina-go").click()
        await expect(ina.get("room-loft")).to_have_count(0)
        await expect(jon.get("member-ina")).to_have_count(0)
        await jon.get("drop-room").click()
        await jon.get("confirm-go").click()
        await expect(jon.get("room-loft")).to_have_count(0)


async def test_members_fit_on_a_phone(browser: Browser, page_url: str) -> None:
    PICTURES.mkdir(exist_ok=True)
    async with (
        Visitor.sign_in(browser, page_url, "kim", **PHONE) as kim,
        Visitor.sign_in(browser, page_url, "leo-with-a-rather-long-name\u202e-indeed") as leo,
    ):
        await kim.get("new-room").click()
        await kim.get("new-room-name").fill("attic")
        await kim.get("new-room-private").check()
        await kim.get("create-room").click()
        await expect(kim.get("room-title")).to_contain_text("attic")
        await invites(kim, "leo-with-a-rather-long-name\u202e-indeed")
        await leo.get("accept-attic").click()
        await kim.get("show-members").click()
        await expect(kim.get("members")).to_contain_text("⟨U+202E⟩")
        width = await kim.page.evaluate("document.querySelector('dialog[open]').scrollWidth")
        shown = await kim.page.evaluate("document.querySelector('dialog[open]').clientWidth")
        await kim.page.screenshot(path=PICTURES / "page-members-phone.png")
        assert width <= shown


async def invites(visitor: Visitor, user: str) -> None:
    await visitor.get("show-members").click()
    await visitor.get("invite-user").fill(user)
    await visitor.get("invite").click()
    await expect(visitor.page.get_by_role("status").filter(has_text="invited")).to_have_count(1)
    await visitor.page.keyboard.press("Escape")
