"""Late events do no harm: what they add is added, and they move nothing backwards."""

import itertools
from typing import Any

import pytest

from towpath.orders.tables import ORDERS, REVISIONS
from towpath.protocol.envelope import make
from towpath.protocol.routes import EVENTS
from towpath.testkit.dispatching import Incoming, ServiceUnderTest, a_command, an_event


def told(event: str, **data: Any) -> Incoming:
    """An event about O-1 of ana."""
    return an_event(f"order.{event}", order_id="O-1", user_id="ana", **data)


async def shown(orders: ServiceUnderTest) -> dict[str, Any]:
    orders.forget()
    await orders.dispatch(a_command("order.get", by="ana", order_id="O-1", msg_id="get"))
    return dict(orders.answer("get").data)


CREATED = {"amount": "99.90", "currency": "EUR"}


class TestCreatedLate:
    async def test_an_order_paid_first_has_no_invented_price(self, orders: ServiceUnderTest) -> None:
        await orders.dispatch(told("paid"))
        (push,) = orders.pushes("user.ana")
        assert push.data["status"] == "paid"
        order = await shown(orders)
        assert order["status"] == "paid"
        assert push.data.keys() & {"amount", "currency"} == order.keys() & {"amount", "currency"} == set()

    async def test_order_created_after_order_paid_adds_missing_values_and_keeps_the_state(
        self, orders: ServiceUnderTest
    ) -> None:
        created = made_at(1_700_000_000_000, "created", **CREATED)
        await orders.dispatch(told("paid", detail="by card"))
        await orders.dispatch(created)
        push = orders.pushes("user.ana")[-1]
        assert (push.data["status"], push.data["revision"], push.data["amount"]) == ("paid", 2, "99.90")
        order = await shown(orders)
        assert (order["status"], order["detail"]) == ("paid", "by card")
        assert (order["amount"], order["currency"]) == ("99.90", "EUR")
        assert order["created_at"] == 1_700_000_000_000

    async def test_order_created_is_accepted_even_if_older_than_its_senders_newest(
        self, orders: ServiceUnderTest
    ) -> None:
        await orders.dispatch(told("paid", revision=7))
        await orders.dispatch(told("created", revision=1, **CREATED))
        order = await shown(orders)
        assert (order["status"], order["amount"], order["currency"]) == ("paid", "99.90", "EUR")

    @pytest.mark.parametrize("sender", ["backend", "another"])
    async def test_a_repeated_order_created_changes_nothing(
        self, orders: ServiceUnderTest, sender: str
    ) -> None:
        await orders.dispatch(told("created", **CREATED), told("paid", detail="by card"))
        before = await shown(orders)
        await orders.dispatch(told("created", sender=sender, amount="1.00", currency="USD", detail="again"))
        assert orders.pushes() == []
        assert orders.parked() == []
        assert await shown(orders) == before

    async def test_order_created_changes_nothing_of_a_submitted_order(self, orders: ServiceUnderTest) -> None:
        submit = a_command("order.submit", by="ana", order_id="O-1", amount="9.90", currency="EUR")
        await orders.dispatch(submit)
        before = await shown(orders)
        await orders.dispatch(made_at(5, "created", amount="1", currency="JPY"))
        assert await shown(orders) == before

    async def test_submitting_an_order_created_by_an_event_is_a_conflict_and_changes_nothing(
        self, orders: ServiceUnderTest
    ) -> None:
        await orders.dispatch(told("paid", amount="5", currency="JPY"))
        before = await shown(orders)
        await orders.dispatch(a_command("order.submit", by="ana", order_id="O-1", amount="9", msg_id="m-1"))
        assert orders.error("m-1") == "conflict"
        assert await shown(orders) == before

    async def test_the_time_of_creation_is_never_after_the_first_event(
        self, orders: ServiceUnderTest
    ) -> None:
        await orders.dispatch(told("paid"))
        before = await shown(orders)
        await orders.dispatch(made_at(2**62, "created", **CREATED))
        assert (await shown(orders))["created_at"] == before["created_at"]

    @pytest.mark.parametrize("together", [True, False])
    async def test_an_order_is_the_same_for_any_order_of_events(
        self, orders: ServiceUnderTest, together: bool
    ) -> None:
        events: dict[str, dict[str, Any]] = {
            "created": CREATED,
            "paid": {},
            "shipped": {"sender": "warehouse", "revision": 2},
            "refunded": {"amount": "9.90", "currency": "EUR"},
        }
        for at, turn in enumerate(itertools.permutations(events)):
            order_id = f"O-{at}"
            batch = [
                an_event(f"order.{name}", order_id=order_id, user_id="ana", **events[name]) for name in turn
            ]
            for part in [batch] if together else [[one] for one in batch]:
                await orders.dispatch(*part)
        assert orders.parked() == []
        rows = await orders.rows(ORDERS)
        assert len(rows) == 24
        facts = {(row.status, row.amount, row.currency, row.decimals, row.refunded) for row in rows}
        assert facts == {("refunded", 9990, "EUR", 2, 990)}


class TestSetOnce:
    @pytest.mark.parametrize(
        "data",
        [
            {"amount": "5.00"},
            {"amount": "5.00", "currency": "USD"},
            {"currency": "JPY"},
            {"amount": "5", "currency": "JPY"},
        ],
    )
    @pytest.mark.parametrize("event", ["created", "confirmed", "paid", "shipped", "cancelled"])
    async def test_events_never_change_a_known_amount_or_currency(
        self, orders: ServiceUnderTest, event: str, data: dict[str, str]
    ) -> None:
        await orders.dispatch(
            a_command("order.submit", by="ana", order_id="O-1", amount="9.99"), told(event, **data)
        )
        order = await shown(orders)
        assert (order["amount"], order["currency"]) == ("9.99", "USD")
        assert order["status"] == ("submitted" if event == "created" else event)

    async def test_the_first_event_with_amount_and_currency_sets_them(self, orders: ServiceUnderTest) -> None:
        await orders.dispatch(
            told("confirmed"),
            told("paid", amount="500", currency="JPY"),
            told("packed", amount="9.99", currency="USD"),
        )
        order = await shown(orders)
        assert (order["status"], order["amount"], order["currency"]) == ("packed", "500", "JPY")

    async def test_an_amount_in_another_currency_than_the_orders_is_parked_where_it_is_needed(
        self, orders: ServiceUnderTest
    ) -> None:
        await orders.dispatch(told("created", currency="EUR"))
        await orders.dispatch(told("paid", amount="5.00", currency="USD"))
        (reason,) = orders.parked()
        assert reason.startswith("CurrencyDiffers")
        order = await shown(orders)
        assert (order["status"], order.get("amount")) == ("submitted", None)


class TestRevisions:
    async def test_the_revision_of_one_sender_does_not_affect_others(self, orders: ServiceUnderTest) -> None:
        await orders.dispatch(told("paid", sender="billing", revision=7))
        await orders.dispatch(told("shipped", sender="warehouse", revision=2))
        assert (await shown(orders))["status"] == "shipped"

    async def test_a_late_event_of_the_same_sender_changes_no_state(self, orders: ServiceUnderTest) -> None:
        await orders.dispatch(told("packed", sender="warehouse", revision=5))
        orders.forget()
        await orders.dispatch(
            told("shipped", sender="warehouse", revision=4), told("shipped", sender="warehouse", revision=5)
        )
        assert orders.heard == []
        assert (await shown(orders))["status"] == "packed"

    async def test_a_sender_without_revisions_is_accepted_beside_one_with(
        self, orders: ServiceUnderTest
    ) -> None:
        await orders.dispatch(told("paid", sender="billing", revision=7), told("shipped", sender="warehouse"))
        assert (await shown(orders))["status"] == "shipped"

    async def test_an_event_without_effect_counts_as_its_senders_newest(
        self, orders: ServiceUnderTest
    ) -> None:
        await orders.dispatch(told("delivered", sender="warehouse"))
        await orders.dispatch(told("paid", sender="billing", revision=8))
        assert [row.revision for row in await orders.rows(REVISIONS)] == [8]
        await orders.dispatch(told("delivered", sender="billing", revision=8, detail="late"))
        assert "detail" not in await shown(orders)

    async def test_a_refused_request_does_not_count(self, orders: ServiceUnderTest) -> None:
        await orders.dispatch(told("created", revision=1, **CREATED))
        await orders.dispatch(told("refunded", revision=9, amount="100.00"))
        await orders.dispatch(told("paid", revision=2))
        assert len(orders.parked()) == 1
        assert (await shown(orders))["status"] == "paid"

    async def test_an_orders_own_revision_grows_with_every_change(self, orders: ServiceUnderTest) -> None:
        await orders.dispatch(
            told("paid", sender="billing", revision=7),
            told("packed", sender="warehouse", revision=1),
            told("created", sender="shop", **CREATED),
            told("shipped", sender="warehouse", revision=2),
            told("refunded", sender="billing", revision=8, amount="1.00"),
            told("refunded", sender="billing", revision=9, amount="1.00"),
        )
        revisions = [push.data["revision"] for push in orders.pushes("user.ana")]
        assert len(revisions) == 6
        assert revisions == sorted(set(revisions))

    @pytest.mark.parametrize("together", [True, False])
    async def test_many_senders_are_distinguished_for_each_order(
        self, orders: ServiceUnderTest, together: bool
    ) -> None:
        senders = [f"backend-{number}" for number in range(5)]
        newest = [told("confirmed", sender=sender, revision=10) for sender in senders]
        late = [told("shipped", sender=sender, revision=9) for sender in senders]
        for batch in [newest + late] if together else [newest, late]:
            await orders.dispatch(*batch)
        assert (await shown(orders))["status"] == "confirmed"
        await orders.dispatch(told("shipped", sender="backend-5", revision=1))
        assert (await shown(orders))["status"] == "shipped"


def made_at(timestamp: int, event: str, **data: Any) -> Incoming:
    """An event that its sender made at that time."""
    envelope = make(f"order.{event}", {"order_id": "O-1", "user_id": "ana", **data})
    item = envelope.to_json().replace(
        f'"timestamp":{envelope.timestamp}'.encode(), f'"timestamp":{timestamp}'.encode()
    )
    assert f'"timestamp":{timestamp}'.encode() in item
    return Incoming(exchange=EVENTS, routing_key=f"order.{event}", item=item, app_id="backend")
