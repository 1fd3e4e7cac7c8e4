"""Money has as many decimals as ISO 4217 gives its currency, and is exact."""

from decimal import Decimal
from typing import Any

import iso4217
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from towpath.protocol.messages import read_object
from towpath.protocol.money import (
    MAX_AMOUNT,
    MAX_DECIMALS,
    TooManyDecimals,
    decimals_in,
    decimals_of,
    format_money,
    is_currency,
    written_with,
)
from towpath.protocol.orders import OrderEvent, SubmitOrder

CURRENCIES = sorted(currency.code for currency in iso4217.Currency if currency.exponent is not None)


def problems(model: type[BaseModel], data: dict[str, Any]) -> list[str]:
    """The fields that ``model`` refuses; none when it takes ``data``."""
    try:
        model.model_validate(data)
    except ValidationError as error:
        return [".".join(map(str, found["loc"])) or "(whole)" for found in error.errors()]
    return []


@pytest.mark.parametrize(
    ("written", "currency", "total"),
    [
        ("99.9", "EUR", "99.90"),
        ('"99.90"', "EUR", "99.90"),
        ("500", "JPY", "500"),
        ('"500.00"', "JPY", "500"),
        ("5e2", "JPY", "500"),
        ("0", "JPY", "0"),
        ("1.234", "KWD", "1.234"),
        ("1.2", "KWD", "1.200"),
        ("7", "BHD", "7.000"),
        ('"0.0001"', "CLF", "0.0001"),
        ("9999999999999.99", "CLF", "9999999999999.9900"),
    ],
)
def test_money_is_written_with_the_decimals_of_its_currency(written: str, currency: str, total: str) -> None:
    data = read_object(f'{{"amount":{written},"currency":"{currency}"}}'.encode())
    assert format_money(SubmitOrder.model_validate(data).total) == total


@pytest.mark.parametrize(
    ("amount", "currency"),
    [
        ("99.90", "JPY"),
        ("0.1", "KRW"),
        ("1.234", "EUR"),
        ("1.2345", "KWD"),
        ("0.00001", "CLF"),
        ("0.5", "UGX"),
    ],
)
def test_more_decimals_than_the_currency_has_are_refused_in_requests_and_events(
    amount: str, currency: str
) -> None:
    data = {"order_id": "O1", "user_id": "ana", "amount": amount, "currency": currency}
    assert problems(SubmitOrder, data) == ["amount"]
    assert problems(OrderEvent, data) == ["amount"]


@pytest.mark.parametrize("currency", ["ZZZ", "EURO", "eur", "DEM", "XXX", "XAU", "XTS", "BTC", "", "€"])
def test_a_currency_that_is_not_in_use_is_refused_in_requests_and_events(currency: str) -> None:
    data = {"order_id": "O1", "user_id": "ana", "amount": "10", "currency": currency}
    assert problems(SubmitOrder, data) == ["currency"]
    assert problems(OrderEvent, data) == ["currency"]
    assert not is_currency(currency)


@pytest.mark.parametrize("currency", CURRENCIES)
def test_every_currency_of_iso_4217_is_accepted_with_its_decimals(currency: str) -> None:
    smallest = Decimal(1).scaleb(-decimals_of(currency))
    order = SubmitOrder.model_validate({"amount": smallest, "currency": currency})
    assert decimals_in(order.total) == decimals_of(currency) <= MAX_DECIMALS
    assert problems(SubmitOrder, {"amount": smallest / 10, "currency": currency}) == ["amount"]


@pytest.mark.parametrize("currency", CURRENCIES)
def test_every_amount_in_minor_units_fits_the_integers_of_databases(currency: str) -> None:
    assert MAX_AMOUNT.scaleb(decimals_of(currency)) < 2**63


def test_the_price_of_an_item_has_the_decimals_of_the_orders_currency() -> None:
    bolt, nut = (
        {"sku": sku, "quantity": 3, "unit_price": price} for sku, price in (("bolt", "7"), ("nut", "0.5"))
    )
    assert problems(SubmitOrder, {"items": [bolt, nut], "currency": "JPY"}) == ["items.1.unit_price"]
    order = SubmitOrder.model_validate({"items": [bolt, nut], "currency": "KWD"})
    assert order.priced_items is not None
    assert [item.model_dump(mode="json")["unit_price"] for item in order.priced_items] == ["7.000", "0.500"]
    assert format_money(order.total) == "22.500"


def test_all_fields_with_too_many_decimals_are_named_at_once() -> None:
    items = [{"sku": "bolt", "quantity": 1, "unit_price": price} for price in ("0.5", "1", "0.25")]
    data = {"items": items, "amount": "1.75", "currency": "JPY"}
    assert problems(SubmitOrder, data) == ["items.0.unit_price", "items.2.unit_price", "amount"]


@given(st.sampled_from(CURRENCIES), st.data())
def test_money_keeps_its_value_through_json(currency: str, data: st.DataObject) -> None:
    amount = data.draw(st.decimals(0, MAX_AMOUNT, places=decimals_of(currency)))
    for written in (f"{amount}", f'"{amount}"', f'"{amount:f}"'):
        body = f'{{"amount":{written},"currency":"{currency}"}}'.encode()
        assert format_money(SubmitOrder.model_validate(read_object(body)).total) == f"{amount:f}"


@given(st.floats(), st.sampled_from(CURRENCIES))
def test_money_is_never_a_binary_float(amount: float, currency: str) -> None:
    data = {"order_id": "O1", "user_id": "ana", "amount": amount, "currency": currency}
    assert problems(SubmitOrder, data) == problems(OrderEvent, data) == ["amount"]


@given(st.decimals(0, MAX_AMOUNT, places=4), st.integers(0, 4))
def test_an_amount_is_written_with_other_decimals_or_refused_and_never_rounded(
    amount: Decimal, decimals: int
) -> None:
    try:
        written = written_with(amount, decimals)
    except TooManyDecimals:
        assert amount % Decimal(1).scaleb(-decimals)
    else:
        assert (written, decimals_in(written)) == (amount, decimals)
