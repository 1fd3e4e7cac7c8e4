"""The orders service as users and other backends see it."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from towpath.orders.app import ORDERS
from towpath.orders.handlers import COMMANDS
from towpath.orders.repository import OrderBook
from towpath.orders.tables import ORDERS as TABLE
from towpath.protocol.messages import Session
from towpath.protocol.orders import GetOrder
from towpath.servicekit.handling.outcome import Outcome
from towpath.servicekit.handling.requests import Handler, Request
from towpath.servicekit.storage.database import Database
from towpath.testkit.dispatching import Incoming, ServiceUnderTest, a_command, an_event, counted_statements


class LostConnection(Exception):
    """The errors of drivers."""


def a_submit(order_id: str = "O-1", *, amount: Any = "9.00", **more: Any) -> Incoming:
    return a_command("order.submit", order_id=order_id, amount=amount, **more)


class TestSubmit:
    async def test_an_order_is_answered_pushed_and_announced(self, orders: ServiceUnderTest) -> None:
        await orders.dispatch(a_submit(amount=99.9, currency="EUR", msg_id="m-1"))
        assert orders.answer("m-1").action == "order.submit.ok"
        assert orders.answer("m-1").data == {
            "order_id": "O-1",
            "status": "submitted",
            "revision": 1,
            "amount": "99.90",
            "currency": "EUR",
        }
        (push,) = orders.pushes("user.alice")
        assert (push.action, push.stream, push.seq) == ("order.updated", "order:alice", 1)
        assert push.data.items() >= orders.answer("m-1").data.items()
        (event,) = orders.events()
        assert (event.action, event.data["user_id"]) == ("order.created", "alice")

    async def test_the_items_of_an_order_are_announced_with_it(self, orders: ServiceUnderTest) -> None:
        items = [{"sku": "bolt", "quantity": 3, "unit_price": "0.10"}]
        await orders.dispatch(a_command("order.submit", order_id="O-1", items=items))
        await orders.dispatch(a_command("order.cancel", order_id="O-1"), a_submit("O-2"))
        announced = [(event.action, event.data.get("items")) for event in orders.events()]
        assert announced == [("order.created", items), ("order.cancelled", None), ("order.created", None)]

    async def test_an_order_without_an_id_gets_one(self, orders: ServiceUnderTest) -> None:
        await orders.dispatch(a_command("order.submit", amount="1", msg_id="m-1"))
        assert orders.answer("m-1").data["order_id"].startswith("O20")

    async def test_items_are_added_up_exactly(self, orders: ServiceUnderTest) -> None:
        items = [{"sku": "bolt", "quantity": 3, "unit_price": "0.10"}]
        await orders.dispatch(a_command("order.submit", items=items, msg_id="m-1"))
        assert orders.answer("m-1").data["amount"] == "0.30"

    @pytest.mark.parametrize(
        "data",
        [
            {},
            {"amount": "1.001"},
            {"amount": "-1"},
            {"amount": True},
            {"amount": "1", "items": [{"sku": "bolt", "quantity": 1, "unit_price": "2"}]},
            {"items": [{"sku": "bolt", "quantity": 1_000_000, "unit_price": "9999999999999.99"}]},
            {"items": []},
            {"amount": "1", "order_id": "with spaces"},
        ],
    )
    async def test_an_invalid_order_is_refused(self, orders: ServiceUnderTest, data: dict[str, Any]) -> None:
        await orders.dispatch(a_command("order.submit", msg_id="m-1", **data), a_submit(msg_id="m-2"))
        assert orders.error("m-1") == "invalid_data"
        assert orders.answer("m-2").action == "order.submit.ok"
        assert len(await orders.rows(TABLE)) == 1

    @pytest.mark.parametrize("together", [True, False])
    async def test_an_existing_order_id_is_a_conflict(self, orders: ServiceUnderTest, together: bool) -> None:
        first, second = a_submit(msg_id="m-1"), a_submit(amount="1.00", msg_id="m-2")
        for batch in [(first, second)] if together else [(first,), (second,)]:
            await orders.dispatch(*batch)
        assert orders.answer("m-1").action == "order.submit.ok"
        assert orders.error("m-2") == "conflict"
        assert [row.amount for row in await orders.rows(TABLE)] == [900]


class TestOnce:
    async def test_a_redelivered_command_has_one_effect_and_publishes_the_same_bytes(
        self, orders: ServiceUnderTest
    ) -> None:
        command = a_submit(msg_id="m-1")
        await orders.dispatch(command)
        first = list(orders.heard)
        orders.forget()
        await orders.dispatch(command, redelivered=True)
        assert sorted(map(str, orders.heard)) == sorted(map(str, first))
        assert len(await orders.rows(TABLE)) == 1

    async def test_a_repeated_request_gets_the_same_answer_and_no_second_push(
        self, orders: ServiceUnderTest
    ) -> None:
        command = a_submit(msg_id="m-1")
        await orders.dispatch(command, command)
        await orders.dispatch(command)
        answers = orders.answers("m-1")
        assert len(answers) == 3
        assert answers[0] == answers[1] == answers[2]
        assert len(orders.pushes()) == len(orders.events()) == 1
        assert len(await orders.rows(TABLE)) == 1

    @pytest.mark.parametrize("away", [True, False], ids=["database away", "database there"])
    async def test_if_the_reply_to_commit_is_lost_presence_is_still_published(
        self, orders: ServiceUnderTest, monkeypatch: pytest.MonkeyPatch, away: bool
    ) -> None:
        # The connection breaks after the COMMIT is done and before the word of it is there.
        lost = [LostConnection()]
        transaction = Database.transaction

        @asynccontextmanager
        async def breaking(database: Database) -> AsyncIterator[AsyncConnection]:
            async with transaction(database) as connection:
                yield connection
            if lost:
                raise DBAPIError("COMMIT", None, lost.pop())

        async def is_database_failure(_: Database, __: BaseException) -> bool:
            return away

        repeated = a_submit("O-0", by="cyd", msg_id="m-0")
        await orders.dispatch(repeated)
        orders.forget()
        monkeypatch.setattr(Database, "transaction", breaking)
        monkeypatch.setattr(Database, "is_database_failure", is_database_failure)
        first = a_submit(msg_id="m-1")
        await orders.dispatch(first, a_submit("O-2", by="bob", msg_id="m-2"), first, repeated)
        assert not lost
        assert [len(orders.answers(msg_id)) for msg_id in ("m-0", "m-1", "m-2")] == [1, 2, 1]
        assert [push.stream for push in orders.pushes()] == ["order:alice", "order:bob"]
        assert len(orders.events()) == 2
        assert len(await orders.rows(TABLE)) == 3

    async def test_a_refusal_is_repeated_too(self, orders: ServiceUnderTest) -> None:
        cancel = a_command("order.cancel", order_id="O-1", msg_id="m-1")
        await orders.dispatch(cancel)
        await orders.dispatch(a_submit())
        await orders.dispatch(cancel)
        first, second = orders.answers("m-1")
        assert first == second
        assert first.data["code"] == "not_found"

    async def test_the_same_msg_id_of_two_users_is_two_orders(self, orders: ServiceUnderTest) -> None:
        await orders.dispatch(a_submit("O-1", msg_id="m-1"), a_submit("O-2", by="bob", msg_id="m-1"))
        assert len(await orders.rows(TABLE)) == 2


class TestCancel:
    async def test_an_order_is_cancelled_by_its_owner(self, orders: ServiceUnderTest) -> None:
        await orders.dispatch(
            a_submit(), a_command("order.cancel", order_id="O-1", reason="too slow", msg_id="m-1")
        )
        assert orders.answer("m-1").data == {"order_id": "O-1", "status": "cancelled", "revision": 2}
        assert [(push.seq, push.data["status"]) for push in orders.pushes("user.alice")] == [
            (1, "submitted"),
            (2, "cancelled"),
        ]
        assert orders.pushes()[-1].data["detail"] == "too slow"
        assert [event.action for event in orders.events()] == ["order.created", "order.cancelled"]

    async def test_a_shipped_order_cannot_be_cancelled(self, orders: ServiceUnderTest) -> None:
        await orders.dispatch(a_submit(), an_event("order.shipped", order_id="O-1", user_id="alice"))
        orders.forget()
        await orders.dispatch(a_command("order.cancel", order_id="O-1", msg_id="m-1"))
        assert orders.error("m-1") == "conflict"
        assert (orders.pushes(), orders.events()) == ([], [])

    async def test_only_the_owner_may(self, orders: ServiceUnderTest) -> None:
        await orders.dispatch(
            a_submit(),
            a_command("order.cancel", by="mallory", order_id="O-1", msg_id="m-1"),
            a_command("order.get", by="mallory", order_id="O-1", msg_id="m-2"),
            a_command("order.cancel", order_id="O-2", msg_id="m-3"),
        )
        assert [orders.error(msg_id) for msg_id in ("m-1", "m-2", "m-3")] == [
            "not_found",
            "not_found",
            "not_found",
        ]


class TestReading:
    async def test_an_order_is_shown_unchanged_after_its_submission(self, orders: ServiceUnderTest) -> None:
        items = [{"sku": "bolt", "quantity": 3, "unit_price": "0.10"}]
        await orders.dispatch(a_command("order.submit", order_id="O-1", items=items))
        await orders.dispatch(a_command("order.get", order_id="O-1", msg_id="m-1"))
        shown = orders.answer("m-1").data
        assert shown["items"] == items
        assert (shown["amount"], shown["status"]) == ("0.30", "submitted")

    async def test_a_read_contains_earlier_changes_and_no_later_ones(self, orders: ServiceUnderTest) -> None:
        def get(msg_id: str) -> Incoming:
            return a_command("order.get", order_id="O-1", msg_id=msg_id)

        cancel = a_command("order.cancel", order_id="O-1")
        await orders.dispatch(get("m-1"), a_submit(), get("m-2"), cancel, get("m-3"))
        assert orders.error("m-1") == "not_found"
        assert orders.answer("m-2").data["status"] == "submitted"
        assert orders.answer("m-3").data["status"] == "cancelled"

    async def test_pages_hold_every_order_once_the_newest_first(self, orders: ServiceUnderTest) -> None:
        ids = {f"{letter}{number}" for letter in ("o", "O", "_", ".") for number in range(6)}
        await orders.dispatch(*[a_submit(order_id) for order_id in sorted(ids)], a_submit("X", by="bob"))
        listed: list[dict[str, Any]] = []
        cursor: dict[str, str] = {}
        for page in range(5):
            await orders.dispatch(a_command("order.list", limit=5, msg_id=f"p-{page}", **cursor))
            answer = orders.answer(f"p-{page}").data
            listed += answer["orders"]
            assert len(answer["orders"]) == 5 or "cursor" not in answer
            cursor = {"cursor": answer.get("cursor", "")}
        assert cursor == {"cursor": ""}
        assert len(listed) == len(ids)
        assert {order["order_id"] for order in listed} == ids
        made = [order["created_at"] for order in listed]
        assert made == sorted(made, reverse=True)

    async def test_many_may_list_at_once(self, orders: ServiceUnderTest) -> None:
        users = [f"user-{number}" for number in range(450)]
        await orders.dispatch(*[a_submit(f"O-{user}", by=user) for user in users])
        await orders.dispatch(*[a_command("order.list", by=user, msg_id=f"l-{user}") for user in users])
        for user in users:
            assert [order["order_id"] for order in orders.answer(f"l-{user}").data["orders"]] == [f"O-{user}"]

    @pytest.mark.parametrize("cursor", ["", "yesterday", "1~", "1~a\x00b", "~O-1", "9" * 19 + "~O-1"])
    async def test_a_forged_cursor_is_refused(self, orders: ServiceUnderTest, cursor: str) -> None:
        await orders.dispatch(
            a_command("order.list", cursor=cursor, msg_id="m-1"), a_command("order.list", msg_id="m-2")
        )
        assert orders.error("m-1") == "invalid_data"
        assert orders.answer("m-2").data == {"orders": [], "seq": 0}

    async def test_a_resume_replays_missed_entries_of_the_own_stream(self, orders: ServiceUnderTest) -> None:
        await orders.dispatch(a_submit("O-1"), a_submit("O-2"), a_submit("O-3"))
        pushed = orders.pushes("user.alice")
        positions = {"order:alice": 1, "order:bob": 0}
        await orders.dispatch(a_command("order.resume", positions=positions, msg_id="m-1"))
        assert orders.replayed() == pushed[1:]
        assert orders.answer("m-1").data == {
            "streams": {
                "order:alice": {"seq": 3, "complete": True},
                "order:bob": {"seq": 0, "complete": False},
            }
        }

    async def test_resumes_are_counted_by_whether_they_were_whole(self, orders: ServiceUnderTest) -> None:
        await orders.dispatch(a_submit("O-1"))
        for positions in ({"order:alice": 0}, {}, {"order:alice": 9}):
            await orders.dispatch(a_command("order.resume", positions=positions))
        assert 'resumes_total{outcome="complete"} 2.0' in orders.metrics()
        assert 'resumes_total{outcome="incomplete"} 1.0' in orders.metrics()


class TestEvents:
    async def test_another_backend_moves_an_order(self, orders: ServiceUnderTest) -> None:
        await orders.dispatch(a_submit())
        orders.forget()
        await orders.dispatch(
            an_event("order.paid", order_id="O-1", user_id="alice", detail={"by": "card", "fee": 0.25}),
            an_event("order.shipped", order_id="O-1", user_id="alice", amount=8.5),
        )
        paid, shipped = orders.pushes("user.alice")
        assert (paid.seq, paid.data["status"], paid.data["detail"]) == (
            2,
            "paid",
            {"by": "card", "fee": 0.25},
        )
        assert (shipped.seq, shipped.data["status"], shipped.data["amount"]) == (3, "shipped", "9.00")
        assert orders.events() == []

    async def test_the_inventory_confirms_or_rejects_an_order_and_its_owner_sees_the_reason(
        self, orders: ServiceUnderTest
    ) -> None:
        await orders.dispatch(a_submit("O-1"), a_submit("O-2"))
        orders.forget()
        why = {"reason": "out_of_stock", "skus": ["anvil"], "text": "Out of stock: anvil"}
        await orders.dispatch(
            an_event("order.confirmed", service="inventory", order_id="O-1", user_id="alice"),
            an_event(
                "order.rejected",
                service="inventory",
                order_id="O-2",
                user_id="alice",
                reason="out_of_stock",
                detail=why,
            ),
        )
        pushed = [(push.data["status"], push.data.get("detail")) for push in orders.pushes("user.alice")]
        assert pushed == [("confirmed", None), ("rejected", why)]
        await orders.dispatch(a_command("order.cancel", order_id="O-2", msg_id="m-1"))
        assert orders.error("m-1") == "conflict"

    async def test_a_decision_of_the_inventory_that_comes_after_a_cancel_changes_nothing(
        self, orders: ServiceUnderTest
    ) -> None:
        await orders.dispatch(a_submit("O-1"), a_command("order.cancel", order_id="O-1", reason="too late"))
        orders.forget()
        for event in ("order.confirmed", "order.rejected"):
            await orders.dispatch(an_event(event, service="inventory", order_id="O-1", user_id="alice"))
        assert orders.heard == []

    async def test_a_late_event_is_accepted_without_a_push(self, orders: ServiceUnderTest) -> None:
        await orders.dispatch(a_submit(), an_event("order.shipped", order_id="O-1", user_id="alice"))
        orders.forget()
        await orders.dispatch(an_event("order.paid", order_id="O-1", user_id="alice"))
        assert orders.heard == []

    async def test_an_event_is_applied_once_by_its_msg_id(self, orders: ServiceUnderTest) -> None:
        event = an_event("order.paid", order_id="O-1", user_id="bob", msg_id="e-1")
        await orders.dispatch(event)
        await orders.dispatch(event)
        assert len(orders.pushes("user.bob")) == 1
        await orders.dispatch(event, redelivered=True)
        first, second = orders.pushes("user.bob")
        assert first == second

    async def test_an_order_may_be_created_by_another_backend(self, orders: ServiceUnderTest) -> None:
        born = an_event(
            "order.created", order_id="X-1", user_id="bob", amount="5", currency="SEK", revision=3
        )
        await orders.dispatch(born, an_event("order.paid", order_id="X-1", user_id="bob", revision=4))
        await orders.dispatch(a_command("order.get", by="bob", order_id="X-1", msg_id="m-1"))
        shown = orders.answer("m-1").data
        assert (shown["status"], shown["amount"], shown["currency"]) == ("paid", "5.00", "SEK")

    @pytest.mark.parametrize(
        ("data", "reason"),
        [
            ({"order_id": "O-9"}, "InvalidData: data refused: user_id"),
            ({"order_id": "O-1"}, "InvalidData: data refused: user_id"),
            ({"user_id": "alice"}, "InvalidData: data refused: order_id"),
            ({"order_id": "O-1", "user_id": "alice", "amount": "much"}, "InvalidData: data refused: amount"),
            ({"order_id": "O-1", "user_id": "alice", "amount": "1", "currency": "ZZZ"}, "InvalidData"),
            ({"order_id": "O-1", "user_id": "alice", "amount": "1.5", "currency": "JPY"}, "InvalidData"),
            ({"order_id": "O-1", "user_id": "alice", "amount": "1.234"}, "WrongDecimals: amount"),
        ],
    )
    async def test_an_event_that_cannot_be_applied_is_parked_with_its_reason(
        self, orders: ServiceUnderTest, data: dict[str, Any], reason: str
    ) -> None:
        await orders.dispatch(a_submit())
        orders.forget()
        packed = an_event("order.packed", order_id="O-1", user_id="alice")
        await orders.dispatch(an_event("order.paid", **data), packed)
        (parked,) = orders.parked()
        assert parked.startswith(reason)
        assert [push.data["status"] for push in orders.pushes()] == ["packed"]

    async def test_its_own_events_are_ignored(self, orders: ServiceUnderTest) -> None:
        await orders.dispatch(an_event("order.created", service="orders", order_id="O-1", user_id="bob"))
        assert await orders.rows(TABLE) == []
        assert orders.pushes() == []


class TestBatches:
    async def test_the_number_of_statements_does_not_grow_with_the_batch(
        self, orders: ServiceUnderTest
    ) -> None:
        users = [f"user-{number}" for number in range(60)]

        async def a_round(name: str, users: list[str]) -> int:
            with counted_statements() as statements:
                await orders.dispatch(*[a_submit(f"{name}-{user}", by=user) for user in users])
                await orders.dispatch(
                    *[
                        an_event("order.paid", order_id=f"{name}-{user}", user_id=user, revision=1)
                        for user in users
                    ],
                    *[a_command("order.get", by=user, order_id=f"{name}-{user}") for user in users],
                )
                for amount in ({"amount": "1.00"}, {}):
                    refunds = [
                        an_event(
                            "order.refunded", order_id=f"{name}-{user}", user_id=user, revision=9, **amount
                        )
                        for user in users
                    ]
                    await orders.dispatch(*refunds)
            return len(statements)

        await a_round("warm", users)
        assert await a_round("one", users[:1]) == await a_round("many", users)

    async def test_one_poisoned_message_does_not_affect_the_others(self, database_url: str) -> None:
        def broken(request: GetOrder, session: Session, book: OrderBook) -> Outcome:
            raise ZeroDivisionError("a bug")

        service = replace(ORDERS, commands={**COMMANDS, "order.spoil": Handler(GetOrder, broken)})
        async with ServiceUnderTest.running(service, database_url) as orders:
            await orders.dispatch(
                a_submit("O-1", msg_id="m-1"),
                a_command("order.spoil", order_id="O-1", msg_id="m-2"),
                a_submit("O-2", msg_id="m-3"),
            )
            assert orders.answer("m-1").action == orders.answer("m-3").action == "order.submit.ok"
            assert orders.answer("m-2").data["code"] == "internal"
            assert orders.parked() == ["ZeroDivisionError: a bug"]
            assert [push.seq for push in orders.pushes("user.alice")] == [1, 2]
            assert len(await orders.rows(TABLE)) == 2

    async def test_one_poisoned_message_costs_a_large_batch_few_units_of_work(
        self, database_url: str
    ) -> None:
        def broken(request: GetOrder, session: Session, book: OrderBook) -> Outcome:
            raise ZeroDivisionError("a bug")

        units = 0

        class Counted(OrderBook):
            async def load(self, requests: Sequence[Request]) -> None:
                nonlocal units
                units += 1
                await super().load(requests)

        assert ORDERS.storage is not None
        service = replace(
            ORDERS,
            commands={**COMMANDS, "order.spoil": Handler(GetOrder, broken)},
            storage=replace(ORDERS.storage, unit=Counted),
        )
        async with ServiceUnderTest.running(service, database_url) as orders:
            commands = [a_submit(f"O-{n}", by=f"user-{n}", msg_id=f"m-{n}") for n in range(100)]
            commands.insert(63, a_command("order.spoil", order_id="O-1", msg_id="spoil"))
            await orders.dispatch(*commands)
            assert orders.answer("spoil").data["code"] == "internal"
            assert {orders.answer(f"m-{n}").action for n in range(100)} == {"order.submit.ok"}
        assert units < 40, f"{units} units of work for 101 requests"

    async def test_a_body_that_is_not_a_command_is_parked_and_the_rest_is_handled(
        self, orders: ServiceUnderTest
    ) -> None:
        nonsense = replace(a_submit(), item=b'{"who": "knows"}')
        await orders.dispatch(nonsense, a_submit("O-2", msg_id="m-1"))
        assert orders.answer("m-1").action == "order.submit.ok"
        assert len(orders.parked()) == 1

    async def test_unknown_verbs_and_foreign_scopes_are_answered(self, orders: ServiceUnderTest) -> None:
        await orders.dispatch(
            a_command("order.frobnicate", msg_id="m-1"),
            a_submit(scope="chat", msg_id="m-2"),
            a_submit(scope="chat order", msg_id="m-3"),
        )
        assert (orders.error("m-1"), orders.error("m-2")) == ("unknown_action", "forbidden")
        assert orders.answer("m-3").action == "order.submit.ok"
