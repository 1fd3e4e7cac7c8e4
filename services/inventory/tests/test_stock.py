"""The actions of the inventory, as users see them."""

from typing import Any

import pytest

from towpath.inventory.app import configured
from towpath.inventory.settings import InventorySettings
from towpath.inventory.tables import STOCK, STREAMS, WATCHES
from towpath.testkit.dispatching import Incoming, ServiceUnderTest, a_command, an_event

from .stockroom import WRITER, a_set, created


def session_started(user: str = "ana", connection: str = "c-9") -> Incoming:
    return an_event("session.started", user_id=user, connection_id=connection, gateway_id="gw-1")


class TestSetting:
    async def test_stock_is_set_answered_and_pushed(self, inventory: ServiceUnderTest) -> None:
        await inventory.dispatch(a_set("anvil", 5, msg_id="m-1"))
        state = {"sku": "anvil", "on_hand": 5, "reserved": 0, "available": 5, "revision": 1}
        assert inventory.answer("m-1").data == state | {"seq": 1}
        (push,) = inventory.pushes("group.inventory:anvil")
        assert (push.data, push.stream, push.seq) == (state, "inventory:anvil", 1)

    @pytest.mark.parametrize("scope", [None, "inventory", "order inventory"])
    async def test_it_needs_a_right_that_the_token_names(
        self, inventory: ServiceUnderTest, scope: str | None
    ) -> None:
        await inventory.dispatch(a_set("anvil", 5))
        inventory.forget()
        await inventory.dispatch(
            a_set("anvil", 9, msg_id="m-1", scope=scope), a_set("new", 9, msg_id="m-2", scope=scope)
        )
        assert [inventory.error(msg_id) for msg_id in ("m-1", "m-2")] == ["forbidden", "forbidden"]
        assert "'inventory:write'" in inventory.answer("m-1").data["message"]
        assert inventory.pushes() == []
        assert [(row.sku, row.on_hand) for row in await inventory.rows(STOCK)] == [("anvil", 5)]
        assert [row.stream for row in await inventory.rows(STREAMS.heads)] == ["inventory:anvil"]

    async def test_the_same_number_again_is_answered_and_not_pushed(
        self, inventory: ServiceUnderTest
    ) -> None:
        await inventory.dispatch(a_set("anvil", 5), a_set("anvil", 5, msg_id="m-2"))
        assert inventory.answer("m-2").data["revision"] == 1
        assert len(inventory.pushes()) == 1

    async def test_fewer_than_are_reserved_is_a_conflict_and_changes_nothing(
        self, inventory: ServiceUnderTest
    ) -> None:
        await inventory.dispatch(a_set("anvil", 5), created("O-1", anvil=3))
        await inventory.dispatch(a_set("anvil", 2, msg_id="m-1"))
        assert inventory.error("m-1") == "conflict"
        assert [(row.on_hand, row.reserved) for row in await inventory.rows(STOCK)] == [(5, 3)]

    @pytest.mark.parametrize(
        "data",
        [
            {"sku": "", "on_hand": 1},
            {"sku": "x" * 65, "on_hand": 1},
            {"sku": "two\nlines", "on_hand": 1},
            {"sku": "\U0001f4a0" * 64, "on_hand": 1},
            {"sku": "anvil", "on_hand": -1},
            {"sku": "anvil", "on_hand": 1.5},
            {"sku": "anvil", "on_hand": 1_000_000_001},
            {"sku": "anvil"},
        ],
    )
    async def test_invalid_stock_is_refused(self, inventory: ServiceUnderTest, data: dict[str, Any]) -> None:
        await inventory.dispatch(a_command("inventory.set", scope=WRITER, msg_id="m-1", **data))
        assert inventory.error("m-1") == "invalid_data"


class TestReading:
    async def test_an_item_that_was_never_set_is_not_there(self, inventory: ServiceUnderTest) -> None:
        await inventory.dispatch(
            a_command("inventory.get", sku="anvil", msg_id="m-1"),
            a_command("inventory.watch", sku="anvil", msg_id="m-2"),
        )
        assert [inventory.error(msg_id) for msg_id in ("m-1", "m-2")] == ["not_found", "not_found"]
        assert await inventory.rows(WATCHES) == []

    async def test_a_list_has_each_item_once_with_its_position(self, inventory: ServiceUnderTest) -> None:
        names = [f"item-{number}" for number in range(5)]
        await inventory.dispatch(*(a_set(name, number) for number, name in enumerate(names)))
        await inventory.dispatch(a_set("item-3", 7))
        found, cursor, pages = [], None, 0
        while pages == 0 or cursor is not None:
            pages += 1
            more: dict[str, Any] = {} if cursor is None else {"cursor": cursor}
            await inventory.dispatch(a_command("inventory.list", limit=2, msg_id=f"p-{pages}", **more))
            page = inventory.answer(f"p-{pages}").data
            found += page["items"]
            cursor = page.get("cursor")
        assert pages == 3
        assert [(item["sku"], item["on_hand"], item["seq"]) for item in found] == [
            ("item-0", 0, 1),
            ("item-1", 1, 1),
            ("item-2", 2, 1),
            ("item-3", 7, 2),
            ("item-4", 4, 1),
        ]


class TestWatching:
    async def test_a_watching_user_is_in_the_group_of_the_item_from_the_answered_position_on(
        self, inventory: ServiceUnderTest
    ) -> None:
        await inventory.dispatch(a_set("anvil", 5))
        await inventory.dispatch(a_command("inventory.watch", by="ana", sku="anvil", msg_id="m-1"))
        assert inventory.answer("m-1").data["seq"] == 1
        assert inventory.groups() == {"inventory:anvil"}

    async def test_changes_after_the_answered_state_are_replayed_to_a_late_subscription(
        self, inventory: ServiceUnderTest
    ) -> None:
        watching = a_command("inventory.watch", by="ana", sku="anvil", msg_id="m-1")
        await inventory.dispatch(a_set("anvil", 5))
        await inventory.dispatch(watching)
        await inventory.dispatch(a_set("anvil", 6))
        inventory.forget()
        # The service died before it could publish the subscription: the broker delivers the request again.
        await inventory.dispatch(watching, redelivered=True)
        assert inventory.answer("m-1").data["seq"] == 1
        assert [entry.data["on_hand"] for entry in inventory.replayed()] == [6]

    async def test_a_new_connection_is_in_the_groups_of_all_that_its_user_watches(
        self, inventory: ServiceUnderTest
    ) -> None:
        await inventory.dispatch(*(a_set(sku, 1) for sku in ("anvil", "bolt", "crate")))
        for sku in ("anvil", "crate"):
            await inventory.dispatch(a_command("inventory.watch", by="ana", sku=sku))
        await inventory.dispatch(session_started("ana", "c-9"), session_started("ben", "c-8"))
        assert inventory.groups("c-9") == {"inventory:anvil", "inventory:crate"}
        assert inventory.groups("c-8") == set()
        assert inventory.directed("c-8")[-1].complete, "also an empty list is complete"

    async def test_a_user_who_unwatches_leaves_the_group_on_all_connections(
        self, inventory: ServiceUnderTest
    ) -> None:
        await inventory.dispatch(a_set("anvil", 1))
        await inventory.dispatch(a_command("inventory.watch", by="ana", sku="anvil"))
        await inventory.dispatch(a_command("inventory.watch", by="ana", on="c-2", sku="anvil"))
        await inventory.dispatch(a_command("inventory.unwatch", by="ana", sku="anvil", msg_id="m-1"))
        assert inventory.answer("m-1").data == {"sku": "anvil"}
        assert inventory.groups("c-1", user="ana") == inventory.groups("c-2", user="ana") == set()
        assert await inventory.rows(WATCHES) == []

    async def test_a_user_watches_so_many_items_as_the_limit_allows(self, database_url: str) -> None:
        settings = InventorySettings(amqp_url="memory://", watches_per_user=2)
        async with ServiceUnderTest.running(configured(settings), database_url) as inventory:
            await inventory.dispatch(*(a_set(sku, 1) for sku in "abcd"))
            await inventory.dispatch(
                *(a_command("inventory.watch", by="ana", sku=sku, msg_id=f"w-{sku}") for sku in "aabc")
            )
            assert inventory.error("w-c") == "conflict"
            assert "the limit is 2: unwatch one first" in inventory.answer("w-c").data["message"]
            await inventory.dispatch(
                a_command("inventory.unwatch", by="ana", sku="a"),
                a_command("inventory.watch", by="ana", sku="c", msg_id="again"),
                a_command("inventory.watch", by="ben", sku="d", msg_id="ben"),
            )
            assert inventory.answer("again").action == "inventory.watch.ok"
            assert sorted((row.user_id, row.sku) for row in await inventory.rows(WATCHES)) == [
                ("ana", "b"),
                ("ana", "c"),
                ("ben", "d"),
            ]

    async def test_resuming_replays_what_one_watches_and_reveals_nothing_of_the_rest(
        self, inventory: ServiceUnderTest
    ) -> None:
        await inventory.dispatch(a_set("anvil", 1), a_set("bolt", 1))
        await inventory.dispatch(a_command("inventory.watch", by="ana", sku="anvil"))
        await inventory.dispatch(a_set("anvil", 2), a_set("anvil", 3), a_set("bolt", 2))
        positions = {"inventory:anvil": 1, "inventory:bolt": 1}
        inventory.forget()
        await inventory.dispatch(
            a_command("inventory.resume", by="ana", on="c-2", positions=positions, msg_id="m-1")
        )
        assert [entry.data["on_hand"] for entry in inventory.replayed("c-2")] == [2, 3]
        assert inventory.answer("m-1").data["streams"] == {
            "inventory:anvil": {"seq": 3, "complete": True},
            "inventory:bolt": {"seq": 1, "complete": False},
        }
        assert inventory.groups("c-2") == {"inventory:anvil"}
