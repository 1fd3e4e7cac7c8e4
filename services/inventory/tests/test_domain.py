"""Stock and reservations by themselves: any events in any order, and the stock is right."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from towpath.inventory.domain import (
    NOTHING,
    FewerThanReserved,
    Reservation,
    State,
    Stock,
    Untracked,
    may_set,
    quantities_of,
    rejection,
)
from towpath.protocol.inventory import OrderedItem

SKUS = ("anvil", "bolt", "crate")
QUANTITIES = st.dictionaries(st.sampled_from([*SKUS, "untracked"]), st.integers(1, 4), min_size=1)


@dataclass
class Shop:
    """Some items, and the reservations of two orders."""

    stocks: dict[str, Stock]
    reservations: dict[str, Reservation]

    @classmethod
    def of(cls, on_hand: Sequence[int]) -> "Shop":
        stocks = {sku: Stock(sku, count, revision=1) for sku, count in zip(SKUS, on_hand, strict=True)}
        return cls(stocks, {order: Reservation("ana", order) for order in ("O-1", "O-2")})

    def held(self, sku: str) -> int:
        """The quantity that reservations hold of an item."""
        return sum(
            one.quantities.get(sku, 0) for one in self.reservations.values() if one.state is State.RESERVED
        )

    def gone(self, sku: str) -> int:
        """The quantity that has left."""
        return sum(
            one.quantities.get(sku, 0) for one in self.reservations.values() if one.state is State.SHIPPED
        )


ON_HAND = st.lists(st.integers(0, 6), min_size=3, max_size=3)
EVENTS = st.lists(
    st.tuples(st.sampled_from(["O-1", "O-2"]), st.sampled_from(["created", "released", "shipped"])),
    max_size=12,
)


@given(
    on_hand=ON_HAND,
    wanted=st.fixed_dictionaries({"O-1": QUANTITIES, "O-2": QUANTITIES}),
    events=EVENTS,
    untracked=st.sampled_from(["ignore", "reject"]),
)
def test_any_events_in_any_order_reserve_all_or_nothing_once_and_never_below_zero(
    on_hand: list[int], wanted: dict[str, dict[str, int]], events: list[tuple[str, str]], untracked: str
) -> None:
    shop = Shop.of(on_hand)
    decided = dict.fromkeys(shop.reservations, 0)
    for order, event in events:
        one = shop.reservations[order]
        before = {sku: (stock.on_hand, stock.reserved) for sku, stock in shop.stocks.items()}
        if event == "created":
            outcome = one.reserve(wanted[order], shop.stocks, untracked)  # type: ignore[arg-type]  # sampled from the two words
        else:
            outcome = (one.release if event == "released" else one.ship)(shop.stocks)
        decided[order] += outcome.is_confirmed or outcome.rejection is not None
        changed = {
            sku for sku, stock in shop.stocks.items() if before[sku] != (stock.on_hand, stock.reserved)
        }
        assert [stock.sku for stock in outcome.changed] == sorted(changed)
        if one.state is State.RESERVED:
            assert one.quantities == {sku: wanted[order][sku] for sku in SKUS if sku in wanted[order]}
        for sku, counted in zip(SKUS, on_hand, strict=True):
            stock = shop.stocks[sku]
            assert 0 <= stock.reserved <= stock.on_hand
            assert stock.reserved == shop.held(sku)
            assert stock.on_hand + shop.gone(sku) == counted
    assert max(decided.values()) <= 1, "an order is decided once"


@given(events=st.permutations(["created", "shipped"]), more=st.integers(0, 3))
def test_an_order_that_was_shipped_leaves_the_stock_in_whichever_order_its_events_come(
    events: list[str], more: int
) -> None:
    shop = Shop.of([2 + more, 0, 0])
    one = shop.reservations["O-1"]
    for event in events:
        one.reserve({"anvil": 2}, shop.stocks, "ignore") if event == "created" else one.ship(shop.stocks)
    assert (shop.stocks["anvil"].on_hand, shop.stocks["anvil"].reserved) == (more, 0)


@pytest.mark.parametrize("end", ["release", "ship"])
def test_an_end_that_comes_before_the_creation_is_remembered(end: str) -> None:
    shop = Shop.of([0, 0, 0])
    one = shop.reservations["O-1"]
    assert getattr(one, end)(shop.stocks) == NOTHING
    assert one.reserve({"anvil": 1}, shop.stocks, "ignore") == NOTHING
    assert shop.stocks["anvil"] == Stock("anvil", 0, 0, revision=1)


def test_a_short_item_keeps_the_others_from_being_reserved_and_is_named() -> None:
    shop = Shop.of([5, 1, 0])
    outcome = shop.reservations["O-1"].reserve({"anvil": 1, "bolt": 2, "crate": 1}, shop.stocks, "ignore")
    assert (outcome.is_confirmed, outcome.changed) == (False, ())
    assert outcome.rejection == rejection("out_of_stock", ["bolt", "crate"])
    assert [stock.reserved for stock in shop.stocks.values()] == [0, 0, 0]


@pytest.mark.parametrize(
    ("wanted", "untracked"),
    [({"anvil": 2}, "ignore"), ({"bolt": 9, "anvil": 9}, "ignore"), ({"anvil": 1, "feather": 1}, "reject")],
    ids=["confirmed", "out of stock", "unknown item"],
)
def test_a_decision_is_repeated_as_it_was_and_changes_nothing(
    wanted: dict[str, int], untracked: Untracked
) -> None:
    shop = Shop.of([5, 5, 5])
    one = shop.reservations["O-1"]
    decided = one.reserve(wanted, shop.stocks, untracked)
    before = {sku: (stock.on_hand, stock.reserved) for sku, stock in shop.stocks.items()}
    shop.stocks["bolt"].set(100)  # Another decision would be possible by now.
    again = one.decide_again(wanted, shop.stocks, untracked)
    assert (again.is_confirmed, again.rejection, again.changed) == (
        decided.is_confirmed,
        decided.rejection,
        (),
    )
    assert before["anvil"] == (shop.stocks["anvil"].on_hand, shop.stocks["anvil"].reserved)


def test_an_undecided_order_that_was_not_heard_of_is_decided_and_one_that_ended_is_not() -> None:
    shop = Shop.of([5, 5, 5])
    one, other = shop.reservations.values()
    assert one.decide_again({"anvil": 2}, shop.stocks, "ignore").is_confirmed
    other.release(shop.stocks)
    assert other.decide_again({"anvil": 2}, shop.stocks, "ignore") == NOTHING
    assert shop.stocks["anvil"].reserved == 2


def test_an_order_without_a_tracked_item_is_not_decided_and_stays_so() -> None:
    shop = Shop.of([5, 5, 5])
    one = shop.reservations["O-1"]
    assert one.reserve({"untracked": 9}, shop.stocks, "ignore") == NOTHING
    shop.stocks["untracked"] = Stock("untracked", 9, revision=1)
    assert one.reserve({"untracked": 9}, shop.stocks, "ignore") == NOTHING
    assert one.state is State.UNTRACKED


def test_untracked_items_are_rejected_where_the_rules_say_so() -> None:
    shop = Shop.of([5, 5, 5])
    outcome = shop.reservations["O-1"].reserve({"anvil": 1, "untracked": 1}, shop.stocks, "reject")
    assert outcome.rejection == rejection("unknown_item", ["untracked"])
    assert shop.stocks["anvil"].available == 5


def test_fewer_than_orders_have_reserved_cannot_be_on_hand() -> None:
    stock = Stock("anvil", on_hand=5, reserved=3, revision=1)
    with pytest.raises(FewerThanReserved, match=r"'anvil': 3 are reserved .* not 2"):
        stock.set(2)
    assert stock == Stock("anvil", on_hand=5, reserved=3, revision=1)
    assert stock.set(3)
    assert not stock.set(3), "the same number again changes nothing"


@pytest.mark.parametrize(
    "change",
    [lambda stock: stock.reserve(3), lambda stock: stock.release(2), lambda stock: stock.ship(2)],
)
def test_a_defect_cannot_take_the_stock_below_zero(change: Callable[[Stock], None]) -> None:
    stock = Stock("anvil", on_hand=3, reserved=1, revision=1)
    with pytest.raises(AssertionError, match="'anvil' would have"):
        change(stock)
    assert (stock.on_hand, stock.reserved) == (3, 1)


def test_lines_of_the_same_item_count_together() -> None:
    lines = [OrderedItem(sku=sku, quantity=2) for sku in ("anvil", "bolt", "anvil")]
    assert quantities_of(lines) == {"anvil": 4, "bolt": 2}


def test_a_rejection_names_all_items_for_programs_and_the_first_for_people() -> None:
    skus = [f"item-{number}" for number in range(7)]
    detail = rejection("out_of_stock", skus)
    assert detail.skus == skus
    assert detail.text == "Out of stock: item-0, item-1, item-2, item-3, item-4 and 2 more"


@pytest.mark.parametrize(
    ("scope", "allowed"),
    [
        (None, False),
        ("", False),
        ("inventory", False),
        ("inventory:writer inventory", False),
        ("inventory inventory:write", True),
    ],
)
def test_the_right_to_set_stock_is_named_by_the_scope_or_absent(scope: str | None, allowed: bool) -> None:
    assert may_set(scope) is allowed
