"""An order only ever moves forward."""

from dataclasses import replace
from decimal import Decimal
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from towpath.orders.domain import NotCancellable, Order, OwnerDiffers, OwnerUnknown
from towpath.protocol.orders import OrderEvent, Status, SubmitOrder

PLACE: Final = {
    Status.SUBMITTED: 0,
    Status.CONFIRMED: 1,
    Status.PAID: 2,
    Status.PACKED: 3,
    Status.SHIPPED: 4,
    Status.DELIVERED: 5,
    Status.REJECTED: 6,
    Status.CANCELLED: 6,
    Status.REFUNDED: 7,
}
ON_ITS_WAY: Final = {Status.SHIPPED, Status.DELIVERED}
STOPPED: Final = {Status.REJECTED, Status.CANCELLED}

happenings = st.tuples(
    st.sampled_from(Status),
    st.builds(
        OrderEvent,
        order_id=st.just("O-1"),
        user_id=st.none() | st.just("alice"),
        revision=st.none() | st.integers(1, 8),
        amount=st.none() | st.just(Decimal("7.00")),
        detail=st.none() | st.just("seen at the gate"),
    ),
)


def an_order() -> Order:
    return Order.submitted(SubmitOrder(order_id="O-1", amount=Decimal("9.00")), "alice", now_ms=1_000)


def an_event(**data: object) -> OrderEvent:
    return OrderEvent.model_validate({"order_id": "O-1", **data})


@given(st.lists(happenings, max_size=20))
def test_an_order_never_moves_backwards(story: list[tuple[Status, OrderEvent]]) -> None:
    order = an_order()
    for status, event in story:
        before = replace(order)
        if order.follow(event, status, now_ms=2_000):
            assert order.status is status
            assert PLACE[order.status] >= PLACE[before.status]
            assert order.revision > before.revision
            assert not (before.status in ON_ITS_WAY and order.status in STOPPED)
        else:
            assert order == before


@given(st.lists(happenings, max_size=10), happenings)
def test_a_repeated_event_changes_nothing(
    story: list[tuple[Status, OrderEvent]], last: tuple[Status, OrderEvent]
) -> None:
    order = an_order()
    for status, event in [*story, last]:
        order.follow(event, status, now_ms=2_000)
    before = replace(order)
    status, event = last
    assert not order.follow(event, status, now_ms=3_000)
    assert order == before


@given(st.lists(happenings, max_size=10))
def test_cancelling_stops_an_order_or_changes_nothing(story: list[tuple[Status, OrderEvent]]) -> None:
    order = an_order()
    for status, event in story:
        order.follow(event, status, now_ms=2_000)
    before = replace(order)
    try:
        order.cancel("changed my mind", now_ms=3_000)
    except NotCancellable:
        assert order == before
        assert PLACE[before.status] >= PLACE[Status.SHIPPED]
    else:
        assert order.status is Status.CANCELLED
        assert order.revision == before.revision + 1
        assert PLACE[before.status] < PLACE[Status.SHIPPED]


def test_an_event_of_another_owner_is_refused() -> None:
    order = an_order()
    with pytest.raises(OwnerDiffers):
        order.follow(an_event(user_id="mallory"), Status.PAID, now_ms=2_000)
    assert order == an_order()


def test_an_order_born_elsewhere_needs_an_owner() -> None:
    with pytest.raises(OwnerUnknown):
        Order.born_elsewhere(an_event(), Status.PAID, "USD", now_ms=1_000)
    order = Order.born_elsewhere(an_event(user_id="bob", revision=4), Status.PAID, "EUR", now_ms=1_000)
    assert (order.user_id, order.status, order.revision, order.currency) == ("bob", Status.PAID, 4, "EUR")


def test_the_senders_revision_carries_on() -> None:
    order = an_order()
    assert order.follow(an_event(revision=7), Status.PAID, now_ms=2_000)
    assert order.revision == 7
    assert not order.follow(an_event(revision=6), Status.SHIPPED, now_ms=2_000)
    assert order.follow(an_event(revision=8, detail="two parcels"), Status.PAID, now_ms=2_000)
    assert (order.status, order.revision, order.detail) == (Status.PAID, 8, "two parcels")
