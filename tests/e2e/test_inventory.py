"""Inventory and orders together: a saga over two services, as the person who ordered sees it."""

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import pytest
import pytest_asyncio

from towpath.testkit.client import Frame, WireClient
from towpath.testkit.eventually import eventually
from towpath.testkit.processes import Processes
from towpath.testkit.rabbitmq import Rabbit
from towpath.testkit.system import System, url_of
from towpath.testkit.tokens import SECRET, a_token

from ..snippets import ROOT, blocks_of
from .test_orders import publish_as_another_backend

in_one_loop = pytest.mark.asyncio(loop_scope="module")

#: The scope of a token that may set stock.
CLERK: Final = "inventory inventory:write"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shop(shared_system: System) -> System:
    """The shared system, and the inventory."""
    await shared_system.launch_service("inventory").ready()
    return shared_system


@contextlib.asynccontextmanager
async def clerk(system: System) -> AsyncIterator[WireClient]:
    """A user who may set stock."""
    async with WireClient.connect(system.urls[0], token=a_token("clerk", scope=CLERK)) as client:
        yield client


async def set_stock(system: System, **counted: int) -> None:
    async with clerk(system) as client:
        for sku, on_hand in counted.items():
            answer = await client.request("inventory.set", {"sku": sku, "on_hand": on_hand})
            assert answer["action"] == "inventory.set.ok", answer


async def submit(client: WireClient, order_id: str, **quantities: int) -> Frame:
    items = [{"sku": sku, "quantity": count, "unit_price": "1.00"} for sku, count in quantities.items()]
    return await client.request("order.submit", {"order_id": order_id, "items": items})


async def moved_to(client: WireClient, order_id: str, *statuses: str) -> Frame:
    """Wait for the push of one of these states of an order."""
    return await client.find(
        lambda frame: (
            frame["action"] == "order.updated"
            and frame["data"]["order_id"] == order_id
            and frame["data"]["status"] in statuses
        )
    )


def statuses_seen(client: WireClient, order_id: str) -> list[str]:
    """The states of an order in the pushes so far."""
    updates = (frame["data"] for frame in client.pushes("order.updated"))
    return [data["status"] for data in updates if data["order_id"] == order_id]


async def stock(client: WireClient, sku: str) -> tuple[int, int, int]:
    """How many are on hand, reserved and available."""
    data = (await client.request("inventory.get", {"sku": sku}))["data"]
    return data["on_hand"], data["reserved"], data["available"]


@in_one_loop
async def test_an_order_is_reserved_confirmed_paid_and_shipped_and_each_step_is_pushed_once(
    shop: System,
) -> None:
    await set_stock(shop, anvil=3)
    async with shop.connect("ana", 0) as phone, shop.connect("ana", 1) as laptop:
        await phone.request("inventory.watch", {"sku": "anvil"})
        assert (await submit(phone, "A-1", anvil=2))["action"] == "order.submit.ok"
        await moved_to(phone, "A-1", "confirmed")
        for event in ("order.paid", "order.packed", "order.shipped"):
            await publish_as_another_backend(shop.rabbitmq.url, event, order_id="A-1", user_id="ana")
            await moved_to(phone, "A-1", event.removeprefix("order."))
        steps = ["submitted", "confirmed", "paid", "packed", "shipped"]
        for client in (phone, laptop):
            await moved_to(client, "A-1", "shipped")
            await client.find(lambda frame: frame["data"].get("on_hand") == 1)
            assert statuses_seen(client, "A-1") == steps
            # The watch holds for all connections of the user.
            pushes = [
                (frame["seq"], frame["data"]["on_hand"], frame["data"]["reserved"])
                for frame in client.pushes("inventory.updated")
            ]
            assert pushes == [(2, 3, 2), (3, 1, 0)]
        assert await stock(phone, "anvil") == (1, 0, 1)


@in_one_loop
async def test_an_order_of_more_than_there_is_is_rejected_and_its_owner_sees_the_reason(
    shop: System,
) -> None:
    await set_stock(shop, bolt=1)
    async with shop.connect("ben", 1) as ben:
        await submit(ben, "B-1", bolt=2)
        push = await moved_to(ben, "B-1", "rejected")
        why = {"reason": "out_of_stock", "skus": ["bolt"], "text": "Out of stock: bolt"}
        assert push["data"]["detail"] == why
        assert (await ben.request("order.get", {"order_id": "B-1"}))["data"]["detail"] == why
        assert await stock(ben, "bolt") == (1, 0, 1)


@in_one_loop
async def test_goods_of_a_cancelled_order_go_to_the_next_one(shop: System) -> None:
    await set_stock(shop, crate=1)
    async with shop.connect("ana", 0) as ana, shop.connect("ben", 1) as ben:
        await ben.request("inventory.watch", {"sku": "crate"})
        await submit(ana, "C-1", crate=1)
        await moved_to(ana, "C-1", "confirmed")
        await ana.request("order.cancel", {"order_id": "C-1"})
        await ben.find(lambda frame: frame["action"] == "inventory.updated" and frame["seq"] == 3)
        await submit(ben, "C-2", crate=1)
        await moved_to(ben, "C-2", "confirmed")
        assert statuses_seen(ana, "C-1") == ["submitted", "confirmed", "cancelled"]


@in_one_loop
async def test_an_order_that_is_not_a_matter_of_the_inventory_stays_as_it_was(shop: System) -> None:
    await set_stock(shop, drill=1)
    async with shop.connect("cyd", 0) as cyd:
        await submit(cyd, "D-1", feather=9)
        await cyd.request("order.submit", {"order_id": "D-2", "amount": "5.00"})
        # Events come in the order in which they were published: the decision on a later order is the last.
        await submit(cyd, "D-3", drill=1)
        await moved_to(cyd, "D-3", "confirmed")
        assert statuses_seen(cyd, "D-1") == statuses_seen(cyd, "D-2") == ["submitted"]


@in_one_loop
async def test_a_user_who_reconnects_gets_pushes_of_the_items_still_watched_and_of_rooms(
    shop: System,
) -> None:
    await set_stock(shop, easel=1, fan=1)
    async with shop.connect("dov", 0) as dov:
        await dov.request("chat.join", {"room": "easels"}, key="easels")
        for sku in ("easel", "fan"):
            await dov.request("inventory.watch", {"sku": sku})
        await dov.request("inventory.unwatch", {"sku": "fan"})
    async with shop.connect("dov", 1) as dov, clerk(shop) as counting:
        positions = {"inventory:easel": 1, "inventory:fan": 1}
        streams = (await dov.request("inventory.resume", {"positions": positions}))["data"]["streams"]
        assert streams == {
            "inventory:easel": {"seq": 1, "complete": True},
            "inventory:fan": {"seq": 1, "complete": False},
        }
        await dov.request("chat.resume", {"positions": {"chat:easels": 1}})
        for sku, on_hand in (("fan", 7), ("easel", 8)):
            await counting.request("inventory.set", {"sku": sku, "on_hand": on_hand})
        await dov.request("chat.send", {"room": "easels", "text": "Eight of them!"}, key="easels")
        assert (await dov.next("inventory.updated"))["data"]["on_hand"] == 8
        assert (await dov.next("chat.message"))["data"]["text"] == "Eight of them!"
        await dov.request("ping")
        assert len(dov.pushes("inventory.updated")) == 1


@in_one_loop
@pytest.mark.parametrize(
    ("scope", "code"),
    [(None, "forbidden"), ("inventory order", "forbidden"), ("inventory:write", "forbidden"), (CLERK, None)],
)
async def test_a_token_sets_stock_only_if_it_names_domain_and_right(
    shop: System, scope: str | None, code: str | None
) -> None:
    token = a_token("eve", scope=scope)
    async with WireClient.connect(shop.urls[0], token=token) as eve:
        answer = await eve.request("inventory.set", {"sku": "gate", "on_hand": 1})
        assert answer["data"].get("code") == code


@in_one_loop
async def test_the_operators_page_sets_stock_as_it_says(shop: System, tmp_path: Path) -> None:
    page = (ROOT / "docs/operations/inventory.md").read_text()
    (sh,), (python,), (console,) = (blocks_of(page, language) for language in ("sh", "python", "console"))
    (tmp_path / "count.py").write_text(python.text)
    command, _, printed = console.text.removeprefix("$ ").partition("\n")
    command = command.replace("ws://127.0.0.1:8080/ws", shop.urls[0])
    running = await asyncio.create_subprocess_exec(
        *("sh", "-euc", f"{sh.text}\n{command}"),
        cwd=tmp_path,
        env={
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "TOWPATH_AUTH_SECRET": SECRET,
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(60):
        output, _ = await running.communicate()
    # Another test of this module has counted anvils before.
    assert output.decode() == printed


async def test_fifty_orders_for_the_last_item_at_two_replicas_of_each_service_confirm_one(
    rabbitmq: Rabbit, processes: Processes, tmp_path: Path, database_url: str
) -> None:
    system = System(rabbitmq, processes, tmp_path, reconnect_max=1.0)
    system.gateways = [system.launch_gateway()]
    url = database_url.replace("+asyncpg", "").replace("+aiosqlite", "")
    names = ("orders", "orders", "inventory", "inventory")
    replicas = [system.launch_service(name, database_url=url) for name in names]
    await asyncio.gather(*(process.ready(timeout=60) for process in (*system.gateways, *replicas)))
    await set_stock(system, anvil=1)
    async with contextlib.AsyncExitStack() as stack:
        watcher = await stack.enter_async_context(system.connect("watcher"))
        await watcher.request("inventory.watch", {"sku": "anvil"})
        people = [
            await stack.enter_async_context(
                WireClient.connect(url_of(system.gateways[0]), token=a_token(f"user-{number}"))
            )
            for number in range(50)
        ]

        async def order(person: WireClient) -> dict[str, Any]:
            assert (await submit(person, "O-1", anvil=1))["action"] == "order.submit.ok"
            decided = await moved_to(person, "O-1", "confirmed", "rejected")
            data: dict[str, Any] = decided["data"]
            return data

        decided = await asyncio.gather(*map(order, people))
        statuses = [data["status"] for data in decided]
        assert (statuses.count("confirmed"), statuses.count("rejected")) == (1, 49)
        reasons = {data["detail"]["reason"] for data in decided if data["status"] == "rejected"}
        assert reasons == {"out_of_stock"}
        assert await stock(watcher, "anvil") == (1, 1, 0)
        await eventually(lambda: watcher.pushes("inventory.updated"))
        assert [push["data"]["available"] for push in watcher.pushes("inventory.updated")] == [0]
        # Each got each step once.
        for person in people:
            await person.request("ping")
            assert len(statuses_seen(person, "O-1")) == 2
