"""Amount and currency are set once; refunds add up to at most the amount."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from towpath.orders.price import CurrencyDiffers, NothingRefunded, Price, TooMuchRefunded, WrongDecimals
from towpath.protocol.errors import TowpathError

amounts = st.none() | st.decimals(0, 50, places=2)
currencies = st.sampled_from([None, "EUR", "USD", "JPY", "KWD"])
facts = st.tuples(st.sampled_from(["event", "creation", "refund"]), amounts, currencies)


def after(price: Price, kind: str, amount: Decimal | None, currency: str | None) -> Price:
    """The price after one more event; the same one where that is refused."""
    try:
        if kind == "refund":
            booked = price.refunding(amount, currency, is_first=price.refunded is None)
            return price if booked is None else booked[0]
        return price.learning(amount, currency, of_creation=kind == "creation")
    except TowpathError:
        return price


@given(st.lists(facts, max_size=12))
def test_for_any_events_amount_and_currency_are_set_once(
    story: list[tuple[str, Decimal | None, str | None]],
) -> None:
    price = Price()
    for kind, amount, currency in story:
        before, price = price, after(price, kind, amount, currency)
        assert before.amount is None or price.amount == before.amount
        assert before.currency is None or price.currency == before.currency
        assert before.currency is None or price.decimals == before.decimals


@given(st.lists(facts, max_size=12))
def test_for_any_events_refunds_only_add_up_within_the_amount(
    story: list[tuple[str, Decimal | None, str | None]],
) -> None:
    price = Price()
    for kind, amount, currency in story:
        before, price = price, after(price, kind, amount, currency)
        assert (price.refunded or 0) >= (before.refunded or 0)
        assert price.refunded is None or price.amount is None or price.refunded <= price.amount
        assert not (price.rest_is_refunded and price.amount is not None)


@given(st.lists(st.decimals("0.01", 30, places=2), max_size=6), st.booleans(), st.integers(0, 6))
def test_refunds_add_up_equally_before_and_after_the_amount_is_known(
    refunds: list[Decimal], rest: bool, known_after: int
) -> None:
    def story(creation_at: int) -> Price:
        price = Price()
        events: list[tuple[str, Decimal | None, str | None]] = [
            ("refund", amount, None) for amount in refunds
        ] + [("refund", None, None)] * rest
        events.insert(creation_at, ("creation", Decimal(200), "EUR"))
        for kind, amount, currency in events:
            price = after(price, kind, amount, currency)
        return price

    early, late = story(0), story(min(known_after, len(refunds) + rest))
    assert early == late
    assert early.refunded == (Decimal(200) if rest else sum(refunds) if refunds else None)


@pytest.mark.parametrize(
    ("amount", "currency"), [("9.90", None), ("9.90", "USD"), ("1", "EUR"), (None, "EUR")]
)
def test_a_known_price_does_not_change(amount: str | None, currency: str | None) -> None:
    price = Price.of(Decimal("9.90"), "USD")
    for of_creation in (True, False):
        assert price.learning(Decimal(amount) if amount else None, currency, of_creation=of_creation) == price


def test_a_currency_alone_is_ignored_except_in_order_created() -> None:
    assert Price().learning(None, "JPY", of_creation=False) == Price()
    created = Price().learning(None, "JPY", of_creation=True)
    assert (created.amount, created.currency) == (None, "JPY")
    paid = created.learning(Decimal("500.00"), None, of_creation=False)
    assert (str(paid.amount), paid.currency) == ("500", "JPY")


def test_an_amount_without_a_currency_waits_for_it() -> None:
    paid = Price().learning(Decimal("500"), None, of_creation=False)
    assert (str(paid.amount), paid.currency) == ("500.00", None)
    created = paid.learning(None, "JPY", of_creation=True)
    assert (str(created.amount), created.currency, created.decimals) == ("500", "JPY", 0)
    created = paid.learning(Decimal("7.500"), "KWD", of_creation=True)
    assert (str(created.amount), created.currency) == ("500.000", "KWD")


def test_an_order_that_is_created_without_a_currency_is_in_usd() -> None:
    assert Price().learning(Decimal(5), None, of_creation=True) == Price.of(Decimal(5), "USD")
    assert Price().learning(None, None, of_creation=True) == Price()


def test_an_amount_that_is_needed_must_be_in_the_orders_currency() -> None:
    created = Price().learning(None, "EUR", of_creation=True)
    with pytest.raises(CurrencyDiffers):
        created.learning(Decimal(5), "USD", of_creation=False)
    with pytest.raises(CurrencyDiffers):
        Price.of(Decimal(5), "EUR").refunding(Decimal(5), "USD", is_first=True)


@pytest.mark.parametrize("currency", ["EUR", "JPY"])
def test_an_amount_has_the_decimals_of_the_orders_currency_even_where_it_is_not_needed(currency: str) -> None:
    with pytest.raises(WrongDecimals):
        Price.of(Decimal(5), currency).learning(Decimal("1.234"), None, of_creation=False)
    with pytest.raises(WrongDecimals):
        Price.of(Decimal(5), currency).refunding(Decimal("1.234"), None, is_first=True)


@pytest.mark.parametrize("amount", ["0.01", "5.00"])
def test_a_refund_above_the_remaining_amount_is_refused(amount: str) -> None:
    booked = Price.of(Decimal("5.00"), "EUR").refunding(None, None, is_first=True)
    assert booked is not None
    with pytest.raises(TooMuchRefunded):
        booked[0].refunding(Decimal(amount), None, is_first=False)


def test_earlier_refunds_block_a_smaller_amount() -> None:
    booked = Price().refunding(Decimal("5.00"), "EUR", is_first=True)
    assert booked is not None
    with pytest.raises(TooMuchRefunded):
        booked[0].learning(Decimal("4.99"), "EUR", of_creation=True)


def test_a_refund_of_zero_is_refused_unless_the_order_is_free() -> None:
    with pytest.raises(NothingRefunded):
        Price.of(Decimal("5.00"), "EUR").refunding(Decimal(0), None, is_first=True)
    assert Price.of(Decimal(0), "EUR").refunding(Decimal(0), None, is_first=True) is not None
    assert Price.of(Decimal(0), "EUR").refunding(None, None, is_first=True) is not None


def test_refunds_of_an_unknown_amount_stay_within_the_storable_range() -> None:
    price = Price()
    for _ in range(3):
        price = after(price, "refund", Decimal("4999999999999.99"), "CLF")
    assert price.refunded == Decimal("9999999999999.98")
