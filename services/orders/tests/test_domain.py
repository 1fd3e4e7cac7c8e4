"""An order only ever moves forward."""

from copy import deepcopy
from dataclasses import replace
from decimal import Decimal
from random import Random
from typing import Final

from hypothesis import assume, given
from hypothesis import strategies as st

from towpath.orders.domain import NotCancellable, Order, Source
from towpath.protocol.errors import TowpathError
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
        user_id=st.just("alice"),
        revision=st.none() | st.integers(1, 8),
        amount=st.none() | st.just(Decimal("7.00")),
        detail=st.none() | st.just("seen at the gate"),
    ),
)


def an_order() -> Order:
    return Order.submitted(SubmitOrder(order_id="O-1", amount=Decimal("9.00")), "alice", now_ms=1_000)


def an_event(**data: object) -> OrderEvent:
    return OrderEvent.model_validate({"order_id": "O-1", "user_id": "alice", **data})


def from_(sender: str) -> Source:
    return Source(sender, made_at=1_500)


BILLING: Final = from_("billing")


def followed(order: Order, status: Status, event: OrderEvent, source: Source = BILLING) -> bool:
    """Whether ``order`` took ``event``; what is refused changes nothing."""
    before = deepcopy(order)
    try:
        return order.follow(event, status, source, now_ms=2_000)
    except TowpathError:
        assert order == before
        return False


@given(st.lists(happenings, max_size=20))
def test_an_order_never_moves_backwards(story: list[tuple[Status, OrderEvent]]) -> None:
    order = an_order()
    for status, event in story:
        before = deepcopy(order)
        if followed(order, status, event):
            assert order.status in (status, before.status)
            assert PLACE[order.status] >= PLACE[before.status]
            assert order.revision > before.revision
            assert not (before.status in ON_ITS_WAY and order.status in STOPPED)
        else:
            assert replace(order, newest=before.newest) == before


@given(st.lists(happenings, max_size=10), happenings)
def test_a_repeated_event_changes_nothing(
    story: list[tuple[Status, OrderEvent]], last: tuple[Status, OrderEvent]
) -> None:
    order = an_order()
    for status, event in [*story, last]:
        followed(order, status, event)
    before = deepcopy(order)
    status, event = last
    # Without a revision a second refund is another refund, unless its msg_id is the same: the inbox's part.
    assume(status is not Status.REFUNDED or event.amount is None or event.revision is not None)
    assert not followed(order, status, event)
    assert order == before


@given(st.lists(happenings, max_size=10))
def test_cancelling_stops_an_order_or_changes_nothing(story: list[tuple[Status, OrderEvent]]) -> None:
    order = an_order()
    for status, event in story:
        followed(order, status, event)
    before = deepcopy(order)
    try:
        order.cancel("changed my mind", now_ms=3_000)
    except NotCancellable:
        assert order == before
        assert PLACE[before.status] >= PLACE[Status.SHIPPED]
    else:
        assert order.status is Status.CANCELLED
        assert order.revision == before.revision + 1
        assert PLACE[before.status] < PLACE[Status.SHIPPED]


steps = st.lists(
    st.sampled_from([Status.CONFIRMED, Status.PAID, Status.PACKED, Status.SHIPPED, Status.DELIVERED]),
    max_size=4,
)
refunds = st.lists(st.none() | st.decimals("0.01", 9, places=2), max_size=3)


@given(steps, refunds, st.randoms(use_true_random=False))
def test_an_order_ends_the_same_in_whatever_order_its_events_come(
    moves: list[Status], repaid: list[Decimal | None], chance: Random
) -> None:
    # All that is left is what is left after the others: such a refund stays behind them.
    repaid.sort(key=lambda amount: amount is None)
    events = [(status, an_event()) for status in moves]
    events.append((Status.SUBMITTED, an_event(amount=Decimal(100), currency="EUR")))
    back = [(Status.REFUNDED, an_event(amount=amount)) for amount in repaid]

    def told(story: list[tuple[Status, OrderEvent]]) -> Order:
        (status, event), *more = story
        order = Order.born_elsewhere(event, status, BILLING, now_ms=1_000)
        for status, event in more:
            followed(order, status, event)
        return order

    first = told([events[-1], *events[:-1], *back])
    chance.shuffle(events)
    for refund in back:
        at = chance.randrange(len(events) + 1)
        at = max([at, *(place + 1 for place, one in enumerate(events) if one in back)])
        events.insert(at, refund)
    order = told(events)
    assert (order.status, order.price) == (first.status, first.price)
    assert order.price.refunded == (
        None if not repaid else Decimal(100) if None in repaid else sum(filter(None, repaid))
    )


def test_an_order_of_another_backend_is_created_by_its_first_event() -> None:
    event = an_event(user_id="bob", revision=4, amount="5", currency="EUR")
    order = Order.born_elsewhere(event, Status.PAID, BILLING, now_ms=1_000)
    assert (order.user_id, order.status, order.revision) == ("bob", Status.PAID, 4)
    assert (str(order.price.amount), order.price.currency) == ("5.00", "EUR")


def test_an_order_takes_the_revision_of_its_event() -> None:
    order = an_order()
    assert followed(order, Status.PAID, an_event(revision=7))
    assert order.revision == 7
    assert not followed(order, Status.SHIPPED, an_event(revision=6))
    assert followed(order, Status.PAID, an_event(revision=8, detail="two parcels"))
    assert (order.status, order.revision, order.detail) == (Status.PAID, 8, "two parcels")
