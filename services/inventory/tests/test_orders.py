"""The effect of order events on the stock, and the events that follow."""

import asyncio

import pytest

from towpath.inventory.app import INVENTORY, configured
from towpath.inventory.retention import STEP, EndedReservations
from towpath.inventory.settings import InventorySettings
from towpath.inventory.tables import RESERVATIONS, STOCK
from towpath.protocol.envelope import now_ms
from towpath.testkit.dispatching import ServiceUnderTest, counted_statements

from .stockroom import a_set, created, moved, stock, undecided


async def reservations(inventory: ServiceUnderTest) -> dict[str, str]:
    return {row.order_id: row.state for row in await inventory.rows(RESERVATIONS)}


class TestReserving:
    async def test_an_order_is_confirmed_and_those_who_watch_get_a_push(
        self, inventory: ServiceUnderTest
    ) -> None:
        await inventory.dispatch(a_set("anvil", 5))
        inventory.forget()
        await inventory.dispatch(created("O-1", anvil=2))
        (event,) = inventory.events()
        assert (event.action, event.data) == ("order.confirmed", {"order_id": "O-1", "user_id": "ana"})
        (push,) = inventory.pushes("group.inventory:anvil")
        assert (push.action, push.stream, push.seq) == ("inventory.updated", "inventory:anvil", 2)
        assert push.data == {"sku": "anvil", "on_hand": 5, "reserved": 2, "available": 3, "revision": 2}

    async def test_an_order_of_more_than_there_is_is_rejected_and_names_the_items(
        self, inventory: ServiceUnderTest
    ) -> None:
        await inventory.dispatch(a_set("anvil", 1), a_set("bolt", 5))
        inventory.forget()
        await inventory.dispatch(created("O-1", anvil=2, bolt=1))
        (event,) = inventory.events()
        assert (event.action, event.data["reason"]) == ("order.rejected", "out_of_stock")
        assert event.data["detail"] == {
            "reason": "out_of_stock",
            "skus": ["anvil"],
            "text": "Out of stock: anvil",
        }
        assert inventory.pushes() == []
        assert await stock(inventory, "bolt") == (5, 0, 5)

    async def test_an_order_without_a_tracked_item_is_not_answered(self, inventory: ServiceUnderTest) -> None:
        await inventory.dispatch(created("O-1", feather=1), moved("created", "O-2", amount="5.00"))
        assert (inventory.events(), inventory.pushes(), inventory.parked()) == ([], [], [])
        # An order without items leaves no row either.
        assert await reservations(inventory) == {"O-1": "untracked"}
        await inventory.dispatch(a_set("feather", 1), created("O-1", feather=1))
        assert inventory.events() == []

    async def test_an_item_is_tracked_once_it_is_set_also_within_one_batch(
        self, inventory: ServiceUnderTest
    ) -> None:
        await inventory.dispatch(a_set("anvil", 0), created("O-1", anvil=1))
        assert [event.action for event in inventory.events()] == ["order.rejected"]

    async def test_an_order_is_one_of_its_owner(self, inventory: ServiceUnderTest) -> None:
        await inventory.dispatch(
            a_set("anvil", 2), created("O-1", "ana", anvil=1), created("O-1", "ben", anvil=1)
        )
        assert [event.data["user_id"] for event in inventory.events()] == ["ana", "ben"]
        await inventory.dispatch(moved("cancelled", "O-1", "ben"))
        assert await stock(inventory, "anvil") == (2, 1, 1)

    async def test_orders_of_other_backends_reserve_too_and_prices_do_not_matter(
        self, inventory: ServiceUnderTest
    ) -> None:
        items = [{"sku": "anvil", "quantity": 1}]
        await inventory.dispatch(a_set("anvil", 1), moved("created", "X-1", items=items))
        assert [event.action for event in inventory.events()] == ["order.confirmed"]

    async def test_an_unreadable_order_is_parked_with_its_reason(self, inventory: ServiceUnderTest) -> None:
        await inventory.dispatch(
            moved("created", "O-1", items=[{"sku": "anvil", "quantity": 0}]), created("O-2", anvil=1)
        )
        (reason,) = inventory.parked()
        assert "items.0.quantity" in reason
        assert await reservations(inventory) == {"O-2": "untracked"}

    async def test_where_the_rules_say_so_unknown_items_are_rejected(self, database_url: str) -> None:
        settings = InventorySettings(amqp_url="memory://", inventory_untracked="reject")
        async with ServiceUnderTest.running(configured(settings), database_url) as inventory:
            await inventory.dispatch(created("O-1", feather=1), moved("created", "O-2", amount="5.00"))
            (event,) = inventory.events()
            assert (event.data["order_id"], event.data["reason"]) == ("O-1", "unknown_item")
            assert event.data["detail"]["text"] == "Not in the inventory: feather"


class TestOnce:
    async def test_a_redelivered_order_reserves_once_and_publishes_the_same_bytes(
        self, inventory: ServiceUnderTest
    ) -> None:
        await inventory.dispatch(a_set("anvil", 5))
        inventory.forget()
        order = created("O-1", anvil=2)
        await inventory.dispatch(order)
        first = list(inventory.heard)
        inventory.forget()
        await inventory.dispatch(order, redelivered=True)
        assert sorted(map(str, inventory.heard)) == sorted(map(str, first))
        assert await stock(inventory, "anvil") == (5, 2, 3)

    async def test_an_undecided_order_is_decided_again_and_reserved_once(
        self, inventory: ServiceUnderTest
    ) -> None:
        await inventory.dispatch(a_set("anvil", 5), created("O-1", anvil=2), created("O-2", anvil=9))
        first = [(event.action, event.data) for event in inventory.events()]
        inventory.forget()
        await inventory.dispatch(undecided("O-1", anvil=2), undecided("O-2", anvil=9))
        assert [(event.action, event.data) for event in inventory.events()] == first
        await inventory.dispatch(undecided("O-3", anvil=1), undecided("O-4"))
        assert [event.data["order_id"] for event in inventory.events()] == ["O-1", "O-2", "O-3"]
        assert await stock(inventory, "anvil") == (5, 3, 2)

    @pytest.mark.parametrize("together", [True, False])
    async def test_a_repeated_creation_of_another_sender_does_nothing(
        self, inventory: ServiceUnderTest, together: bool
    ) -> None:
        repeated = created("O-1", anvil=2), created("O-1", anvil=3)
        await inventory.dispatch(a_set("anvil", 5))
        for batch in [repeated] if together else [(one,) for one in repeated]:
            await inventory.dispatch(*batch)
        assert len(inventory.events()) == 1
        assert await stock(inventory, "anvil") == (5, 2, 3)


class TestEnding:
    @pytest.mark.parametrize("event", ["cancelled", "rejected"])
    async def test_goods_of_an_order_that_ended_are_available_again_once(
        self, inventory: ServiceUnderTest, event: str
    ) -> None:
        await inventory.dispatch(a_set("anvil", 5), created("O-1", anvil=2))
        inventory.forget()
        await inventory.dispatch(moved(event, "O-1"))
        await inventory.dispatch(moved("cancelled", "O-1"), moved("rejected", "O-1"), created("O-1", anvil=2))
        assert await stock(inventory, "anvil") == (5, 0, 5)
        assert [push.seq for push in inventory.pushes("group.inventory:anvil")] == [3]
        assert inventory.events() == []

    @pytest.mark.parametrize("together", [True, False])
    async def test_an_order_that_is_cancelled_before_its_creation_is_known_reserves_nothing(
        self, inventory: ServiceUnderTest, together: bool
    ) -> None:
        events = moved("cancelled", "O-1"), created("O-1", anvil=2)
        await inventory.dispatch(a_set("anvil", 5))
        for batch in [events] if together else [(one,) for one in events]:
            await inventory.dispatch(*batch)
        assert inventory.events() == []
        assert await stock(inventory, "anvil") == (5, 0, 5)

    @pytest.mark.parametrize("event", ["shipped", "delivered"])
    async def test_goods_that_have_left_are_gone_once_and_never_return(
        self, inventory: ServiceUnderTest, event: str
    ) -> None:
        await inventory.dispatch(a_set("anvil", 5), created("O-1", anvil=2))
        await inventory.dispatch(moved(event, "O-1"))
        await inventory.dispatch(moved("delivered", "O-1"), moved("cancelled", "O-1"))
        assert await stock(inventory, "anvil") == (3, 0, 3)

    async def test_ended_reservations_are_deleted_after_their_time_and_no_other(
        self, inventory: ServiceUnderTest
    ) -> None:
        await inventory.dispatch(a_set("anvil", 5), created("O-1", anvil=1), created("O-2", anvil=1))
        await inventory.dispatch(moved("cancelled", "O-1"))
        now = now_ms()
        ended = EndedReservations(60.0, clock=lambda: now)
        assert not await inventory.turn(ended.forget)
        assert await reservations(inventory) == {"O-1": "released", "O-2": "reserved"}
        now += 3_600_000
        await inventory.turn(ended.forget)
        assert await reservations(inventory) == {"O-2": "reserved"}

    async def test_many_ended_reservations_are_deleted_in_steps(self, inventory: ServiceUnderTest) -> None:
        many = [moved("cancelled", f"O-{number}") for number in range(STEP + 1)]
        await inventory.dispatch(*many)
        ended = EndedReservations(60.0, clock=lambda: now_ms() + 3_600_000)
        assert await inventory.turn(ended.forget)
        assert not await inventory.turn(ended.forget)
        assert await reservations(inventory) == {}


class TestTogether:
    async def test_the_number_of_statements_does_not_depend_on_the_number_of_orders(
        self, inventory: ServiceUnderTest
    ) -> None:
        async def statements(first: int, count: int) -> list[str]:
            orders = [created(f"O-{first + n}", anvil=1, bolt=1) for n in range(count)]
            ends = [moved("cancelled", f"O-{first + n}") for n in range(0, count, 2)]
            with counted_statements() as counted:
                await inventory.dispatch(*orders, *ends)
            return counted

        await inventory.dispatch(a_set("anvil", 100), a_set("bolt", 100))
        few = await statements(0, 2)
        assert len(await statements(10, 40)) == len(few), few

    async def test_fifty_orders_at_two_replicas_for_the_last_item_reserve_it_once(
        self, database_url: str
    ) -> None:
        async with ServiceUnderTest.running(INVENTORY, database_url, replicas=2) as inventory:
            await inventory.dispatch(a_set("anvil", 1), a_set("bolt", 100))
            inventory.forget()
            # Items in either order: two replicas that lock them as they come would wait for each other.
            orders = [
                created(f"O-{n}", f"user-{n}", **dict([("anvil", 1), ("bolt", 1)][:: 1 if n % 2 else -1]))
                for n in range(50)
            ]
            await asyncio.gather(
                *(inventory.dispatch(order, replica=n % 2) for n, order in enumerate(orders))
            )
            actions = [event.action for event in inventory.events()]
            assert (actions.count("order.confirmed"), actions.count("order.rejected")) == (1, 49)
            assert await stock(inventory, "anvil") == (1, 1, 0)
            assert await stock(inventory, "bolt") == (100, 1, 99)
            assert inventory.retried() == []
            available = [push.data["available"] for push in inventory.pushes("group.inventory:anvil")]
            assert available == [0]

    async def test_creation_and_end_at_two_replicas_leave_the_stock_as_it_was(
        self, database_url: str
    ) -> None:
        async with ServiceUnderTest.running(INVENTORY, database_url, replicas=2) as inventory:
            await inventory.dispatch(a_set("anvil", 100))

            async def come_and_go(order: str, delay: float) -> None:
                async def end() -> None:
                    await asyncio.sleep(delay)
                    await inventory.dispatch(moved("cancelled", order), replica=1)

                await asyncio.gather(inventory.dispatch(created(order, anvil=1)), end())

            await asyncio.gather(*(come_and_go(f"O-{n}", n / 1000) for n in range(20)))
            assert set((await reservations(inventory)).values()) == {"released"}
            assert inventory.retried() == []
            assert [(row.on_hand, row.reserved) for row in await inventory.rows(STOCK)] == [(100, 0)]
